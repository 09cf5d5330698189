"""The two loops behind one face: ``start`` a run's state, ``advance`` it by some updates, ``boundary`` at a checkpoint.

The state of either loop is a ``LoopState``, arrays only, and is all that a checkpoint holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from steersman import spaces
from steersman.run.devices import AXIS, mesh_of, state_specs
from steersman.run.unroll import Acting, Episodes, HostRollout, begin, unroll
from steersman.theory import trees
from steersman.types import Agent, DeviceEnvs, EnvSpec, HostEnvs, Key, PyTree


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

    def start(self) -> LoopState: ...
    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]: ...
    def boundary(self, state: LoopState, steps: int) -> LoopState: ...
    def close(self) -> None: ...


def random_act(spec: EnvSpec) -> Callable[..., Any]:
    """A uniformly random policy over the legal actions, with the signature of an agent's ``act``, its state bound."""
    masked = isinstance(spec.observation_space, gymnasium.spaces.Dict) and spaces.MASK in spec.observation_space.spaces

    def one(obs: PyTree, key: Key) -> PyTree:
        mask = obs[spaces.MASK][None] if masked else None
        return jax.tree.map(lambda x: x[0], spaces.sample_action(spec.action_space, key, 1, mask))

    def act(carry: PyTree, obs: PyTree, first: jax.Array, key: Key):
        return jax.vmap(one)(obs, trees.member_keys(key, first.shape[0])), carry, {}

    return act


class DeviceLoop:
    """Rollout and update in one compiled program; many seeds, or many shards of one seed, side by side."""

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
    ):
        self.agent, self.num_envs, self.length, self.first_length = agent, num_envs, unroll_length, first_length
        self.seeds = seeds
        self.first_steps, self.steps_per_update = first_length * num_envs, unroll_length * num_envs
        self.compile_seconds = 0.0
        self.many = len(seeds) > 1
        # Seeds go round the devices; the last round is filled up with copies whose results are dropped.
        self.mesh = mesh_of(min(len(seeds), devices or len(seeds), len(jax.devices())) if self.many else shards)
        self.rows = -(-len(seeds) // self.mesh.size) * self.mesh.size if self.many else 1
        self.envs = make_envs(num_envs if self.many else num_envs // shards)
        self._advance: Any = None

    # The programs of one seed, or of one shard of it.

    def _start(self, key: Key) -> LoopState:
        env_key, first_key, init_key, key = jax.random.split(key, 4)
        acting = begin(self.agent, self.envs, env_key, offset=trees.shard_index() * self.envs.num_envs)
        acting, rollout, _ = unroll(random_act(self.envs.spec), self.envs, acting, first_key, self.first_length)
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
        return state, trees.cross_sum(episodes), metrics

    # The same, laid over the devices.

    def _sharded(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``function`` of one seed over all rows of this mesh: environments of one seed shared, or seeds dealt out."""

        def local(state, *args):
            if self.many:
                return jax.lax.map(lambda row: function(row, *args), state)
            if self.mesh.size == 1:
                return function(state, *args)
            with trees.sharded_over(AXIS):
                return function(state, *args)

        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def start(self) -> LoopState:
        keys = [jax.random.key(seed) for seed in self.seeds]
        key = jnp.stack([keys[i % len(keys)] for i in range(self.rows)]) if self.many else keys[0]
        row, whole = PartitionSpec(AXIS), PartitionSpec()
        if self.many:
            specs: Any = row
        else:
            shapes = jax.eval_shape(self._start, key)
            specs = LoopState(state_specs(shapes.agent), jax.tree.map(lambda _: row, shapes.acting), whole)
        program = jax.jit(self._sharded(self._start, (row if self.many else whole,), specs))
        state = self._compiled(program, key)(key)
        advance = self._sharded(self._updates, (specs, whole), (specs, *([row if self.many else whole] * 2)))
        self._advance = self._compiled(jax.jit(advance, donate_argnums=0), state, np.int32(1))
        return state

    def _compiled(self, program: Any, *args: Any) -> Any:
        began = time.perf_counter()
        compiled = program.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - began
        return compiled

    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]:
        state, episodes, metrics = self._advance(state, np.int32(updates))
        count = len(self.seeds)
        rows = jax.tree.map(lambda x: np.atleast_1d(np.asarray(x))[:count], (episodes, metrics))
        return state, Totals(*rows, updates)

    def boundary(self, state: LoopState, steps: int) -> LoopState:
        return state  # the environments' state is part of the checkpoint

    def close(self) -> None:
        pass


def _sum_dtype(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.bool_ else dtype


class HostLoop:
    """A Python loop over host environments; acting and learning are compiled programs of their own."""

    def __init__(self, agent: Agent, envs: HostEnvs, *, unroll_length: int, first_length: int, seed: int):
        self.agent, self.envs, self.length, self.first_length, self.seed = (
            agent,
            envs,
            unroll_length,
            first_length,
            seed,
        )
        self.first_steps, self.steps_per_update = first_length * envs.num_envs, unroll_length * envs.num_envs
        self.compile_seconds = 0.0
        self._buffers = HostRollout()
        self._act: Any = None
        self._update: Any = None

    def _reset(self, steps: int) -> Acting:
        """Fresh episodes, from seeds that depend on the run's seed and on how far it is, and on nothing else."""
        obs = self.envs.reset(int(np.random.SeedSequence((self.seed, steps)).generate_state(1)[0]))
        return Acting((), obs, np.ones(self.envs.num_envs, bool), self.agent.begin(self.envs.num_envs))

    def start(self) -> LoopState:
        first_key, init_key, key = jax.random.split(jax.random.key(self.seed), 3)
        acting = self._reset(0)
        random = jax.jit(
            lambda carry, obs, first, t: random_act(self.envs.spec)(carry, obs, first, jax.random.fold_in(first_key, t))
        )
        acting, rollout, _ = HostRollout().unroll(random, self.envs, acting, self.first_length)
        state = LoopState(self._compiled(jax.jit(self.agent.init), init_key, rollout)(init_key, rollout), acting, key)
        return state

    def _programs(self, state: LoopState) -> None:
        def act(agent: PyTree, key: Key, carry: PyTree, obs: PyTree, first: jax.Array, t: jax.Array):
            return self.agent.act(agent, carry, obs, first, jax.random.fold_in(key, t), explore=True)

        acting = state.acting
        self._act = self._compiled(
            jax.jit(act), state.agent, state.key, acting.carry, acting.obs, acting.first, np.int32(0)
        )
        self._split = self._compiled(jax.jit(lambda key: tuple(jax.random.split(key, 3))), state.key)

    def _compiled(self, program: Any, *args: Any) -> Any:
        began = time.perf_counter()
        compiled = program.lower(*args).compile()
        self.compile_seconds += time.perf_counter() - began
        return compiled

    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]:
        if self._act is None:
            self._programs(state)
        agent, acting, key = state
        episodes, sums = Episodes(0, 0.0, 0), None
        for i in range(updates):
            act_key, update_key, key = self._split(key)
            act = partial(self._call, agent, act_key)
            acting, rollout, new = self._buffers.unroll(
                act, self.envs, acting, self.length, cut=cut and i == updates - 1
            )
            if self._update is None:
                self._update = self._compiled(jax.jit(self.agent.update), agent, rollout, update_key)
            agent, metrics = self._update(agent, rollout, update_key)
            episodes = Episodes(*(a + b for a, b in zip(episodes, new, strict=True)))
            metrics = jax.tree.map(np.asarray, metrics)
            sums = metrics if sums is None else jax.tree.map(lambda a, b: a + b, sums, metrics)
        rows = jax.tree.map(np.atleast_1d, (episodes, sums))
        return LoopState(agent, acting, key), Totals(*rows, updates)

    def _call(self, agent: PyTree, key: Key, carry: PyTree, obs: PyTree, first: Any, t: int):
        return self._act(agent, key, carry, obs, first, np.int32(t))

    def boundary(self, state: LoopState, steps: int) -> LoopState:
        return state._replace(acting=self._reset(steps))

    def close(self) -> None:
        self.envs.close()
