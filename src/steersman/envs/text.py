"""Environments of texts: Gymnasium's ``reset`` and ``step``, an observation is what is said to the model, an action its
answer. One episode is a conversation.

    reset(seed=7)  -> (prompt, info)
    step(answer)   -> (reply, reward, terminated, truncated, info)

An episode is a function of its seed and of the answers: two that begin with a seed begin alike, and the answers of a
group, which are compared with each other, all do. So a training can be resumed to the bit.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple, Protocol

from steersman.envs.families import split_name
from steersman.envs.importing import call, load_object
from steersman.errors import EnvironmentFault, UsageError, raised_at


class TextEnv(Protocol):
    """What is talked to; a ``gymnasium.Env`` with texts for observations and actions is one."""

    def reset(self, *, seed: int | None = None) -> tuple[str, dict[str, Any]]: ...

    def step(self, action: str, /) -> tuple[str, float, bool, bool, dict[str, Any]]: ...


class Reply(NamedTuple):
    """What an environment says to an answer."""

    text: str
    reward: float
    over: bool  # terminated, or truncated: how long a conversation may be is part of the task


class Guess:
    """A number is to be guessed, and each guess is told whether it is higher or lower.

    Rewarded with 1 is the guess that hits. ``guesses`` are as many as halving needs, floor(log2 most) + 1, unless
    given: who halves always wins, and who does not listen wins at most ``guesses / most`` of the games.
    """

    def __init__(self, most: int = 7, guesses: int | None = None):
        if not isinstance(most, int) or most < 1 or (guesses is not None and guesses < 1):
            raise UsageError(f"text/guess: most = {most}, guesses = {guesses}; both are whole numbers of 1 or more.")
        self.most, self.guesses = most, guesses or int(math.log2(most)) + 1
        self.number, self.left = 1, 0

    def reset(self, *, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        self.number, self.left = random.Random(seed).randint(1, self.most), self.guesses
        return f"1-{self.most}?", {}

    def step(self, action: str, /) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        said = re.fullmatch(r"\s*(\d{1,9})\s*", action)
        if said is None:
            return "a number!", 0.0, not self.left, False, {}
        guess = int(said[1])
        hit = guess == self.number
        reply = "yes" if hit else "higher" if self.number > guess else "lower"
        return reply, float(hit), hit or not self.left, False, {}


NAMES: dict[str, Callable[..., TextEnv]] = {"text/guess": Guess}


def is_name(name: str) -> bool:
    """Whether this names an environment of texts, by how it is written: ``text/guess``, ``package.module:make``."""
    head = name.partition(",")[0]
    return head.startswith("text/") or ":" in head


def factory(name: str) -> Callable[[], TextEnv]:
    """What makes the environments of a name: ``text/guess,most=15``, or a class or function, ``package.module:make``.

    Raises UsageError for a name that is none, and for arguments that it does not take.
    """
    head, kwargs = split_name(name)
    if head in NAMES:
        made = NAMES[head]
    elif head.startswith("text/"):
        raise UsageError(f"There is no environment {head!r}; there is {', '.join(NAMES)}.")
    else:
        made = load_object(head, "the environment of texts")
        if not callable(made):
            raise UsageError(f"{head} is a {type(made).__name__}; it is to be a class or a function that makes one.")

    def make() -> TextEnv:
        env = call(made, kwargs, head)
        if missing := [method for method in ("reset", "step") if not callable(getattr(env, method, None))]:
            raise UsageError(
                f"{head} gives a {type(env).__name__}, which has no {' and no '.join(missing)}. An environment of "
                "texts has reset(seed=) -> (prompt, info) and step(answer) -> (reply, reward, terminated, truncated, "
                "info)."
            )
        return env

    return make


def begin(env: TextEnv, seed: int, name: str) -> str:
    """The prompt of the episode of a seed. Raises EnvironmentFault where it raises, or gives something else."""
    try:
        given: Any = env.reset(seed=seed)
    except Exception as error:
        raise EnvironmentFault(f"{name}: reset(seed={seed}) raised {_said(error)}") from error
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], str) or not given[0]:
        raise EnvironmentFault(
            f"{name}: reset(seed={seed}) gave {given!r:.200}; it is to give (prompt, info), a text first."
        )
    return given[0]


def answer(env: TextEnv, text: str, name: str) -> Reply:
    """What it says to an answer. Raises EnvironmentFault where it raises, or gives something else."""
    asked = f"{name}: step({text!r:.200})"
    try:
        given: Any = env.step(text)
    except Exception as error:
        raise EnvironmentFault(f"{asked} raised {_said(error)}") from error
    if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[0], str):
        raise EnvironmentFault(
            f"{asked} gave {given!r:.200}; it is to give (reply, reward, terminated, truncated, info)."
        )
    reply, reward, terminated, truncated, _ = given
    if not isinstance(reward, Real) or not math.isfinite(reward):
        raise EnvironmentFault(f"{asked} gave the reward {reward!r}; it is to be a finite number.")
    return Reply(reply, float(reward), bool(terminated) or bool(truncated))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}{raised_at(error)}"
