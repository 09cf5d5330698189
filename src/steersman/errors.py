"""The ways a run can fail, what is worth a warning, and the search for the name the user meant."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UsageError(ValueError):
    """The user's mistake. The message says what was given, what would be right, and what to do.

    The command line prints it alone, without a traceback, and exits with 2.
    """


class EnvironmentFault(RuntimeError):
    """An environment broke its contract: NaN, a wrong shape or dtype, or it died."""


class TrainingFault(RuntimeError):
    """Training cannot go on: a loss or a parameter is NaN or infinite."""


class EnvironmentWarning(UserWarning):
    """An environment is within its contract, or near it, and yet likely not what its author means."""


_told: set[str] = set()


def warn_once(about: str, text: str) -> None:
    """An ``EnvironmentWarning``, the first time that this process has one ``about`` this."""
    if about not in _told:
        _told.add(about)
        warnings.warn(text, EnvironmentWarning, stacklevel=3)


def raised_at(error: BaseException) -> str:
    """`` (FILE, line N)``: where the user's own code raised it, as far as that can be told; empty without a traceback.

    >>> raised_at(ValueError("never raised"))
    ''
    """
    # Not the user's: installed packages, this one, and modules frozen into the interpreter, which have no file.
    theirs = ("site-packages", __file__.removesuffix("errors.py"))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<") and not any(part in f.filename for part in theirs)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def to_install(extra: str) -> str:
    """The line that installs one of our extras: from the source, for steersman is on no package index.

    >>> to_install("mujoco")
    "pip install -e '.[mujoco]' in steersman's folder"
    """
    return f"pip install -e '.[{extra}]' in steersman's folder"


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """A sentence that offers the names closest to ``name``; empty when none is close.

    >>> nearest("CartPole", ["CartPole-v1", "Pendulum-v1"])
    'Did you mean CartPole-v1?'
    """
    lowered = {k.lower(): k for k in known}
    close = [lowered[k] for k in get_close_matches(name.lower(), lowered, n=n, cutoff=0.5)]
    return f"Did you mean {' or '.join(close)}?" if close else ""


def no_such_info(who: str, name: str, names: Iterable[Any]) -> UsageError:
    """What to say of a number that is to be logged and is not there."""
    known = sorted(map(str, names))
    there = f"it holds {', '.join(known)}" if known else "it holds nothing"
    near = nearest(name, known)
    return UsageError(f"log_info: the info of {who} has no {name!r} where an episode ends; {there}. {near}".rstrip())
