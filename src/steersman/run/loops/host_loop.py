"""The loop over host environments: acting and learning are compiled, the simulators are stepped by Python."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman import spaces
from steersman.run.loops.devices import run_in_this_thread
from steersman.run.loops.host_rollout import HostRollout
from steersman.run.loops.loop import LoopState, Totals
from steersman.run.loops.packing import Bundle
from steersman.types import Agent, HostEnvs, Key, PyTree, Rollout
from steersman.unroll import Acting, random_policy


def _step_keys(key: Key, length: int) -> Key:
    """The keys that ``unroll`` gives to its steps."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(length, dtype=jnp.int32))


def _read(function: Callable[..., Any], leaves: list[Any], *args: Any) -> list[int]:
    """Which of the leaves a function reads: to act takes the parameters of a policy, not all that it learns with."""
    jaxpr = jax.make_jaxpr(function)(leaves, *args).jaxpr
    read = {id(x) for x in jaxpr.outvars} | {id(x) for step in jaxpr.eqns for x in step.invars}
    return [i for i, x in enumerate(jaxpr.invars[: len(leaves)]) if id(x) in read]


class Turn(NamedTuple):
    """The random bits of one update: those the compiled loop splits off its key, worked out ahead."""

    before: Any  # of the loop's key, [2]
    update: Any  # [2]
    act: Any  # of each step, [T, 2]


def _turns(bits: jax.Array, count: int, length: int) -> Turn:
    """The bits of the next ``count`` updates, in compiled code; every leading axis is ``[count]``."""

    def split(key: Key, _: None):
        act_key, update_key, following = jax.random.split(key, 3)
        return following, jax.tree.map(jax.random.key_data, Turn(key, update_key, _step_keys(act_key, length)))

    return jax.lax.scan(split, jax.random.wrap_key_data(bits), None, length=count)[1]


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
        data: Rollout | None = None,
        programs: dict[str, Any] | None = None,
        log: Sequence[str] = (),
    ):
        run_in_this_thread()
        self.agent, self.envs, self.seed, self.overlap = agent, envs, seed, overlap
        self.length, self.first_length = unroll_length, first_length
        self.log = log  # entries of the environments' info to be counted of episodes
        self.data = data  # [T, B, ...]: the first rollout, in place of a random policy's
        self.first_steps = first_length * envs.num_envs if data is None else 0
        self.steps_per_update = unroll_length * envs.num_envs
        self.compile_seconds = 0.0
        # Compiled ones by name; a loop that differs in its seed alone may be given those of another.
        self._programs: dict[str, Any] = {} if programs is None else programs
        self._pool = ThreadPoolExecutor(1) if overlap else None

    def with_seed(self, seed: int, envs: HostEnvs) -> HostLoop:
        """The loop of another seed, in environments of its own, with the programs that are compiled here."""
        lengths: Any = {"unroll_length": self.length, "first_length": self.first_length}
        shared: Any = {"overlap": self.overlap, "data": self.data, "programs": self._programs, "log": self.log}
        return HostLoop(self.agent, envs, **lengths, seed=seed, **shared)

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

    @cached_property
    def _carry(self) -> PyTree:
        """The shapes of the acting memory."""
        return jax.eval_shape(lambda: self.agent.begin(self.envs.num_envs))

    def _buffer(self, act: Callable[..., Any], length: int) -> HostRollout:
        """Room for a rollout of what ``act``: (carry, obs, first, key) -> (action, carry, extras) gives."""
        spec, num = self.envs.spec, self.envs.num_envs
        obs, first = spaces.abstract(spec.observation_space, (num,)), jax.ShapeDtypeStruct((num,), np.bool_)
        action, _, extras = jax.eval_shape(lambda *seen: act(*seen, jax.random.key(0)), self._carry, obs, first)
        costs = jax.ShapeDtypeStruct((num, spec.num_costs), np.float32)
        return HostRollout(obs, (action, extras), costs, length, self.log)

    def _first_buffer(self) -> HostRollout:
        return self._buffer(random_policy(self.envs.spec), self.first_length)

    def shapes(self) -> LoopState:
        def state(first: Rollout, carry: PyTree) -> LoopState:
            key = jax.random.key(0)
            return LoopState(self.agent.init(key, first._replace(carry=carry)), (), key)

        if self.data is not None:
            return jax.eval_shape(state, self.data, self._carry)
        buffer = self._first_buffer()
        return jax.eval_shape(state, jax.eval_shape(buffer.rollout, buffer.rows, self._carry), self._carry)

    def start(self) -> LoopState:
        _, first_key, init_key, key = jax.random.split(jax.random.key(self.seed), 4)
        acting = self._reset(0)
        if self.data is not None:
            agent = self._call("init", self.agent.init, init_key, self.data._replace(carry=acting.carry))
            self._prepare(agent)
            return LoopState(agent, acting, key)
        policy, buffer = random_policy(self.envs.spec), self._first_buffer()

        def choose(row: jax.Array, carry: PyTree):
            seen = buffer.seen.unpack(row)
            action, carry, extras = policy(carry, seen.obs, seen.first, jax.random.wrap_key_data(seen.key))
            return buffer.acted.pack((action, extras)), carry

        def init(key: Key, rows: jax.Array, carry: PyTree) -> PyTree:
            return self.agent.init(key, buffer.rollout(rows, carry))

        random, keys = (
            partial(self._call, "random", choose),
            jax.random.key_data(_step_keys(first_key, self.first_length)),
        )
        acting, _ = buffer.unroll(random, self.envs, acting, random(buffer.begin(acting, keys), acting.carry))
        agent = self._call("init", init, init_key, *buffer.played)
        self._prepare(agent)
        return LoopState(agent, acting, key)

    def _prepare(self, agent: PyTree) -> None:
        """Lay out the rollouts and write down the programs; each is compiled when it is first called.

        The agent's state travels in a ``Bundle``, made once an ``advance``; a key as its bits: both are handed over
        faster so. The metrics are summed on the way, in one vector.
        """
        act = partial(self.agent.act, explore=True)
        buffers = [self._buffer(partial(act, agent), self.length) for _ in range(1 + self.overlap)]
        buffer, bundle = buffers[0], Bundle(agent)

        update = jax.jit(self.agent.update)  # traced once
        wrap = jax.random.wrap_key_data

        def learn(leaves: Any, sums: jax.Array, bits: jax.Array, rows: jax.Array, began: PyTree):
            state, metrics = update(bundle.unpack(leaves), buffer.rollout(rows, began), wrap(bits))
            new = jnp.stack([jnp.asarray(x).astype(jnp.float32) for x in jax.tree.leaves(metrics)])
            return bundle.pack(state), sums + new

        def respond(leaves: Any, row: jax.Array, carry: PyTree):
            seen = buffer.seen.unpack(row)
            action, carry, extras = act(bundle.unpack(leaves), carry, seen.obs, seen.first, wrap(seen.key))
            return buffer.acted.pack((action, extras)), carry

        def choose(some: Any, row: jax.Array, carry: PyTree):
            given = dict(zip(self._acting, some, strict=True))
            return respond([given.get(i) for i in range(len(bundle))], row, carry)

        def turn(leaves: Any, sums: jax.Array, bits: jax.Array, rows: jax.Array, began: PyTree, carry: PyTree):
            leaves, sums = learn(leaves, sums, bits, rows, began)
            return leaves, sums, respond(leaves, buffer.next_seen(rows), carry)

        self._acting = _read(respond, jax.eval_shape(bundle.pack, agent), buffer.first_seen, self._carry)
        rollout = jax.eval_shape(buffer.rollout, buffer.rows, self._carry)
        _, self._metrics = jax.eval_shape(update, agent, rollout, jax.random.key(0))
        donate = () if self.overlap and self.length > 1 else (0, 1)
        self._buffers, self._bundle = buffers, bundle
        self._learn = partial(self._call, "learn", learn, donate=donate)
        self._choose = partial(self._call, "choose", choose)
        self._turn = partial(self._call, "turn", turn, donate=(0, 1))

    def _schedule(self, bits: jax.Array) -> Iterator[Turn]:
        """The random bits of one update after another."""
        count = max(8, 128 // self.length)
        turns = partial(_turns, count=count, length=self.length)
        while True:
            ahead = Turn(*map(np.asarray, self._call("turns", turns, bits)))
            yield from itertools.starmap(Turn, zip(*(x[:-1] for x in ahead), strict=True))
            bits = ahead.before[-1]

    def advance(self, state: LoopState, updates: int, *, cut: bool = False) -> tuple[LoopState, Totals]:
        play = self._overlapping if self.overlap else self._in_turn
        leaves, turns = self._bundle.pack(state.agent), self._schedule(jax.random.key_data(state.key))
        sums = jnp.zeros((len(jax.tree.leaves(self._metrics)),), jnp.float32)
        leaves, sums, bits, acting, episodes = play(leaves, sums, turns, state.acting, updates, cut)
        metrics = jax.tree.unflatten(jax.tree.structure(self._metrics), list(np.asarray(sums)[:, None]))
        totals = Totals(jax.tree.map(lambda x: np.asarray(x)[None], episodes), metrics, updates)
        return LoopState(self._bundle.unpack(leaves), acting, jax.random.wrap_key_data(jnp.asarray(bits))), totals

    def _in_turn(self, leaves: Any, sums: Any, turns: Iterator[Turn], acting: Acting, updates: int, cut: bool):
        buffer, episodes = self._buffers[0], self._buffers[0].no_episodes
        chosen, now = acting.envs.chosen if acting.envs else None, next(turns)
        for i in range(updates):
            choose = partial(self._choose, [leaves[k] for k in self._acting])
            following = next(turns)
            row = buffer.begin(acting, now.act, following.act)
            chosen = chosen or choose(row, acting.carry)
            acting, new = buffer.unroll(choose, self.envs, acting, chosen, cut=cut and i == updates - 1)
            leaves, sums, (acted, carry) = self._turn(leaves, sums, now.update, *buffer.played, acting.carry)
            # Read before the rows are written again: a CPU program may still be reading them where they lie.
            chosen, now = (np.asarray(acted), carry), following
            episodes = episodes.plus(new)
        return leaves, sums, now.before, acting._replace(envs=Ahead(chosen, None)), episodes

    def _overlapping(self, leaves: Any, sums: Any, turns: Iterator[Turn], acting: Acting, updates: int, cut: bool):
        assert self._pool is not None
        waiting, now = acting.envs.rollout if acting.envs else None, next(turns)
        episodes = self._buffers[0].no_episodes
        for i in range(updates):
            buffer = self._buffers[waiting is self._buffers[0]]
            choose = partial(self._choose, [leaves[k] for k in self._acting])
            following = next(turns) if waiting else now  # what acts is one update ahead of what is learned
            chosen = choose(buffer.begin(acting, following.act), acting.carry)  # before the state is donated
            learning = self._pool.submit(self._learn, leaves, sums, now.update, *waiting.played) if waiting else None
            acting, new = buffer.unroll(choose, self.envs, acting, chosen, cut=cut and i == updates - 1)
            leaves, sums = learning.result() if learning else (leaves, sums)
            now = following
            episodes, waiting = episodes.plus(new), buffer
        if cut and waiting:
            leaves, sums = self._learn(leaves, sums, now.update, *waiting.played)
            now, waiting = next(turns), None
        return leaves, sums, now.before, acting._replace(envs=Ahead(None, waiting)), episodes

    def boundary(self, state: LoopState, steps: int) -> LoopState:
        return state._replace(acting=self._reset(steps))

    def agents(self, state: LoopState) -> list[PyTree]:
        return [state.agent]

    def saved(self, state: LoopState) -> LoopState:
        return state._replace(acting=())  # a simulator's state cannot be saved: ``boundary`` resets it in every run

    def restored(self, saved: LoopState, steps: int) -> LoopState:
        self._prepare(saved.agent)
        return self.boundary(saved, steps)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self.envs.close()
