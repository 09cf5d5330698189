"""Environments: compiled ones (pure functions, vectorised by us) and host ones (Gymnasium's), by name or as objects."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steersman.envs.costs import with_costs as with_costs
    from steersman.envs.families import available as available
    from steersman.envs.registry import make as make
    from steersman.envs.registry import make_env as make_env
    from steersman.vector import vectorize as vectorize

_WHERE = dict.fromkeys(("make", "make_env"), "envs.registry") | {
    "available": "envs.families",
    "vectorize": "vector",
    "with_costs": "envs.costs",
}


def __getattr__(name: str) -> Any:
    """Import on first use: listing names needs no JAX, and no simulator is imported before it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"steersman.{_WHERE[name]}"), name)
