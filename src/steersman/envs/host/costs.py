"""Costs read off what a step gives: comparisons such as ``x_velocity > 3.2096``. Imports no JAX: workers import it.

    [NAME =] ENTRY [INDEX] (< | <= | > | >=) NUMBER,      ENTRY [INDEX] also inside abs(...)

A step costs 1 where it holds, else 0. ENTRY is a name in the step's info, a part of a Dict observation, or ``obs``, an
observation that is no Dict; INDEX, ``[3]``, picks a number of a vector. The text is parsed, never evaluated.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from steersman.envs.host import contract
from steersman.errors import UsageError, nearest

EXAMPLE = "--cost 'x_velocity > 3.2', --cost 'abs(obs[0]) > 0.5', --cost 'fall = height < 0.2'"
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_WORD = r"[A-Za-z_][\w./-]*"
_ENTRY = rf"({_WORD})\s*(?:\[\s*(\d+)\s*\])?"
_WHOLE = re.compile(rf"(?:({_WORD})\s*=(?!=))?\s*(abs\s*\()?\s*{_ENTRY}\s*(\))?\s*(<=?|>=?)\s*(\S+)")


class Comparison(NamedTuple):
    """A cost of 1 for every step whose successor's ``entry`` is beyond a bound."""

    name: str
    entry: str  # of info, of a Dict observation, or "obs"
    place: int | None  # in a vector
    absolute: bool
    sign: str
    bound: float

    def number(self, obs: Any, info: Mapping[str, Any], who: str, lead: int = 0) -> Any:
        """The entry, as it is. lead: leading axes that obs and info have. Raises UsageError where there is none."""
        parts = obs if isinstance(obs, Mapping) else {"obs": obs}
        if self.entry not in info and self.entry not in parts:
            raise self._missing(parts, info, who, lead)
        x = parts[self.entry] if self.entry == "obs" or self.entry not in info else info[self.entry]
        x = np.asarray(x) if isinstance(x, list | tuple) else x
        shape = np.shape(x)[lead:]
        fits = not shape if self.place is None else len(shape) == 1 and self.place < shape[0]
        if not fits:
            what = f"an array of shape {shape}" if shape else "one number"
            which = f"give one of its entries, as in {self.entry}[0]" if len(shape) == 1 else "it has to be a number"
            which = which if shape else f"leave the index out: {self.entry}"
            raise UsageError(f"cost {self.name!r}: {self.entry} of {who} is {what}; {which}.")
        return x if self.place is None else x[..., self.place]

    def holds(self, x: Any) -> Any:
        """Whether the comparison holds, for a number or an array of either kind."""
        return _SIGNS[self.sign](abs(x) if self.absolute else x, self.bound)

    def charge(self, obs: Any, info: Mapping[str, Any], who: str) -> float:
        """1 or 0; NaN where the entry is NaN, which the books refuse."""
        x: Any = self.number(obs, info, who)
        try:
            x = float(x)
        except (TypeError, ValueError):
            raise UsageError(f"cost {self.name!r}: {self.entry} of {who} is {x!r}; it has to be a number.") from None
        return x if math.isnan(x) else float(self.holds(x))

    def _missing(self, parts: Mapping[str, Any], info: Mapping[str, Any], who: str, lead: int) -> UsageError:
        near = nearest(self.entry, [*map(str, info), *map(str, parts)])
        has = ", ".join(sorted(map(str, info))) or "nothing"
        seen = ", ".join(name if np.ndim(x) <= lead else f"{name}[0] ..." for name, x in sorted(parts.items()))
        return UsageError(
            f"cost {self.name!r}: {who} gave no {self.entry!r}. The info of its step holds {has}; of the observation "
            f"there is {seen}. A cost needs it in the info of every step. {near}".rstrip()
        )


def parsed(costs: Sequence[str]) -> tuple[Comparison, ...]:
    """The comparisons that some texts say; raises UsageError for a text that says none, and for two of one name.

    >>> parsed(["x_velocity>3.2", "edge = abs(obs[0]) >= 2"])[1]
    Comparison(name='edge', entry='obs', place=0, absolute=True, sign='>=', bound=2.0)
    """
    found = [_parsed(text) for text in ([costs] if isinstance(costs, str) else costs)]
    names = [one.name for one in found]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(f"Two costs are named {twice[0]!r}. Give one another name: --cost 'NAME = ENTRY > NUMBER'.")
    return tuple(found)


def _parsed(text: str) -> Comparison:
    found = _WHOLE.fullmatch(text.strip())
    bound = None if found is None else _finite(found[7])
    if found is None or bound is None or bool(found[2]) != bool(found[5]):
        raise UsageError(
            f"cost {text!r} is no comparison: [NAME =] ENTRY [INDEX], then one of < <= > >= and a number. ENTRY is a "
            f"name in info, obs, or a part of a Dict observation: {EXAMPLE}"
        )
    name, opened, entry, place, _, sign, number = found.groups()
    shown = entry if place is None else f"{entry}[{int(place)}]"
    shown = f"abs({shown})" if opened else shown
    own = name or f"{shown} {sign} {number}"
    return Comparison(own, entry, None if place is None else int(place), bool(opened), sign, bound)


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def charges(comparisons: Sequence[Comparison], who: str, obs: Any, action: Any, info: Mapping[str, Any]) -> list[float]:
    """What one step of one environment costs."""
    return [one.charge(obs, info, who) for one in comparisons]


class InfoCosts(gymnasium.Wrapper):
    """Costs of a Gymnasium environment: ``info["cost"]`` of every step, after those that it has itself.

    function: (next observation, action, info of the step) -> a number for each of ``names``.

    >>> env = InfoCosts(gymnasium.make("CartPole-v1"), lambda obs, action, info: [abs(obs[0])], ["distance"])
    >>> _ = env.reset(seed=0)
    >>> list(env.step(0)[4])
    ['cost']
    """

    def __init__(
        self, env: gymnasium.Env, function: Callable[[Any, Any, dict[str, Any]], Sequence[float]], names: Sequence[str]
    ):
        super().__init__(env)
        self.function, self.names = function, tuple(names)

    def step(self, action: Any) -> Any:
        return self.charged(self.env.step, action)

    def charged(self, step: Callable[[Any], Any], action: Any) -> Any:
        """What ``step`` gives, with the costs. ``Members`` hands in the innermost step."""
        given = step(action)
        if not (isinstance(given, tuple) and len(given) == 5 and isinstance(given[4], dict)):
            return given  # for the contract to refuse, in its words
        *seen, info = given
        if contract.costs_in(info) is None:
            return given
        own = np.ravel(info["cost"]).tolist() if "cost" in info else []
        return (*seen, {**info, "cost": [*own, *self.function(seen[0], action, info)]})


def names_of(env: gymnasium.Env) -> tuple[str, ...]:
    """The names that ``InfoCosts`` gives the last of an environment's costs."""
    names: tuple[str, ...] = ()
    while isinstance(env, gymnasium.Wrapper):
        names = env.names + names if isinstance(env, InfoCosts) else names
        env = env.env
    return names


def compared(factory: Callable[[], gymnasium.Env], comparisons: Sequence[Comparison]) -> Callable[[], gymnasium.Env]:
    """A function that makes the same environment with these costs, fit to be sent to another process."""
    return partial(_compared, factory, comparisons) if comparisons else factory


def _compared(factory: Callable[[], gymnasium.Env], comparisons: Sequence[Comparison]) -> gymnasium.Env:
    env = factory()
    if not isinstance(env, gymnasium.Env):
        return env  # for the members to refuse
    who = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return InfoCosts(env, partial(charges, comparisons, who), [one.name for one in comparisons])
