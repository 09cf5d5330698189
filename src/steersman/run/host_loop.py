"""The loop over host environments: acting and learning are compiled, the simulators are stepped by Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.run.devices import run_in_this_thread
from steersman.run.loops import LoopState, Totals, random_act
from steersman.run.unroll import Acting, Episodes, HostRollout, Seen
from steersman.types import Agent, HostEnvs, Key, PyTree, Rollout


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
        data: Rollout | None = None,
    ):
        run_in_this_thread()
        self.agent, self.envs, self.seed, self.overlap = agent, envs, seed, overlap
        self.length, self.first_length = unroll_length, first_length
        self.data = data  # [T, B, ...]: the first rollout, in place of a random policy's
        self.first_steps = first_length * envs.num_envs if data is None else 0
        self.steps_per_update = unroll_length * envs.num_envs
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
        if self.data is not None:
            agent = self._call("init", self.agent.init, init_key, self.data)
            self._prepare(agent, acting)
            return LoopState(agent, acting, key)
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
