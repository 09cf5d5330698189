"""Q-learning on CliffWalking: total steps per second over parallel seeds, against the same loop in plain Python.

    python benchmarks/tabular/q_learning.py          # writes results/tabular-q-learning.json

The plain loop: Gymnasium's CliffWalking-v1, a numpy table, epsilon-greedy with epsilon 0.1, alpha 0.5, gamma 1. Both do
the same number of steps a run. The compiled one runs its seeds side by side, once on one core's device and once with
the seeds shared by a device a core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import gymnasium
import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from steersman.tabular.learning import behaviour as act
from steersman.tabular.learning.control import learn, q_learning
from steersman.tabular.problems.builders import from_gymnasium

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def plain(steps: int) -> tuple[float, float]:
    """(steps per second, greedy value of the start) of the loop one writes first."""
    env = gymnasium.make("CliffWalking-v1")
    rng, q = np.random.default_rng(0), np.zeros((48, 4))
    start = time.perf_counter()
    s, _ = env.reset(seed=0)
    for _ in range(steps):
        a = int(rng.integers(4)) if rng.random() < 0.1 else int(q[s].argmax())
        s_next, r, terminated, truncated, _ = env.step(a)
        target = r if terminated else r + q[s_next].max()
        q[s, a] += 0.5 * (target - q[s, a])
        s = env.reset()[0] if terminated or truncated else s_next
    return steps / (time.perf_counter() - start), float(q[36].max())


def compiled(seeds: int, steps: int, devices: int):
    """(run -> steps per second and mean greedy value of the start, seconds to compile) of one program of all seeds."""
    mdp = from_gymnasium("CliffWalking-v1", gamma=1.0)

    def one(key):
        out = learn(mdp, q_learning(), act.epsilon_greedy(0.1), key, gamma=1.0, alpha=0.5, steps=steps)
        return out.q[36].max(), out.returns.sum(), out.lengths.sum()

    mesh = jax.make_mesh((devices,), ("seeds",), devices=jax.devices()[:devices])
    keys = jax.device_put(jax.random.split(jax.random.key(0), seeds), jax.NamedSharding(mesh, P("seeds")))
    start = time.perf_counter()
    all_seeds = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=P("seeds"), out_specs=P("seeds"), check_vma=False)
    program = jax.jit(all_seeds).lower(keys).compile()
    compiling = time.perf_counter() - start

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        value = jax.block_until_ready(program(keys))[0]
        return seeds * steps / (time.perf_counter() - start), float(value.mean())

    run()
    return run, compiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    import common

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", cores)
    programs = {n: compiled(args.seeds, args.steps, n) for n in {1, cores}}
    rates: dict[str, list[float]] = {"plain Python": []} | {f"{n} devices": [] for n in programs}
    values = {}
    for _ in range(args.rounds):
        rate, values["plain Python"] = plain(args.steps)
        rates["plain Python"].append(rate)
        for n, (run, _) in programs.items():
            rate, values[f"{n} devices"] = run()
            rates[f"{n} devices"].append(rate)
    ratios = {
        name: [a / b for a, b in zip(row, rates["plain Python"], strict=True)]
        for name, row in rates.items()
        if name != "plain Python"
    }
    for name, row in ratios.items():
        print(f"{name}: {statistics.median(rates[name]):,.0f} steps/s, {statistics.median(row):.0f} times plain Python")
    common.save(
        "tabular-q-learning",
        {
            "seeds": args.seeds, "steps": args.steps, "steps_per_second": rates, "ratios": ratios,
            "compile_seconds": {f"{n} devices": s for n, (_, s) in programs.items()}, "start_value": values,
            "provenance": common.provenance(),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
