"""An environment of your own as pure functions: it trains in one compiled program with the agent, many times faster.

Run it:  python examples/own_compiled_environment.py
or:      cd examples && steersman train ppo own_compiled_environment:boat --steps 500000
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

import steersman
from steersman.envs.wrappers import canonical_actions, time_limit
from steersman.types import Env, EnvSpec, TimeStep


class State(NamedTuple):
    offset: jax.Array  # m from the course
    heading: jax.Array  # rad


@dataclass(frozen=True)
class Boat:
    """Hold a boat on its course in a gusty wind; every random number comes from the key it is given."""

    wind: float = 0.5

    @property
    def spec(self) -> EnvSpec:
        rudder = spaces.Box(-30.0, 30.0, (1,))  # degrees; ``canonical_actions`` below maps [-1, 1] to them
        return EnvSpec("Boat", spaces.Box(-float("inf"), float("inf"), (2,)), rudder, rudder)

    def reset(self, key):
        start = jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)
        return State(*start), start

    def step(self, state, action, key):
        heading = state.heading + 0.1 * jnp.deg2rad(action[0])
        offset = state.offset + 0.1 * (4.0 * jnp.sin(heading) + self.wind * jax.random.normal(key))
        obs = jnp.stack([offset, heading])
        reward, terminated = 1.0 - jnp.abs(offset) / 10.0, jnp.abs(offset) > 10.0
        never, no_costs = jnp.zeros((), bool), jnp.zeros((0,), jnp.float32)
        return State(offset, heading), TimeStep(obs, reward, terminated, never, obs, no_costs, {})


def boat(wind: float = 0.5) -> Env:
    return time_limit(canonical_actions(Boat(wind)), 200)


def main(steps: int = 500_000, **settings) -> float:
    result = steersman.train("ppo", boat, steps=steps, **{"num_envs": 32, **settings})
    print(f"mean return {result.evaluation.mean:.1f} of at most 200, {result.summary['steps_per_second']:,.0f} steps/s")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
