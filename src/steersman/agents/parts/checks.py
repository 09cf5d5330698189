"""Checks of what an agent is given, made before anything is compiled."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from steersman.errors import UsageError
from steersman.types import EnvSpec


def check_minibatches(length: int, num_envs: int, num_minibatches: int) -> None:
    """Raise UsageError unless ``num_minibatches`` divides the rollout, offering the nearest numbers that do."""
    total = length * num_envs
    if total % num_minibatches == 0:
        return
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    below = max((n for n in divisors if n < num_minibatches), default=1)
    above = min((n for n in divisors if n > num_minibatches), default=total)
    raise UsageError(
        f"A rollout of unroll_length {length} x num_envs {num_envs} = {total} transitions cannot be cut into "
        f"{num_minibatches} equal minibatches. Set num_minibatches to {below} or {above}, or change the other two."
    )


def check_network(algorithm: str, spec: EnvSpec, network: Any) -> None:
    """Raise UsageError where a policy-gradient agent has no policy for the environment's action space."""
    served = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
    if network is None and not isinstance(spec.action_space, served):
        raise UsageError(
            f"{algorithm} needs a Discrete, MultiDiscrete, MultiBinary or Box action space; {spec.id} has "
            f"{spec.native_action_space}. Give a network of your own whose first output is a distribution over it."
        )


def check_discrete(algorithm: str, spec: EnvSpec) -> None:
    """Raise UsageError where an agent that learns a value for each action has no list of actions."""
    if not isinstance(spec.action_space, spaces.Discrete):
        other = "sac" if isinstance(spec.action_space, spaces.Box) else "ppo"
        raise UsageError(
            f"{algorithm} needs a Discrete action space; {spec.id} has {spec.native_action_space}. "
            f"Try: steersman train {other} {spec.id}"
        )
