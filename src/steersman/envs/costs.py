"""Costs beside the reward, for compiled environments: of a function, or of comparisons (``host.costs``).

The costs of an episode's last step belong to that episode: they are the transition's, from before any reset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.envs.host.costs import parsed
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.spaces import abstract
from steersman.types import Env, EnvSpec, Key, PyTree, TimeStep


class Charged(NamedTuple):
    env: PyTree
    obs: PyTree  # before the step


def with_costs(env: Env, function: Callable[[PyTree, PyTree, PyTree], Any], names: Sequence[str] | str) -> Env:
    """Charge ``function(obs, action, next_obs) -> [C]`` for every step, after the costs that ``env`` has itself.

    function: pure; of canonical actions and of the step's own successor, never of a reset. One number will do where
    there is one name. Raises UsageError where it gives another number of costs than there are names, and for a name
    that is there already.

    >>> from steersman.envs.classic.cartpole import CartPole
    >>> env = with_costs(CartPole(), lambda obs, action, next_obs: abs(next_obs[0]) > 0.5, "far")
    >>> env.spec.cost_names
    ('far',)
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    obs, action = abstract(env.spec.observation_space), abstract(env.spec.action_space)
    shape = jax.eval_shape(lambda *seen: jnp.atleast_1d(function(*seen)), obs, action, obs).shape
    if shape != (len(names),) or not names:
        raise UsageError(
            f"with_costs of {env.spec.id}: the function gives an array of shape {shape}, and there are {len(names)} "
            f"names ({', '.join(names)}). Give a name for each cost, [C]."
        )

    def reset(key: Key) -> tuple[Charged, PyTree]:
        state, obs = env.reset(key)
        return Charged(state, obs), obs

    def step(state: Charged, action: PyTree, key: Key) -> tuple[Charged, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        more = jnp.atleast_1d(function(state.obs, action, seen.final_obs))
        return Charged(inner, seen.final_obs), _with(seen, more)

    return PureEnv(_named(env.spec, names), reset, step)


def with_comparisons(env: Env, costs: Sequence[str]) -> Env:
    """The costs that some texts say, as ``--cost`` takes them; raises UsageError for an entry that is not there."""
    comparisons = parsed(costs)
    if not comparisons:
        return env

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        numbers = [jnp.asarray(one.number(seen.final_obs, seen.info, env.spec.id), jnp.float32) for one in comparisons]
        charged = lambda one, x: jnp.where(jnp.isnan(x), x, one.holds(x).astype(np.float32))  # NaN is not held for free
        charges = [charged(one, x) for one, x in zip(comparisons, numbers, strict=True)]
        return state, _with(seen, jnp.stack(charges))

    key, action = jax.random.key(0), abstract(env.spec.action_space)
    jax.eval_shape(lambda action: step(env.reset(key)[0], action, key)[1].costs, action)  # before any program is made
    return PureEnv(_named(env.spec, [one.name for one in comparisons]), env.reset, step)


def _with(seen: TimeStep, more: jax.Array) -> TimeStep:
    return seen._replace(costs=jnp.concatenate([jnp.asarray(seen.costs), more.astype(np.float32)]))


def _named(spec: EnvSpec, names: Sequence[str]) -> EnvSpec:
    return replace(spec, cost_names=(*spec.cost_names, *names))
