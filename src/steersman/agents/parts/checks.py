"""Checks of settings, made before anything is compiled. A traced value (a swept one) is let through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from gymnasium import spaces

from steersman.errors import UsageError, nearest
from steersman.types import EnvSpec


class Rules(NamedTuple):
    """Ranges of a config's fields, by name: what ``check_config`` takes."""

    at_least_one: Sequence[str] = ()
    positive: Sequence[str] = ()
    non_negative: Sequence[str] = ()
    fraction: Sequence[str] = ()
    choices: Mapping[str, Sequence[str]] | None = None
    sizes: Sequence[str] = ()


def check_config(
    config: Any,
    *,
    at_least_one: Sequence[str] = (),
    positive: Sequence[str] = (),
    non_negative: Sequence[str] = (),
    fraction: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    sizes: Sequence[str] = (),
) -> None:
    """Raise UsageError naming the first field out of its range; None means a switched-off option and passes."""
    name_of = type(config).__name__.removesuffix("Config")

    def refuse(field: str, right: str, hint: str = "", off: str = " is out of range") -> None:
        default = next(f.default for f in dataclasses.fields(config) if f.name == field)
        given = getattr(config, field)
        says = f"{name_of}: {field} = {given!r}{off}; it must be {right}. {hint} Default: {default!r}."
        raise UsageError(" ".join(says.split()))

    rules = (
        (at_least_one, lambda v: v == int(v) and v >= 1, "a whole number of 1 or more"),
        (positive, lambda v: v > 0, "above 0"),
        (non_negative, lambda v: v >= 0, "0 or more"),
        (fraction, lambda v: 0 <= v <= 1, "between 0 and 1"),
    )
    for fields, legal, right in rules:
        for field in fields:
            value = getattr(config, field)
            if isinstance(value, Real) and not (math.isfinite(value) and legal(value)):
                refuse(field, right)
            if isinstance(value, str):
                refuse(field, right)
    for field, known in (choices or {}).items():
        value = getattr(config, field)
        if value not in known:
            refuse(field, " or ".join(known), nearest(str(value), known), off="")
    for field in sizes:
        value = getattr(config, field)
        if not all(isinstance(n, int) and n >= 1 for n in value):
            refuse(field, "a tuple of whole numbers of 1 or more")


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
