"""The two ways a run can fail, and the search for the name the user meant."""

from __future__ import annotations

import traceback
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
