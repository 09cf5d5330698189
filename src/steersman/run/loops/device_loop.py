"""The loop over compiled environments: rollout and update are one program."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from steersman import shards
from steersman.run.loops.devices import AXIS, mesh_of, state_specs
from steersman.run.loops.loop import LoopState, Totals, released
from steersman.types import Agent, DeviceEnvs, Key, PyTree, Rollout
from steersman.unroll import Episodes, begin, random_policy, unroll


class DeviceLoop:
    """Rollout and update in one compiled program; many seeds, or many shards of one seed, side by side.

    Several seeds go over the devices in rounds, each seed on one device. Their state is a list, a ``LoopState`` of each
    round with leaves [devices, ...], donated in turn: nothing is copied, whatever replay holds.
    """

    def __init__(
        self,
        agent: Agent,
        make_envs: Callable[[int], DeviceEnvs],
        *,
        num_envs: int,
        unroll_length: int,
        first_length: int,
        seeds: list[int],
        shards: int,
        devices: int | None = None,
        data: Rollout | None = None,
    ):
        self.agent, self.num_envs, self.length, self.first_length = agent, num_envs, unroll_length, first_length
        self.seeds = seeds
        self.data = data  # [T, B, ...]: the first rollout, in place of a random policy's
        self.first_steps = first_length * num_envs if data is None else 0
        self.steps_per_update = unroll_length * num_envs
        self.compile_seconds = 0.0
        self.many = len(seeds) > 1
        self.mesh = mesh_of(min(len(seeds), devices or len(seeds), len(jax.devices())) if self.many else shards)
        # The last round is filled up with seeds whose results are dropped.
        size, count = self.mesh.size, len(seeds)
        self.rounds = [[(i + j) % count for j in range(size)] for i in range(0, count, size)] if self.many else [[0]]
        self.envs = make_envs(num_envs if self.many else num_envs // shards)
        self._programs: tuple[Any, Any] | None = None

    # The programs of one seed, or of one shard of it.

    def _start(self, key: Key, *data: Rollout) -> LoopState:
        env_key, first_key, init_key, key = jax.random.split(key, 4)
        acting = begin(self.agent, self.envs, env_key, offset=shards.shard_index() * self.envs.num_envs)
        if data:
            return LoopState(self.agent.init(init_key, *data), acting, key)
        acting, rollout, _ = unroll(random_policy(self.envs.spec), self.envs, acting, first_key, self.first_length)
        return LoopState(self.agent.init(init_key, rollout), acting, key)

    def _updates(self, state: LoopState, updates: jax.Array) -> tuple[LoopState, Episodes, dict[str, Any]]:
        def update(state: LoopState):
            act_key, update_key, key = jax.random.split(state.key, 3)
            act = partial(self.agent.act, state.agent, explore=True)
            acting, rollout, episodes = unroll(act, self.envs, state.acting, act_key, self.length)
            agent, metrics = self.agent.update(state.agent, rollout, update_key)
            return LoopState(agent, acting, key), episodes, metrics

        def body(_, carry):
            state, *sums = carry
            state, *new = update(state)
            return state, *jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, new)

        shapes = jax.eval_shape(update, state)[1:]
        zeros = [jax.tree.map(lambda s: jnp.zeros(s.shape, _sum_dtype(s.dtype)), s) for s in shapes]
        state, episodes, metrics = jax.lax.fori_loop(0, updates, body, (state, *zeros))
        return state, shards.cross_sum(episodes), metrics

    # The same, laid over the devices.

    def _sharded(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``function`` of one seed over this mesh: environments of one seed shared, or a seed on each device."""

        def local(state, *args):
            if self.many:
                return jax.tree.map(lambda x: x[None], function(jax.tree.map(lambda x: x[0], state), *args))
            if self.mesh.size == 1:
                return function(state, *args)
            with shards.sharded_over(AXIS):
                return function(state, *args)

        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def start(self) -> Any:
        keys = [jax.random.key(seed) for seed in self.seeds]
        if self.many:
            keys = [jnp.stack([keys[i] for i in some]) for some in self.rounds]
        if self._programs is None:
            began = time.perf_counter()
            self._programs = self._compile(keys[0])
            self.compile_seconds += time.perf_counter() - began
        return self._state([self._programs[0](key, *self._given) for key in keys])

    def _state(self, rounds: list[LoopState]) -> Any:
        return rounds if self.many else rounds[0]

    def _rounds(self, state: Any) -> list[LoopState]:
        return state if self.many else [state]

    @property
    def _given(self) -> tuple[Rollout, ...]:
        return () if self.data is None else (self.data,)

    def _compile(self, key: Key) -> tuple[Any, Any]:
        """The programs of ``start`` and ``advance``, compiled side by side."""
        given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._given)
        row, whole = PartitionSpec(AXIS), PartitionSpec()
        result = row if self.many else whole
        if self.many:
            specs: Any = row
        else:
            local = jax.eval_shape(self._start, key, *given)
            specs = local._replace(
                agent=state_specs(local.agent), acting=jax.tree.map(lambda _: row, local.acting), key=whole
            )
        start = self._sharded(self._start, (result, *(whole for _ in given)), specs)
        shapes = jax.eval_shape(start, key, *given)
        everywhere = jax.tree.map(lambda _: row, shapes) if self.many else specs
        state = jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec)),
            shapes,
            everywhere,
        )
        advance = self._sharded(self._updates, (specs, whole), (specs, result, result))
        # Said for the outputs too: XLA calls an array without elements (no costs, in replay) replicated.
        laid = jax.tree.map(lambda x: x.sharding, state)
        lowered = (
            jax.jit(start, out_shardings=laid).lower(key, *given),
            jax.jit(advance, donate_argnums=0, out_shardings=(laid, None, None)).lower(state, np.int32(1)),
        )
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda program: program.compile(), lowered)
        return first, second

    def advance(self, state: Any, updates: int, *, cut: bool = False) -> tuple[Any, Totals]:
        assert self._programs is not None, "start comes first"
        done = [self._programs[1](part, np.int32(updates)) for part in self._rounds(state)]
        row = lambda part: np.asarray(part) if self.many else np.asarray(part)[None]
        join = lambda *x: np.concatenate([row(part) for part in x])[: len(self.seeds)]
        episodes, metrics = jax.tree.map(join, *(sums for _, *sums in done))
        return self._state([part for part, *_ in done]), Totals(episodes, metrics, updates)

    def boundary(self, state: Any, steps: int) -> Any:
        return state  # the environments' state is part of the checkpoint

    def agents(self, state: Any) -> list[PyTree]:
        agents = [part.agent for part in self._rounds(state)]
        whole = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), agents)
        if not self.many:
            return whole
        each = [jax.tree.map(lambda x, i=i: x[i], part) for part in whole for i in range(self.mesh.size)]
        return each[: len(self.seeds)]

    def saved(self, state: Any) -> LoopState:
        if not self.many:
            return state
        here = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), state)
        return jax.tree.map(lambda *x: jnp.concatenate(x)[: len(self.seeds)], *here)

    def emptied(self, state: Any) -> LoopState:
        if not self.many:
            return jax.tree.map(released, state)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(self.seeds), *x.shape[1:]), x.dtype), state[0])
        jax.tree.map(released, state)
        return shapes

    def restored(self, saved: LoopState, steps: int) -> Any:
        if not self.many:
            return saved
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return [jax.tree.map(lambda x, i=i: jax.device_put(x[np.asarray(i)], rows), saved) for i in self.rounds]

    def close(self) -> None:
        pass


def _sum_dtype(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.bool_ else dtype
