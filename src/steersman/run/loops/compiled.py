"""The core of the compiled loops: updates in one program; many seeds, or many shards of one seed, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from steersman.episodes import NEWEST, Episodes
from steersman.run.loops.devices import AXIS, mesh_of, state_specs
from steersman.run.loops.loop import LoopState, Totals
from steersman.shards import cross_mean, cross_rows, cross_sum, sharded_over
from steersman.types import Key, Metrics, PyTree


class Layout(NamedTuple):
    """How the state of one round lies over the devices."""

    specs: Any  # for ``shard_map``
    state: LoopState  # of jax.ShapeDtypeStruct, with shardings
    key: Any  # what ``start`` is given, as a shape


class CompiledLoop:
    """The two functions of a loop, compiled, over many seeds or many shards of one seed.

    start(key, first) -> LoopState                          of one seed, or of one shard of it
    update(state, data) -> (LoopState, Episodes, metrics)   once; metrics are of this shard: they are averaged here

    first, data: trees of arrays that both are given from outside, no part of the state; data is held once on each
    device, for all seeds. Several seeds go over the devices in rounds, each seed on one device. Their state is a list,
    a ``LoopState`` of each round with leaves [devices, ...], donated in turn: nothing is copied, whatever replay holds,
    but where XLA lays an axis of one out anew, as it does with the rings of several seeds with one environment each.
    look(agent, key) -> a tree of arrays: what ``looks`` gives of each seed, compiled with the rest.
    """

    def __init__(
        self,
        start: Callable[[Key, PyTree], LoopState],
        update: Callable[[LoopState, PyTree], tuple[LoopState, Episodes, Metrics]],
        *,
        seeds: list[int],
        shards: int = 1,
        devices: int | None = None,
        first_steps: int,
        steps_per_update: int,
        first: PyTree = (),
        data: PyTree = (),
        look: Callable[[PyTree, Key], PyTree] | None = None,
    ):
        # Traced once, though their shapes are asked for first; inlined, so the programs are those of the functions.
        self._start, self._update = jax.jit(start, inline=True), jax.jit(update, inline=True)
        self._first, self._look = first, look
        self.seeds, self.first_steps, self.steps_per_update = seeds, first_steps, steps_per_update
        self.compile_seconds = 0.0
        self.many = len(seeds) > 1
        self.mesh = mesh_of(min(len(seeds), devices or len(seeds), len(jax.devices())) if self.many else shards)
        # The last round is filled up with seeds whose results are dropped.
        size, count = self.mesh.size, len(seeds)
        self.rounds = [[(i + j) % count for j in range(size)] for i in range(0, count, size)] if self.many else [[0]]
        self._data = jax.device_put(data, NamedSharding(self.mesh, PartitionSpec()))
        self._programs: dict[str, Any] = {}

    # The program of one seed, or of one shard of it.

    def _updates(self, state: LoopState, updates: jax.Array, data: PyTree) -> tuple[LoopState, Episodes, Metrics]:
        def body(i, carry):
            state, episodes, metrics = carry
            state, new, more = self._update(state, data)
            when = jnp.where(new.newest.when < 0, new.newest.when, new.newest.when + i * self.steps_per_update)
            new = new._replace(newest=new.newest._replace(when=when))
            episodes = jax.lax.cond(new.count > 0, lambda: episodes.plus(new, jnp), lambda: episodes)
            return state, episodes, jax.tree.map(lambda a, b: a + jnp.asarray(b).astype(a.dtype), metrics, more)

        _, episodes, metrics = jax.eval_shape(self._update, state, data)
        episodes = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), episodes)
        none = jax.tree.map(lambda x: jnp.full_like(x, -1 if x.dtype == jnp.int32 else jnp.nan), episodes.newest)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), metrics)
        state, episodes, metrics = jax.lax.fori_loop(0, updates, body, (state, episodes._replace(newest=none), zeros))
        newest = cross_rows(episodes.newest)
        return state, cross_sum(episodes.sums)._replace(newest=newest), cross_mean(metrics)

    # The same, laid over the devices.

    def _sharded(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``function`` of one seed over this mesh: a batch of one seed shared, or a seed on each device."""

        def local(state, *args):
            if self.many:
                return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], state), *args))
            if self.mesh.size == 1:
                return function(state, *args)
            with sharded_over(AXIS):
                return function(state, *args)

        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    @property
    def _result(self) -> PartitionSpec:
        """Where a number of each seed lies."""
        return PartitionSpec(AXIS) if self.many else PartitionSpec()

    @cached_property
    def _layout(self) -> Layout:
        row: Any = PartitionSpec(AXIS)
        whole: Any = PartitionSpec()
        key = jax.eval_shape(lambda: jax.random.key(0))
        specs = row
        if self.many:
            key = jax.ShapeDtypeStruct((self.mesh.size,), key.dtype)
        else:
            local = jax.eval_shape(self._start, key, self._first_shapes)
            acting = jax.tree.map(lambda _: row, local.acting)
            specs = LoopState(state_specs(local.agent), acting, whole)
        shapes = jax.eval_shape(self._sharded(self._start, (self._result, whole), specs), key, self._first_shapes)
        state = jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec)),
            shapes,
            jax.tree.map(lambda _: row, shapes) if self.many else specs,
        )
        return Layout(specs, state, key)

    @property
    def _first_shapes(self) -> PyTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._first)

    def _lowered(self, name: str) -> Any:
        specs, state, key = self._layout
        whole = PartitionSpec()
        # Said for the outputs too: XLA calls an array without elements (no costs, in replay) replicated.
        laid = jax.tree.map(lambda x: x.sharding, state)
        if name == "start":
            start = self._sharded(self._start, (self._result, whole), specs)
            return jax.jit(start, out_shardings=laid).lower(key, self._first_shapes)
        if name == "look":
            look: Any = self._look
            if not self.many:  # the whole agent is brought to one device
                agent = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.agent)
                return jax.jit(look).lower(agent, jax.eval_shape(lambda: jax.random.key(0)))
            looked = self._sharded(lambda both: look(*both), (self._result,), self._result)
            return jax.jit(looked).lower((state.agent, key))
        advance = self._sharded(self._updates, (specs, whole, whole), (specs, self._result, self._result))
        jitted = jax.jit(advance, donate_argnums=0, out_shardings=(laid, None, None))
        return jitted.lower(state, np.int32(1), self._data)

    def _compile(self, *names: str) -> None:
        """Compile programs side by side, those that are not compiled yet."""
        names = names if self._look is None else (*names, "look")
        missing = [name for name in names if name not in self._programs]
        if missing:
            began = time.perf_counter()
            lowered = [self._lowered(name) for name in missing]
            with ThreadPoolExecutor(len(missing)) as pool:
                made = pool.map(lambda program: program.compile(), lowered)
            self._programs.update(zip(missing, made, strict=True))
            self.compile_seconds += time.perf_counter() - began

    # The face of a loop.

    def start(self) -> Any:
        self._compile("start", "advance")
        keys = [jax.random.key(seed) for seed in self.seeds]
        if self.many:
            keys = [jnp.stack([keys[i] for i in some]) for some in self.rounds]
        return self._state([self._programs["start"](key, self._first) for key in keys])

    def _state(self, rounds: list[LoopState]) -> Any:
        return rounds if self.many else rounds[0]

    def _rounds(self, state: Any) -> list[LoopState]:
        return state if self.many else [state]

    def advance(self, state: Any, updates: int, *, cut: bool = False) -> tuple[Any, Totals]:
        self._compile("advance")
        done = [self._programs["advance"](part, np.int32(updates), self._data) for part in self._rounds(state)]
        row = lambda part: np.asarray(part) if self.many else np.asarray(part)[None]
        join = lambda *x: np.concatenate([row(part) for part in x])[: len(self.seeds)]
        episodes, metrics = jax.tree.map(join, *(sums for _, *sums in done))
        if episodes.newest.when.shape[1] > NEWEST:  # of each shard
            episodes = episodes._replace(newest=episodes.newest.last(ordered=False))
        return self._state([part for part, *_ in done]), Totals(episodes, metrics, updates)

    def boundary(self, state: Any, steps: int) -> Any:
        return state  # where the environments stand is part of the checkpoint

    def agents(self, state: Any) -> list[PyTree]:
        agents = [part.agent for part in self._rounds(state)]
        whole = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), agents)
        if not self.many:
            return whole
        name = f"agents of {len(jax.tree.leaves(whole))} leaves"  # with a replay memory, or without one
        if name not in self._programs:
            began = time.perf_counter()
            self._programs[name] = jax.jit(partial(_unstacked, count=self.mesh.size)).lower(whole[0]).compile()
            self.compile_seconds += time.perf_counter() - began
        return [agent for part in whole for agent in self._programs[name](part)][: len(self.seeds)]

    def looks(self, state: Any, seeds: list[int]) -> PyTree:
        """What ``look`` gives of each seed's agent and of a key of its own seed: numpy, leaves [seeds, ...]."""
        self._compile("advance")
        keys, program = [jax.random.key(seed) for seed in seeds], self._programs["look"]
        if not self.many:
            return jax.tree.map(lambda x: np.asarray(x)[None], program(self.agents(state)[0], keys[0]))
        stacked = [jnp.stack([keys[i] for i in some]) for some in self.rounds]
        seen = [program((part.agent, key)) for part, key in zip(state, stacked, strict=True)]
        return jax.tree.map(lambda *x: np.concatenate([np.asarray(part) for part in x])[: len(self.seeds)], *seen)

    def shapes(self) -> LoopState:
        state = self._layout.state
        if not self.many:
            return state
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(self.seeds), *x.shape[1:]), x.dtype), state)

    def saved(self, state: Any) -> LoopState:
        if not self.many:
            return state
        here = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), state)
        return _joined(here, count=len(self.seeds))

    def restored(self, saved: LoopState, steps: int) -> Any:
        if not self.many:
            return saved
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return [jax.device_put(_rows(saved, np.asarray(i)), rows) for i in self.rounds]

    def close(self) -> None:
        pass


# One program each: leaf by leaf it would be one for every shape, which takes seconds.


@partial(jax.jit, static_argnames="count")
def _joined(trees: list[PyTree], count: int) -> PyTree:
    """Trees with leaves [n, ...] -> one, with the first ``count`` rows of all of them."""
    return jax.tree.map(lambda *x: jnp.concatenate(x)[:count], *trees)


@jax.jit
def _rows(tree: PyTree, rows: jax.Array) -> PyTree:
    return jax.tree.map(lambda x: x[rows], tree)


def _unstacked(tree: PyTree, count: int) -> list[PyTree]:
    """Leaves [count, ...] -> count trees."""
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(count)]
