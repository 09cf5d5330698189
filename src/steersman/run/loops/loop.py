"""The loops behind one face: ``start`` a run, ``advance`` it by some updates, ``boundary`` at a checkpoint.

The state of any loop is a ``LoopState`` (of several seeds, a list of them), and that is all a checkpoint holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from steersman.episodes import Episodes
from steersman.types import Key, PyTree


class LoopState(NamedTuple):
    """Everything a run is, between two updates."""

    agent: PyTree
    acting: PyTree  # ``unroll.Acting``; () where no environment is stepped, or none can be saved
    key: Key


class Totals(NamedTuple):
    """Sums over some updates: numpy arrays with the leading axis [seeds]."""

    episodes: Episodes
    metrics: dict[str, Any]
    updates: int


class Loop(Protocol):
    """What ``train`` drives. ``compile_seconds`` grows as programs are compiled.

    A run begins with ``start``, or goes on with ``restored``; what a checkpoint holds of it looks like ``shapes``.
    """

    first_steps: int  # steps that ``start`` takes, per seed
    steps_per_update: int  # steps of one update, per seed: of environments, or gradient steps

    @property
    def compile_seconds(self) -> float: ...
    @compile_seconds.setter
    def compile_seconds(self, seconds: float) -> None: ...
    def start(self) -> Any: ...
    def advance(self, state: Any, updates: int, *, cut: bool = False) -> tuple[Any, Totals]: ...
    def boundary(self, state: Any, steps: int) -> Any: ...
    def agents(self, state: Any) -> list[PyTree]: ...  # each seed's, on one device
    def shapes(self) -> LoopState: ...  # of what ``saved`` gives, as ``jax.ShapeDtypeStruct``; nothing is played
    def saved(self, state: Any) -> LoopState: ...  # what a checkpoint holds: of several seeds, leaves [seeds, ...]
    def restored(self, saved: LoopState, steps: int) -> Any: ...
    def close(self) -> None: ...
