"""Q-learning on CliffWalking: total steps per second over parallel seeds, against the same loop in plain Python.

    python benchmarks/tabular/q_learning.py --out benchmarks/tabular/results/q_learning.jsonl

The plain loop: Gymnasium's CliffWalking-v1, a numpy table, epsilon-greedy with epsilon 0.1, alpha 0.5, gamma 1.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import gymnasium
import jax
import numpy as np

from steersman.tabular import behaviour as act
from steersman.tabular.builders import from_gymnasium
from steersman.tabular.control import learn, q_learning

LOAD = os.getloadavg()[0]  # of the machine before this started: others may share it


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


def compiled(seeds: int, steps: int) -> tuple[float, float, float]:
    """(steps per second, seconds to compile, mean greedy value of the start) of ``seeds`` runs in one program."""
    mdp = from_gymnasium("CliffWalking-v1", gamma=1.0)

    def one(key):
        out = learn(mdp, q_learning(), act.epsilon_greedy(0.1), key, gamma=1.0, alpha=0.5, steps=steps)
        return out.q[36].max(), out.returns.sum(), out.lengths.sum()

    keys = jax.random.split(jax.random.key(0), seeds)
    start = time.perf_counter()
    program = jax.jit(jax.vmap(one)).lower(keys).compile()
    compiling = time.perf_counter() - start
    program(keys)[0].block_until_ready()
    start = time.perf_counter()
    value, _, _ = program(keys)
    value.block_until_ready()
    return seeds * steps / (time.perf_counter() - start), compiling, float(value.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--out")
    args = parser.parse_args()
    python_rate, python_value = plain(60_000)
    rate, compiling, value = compiled(args.seeds, args.steps)
    line = {
        "seeds": args.seeds, "steps": args.steps, "steps_per_second": round(rate), "compile_s": round(compiling, 2),
        "plain_steps_per_second": round(python_rate), "ratio": round(rate / python_rate, 1),
        "start_value": round(value, 3), "plain_start_value": round(python_value, 3), "cores": os.cpu_count(),
        "load_before": round(LOAD, 1),
    }  # fmt: skip
    print(json.dumps(line))
    if args.out:
        with open(args.out, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
