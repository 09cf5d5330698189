"""Do the learned Q values say what will come? DDPG, TD3 and SAC, against the return of the same policy.

    python benchmarks/q_bias.py                         Pendulum-v1, 5 seeds, 20,000 steps (10 minutes on a core)
    python benchmarks/q_bias.py --quick                 a trial of the machinery; nothing is saved

After training, the acting policy with its exploration plays a few thousand steps. At states on its way, the critics'
mean Q(s, a) of the action it takes is compared with the discounted return that follows, up to 400 steps (the rest
weighs less than 2 percent). Bias above 0 is overestimation. SAC's Q has the entropy bonus of later steps in it, and so
has its return here. Time limits are lifted while measuring: the return goes on.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

import steersman
from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.off_policy.common import values
from steersman.envs.classic.pendulum import Pendulum
from steersman.run.settings import presets, split

TAIL, EVERY, STATES = 400, 20, 25  # steps of a return, between two states that are judged, states of each environment
MEMBERS = 64


def bias(algorithm: str, environment: str, state: Any, seed: int) -> dict[str, float]:
    """Mean Q, mean return, and their difference over states and actions of the policy itself."""
    entry = ALGORITHMS[algorithm]
    _, config = split(entry, presets(algorithm)[environment])
    made = envs.vectorize(Pendulum(), MEMBERS)  # without a clock
    agent = entry.factory(config, made.spec)
    learner = state.learner

    def play(key: jax.Array):
        envs_state, obs = made.reset(key)
        first = jnp.ones((MEMBERS,), bool)

        def step(carry: Any, key: jax.Array):
            envs_state, obs, memory, first = carry
            action, memory, _ = agent.act(state, memory, obs, first, key, explore=True)
            envs_state, seen = made.step(envs_state, action)
            q = values(learner.critics.params, obs, action).mean((0, 2))
            bonus = jnp.zeros_like(seen.reward)
            if algorithm == "sac":  # the next state's entropy comes with the next state
                policy = jax.vmap(learner.actor.params)(seen.final_obs)
                bonus = config.gamma * jnp.exp(learner.log_temperature.params) * policy.entropy()
            return (envs_state, seen.obs, memory, jnp.zeros_like(first)), (q, seen.reward + bonus)

        carry = envs_state, obs, agent.begin(MEMBERS), first
        return jax.lax.scan(step, carry, jax.random.split(key, TAIL + EVERY * STATES))[1]

    q, reward = map(np.asarray, jax.jit(play)(jax.random.key(seed)))
    judged = np.arange(STATES) * EVERY
    powers = config.gamma ** np.arange(TAIL)
    returns = np.stack([powers @ reward[t : t + TAIL] for t in judged])
    error = q[judged] - returns
    return {"q": float(q[judged].mean()), "return": float(returns.mean()), "bias": float(error.mean())}


def measure(algorithm: str, environment: str, seeds: int, steps: int) -> dict[str, Any]:
    result = steersman.train(algorithm, environment, seeds=seeds, steps=steps, evaluation_episodes=20)
    each = [bias(algorithm, environment, policy.state, seed) for seed, policy in enumerate(result.policies)]
    middle = {name: statistics.mean(e[name] for e in each) for name in each[0]}
    relative = middle["bias"] / abs(middle["return"])
    played = result.evaluation.mean if result.evaluation else float("nan")
    print(f"{algorithm}: Q {middle['q']:.1f}, return {middle['return']:.1f}, bias {middle['bias']:+.1f}", flush=True)
    return middle | {"relative_bias": relative, "each_bias": [e["bias"] for e in each], "episode_return": played}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["ddpg", "td3", "sac"], choices=["ddpg", "td3", "sac"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    environment, origin = "Pendulum-v1", common.provenance()
    seeds, steps = (2, 1_000) if args.quick else (args.seeds, args.steps)
    found = {name: measure(name, environment, seeds, steps) for name in args.only}
    result = {"environment": environment, "seeds": seeds, "steps": steps, "algorithms": found, "provenance": origin}
    if args.out or not args.quick:
        common.save("q-bias", result, args.out)


if __name__ == "__main__":
    main()
