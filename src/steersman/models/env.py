"""A model as an environment: what works in one works in the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.models.model import Model
from steersman.spaces import native_map
from steersman.types import Array, EnvSpec, Key, PyTree, TimeStep


class Imagining(NamedTuple):
    """The state of an imagined episode."""

    model: PyTree  # where the model stands
    steps: jax.Array  # int32, of this episode


class ModelEnv(NamedTuple):
    """An ``Env`` of two pure functions."""

    spec: EnvSpec
    reset: Callable[[Key], tuple[Imagining, PyTree]]
    step: Callable[[Imagining, PyTree, Key], tuple[Imagining, TimeStep]]


def model_env(model: Model, state: PyTree, spec: EnvSpec, starts: PyTree, horizon: int | Array) -> ModelEnv:
    """The environment that ``model`` with the learned ``state`` is: for ``vectorize``, ``unroll`` and all agents.

    An episode begins at one of ``starts`` [S, ...], real observations, each as likely. It terminates where the model
    holds that for likelier than not, and is truncated at its ``horizon``-th step: what learns from it bootstraps there
    as it does at any time limit. horizon: a whole number of 1 or more, or an int32 scalar that may change from call to
    call of one program. spec: of the real environment. Costs are not modelled; they are 0.

    To go through all members without gathers: ``jax.vmap`` over ``model.members(state)``, an environment for each.
    Raises UsageError for a horizon below 1.
    """
    if isinstance(horizon, int):
        if horizon < 1:
            raise UsageError(f"horizon = {horizon}: an imagined episode has at least 1 step.")
        spec = replace(spec, max_episode_steps=horizon)
    else:
        spec = replace(spec, max_episode_steps=None)
    count, clipped = jax.tree.leaves(starts)[0].shape[0], native_map(spec.action_space)

    def reset(key: Key) -> tuple[Imagining, PyTree]:
        one, two = jax.random.split(key)
        index = jax.random.randint(one, (), 0, count, jnp.int32)
        obs = jax.tree.map(lambda x: jnp.asarray(x)[index], starts)
        return Imagining(model.start(state, obs, two), jnp.zeros((), jnp.int32)), obs

    def step(at: Imagining, action: PyTree, key: Key) -> tuple[Imagining, TimeStep]:
        inner, seen = model.step(state, at.model, clipped(action), key)
        steps, costs = at.steps + 1, jnp.zeros((spec.num_costs,), jnp.float32)
        ends = seen.terminated_logit > 0, steps >= horizon
        return Imagining(inner, steps), TimeStep(seen.obs, seen.reward, *ends, seen.obs, costs, {})

    return ModelEnv(spec, reset, step)
