"""Playing whole episodes with a policy, the first of each member: on compiled environments and on host ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman import spaces
from steersman.episodes import ALWAYS, logged_names, numbers_of
from steersman.run.loops.packing import Bundle, Packing
from steersman.types import Agent, DeviceEnvs, EnvSpec, HostEnvs, Key, PyTree, TimeStep
from steersman.unroll import begin

LIMIT = 27_000  # steps of an evaluation episode in a task without a time limit

# returns [B], lengths [B], costs [B, C], what info said at the end, by name [B], and which are unfinished [B]
Played = tuple[Any, ...]


def first_episodes(
    agent: Agent,
    envs: DeviceEnvs,
    *,
    explore: bool = False,
    limit: int | None = None,
    log_info: Sequence[str] = (),
    discount: float = 1.0,
) -> Callable[[PyTree, Key], Played]:
    """(agent state, key) -> the first episode of each member, so short ones are not over-sampled; to be compiled.

    limit: steps after which an episode is cut; by default the environment's own. log_info: as in ``RunConfig``.
    discount: costs are added up as sum_t discount^t c_t.
    """
    limit = limit or envs.spec.max_episode_steps or LIMIT
    names = logged_by(envs, log_info)

    def play(state: PyTree, key: Key):
        reset_key, key = jax.random.split(key)
        acting = begin(agent, envs, reset_key)
        zeros = jnp.zeros((envs.num_envs,), jnp.float32)
        counts = jnp.zeros((envs.num_envs,), jnp.int32)
        costs = jnp.zeros((envs.num_envs, envs.spec.num_costs), jnp.float32)
        said = {name: jnp.full((envs.num_envs,), jnp.nan, jnp.float32) for name in names}

        def going(loop):
            t, _, finished, *_ = loop
            return (t < limit) & ~finished.all()

        def step(loop):
            t, now, finished, *counted = loop
            action, carry, _ = agent.act(
                state, now.carry, now.obs, now.first, jax.random.fold_in(key, t), explore=explore
            )
            env_state, seen = envs.step(now.envs, action)
            ended = seen.terminated | seen.truncated
            counted = _first_episodes(envs.spec, finished, counted, seen, log_info, jnp, discount, t)
            return t + 1, type(now)(env_state, seen.obs, ended, carry), finished | seen.over, *counted

        start = (jnp.zeros((), jnp.int32), acting, jnp.zeros((envs.num_envs,), bool), zeros, counts, costs, said)
        _, _, finished, *counted = jax.lax.while_loop(going, step, start)
        return *counted, ~finished

    return play


def host_episodes(
    agent: Agent,
    envs: HostEnvs,
    *,
    explore: bool = False,
    limit: int | None = None,
    log_info: Sequence[str] = (),
    discount: float = 1.0,
    programs: dict[str, Any] | None = None,
) -> Callable[[PyTree, int], Played]:
    """(agent state, seed) -> the first episode of each member after a reset; as ``first_episodes``.

    programs: what is compiled at the first call, and the ``seconds`` it took; shared by those that differ in nothing
    but their seeds.
    """
    limit, num = limit or envs.spec.max_episode_steps or LIMIT, envs.num_envs
    compiled = {} if programs is None else programs
    flag, count = jax.ShapeDtypeStruct((num,), np.bool_), jax.ShapeDtypeStruct((), np.int32)
    seen = Packing((spaces.abstract(envs.spec.observation_space, (num,)), flag, count))
    row = np.zeros(seen.size, np.uint8)
    *views, first_view, t_view = seen.views(row)

    def play(state: PyTree, seed: int) -> Played:
        key = jax.random.key(seed)
        obs, first, carry = envs.reset(seed), np.ones(num, bool), agent.begin(num)
        if "act" not in compiled:
            began = time.perf_counter()
            compiled["act"] = _acting(agent, seen, explore, state, carry)
            compiled["seconds"] = time.perf_counter() - began
        act, action_of, bundle = compiled["act"]
        few, bits = bundle.pack(state), jax.random.key_data(key)
        finished = np.zeros(num, bool)
        counted: list[Any] = [np.zeros(num), np.zeros(num, int), np.zeros((num, envs.spec.num_costs))]
        counted.append({name: np.full(num, np.nan) for name in logged_names(log_info)})
        for t in range(limit):
            for view, leaf in zip(views, jax.tree.leaves(obs), strict=True):
                view[...] = leaf
            first_view[...], t_view[...] = first, t
            acted, carry = act(few, row, carry, bits)
            action = np.asarray(acted)
            step = envs.step(action_of.tree(action_of.views(action)))
            obs, first = step.obs, step.terminated | step.truncated
            counted = _first_episodes(envs.spec, finished, counted, step, log_info, np, discount, t)
            finished |= step.over
            if finished.all():
                break
        return *counted, ~finished

    return play


def _acting(agent: Agent, seen: Packing, explore: bool, state: PyTree, carry: PyTree) -> tuple[Any, Packing, Bundle]:
    """-> (the compiled program of a step, how it packs the action, how it is given the state)

    What is seen comes as one row of bytes, the state as few arrays: each array costs a call about a microsecond.
    """
    bundle = Bundle(state)

    def choose(few: Any, row: jax.Array, carry: PyTree, bits: jax.Array):
        obs, first, t = seen.unpack(row)
        key = jax.random.fold_in(jax.random.wrap_key_data(bits), t)
        return agent.act(bundle.unpack(few), carry, obs, first, key, explore=explore)[:2]

    few, bits = jax.eval_shape(bundle.pack, state), jax.random.key_data(jax.random.key(0))
    given = (few, jax.ShapeDtypeStruct((seen.size,), np.uint8), carry, bits)
    action = Packing(jax.eval_shape(choose, *given)[0])

    def act(*given: Any):
        acted, carry = choose(*given)
        return action.pack(acted), carry

    return jax.jit(act).lower(*given).compile(), action, bundle


def _first_episodes(
    spec: EnvSpec,
    finished: Any,
    counted: list[Any],
    seen: TimeStep,
    log_info: Sequence[str],
    xp: Any,
    discount: float,
    t: Any,
) -> list[Any]:
    """Returns [B], lengths [B] and costs [B, C] after step t: they go on where the first episode is not finished.

    Last, what is logged of episodes, by name: of those whose first episode ends here.
    """
    returns, lengths, costs, said = counted
    ends = seen.over & ~finished
    if xp is jnp or ends.any():  # on the host info may be whole at such steps alone
        numbers = numbers_of(spec, seen, log_info)
        said = {n: xp.where(ends, numbers[n].astype(x.dtype), x) if n in numbers else x for n, x in said.items()}
    paid = seen.info["episode_cost"]
    if discount != 1.0:
        paid = costs + xp.asarray(discount, costs.dtype) ** xp.asarray(t, costs.dtype) * seen.costs
    return [
        xp.where(finished, returns, seen.info["episode_return"]),
        xp.where(finished, lengths, seen.info["episode_length"]),
        xp.where(finished[:, None], costs, paid),
        said,
    ]


def logged_by(envs: DeviceEnvs, log_info: Sequence[str]) -> list[str]:
    """What is logged of the episodes of compiled environments, by name; UsageError for what their info does not say.

    Nothing is run: a step is traced for its shapes.
    """

    def one(key: Key) -> PyTree:
        state, _ = envs.reset(key)
        shapes = spaces.abstract(envs.spec.action_space, (envs.num_envs,))
        action = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return numbers_of(envs.spec, envs.step(state, action)[1], log_info)

    return [name for name in jax.eval_shape(one, jax.random.key(0)) if name not in ALWAYS]
