"""Several seeds on host environments: a ``HostLoop`` for each, advanced in turn, with one set of compiled programs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np

from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.loop import LoopState, Totals
from steersman.types import PyTree


class HostSeeds:
    """``Loop`` of several seeds: each has environments and a state of its own, and does what it does alone.

    loops: alike but for their seeds, with the same ``programs``. A state is a list of theirs; saved, its leaves are
    ``[seeds, ...]``.
    """

    def __init__(self, loops: Sequence[HostLoop]):
        self._loops = list(loops)
        self.first_steps, self.steps_per_update = loops[0].first_steps, loops[0].steps_per_update

    @property
    def compile_seconds(self) -> float:
        return sum(loop.compile_seconds for loop in self._loops)

    @compile_seconds.setter
    def compile_seconds(self, seconds: float) -> None:
        self._loops[0].compile_seconds += seconds - self.compile_seconds

    def start(self) -> list[LoopState]:
        return [loop.start() for loop in self._loops]

    def advance(self, state: list[LoopState], updates: int, *, cut: bool = False) -> tuple[list[LoopState], Totals]:
        done = [loop.advance(own, updates, cut=cut) for loop, own in zip(self._loops, state, strict=True)]
        join = lambda *rows: np.concatenate(rows)
        episodes, metrics = jax.tree.map(join, *((totals.episodes, totals.metrics) for _, totals in done))
        return [own for own, _ in done], Totals(episodes, metrics, updates)

    def boundary(self, state: list[LoopState], steps: int) -> list[LoopState]:
        return [loop.boundary(own, steps) for loop, own in zip(self._loops, state, strict=True)]

    def agents(self, state: list[LoopState]) -> list[PyTree]:
        return [own.agent for own in state]

    def shapes(self) -> LoopState:
        many = len(self._loops)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((many, *x.shape), x.dtype), self._loops[0].shapes())

    def saved(self, state: list[LoopState]) -> LoopState:
        alone = [loop.saved(own) for loop, own in zip(self._loops, state, strict=True)]
        return jax.tree.map(lambda *x: jnp.stack(x), *alone)

    def restored(self, saved: LoopState, steps: int) -> list[LoopState]:
        each = [jax.tree.map(lambda x, i=i: x[i], saved) for i in range(len(self._loops))]
        return [loop.restored(own, steps) for loop, own in zip(self._loops, each, strict=True)]

    def close(self) -> None:
        with ExitStack() as stack:  # each, whatever the others do
            for loop in self._loops:
                stack.callback(loop.close)
