"""The two loops behind one face: ``start`` a run's state, ``advance`` it by some updates, ``boundary`` at a checkpoint.

The state of either loop is a ``LoopState``, arrays only, and is all that a checkpoint holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from steersman import spaces
from steersman.run.devices import AXIS, mesh_of, run_in_this_thread, state_specs
from steersman.run.unroll import Acting, Episodes, HostRollout, Seen, begin, unroll
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
        self._programs: tuple[Any, Any] | None = None

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
        if self._programs is None:
            began = time.perf_counter()
            self._programs = self._compile(key)
            self.compile_seconds += time.perf_counter() - began
        return self._programs[0](key)

    def _compile(self, key: Key) -> tuple[Any, Any]:
        """The programs of ``start`` and ``advance``, compiled side by side."""
        row, whole = PartitionSpec(AXIS), PartitionSpec()
        result = row if self.many else whole
        if self.many:
            specs: Any = row
        else:
            local = jax.eval_shape(self._start, key)
            specs = local._replace(
                agent=state_specs(local.agent), acting=jax.tree.map(lambda _: row, local.acting), key=whole
            )
        start = self._sharded(self._start, (result,), specs)
        shapes = jax.eval_shape(start, key)
        everywhere = jax.tree.map(lambda _: row, shapes) if self.many else specs
        state = jax.tree.map(
            lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec)),
            shapes,
            everywhere,
        )
        advance = self._sharded(self._updates, (specs, whole), (specs, result, result))
        lowered = jax.jit(start).lower(key), jax.jit(advance, donate_argnums=0).lower(state, np.int32(1))
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda program: program.compile(), lowered)
        return first, second

    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]:
        assert self._programs is not None, "start comes first"
        state, episodes, metrics = self._programs[1](state, np.int32(updates))
        count = len(self.seeds)
        episodes, metrics = jax.tree.map(lambda x: np.atleast_1d(np.asarray(x))[:count], (episodes, metrics))
        return state, Totals(episodes, metrics, updates)

    def boundary(self, state: LoopState, steps: int) -> LoopState:
        return state  # the environments' state is part of the checkpoint

    def close(self) -> None:
        pass


def _sum_dtype(dtype: Any) -> Any:
    return jnp.float32 if dtype == jnp.bool_ else dtype


def _step_keys(key: Key, length: int) -> Key:
    """The keys that ``unroll`` gives to its steps."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(length, dtype=jnp.int32))


class Ahead(NamedTuple):
    """What a host loop has begun when an ``advance`` ends between two boundaries: ``Acting.envs`` of its state."""

    chosen: Any  # in turn: what the newest policy does next
    rollout: HostRollout | None  # overlapping: the rollout that is not learned from yet


class HostLoop:
    """A Python loop over host environments.

    In turn: one program learns from a rollout and then acts on what comes after it, another one acts on the steps
    between; with unroll_length 1 that is one call for each step. The agent's state is donated, so replay is written in
    place. The order, the keys and so the results are the compiled loop's.

    Overlapping: the learning program runs in a thread while the simulators play the next unroll, so the policy that
    acts is one update behind. Results still depend on the seed alone. With unroll_length above 1 the state cannot be
    donated: the policy from before an update acts while it runs.
    """

    def __init__(
        self,
        agent: Agent,
        envs: HostEnvs,
        *,
        unroll_length: int,
        first_length: int,
        seed: int,
        overlap: bool = False,
    ):
        run_in_this_thread()
        self.agent, self.envs, self.seed, self.overlap = agent, envs, seed, overlap
        self.length, self.first_length = unroll_length, first_length
        self.first_steps, self.steps_per_update = first_length * envs.num_envs, unroll_length * envs.num_envs
        self.compile_seconds = 0.0
        self._programs: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(1) if overlap else None

    def _reset(self, steps: int) -> Acting:
        """Fresh episodes, from seeds that depend on the run's seed and on how far it is, and on nothing else."""
        obs = self.envs.reset(int(np.random.SeedSequence((self.seed, steps)).generate_state(1)[0]))
        return Acting((), obs, np.ones(self.envs.num_envs, bool), self.agent.begin(self.envs.num_envs))

    def _call(self, name: str, function: Callable[..., Any], *args: Any, donate: tuple[int, ...] = ()) -> Any:
        """Call ``function``, compiled at the first call: a compiled object is called faster than a jitted function."""
        if name not in self._programs:
            began = time.perf_counter()
            self._programs[name] = jax.jit(function, donate_argnums=donate).lower(*args).compile()
            self.compile_seconds += time.perf_counter() - began
        return self._programs[name](*args)

    def _buffer(self, act: Callable[..., Any], obs: PyTree, carry: PyTree, length: int) -> HostRollout:
        """Room for a rollout of what ``act``: (carry, obs, first, key) -> (action, carry, extras) gives."""
        first = jax.ShapeDtypeStruct((self.envs.num_envs,), np.bool_)
        action, _, extras = jax.eval_shape(act, carry, obs, first, jax.random.key(0))
        costs = jax.ShapeDtypeStruct((self.envs.num_envs, self.envs.spec.num_costs), np.float32)
        return HostRollout(obs, (action, extras), costs, length)

    def start(self) -> LoopState:
        _, first_key, init_key, key = jax.random.split(jax.random.key(self.seed), 4)
        policy, acting = random_act(self.envs.spec), self._reset(0)
        buffer = self._buffer(policy, acting.obs, acting.carry, self.first_length)

        def choose(row: jax.Array, carry: PyTree):
            seen = buffer.seen.unpack(row)
            action, carry, extras = policy(carry, seen.obs, seen.first, jax.random.wrap_key_data(seen.key))
            return buffer.acted.pack((action, extras)), carry

        def init(key: Key, rows: jax.Array) -> PyTree:
            return self.agent.init(key, buffer.rollout(rows))

        random, keys = (
            partial(self._call, "random", choose),
            jax.random.key_data(_step_keys(first_key, self.first_length)),
        )
        acting, _ = buffer.unroll(random, self.envs, acting, random(buffer.begin(acting, keys), acting.carry))
        agent = self._call("init", init, init_key, buffer.rows)
        self._prepare(agent, acting)
        return LoopState(agent, acting, key)

    def _prepare(self, agent: PyTree, acting: Acting) -> None:
        """Lay out the rollouts and write down the programs; each is compiled when it is first called.

        The agent's state travels as its leaves, flattened once an ``advance``; a key as its bits: both are handed over
        faster so. The metrics are summed on the way, in one vector.
        """
        act = partial(self.agent.act, explore=True)
        buffers = [
            self._buffer(partial(act, agent), acting.obs, acting.carry, self.length) for _ in range(1 + self.overlap)
        ]
        buffer, treedef = buffers[0], jax.tree.structure(agent)

        update = jax.jit(self.agent.update)  # traced once

        def learn(leaves: Any, bits: jax.Array, sums: jax.Array, rows: jax.Array):
            _, update_key, key = jax.random.split(jax.random.wrap_key_data(bits), 3)
            state, metrics = update(jax.tree.unflatten(treedef, leaves), buffer.rollout(rows), update_key)
            new = jnp.stack([jnp.asarray(x).astype(jnp.float32) for x in jax.tree.leaves(metrics)])
            return jax.tree.leaves(state), jax.random.key_data(key), sums + new

        def respond(leaves: Any, key: Key, seen: Seen, carry: PyTree):
            state = jax.tree.unflatten(treedef, leaves)
            action, carry, extras = act(state, carry, seen.obs, seen.first, key)
            return buffer.acted.pack((action, extras)), carry

        def choose(leaves: Any, row: jax.Array, carry: PyTree):
            seen = buffer.seen.unpack(row)
            return respond(leaves, jax.random.wrap_key_data(seen.key), seen, carry)

        def turn(leaves: Any, bits: jax.Array, sums: jax.Array, rows: jax.Array, row: jax.Array, carry: PyTree):
            leaves, bits, sums = learn(leaves, bits, sums, rows)
            return leaves, bits, sums, respond(leaves, act_keys(bits)[0], buffer.seen.unpack(row), carry)

        def act_keys(bits: jax.Array) -> Key:
            return _step_keys(jax.random.split(jax.random.wrap_key_data(bits), 3)[0], self.length)

        rollout = jax.eval_shape(buffer.rollout, buffer.rows)
        _, self._metrics = jax.eval_shape(update, agent, rollout, jax.random.key(0))
        donate = () if self.overlap and self.length > 1 else (0, 2)
        self._buffers, self._treedef = buffers, treedef
        self._learn = partial(self._call, "learn", learn, donate=donate)
        self._choose = partial(self._call, "choose", choose)
        self._turn = partial(self._call, "turn", turn, donate=(0, 2))
        following = lambda bits: jax.random.key_data(jax.random.split(jax.random.wrap_key_data(bits), 3)[2])
        self._keys = partial(self._call, "keys", lambda bits: jax.random.key_data(act_keys(bits)))
        self._next_keys = partial(self._call, "next", lambda bits: jax.random.key_data(act_keys(following(bits))))

    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]:
        play = self._overlapping if self.overlap else self._in_turn
        leaves, bits = jax.tree.leaves(state.agent), jax.random.key_data(state.key)
        sums = jnp.zeros((len(jax.tree.leaves(self._metrics)),), jnp.float32)
        leaves, bits, sums, acting, episodes = play(leaves, bits, sums, state.acting, updates, cut)
        metrics = jax.tree.unflatten(jax.tree.structure(self._metrics), list(np.asarray(sums)[:, None]))
        agent = jax.tree.unflatten(self._treedef, leaves)
        totals = Totals(jax.tree.map(np.atleast_1d, episodes), metrics, updates)
        return LoopState(agent, acting, jax.random.wrap_key_data(bits)), totals

    def _in_turn(self, leaves: Any, bits: Any, sums: Any, acting: Acting, updates: int, cut: bool):
        buffer, episodes = self._buffers[0], Episodes(0, 0.0, 0)
        chosen = acting.envs.chosen if acting.envs else None
        for i in range(updates):
            choose = partial(self._choose, leaves)
            row = buffer.begin(acting, self._keys(bits) if self.length > 1 or not chosen else None)
            chosen = chosen or choose(row, acting.carry)
            acting, new = buffer.unroll(choose, self.envs, acting, chosen, cut=cut and i == updates - 1)
            leaves, bits, sums, (acted, carry) = self._turn(leaves, bits, sums, buffer.rows, buffer.next, acting.carry)
            # Read before the rows are written again: a CPU program may still be reading them where they lie.
            chosen = np.asarray(acted), carry
            episodes = Episodes(*map(sum, zip(episodes, new, strict=True)))
        return leaves, bits, sums, acting._replace(envs=Ahead(chosen, None)), episodes

    def _overlapping(self, leaves: Any, bits: Any, sums: Any, acting: Acting, updates: int, cut: bool):
        assert self._pool is not None
        episodes, waiting = Episodes(0, 0.0, 0), acting.envs.rollout if acting.envs else None
        for i in range(updates):
            buffer = self._buffers[waiting is self._buffers[0]]
            choose = partial(self._choose, leaves)
            row = buffer.begin(acting, self._next_keys(bits) if waiting else self._keys(bits))
            chosen = choose(row, acting.carry)  # before the state is donated
            learning = self._pool.submit(self._learn, leaves, bits, sums, waiting.rows) if waiting else None
            acting, new = buffer.unroll(choose, self.envs, acting, chosen, cut=cut and i == updates - 1)
            leaves, bits, sums = learning.result() if learning else (leaves, bits, sums)
            episodes, waiting = Episodes(*map(sum, zip(episodes, new, strict=True))), buffer
        if cut and waiting:
            leaves, bits, sums = self._learn(leaves, bits, sums, waiting.rows)
            waiting = None
        return leaves, bits, sums, acting._replace(envs=Ahead(None, waiting)), episodes

    def boundary(self, state: LoopState, steps: int) -> LoopState:
        return state._replace(acting=self._reset(steps))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self.envs.close()
