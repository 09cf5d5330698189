"""What it brings to train a network as one ravelled vector, or as the tree it is, by its width.

    python benchmarks/ravelled.py             all rows; some ten minutes on one core
    python benchmarks/ravelled.py --quick     one round; nothing is saved

One update of an agent, compiled, on one device: all that it does with a rollout that is there. The two forms take turns
within a round, and the ratio is formed round by round. ``agents.parts.training.FLAT`` is the number of parameters up to
which a network that trains by itself is a vector; the actors and critics of continuous control stay trees.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any
from unittest import mock

import common
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.agents import algorithm
from steersman.agents.parts import training
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec

VECTOR, IMAGE, BOX = spaces.Box(-10, 10, (17,)), spaces.Box(0, 1, (10, 10, 4)), spaces.Box(-1, 1, (6,))
WIDTHS = {n: {"hidden_sizes": (n, n)} for n in (64, 128, 256, 512)}
PPO = {"unroll_length": 32, "num_epochs": 2, "num_minibatches": 4}
ROWS: dict[str, tuple[str, spaces.Space, spaces.Space, dict[str, Any], int]] = {
    **{f"ppo {n} wide": ("ppo", VECTOR, BOX, PPO | w, 64) for n, w in WIDTHS.items()},
    "ppo MinAtar": ("ppo", IMAGE, spaces.Discrete(6), PPO | {"activation": "relu"}, 64),
    **{f"a2c {n} wide": ("a2c", VECTOR, BOX, {"unroll_length": 8} | w, 16) for n, w in WIDTHS.items()},
    "a2c MinAtar": ("a2c", IMAGE, spaces.Discrete(6), {"unroll_length": 8, "activation": "relu"}, 16),
    **{
        f"pqn {n} wide": ("pqn", VECTOR, spaces.Discrete(6), {"unroll_length": 32, "num_minibatches": 8} | w, 64)
        for n, w in WIDTHS.items()
    },
    **{
        f"dqn {n} wide": ("dqn", VECTOR, spaces.Discrete(6), {"replay_capacity": 4096, "update_ratio": 0.25} | w, 8)
        for n, w in WIDTHS.items()
    },
}


def zeros(shapes: Any) -> Any:
    fill = np.random.default_rng(0)
    make = lambda s: fill.normal(size=s.shape).astype(s.dtype) if s.dtype == np.float32 else np.zeros(s.shape, s.dtype)
    return jax.tree.map(lambda s: jnp.asarray(make(s)), shapes)


def prepared(name: str, flat: int) -> tuple[Any, int]:
    """-> (a function that makes one update and waits for it, the network's parameters)"""
    agent_name, obs, action, settings, num_envs = ROWS[name]
    entry = algorithm(agent_name)
    spec = EnvSpec("benchmark", obs, action, action)
    with mock.patch.object(training, "FLAT", flat):
        config = entry.config(**settings)
        agent = entry.factory(config, spec)
        rollout = zeros(transitions_like(spec, (config.unroll_length, num_envs)))
        log_prob = jnp.full(rollout.reward.shape, -1.0, jnp.float32)
        state = jax.jit(agent.init)(jax.random.key(0), rollout)
        rollout = rollout._replace(extras={"log_prob": log_prob})
        update = jax.jit(agent.update, donate_argnums=0).lower(state, rollout, jax.random.key(1)).compile()
    box = [state]

    def once() -> None:
        box[0], _ = update(box[0], rollout, jax.random.key(1))
        jax.block_until_ready(box[0])

    return once, sum(x.size for x in jax.tree.leaves(getattr(state, "learner", state).params))


def milliseconds(once: Any, seconds: float) -> float:
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def measure(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    (flat, parameters), (tree, _) = prepared(name, 10**12), prepared(name, 0)
    flat(), tree()
    pairs = [(milliseconds(flat, seconds), milliseconds(tree, seconds)) for _ in range(rounds)]
    return {
        "parameters": parameters,
        "vector": statistics.median(f for f, _ in pairs),
        "tree": statistics.median(t for _, t in pairs),
        "ratio": statistics.median(f / t for f, t in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; nothing is saved")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="some of the rows")
    args = parser.parse_args()
    result: dict[str, Any] = {"rows": {}, "provenance": common.provenance()}
    for name in args.rows:
        result["rows"][name] = measure(name, *((1, 0.2) if args.quick else (7, 0.5)))
        print(name, result["rows"][name], flush=True)
    if not args.quick:
        common.save("ravelled", result)


if __name__ == "__main__":
    main()
