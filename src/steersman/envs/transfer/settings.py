"""What is put between a policy and a simulator, as settings: read, checked, said. Imports no JAX: workers import it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError

Amounts = Mapping[str, Any]  # by entry of a Dict observation; "": every entry of numbers
Ranges = Mapping[str, tuple[float, float]]
PHYSICS = "physics"  # the entry of an observation that says the drawn factors


@dataclass(frozen=True)
class Transfer:
    """Settings that any environment takes beside its own, after its name or as arguments of ``envs.make``, by ``read``.

    Steps are those of the policy, actions are canonical (in [-1, 1]), and all that is random is decided by the seed.
    Text is for the command line: ``0:3`` for (0, 3), ``imu:0.1+joints:0.02`` for {"imu": 0.1, "joints": 0.02},
    ``mass:0.5:2+friction:0.3:1.5`` for {"mass": (0.5, 2), "friction": (0.3, 1.5)}.
    """

    action_delay: tuple[int, int] = (0, 0)
    """Steps that an action comes late: a number, or bounds, both included, that each episode draws one between."""
    action_smoothing: float = 0.0
    """s of u_t = s u_{t-1} + (1 - s) a_t, in [0, 1): actions go through a filter of first order."""
    action_rate_penalty: float = 0.0
    """w of reward_t - w |a_t - a_{t-1}|^2; what is reported stays in the environment's own reward."""
    observation_noise: Amounts = field(default_factory=dict)
    """Standard deviation of what is added at every step: a number, or one for each named entry of a Dict."""
    observation_bias: Amounts = field(default_factory=dict)
    """Standard deviation of what is drawn once an episode and added to all its observations; given as the noise."""
    observation_history: int = 0
    """How many of the last observations are seen, with the actions between them; 0: the newest alone."""
    push: float = 0.0
    """Most that a push adds to a velocity of the root, either way, in the environment's units."""
    push_every: float = 100.0
    """Steps from one push to the next on average: a step has one with probability 1 / push_every."""
    randomize: Ranges = field(default_factory=dict)
    """Bounds of factors of physical parameters: each episode draws f = low (high / low)^u, u uniform in [0, 1].
    ``mass`` is one factor for all; of MuJoCo's models also ``mass/each``, one for every body, and ``mass/torso``."""
    see_physics: bool = False
    """Show the drawn factors, as the entry ``physics`` of a Dict observation: for a critic, not for a robot."""

    @property
    def simulated(self) -> bool:
        """Whether the simulator itself is touched."""
        return bool(self.randomize) or self.push > 0


NAMES = tuple(one.name for one in fields(Transfer))


def split(arguments: Mapping[str, Any]) -> tuple[Transfer | None, dict[str, Any]]:
    """An environment's arguments -> (what is for ``Transfer``, None where nothing is; the environment's own)."""
    own = {name: value for name, value in arguments.items() if name not in NAMES}
    ours = {name: value for name, value in arguments.items() if name in NAMES}
    return (read(**ours) if ours else None), own


def read(**given: Any) -> Transfer:
    """The settings that arguments, of Python or of the command line, say; UsageError for what is out of its range.

    >>> read(action_delay="0:3", observation_noise=0.1).action_delay
    (0, 3)
    """
    values = {name: _READERS[name](name, value) for name, value in given.items()}
    made = Transfer(**values)
    if made.see_physics and not made.randomize:
        raise UsageError("see_physics shows the factors of randomize, which is not given: randomize=mass:0.5:2")
    if "push_every" in given and not made.push:
        raise UsageError("push_every is how often there is a push, whose size is not given: push=0.5")
    return made


def _number(
    name: str, value: Any, least: float = 0.0, below: float = np.inf, *, whole: bool = False, above: bool = False
) -> Any:
    kind = int | np.integer if whole else int | float | np.integer | np.floating
    good = isinstance(value, kind) and not isinstance(value, bool) and least <= value < below
    if not good or (above and value == least):
        what = "a whole number" if whole else "a number"
        bottom = f"above {least:g}" if above else f"of {least:g} or more"
        top = "" if below == np.inf else f", below {below:g}"
        raise UsageError(f"{name} = {value}; it must be {what} {bottom}{top}.")
    return int(value) if whole else float(value)


def _delay(name: str, value: Any) -> tuple[int, int]:
    low, high = _pair(name, value) if isinstance(value, str | tuple | list) else (value, value)
    ends = tuple(_number(name, end, whole=True) for end in (low, high))
    return _ordered(name, ends, "2, or bounds from the smaller to the larger, as 0:3")


def _amounts(name: str, value: Any) -> dict[str, Any]:
    given = _named(name, value, "imu:0.1+joints:0.02") if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        given = {"": given}
    amounts = {}
    for entry, amount in given.items():
        numbers = np.asarray(amount, np.float32) if np.ndim(amount) else np.float32(_number(name, amount))
        if not (np.isfinite(numbers) & (numbers >= 0)).all():
            raise UsageError(f"{name} = {amount}; a standard deviation is a number of 0 or more.")
        amounts[entry] = numbers
    return amounts


def _ranges(name: str, value: Any) -> dict[str, tuple[float, float]]:
    example = "mass:0.5:2+friction:0.3:1.5"
    given = _named(name, value, example) if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not given:
        raise UsageError(f"{name} = {value}; it names parameters and the bounds of their factors: {example}")
    ranges = {}
    for parameter, bounds in given.items():
        called = f"{name} of {parameter}"
        ends = tuple(_number(called, end, above=True) for end in _pair(called, bounds))
        ranges[parameter] = _ordered(called, ends, "0.5:2: 1 leaves a parameter as it is")
    return ranges


def _ordered(name: str, ends: tuple[Any, ...], right: str) -> tuple[Any, Any]:
    low, high = ends
    if low > high:
        raise UsageError(f"{name} = {low}:{high}; the bounds are the wrong way. It is {right}.")
    return low, high


def _pair(name: str, value: Any) -> Sequence[Any]:
    """Two ends, of text with a colon, or as they are."""
    ends = [_plain(end) for end in value.split(":")] if isinstance(value, str) else value
    if not isinstance(ends, tuple | list) or len(ends) != 2:
        raise UsageError(f"{name} = {value}; bounds are two numbers, LOW:HIGH.")
    return ends


def _named(name: str, text: str, example: str) -> dict[str, Any]:
    """``a:1+b:2:3`` -> {"a": 1, "b": "2:3"}"""
    found = {}
    for part in re.split(r"\+(?=[^\d.])", text):
        entry, colon, rest = part.partition(":")
        if not colon or not entry or entry in found:
            raise UsageError(f"{name} = {text}: {part!r} is no NAME:NUMBER, or is there twice. Example: {example}")
        found[entry] = rest if ":" in rest else _plain(rest)
    return found


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _yes(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} = {value}; it is true or false.")
    return value


def _times(name: str, value: Any) -> float:
    return _number(name, value, 1.0)


_READERS = {
    "action_delay": _delay,
    "action_smoothing": lambda name, value: _number(name, value, below=1.0),
    "action_rate_penalty": _number,
    "observation_noise": _amounts,
    "observation_bias": _amounts,
    "observation_history": lambda name, value: _number(name, value, whole=True),
    "push": _number,
    "push_every": _times,
    "randomize": _ranges,
    "see_physics": _yes,
}


def with_factors(space: Any, bounds: Sequence[tuple[float, float]]) -> Any:
    """The observation space with the factors beside it; raises UsageError where the name is taken."""
    low, high = (np.array([ends[i] for ends in bounds], np.float32) for i in (0, 1))
    own = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    if PHYSICS in own:
        raise UsageError(f"The observation has {PHYSICS!r} already: the factors are shown once.")
    return spaces.Dict({**own, PHYSICS: spaces.Box(low, high)})
