"""Many copies of a pure environment side by side: vmap, auto-reset in the same step, episode statistics. Once, for all.

Random numbers. Member ``i`` of a batch has the key ``k_i = fold_in(key, offset + i)`` for as long as the batch lives.
Its first reset draws from ``fold_in(k_i, 0)``; step ``n`` (from 1) from ``fold_in(k_i, 2 n - 1)``, and the reset that
may follow it from ``fold_in(k_i, 2 n)``. So members differ, no key is used twice, and a member does the same whether
the batch is whole or cut into shards with offsets. XLA drops the keys an environment does not use.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import EnvironmentFault, UsageError
from steersman.spaces import abstract, canonical_action_space
from steersman.types import Array, DeviceEnvs, Env, EnvSpec, Key, PyTree, TimeStep


class VectorState(NamedTuple):
    """The state of ``DeviceEnvs``; every leaf has the leading axis ``[B]``."""

    env: PyTree
    key: Key  # k_i
    steps: jax.Array  # uint32, since the batch was reset
    episode_return: jax.Array  # float32, of the running episode
    episode_length: jax.Array  # int32
    episode_cost: PyTree = ()  # float32 [B, C]; () without costs
    return_lost: PyTree = ()  # float32 [B]: what rounding has kept out of episode_return so far
    cost_lost: PyTree = ()  # float32 [B, C]; () without costs


def vectorize(env: Env, num_envs: int) -> DeviceEnvs:
    """``num_envs`` members of ``env``, stepped together, each reset in the step that ends its episode.

    The TimeStep's ``obs`` is what the policy sees next (after a reset, the new episode's first observation),
    ``final_obs`` the true successor. ``info`` has the environment's own entries and

    - ``episode_return`` float32 [B], ``episode_length`` int32 [B], ``episode_cost`` float32 [B, C]: of the running
      episode, this step included. Where the environment's info has ``native_reward``, that is what the return sums
      (see ``wrappers.transform_reward``). Sums are compensated: after a million steps they are still right to float32.

    ``reset(key, offset=0)``: ``offset`` is the index of the first member in the whole batch, an int or an int32 scalar,
    for a batch cut into shards.

    Raises UsageError for ``num_envs`` below 1 or an action space that is not canonical; EnvironmentFault, while the
    step is traced, when the environment's arrays are not what its spec says.

    >>> from steersman.envs.classic.cartpole import CartPole
    >>> envs = vectorize(CartPole(), 3)
    >>> state, obs = envs.reset(jax.random.key(0))
    >>> state, step = envs.step(state, jnp.zeros(3, jnp.int32))
    >>> obs.shape, step.info["episode_length"].tolist()
    ((3, 4), [1, 1, 1])
    """
    spec = env.spec
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise UsageError(f"num_envs is a whole number of at least 1; got {num_envs!r}.")
    if isinstance(spec.action_space, spaces.Box) and spec.action_space != canonical_action_space(spec.action_space):
        raise UsageError(
            f"{spec.id} has the action space {spec.action_space}; bounded actions are canonical, in [-1, 1]. "
            "Wrap it: vectorize(canonical_actions(env), num_envs)."
        )
    fold = jax.vmap(jax.random.fold_in)

    def reset(key: Key, *, offset: int | Array = 0) -> tuple[VectorState, PyTree]:
        member = jnp.arange(num_envs, dtype=jnp.int32) + jnp.asarray(offset, jnp.int32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, member)
        zero = jnp.zeros((num_envs,), jnp.uint32)
        state, obs = jax.vmap(env.reset)(fold(keys, zero))
        _check(spec, "reset", {"obs": obs}, {"obs": abstract(spec.observation_space, (num_envs,))})
        costs = jnp.zeros((num_envs, spec.num_costs), jnp.float32) if spec.num_costs else ()
        none = zero.astype(jnp.float32)
        return VectorState(state, keys, zero, none, zero.astype(jnp.int32), costs, none, costs), obs

    def step(state: VectorState, action: PyTree) -> tuple[VectorState, TimeStep]:
        _check_action(spec, num_envs, action)
        steps = state.steps + np.uint32(1)
        inner, seen = jax.vmap(env.step)(state.env, action, fold(state.key, 2 * steps - np.uint32(1)))
        _check_step(spec, num_envs, state.env, inner, seen)
        ended = jnp.asarray(seen.terminated) | jnp.asarray(seen.truncated)

        bits = jax.random.key_data(state.key)  # as bits: under vmap, cond makes a select of its inputs, a use twice

        def fresh() -> tuple[PyTree, PyTree]:
            keys = jax.random.wrap_key_data(bits, impl=jax.random.key_impl(state.key))
            started = jax.vmap(env.reset)(fold(keys, 2 * steps))
            return jax.tree.map(lambda new, old: _where(ended, new, old), started, (inner, seen.obs))

        # Outside of vmap this skips the resets of the many steps in which nobody ends; inside, it is a select.
        inner, obs = jax.lax.cond(jnp.any(ended), fresh, lambda: (inner, seen.obs))
        reward = seen.info.get("native_reward", seen.reward)
        episode_return, return_lost = _plus(state.episode_return, state.return_lost, jnp.asarray(reward))
        episode_length, costs = state.episode_length + np.int32(1), jnp.asarray(seen.costs)
        episode_cost, cost_lost = (
            _plus(state.episode_cost, state.cost_lost, costs) if spec.num_costs else (costs, costs)
        )
        counted = {"episode_return": episode_return, "episode_length": episode_length, "episode_cost": episode_cost}
        running = VectorState(
            inner,
            state.key,
            steps,
            jnp.where(ended, jnp.zeros_like(episode_return), episode_return),
            jnp.where(ended, jnp.zeros_like(episode_length), episode_length),
            _where(ended, jnp.zeros_like(episode_cost), episode_cost) if spec.num_costs else (),
            jnp.where(ended, jnp.zeros_like(return_lost), return_lost),
            _where(ended, jnp.zeros_like(episode_cost), cost_lost) if spec.num_costs else (),
        )
        return running, seen._replace(obs=obs, info={**seen.info, **counted})

    return DeviceEnvs(spec, int(num_envs), reset, step)


def _plus(total: jax.Array, lost: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """total + lost + x, and what rounding keeps out of it: the next ``lost``. Kahan (1965), by Knuth's exact sum.

    XLA keeps the order of floating sums, so it does not take ``new - total`` for x.
    """
    x = x + lost
    new = total + x
    added = new - total
    return new, (total - (new - added)) + (x - added)


def _where(condition: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """``jnp.where`` with a condition [B] over leaves [B, ...]."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (x.ndim - 1)), x, y)


def _check_action(spec: EnvSpec, num_envs: int, action: PyTree) -> None:
    """Shapes of an agent's actions, while they are traced."""
    wanted, given = abstract(spec.action_space, (num_envs,)), jax.tree.map(jnp.shape, action)
    if given != jax.tree.map(lambda x: x.shape, wanted):
        raise UsageError(f"{spec.id} takes actions of {_describe(wanted)}, over the batch; got the shapes {given}.")


def _check_step(spec: EnvSpec, num_envs: int, before: PyTree, after: PyTree, seen: TimeStep) -> None:
    """Shapes and dtypes of one step. Costs nothing: they are known while tracing."""
    if not isinstance(seen, TimeStep):
        raise EnvironmentFault(f"{spec.id}: step returned {type(seen).__name__}; it is to return (state, TimeStep).")
    obs = abstract(spec.observation_space, (num_envs,))
    flag, number = jax.ShapeDtypeStruct((num_envs,), np.bool_), jax.ShapeDtypeStruct((num_envs,), np.float32)
    wanted = {"obs": obs, "final_obs": obs, "reward": number, "terminated": flag, "truncated": flag}
    wanted["costs"] = jax.ShapeDtypeStruct((num_envs, spec.num_costs), np.float32)
    got: dict[str, Any] = {name: getattr(seen, name) for name in wanted}
    _check(spec, "step", {**got, "state": after}, {**wanted, "state": before})


def _check(spec: EnvSpec, where: str, got: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted:
        given, right = _describe(got[name]), _describe(wanted[name])
        if given != right:
            raise EnvironmentFault(
                f"{spec.id}: {where} gives, over the batch, {name} = {given}; its spec (or its reset) says {right}."
            )


def _describe(tree: PyTree) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ", ".join(f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}".strip() for path, leaf in leaves)
