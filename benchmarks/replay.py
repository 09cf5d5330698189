"""What replay costs: prioritized beside uniform in a training step, and the checkpoint of a full memory.

    python benchmarks/replay.py              a million transitions; two minutes
    python benchmarks/replay.py --quick      a hundred thousand; nothing is saved

A training step is what the host loop compiles at ``unroll_length`` 1: add one transition, draw a batch, one gradient
step, set the priorities. Variants take turns within a round, and the ratio is formed round by round. Beside it: adding
and drawing alone, without a gradient step. The checkpoint is written and read back by
``steersman.run.disk.checkpoint``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from steersman import envs
from steersman.agents.value_based.dqn import DQNConfig, dqn
from steersman.memory import Buffer, nbytes, prioritized, uniform
from steersman.run.disk import checkpoint
from steersman.types import Rollout

BATCH = 128
TARGET = 1.5


def rollout(length: int, seed: int = 0) -> Rollout:
    """Random CartPole-like experience of one environment, episodes of about 100 steps."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(length + 1, 1, 4)).astype(np.float32)
    ended = rng.random((length, 1)) < 0.01
    first = np.concatenate([np.ones((1, 1), bool), ended[:-1]])
    reward, action = np.ones((length, 1), np.float32), rng.integers(0, 2, (length, 1)).astype(np.int32)
    costs = np.zeros((length, 1, 0), np.float32)
    return Rollout(obs[:-1], action, reward, ended, np.zeros_like(ended), obs[1:], first, costs, {})


def timed(step: Callable[[Any, jax.Array], Any], state: Any, count: int) -> tuple[Any, float]:
    """-> (state, seconds per call) of ``count`` calls."""
    keys = [jax.random.key(i) for i in range(count)]
    tick = time.perf_counter()
    for key in keys:
        state = step(state, key)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - tick) / count


def training_step(capacity: int, filled: Rollout, **settings: Any) -> tuple[Any, Any]:
    """A DQN whose memory is full, and its compiled step."""
    config = DQNConfig(
        unroll_length=1, update_ratio=1.0, batch_size=BATCH, replay_capacity=capacity, hidden_sizes=(64, 64), **settings
    )
    agent, one = dqn(config, envs.make("CartPole-v1", 1).spec), rollout(1, seed=1)
    state = jax.jit(agent.init)(jax.random.key(0), filled)
    step = jax.jit(lambda state, key: agent.update(state, one, key)[0], donate_argnums=0)
    return jax.block_until_ready(step(state, jax.random.key(1))), step


def memory_step(buffer: Buffer, filled: Rollout) -> tuple[Any, Any]:
    """A full memory, and one add, draw and update of it."""
    one, priority = rollout(1, seed=1), jnp.linspace(0.1, 2.0, BATCH)
    memory = jax.jit(buffer.init)(filled)

    def step(carry: Any, key: jax.Array) -> Any:
        memory, _ = carry
        memory = buffer.add(memory, one)
        sample = buffer.sample(memory, key)
        return buffer.update(memory, sample.index, priority), sample

    first = (memory, jax.jit(buffer.sample)(memory, jax.random.key(0)))
    compiled = jax.jit(step, donate_argnums=0)
    return jax.block_until_ready(compiled(first, jax.random.key(1))), compiled


def compare(pairs: dict[str, tuple[Any, Any]], rounds: int, count: int) -> dict[str, Any]:
    """Microseconds of each, and the ratio of prioritized to uniform, round by round."""
    times: dict[str, list[float]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, (state, step) in pairs.items():
            state, seconds = timed(step, state, count)
            pairs[name] = state, step
            times[name].append(seconds * 1e6)
    ratios = [b / a for a, b in zip(times["uniform"], times["prioritized"], strict=True)]
    return {"microseconds": {name: statistics.median(t) for name, t in times.items()}} | {
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)
    }  # fmt: skip


def saved(capacity: int, filled: Rollout) -> dict[str, Any]:
    """Seconds and bytes of the checkpoint of a DQN with a full prioritized memory."""
    state, _ = training_step(capacity, filled, prioritized=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        tick = time.perf_counter()
        checkpoint.save(path, state, {})
        written = time.perf_counter() - tick
        tick = time.perf_counter()
        loaded, _ = checkpoint.load(path, state)
        read = time.perf_counter() - tick
        same = all(
            (np.asarray(a) == np.asarray(b)).all() for a, b in zip(*map(jax.tree.leaves, (state, loaded)), strict=True)
        )
        assert same, "what was read is not what was written"
        return {
            "write_seconds": written,
            "read_seconds": read,
            "file_bytes": path.stat().st_size,
            "memory_bytes": nbytes(state.memory),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the host loop has it
    origin = common.provenance()
    capacity, rounds, count = (100_000, 3, 200) if args.quick else (1_000_000, 7, 1000)
    filled = rollout(capacity)
    steps = {
        name: training_step(capacity, filled, prioritized=name == "prioritized") for name in ("uniform", "prioritized")
    }
    training = compare(steps, rounds, count)
    del steps
    buffers = {"uniform": uniform(capacity, BATCH), "prioritized": prioritized(capacity, BATCH)}
    alone = compare({name: memory_step(buffer, filled) for name, buffer in buffers.items()}, rounds, count)
    result = {
        "capacity": capacity,
        "batch_size": BATCH,
        "target": TARGET,
        "training_step": training,
        "memory_alone": alone,
        "checkpoint": saved(capacity, filled),
    }
    print(common.rounded(result))
    if args.out or not args.quick:
        common.save("replay", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
