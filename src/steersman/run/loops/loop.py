"""The loops behind one face: ``start`` a run, ``advance`` it by some updates, ``boundary`` at a checkpoint.

The state of any loop is a ``LoopState`` (of several seeds, a list of them), and that is all a checkpoint holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from steersman.types import Key, PyTree
from steersman.unroll import Acting, Episodes


class LoopState(NamedTuple):
    """Everything a run is, between two updates."""

    agent: PyTree
    acting: Acting
    key: Key


class Totals(NamedTuple):
    """Sums over some updates: numpy arrays with the leading axis [seeds]."""

    episodes: Episodes
    metrics: dict[str, Any]
    updates: int


class Loop(Protocol):
    """What ``train`` drives. ``compile_seconds`` grows as programs are compiled."""

    compile_seconds: float
    first_steps: int  # environment steps that ``start`` takes, per seed
    steps_per_update: int  # environment steps of one update, per seed

    def start(self) -> Any: ...
    def advance(self, state: Any, updates: int, *, cut: bool = False) -> tuple[Any, Totals]: ...
    def boundary(self, state: Any, steps: int) -> Any: ...
    def agents(self, state: Any) -> list[PyTree]: ...  # each seed's, on one device
    def saved(self, state: Any) -> LoopState: ...  # what a checkpoint holds: of several seeds, leaves [seeds, ...]
    def emptied(self, state: Any) -> LoopState: ...  # the shapes of that; the arrays are freed
    def restored(self, saved: LoopState, steps: int) -> Any: ...
    def close(self) -> None: ...


def released(leaf: Any) -> Any:
    """What ``checkpoint.load`` has to know of an array; the array is freed, lest a large memory be held twice."""
    if not isinstance(leaf, jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    leaf.delete()
    return shape
