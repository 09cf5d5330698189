"""A user's own things by name: ``package.module:name``, an environment, an algorithm or a network."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from typing import Any

from steersman.errors import UsageError, nearest, raised_at


def load_object(path: str, what: str) -> Any:
    """The object at ``package.module:name``. Modules of the working directory are found, as with ``python -m``.

    what: "the environment", for messages. Raises UsageError where the module cannot be imported or has no such name.
    """
    where, _, name = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(where)
    except (ImportError, SyntaxError, ValueError, TypeError) as error:
        raise UsageError(
            f"Cannot import {where!r} for {what} {path}: {error}. It is to be package.module:name, of a module that "
            "Python finds (installed, or in the working directory)."
        ) from error
    except Exception as error:  # what the module's own code raises
        raise UsageError(
            f"Cannot import {where!r} for {what} {path}: {type(error).__name__}: {error}{raised_at(error)}"
        ) from error
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"The module {where} has no {name!r}, asked for in {path}. {nearest(name, names)}") from None
