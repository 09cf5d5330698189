"""How long one call of a policy takes, on one thread: by JAX, by numpy, by onnxruntime, in C; beside SB3's predict.

    python benchmarks/latency.py                          (extra onnx for its row, a C compiler for C's)
    taskset -c 0 python benchmarks/latency.py --calls 20000

A policy of Go1's size: 171 numbers in, 12 out, two hidden layers of 64 with tanh, observations normalised, untrained.
Every call is timed by itself, in the same process for all but SB3 (benchmarks/.venvs/sb3), the contenders in turn, five
rounds; median and 99th percentile of all calls. C is called through ctypes, which is most of its time. "load, at once"
is ``load`` in a process that has told JAX not to hand programs to another thread (jax_cpu_enable_async_dispatch).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

SEES, DOES, HIDDEN = 171, 12, (64, 64)
PEER = common.HERE / ".venvs" / "sb3" / "bin" / "python"
SB3 = f"""
import json, sys, time
import gymnasium, numpy as np, torch
from gymnasium import spaces
from stable_baselines3 import PPO
torch.set_num_threads(1)
class Go1(gymnasium.Env):
    observation_space = spaces.Box(-np.inf, np.inf, ({SEES},), np.float32)
    action_space = spaces.Box(-1, 1, ({DOES},), np.float32)
    def reset(self, seed=None, options=None): return np.zeros({SEES}, np.float32), {{}}
    def step(self, action): return np.zeros({SEES}, np.float32), 0.0, False, False, {{}}
model = PPO("MlpPolicy", Go1(), device="cpu")
obs = np.random.default_rng(0).standard_normal((64, {SEES})).astype(np.float32)
times = []
for i in range(int(sys.argv[1]) + 200):
    began = time.perf_counter_ns()
    model.predict(obs[i % 64], deterministic=True)
    times.append((time.perf_counter_ns() - began) / 1e3)
print(json.dumps({{"times": times[200:]}}))
"""


def policy() -> Any:
    """An untrained PPO policy of that size, its normaliser fed with noise."""
    import jax
    from gymnasium import spaces

    from steersman.agents import ALGORITHMS
    from steersman.run.disk.spec_json import transitions_like
    from steersman.run.policy import Policy
    from steersman.types import EnvSpec

    observation = spaces.Box(-np.inf, np.inf, (SEES,), np.float32)
    action = spaces.Box(-1.0, 1.0, (DOES,), np.float32)
    spec = EnvSpec("Go1", observation, action, action)
    entry = ALGORITHMS["ppo"]
    agent = entry.factory(entry.config(hidden_sizes=HIDDEN), spec)
    rng = np.random.default_rng(0)
    noise = lambda x: (
        rng.standard_normal(x.shape).astype(np.float32) if x.dtype == np.float32 else np.zeros(x.shape, x.dtype)
    )
    state = jax.jit(agent.init)(jax.random.key(0), jax.tree.map(noise, transitions_like(spec, (256, 1))))
    return Policy(agent, state, spec)


def contenders(folder: Path) -> dict[str, Callable[[np.ndarray], Any]]:
    """By name, each a function of one observation."""
    from steersman.deploy import c99, runner
    from steersman.deploy.export import write

    trained = policy()
    done = write(folder, trained)
    found: dict[str, Callable[[np.ndarray], Any]] = {"load": trained, "numpy runner": runner.Policy(folder)}
    if done.worst.get("onnx") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "policy.onnx"), options, providers=["CPUExecutionProvider"])
        found["onnxruntime"] = lambda obs: session.run(["action"], {"observation": obs})[0]
    if c99.compiler():
        library = folder / "policy.so"
        flags = ["-std=c99", "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(folder / "policy.c"), "-o", str(library), "-lm"], check=True)
        step = ctypes.CDLL(str(library)).policy_step
        memory, out = ctypes.create_string_buffer(8), np.zeros(DOES, np.float32)
        address, kept = ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p

        def in_c(obs: np.ndarray) -> np.ndarray:
            step(memory, kept(obs.ctypes.data), address)
            return out

        found["C, by ctypes"] = in_c
    return found


def timed(act: Callable[[np.ndarray], Any], calls: int) -> list[float]:
    """Microseconds of each call, after 200 that do not count."""
    observations = np.random.default_rng(0).standard_normal((64, SEES)).astype(np.float32)
    times = []
    for i in range(calls + 200):
        obs = observations[i % 64]
        began = time.perf_counter_ns()
        act(obs)
        times.append((time.perf_counter_ns() - began) / 1e3)
    return times[200:]


def at_once(calls: int) -> list[float]:
    """Microseconds of each call of ``load`` where JAX runs programs in the thread that calls them."""
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return timed(policy(), calls)


def measure(calls: int, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Microseconds of a call: median and 99th percentile, by contender."""
    observation = np.random.default_rng(0).standard_normal(SEES).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        found = contenders(Path(folder))
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, act in found.items():
                times[name] += timed(act, calls // rounds)
        reference = found["load"](observation)
        assert all(np.abs(act(observation) - reference).max() < 1e-5 for act in found.values())
    times["load, at once"] = common.run_json([sys.executable, __file__, "--at-once", "--calls", str(calls)])["times"]
    if PEER.exists() or "PEERS_SB3_PYTHON" in os.environ:
        peer = os.environ.get("PEERS_SB3_PYTHON", str(PEER))
        times["Stable-Baselines3 predict"] = common.run_json([peer, "-c", SB3, str(calls)])["times"]
    return {
        name: {"median": round(float(np.median(x)), 2), "p99": round(float(np.percentile(x, 99)), 2), "calls": len(x)}
        for name, x in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="of each")
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls; nothing is saved")
    parser.add_argument("--at-once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.at_once:
        print(json.dumps({"times": at_once(args.calls)}))
        return
    if os.environ.get("OMP_NUM_THREADS") != "1":  # libraries read these when they are loaded: start anew
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        os.execve(sys.executable, [sys.executable, *sys.argv], {"JAX_PLATFORMS": "cpu", **os.environ, **threads})
    result: dict[str, Any] = {"provenance": common.provenance()}
    result["rows"] = measure(args.calls // (10 if args.quick else 1))
    for name, row in result["rows"].items():
        print(f"{name:<28}{row['median']:>10.1f} us{row['p99']:>10.1f} us")
    if not args.quick:
        common.save("latency", result)


if __name__ == "__main__":
    main()
