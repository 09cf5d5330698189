"""Hindsight replay on a goal environment: the success rate with it and without it, all else the same.

    python benchmarks/hindsight.py             SAC on goal/point by its preset, 5 seeds (some minutes on a core)
    python benchmarks/hindsight.py --quick     a trial of the machinery; nothing is saved

An episode of 50 steps is a success if its last state is within reach of the goal. 200 episodes of each seed's
deterministic policy.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman import envs
from steersman.envs.goals import reached

EPISODES = 200


def success_rate(policy: Any, environment: str, seed: int) -> float:
    """The share of episodes that end at their goal."""
    made = envs.make(environment, EPISODES)
    agent, length = policy.agent, made.spec.max_episode_steps

    def play(state: Any, key: jax.Array):
        envs_state, obs = made.reset(key)
        act = partial(agent.act, state, explore=False)

        def step(carry: Any, t: jax.Array):
            envs_state, obs = carry
            action, _, _ = act(agent.begin(EPISODES), obs, t == jnp.zeros((EPISODES,), jnp.int32), key)
            envs_state, seen = made.step(envs_state, action)
            return (envs_state, seen.obs), reached(seen.final_obs["achieved_goal"], seen.final_obs["desired_goal"])

        return jax.lax.scan(step, (envs_state, obs), jnp.arange(length, dtype=jnp.int32))[1][-1]

    return float(np.mean(jax.jit(play)(policy.state, jax.random.key(seed))))


def measure(algorithm: str, environment: str, seeds: int, **settings: Any) -> dict[str, Any]:
    result = steersman.train(algorithm, environment, seeds=seeds, evaluation_episodes=0, **settings)
    rates = [success_rate(policy, environment, seed) for seed, policy in enumerate(result.policies)]
    steps, speed = result.summary["steps"], result.summary["steps_per_second"]
    print(
        f"{algorithm} {environment} {settings}: {statistics.mean(rates):.3f} {rates}, {speed:.0f} steps/s", flush=True
    )
    return {"success_rate": statistics.mean(rates), "each": rates, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="sac")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    environment, origin = "goal/point", common.provenance()
    seeds, short = (2, {"steps": 3_000}) if args.quick else (args.seeds, {})
    found = {
        "with": measure(args.algorithm, environment, seeds, **short),
        "without": measure(args.algorithm, environment, seeds, hindsight=0.0, **short),
    }
    result = {"algorithm": args.algorithm, "environment": environment, "seeds": seeds, **found, "target": 0.95}
    if args.out or not args.quick:
        common.save(f"hindsight-{args.algorithm}", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
