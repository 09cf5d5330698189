"""What a model of an environment is: pure functions over a state of arrays, for one point; ``vmap`` is outside.

Axes: ``N`` transitions, ``K`` members, ``D`` entries of an observation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.types import Array, Key, Metrics, PyTree, Rollout


class Data(NamedTuple):
    """Transitions to learn from, of a fixed capacity N; rows that are not ``valid`` count for nothing."""

    rows: Rollout  # [N, ...]
    episode: Array  # int32 [N], which episode a row is of: they are held out whole
    valid: Array  # bool [N]


class Prediction(NamedTuple):
    """What a model says of one step."""

    obs: PyTree  # the successor, drawn where the model is of a distribution
    reward: Array  # drawn likewise
    terminated_logit: Array  # log p / (1 - p) of an absorbing successor
    mean: Array  # [D + 1] of the successor's entries and the reward, in their own units
    std: Array  # [D + 1]; 0 where the model is deterministic


class Model(NamedTuple):
    """A learned environment. M: what it has learned; x: where an imagined episode stands.

    init(key, first_rollout) -> M              a rollout [T, B, ...] gives the shapes
    fit(M, data, key) -> (M, metrics)          learn from all of ``Data``; metrics are scalars
    start(M, obs, key) -> x                    an imagined episode begins at a real observation
    step(M, x, action, key) -> (x, Prediction)     a canonical action
    members(M) -> M'                           of the members that predict, every leaf with a leading axis [E]: each
                                               slice is itself the state of a model, of one member. Points go through
                                               all of them by ``vmap`` over the slices, each through one network; a
                                               ``step`` on M runs all networks for each point, and picks
    scale(M) -> float32 [D + 1]                what errors are measured in: standard deviations, over what was learned
                                               from, of an observation's changes and of the reward; 0: never varied
    """

    init: Callable[[Key, Rollout], PyTree]
    fit: Callable[[PyTree, Data, Key], tuple[PyTree, Metrics]]
    start: Callable[[PyTree, PyTree, Key], PyTree]
    step: Callable[[PyTree, PyTree, PyTree, Key], tuple[PyTree, Prediction]]
    members: Callable[[PyTree], Any] = lambda state: jax.tree.map(lambda x: x[None], state)
    scale: Callable[[PyTree], Array] = lambda state: np.ones((1,), np.float32)  # their own units


Reward = Callable[[PyTree, PyTree, PyTree], Array]  # (obs, action, next_obs) -> a float
Terminated = Callable[[PyTree, PyTree, PyTree], Array]  # -> a bool


class Known(NamedTuple):
    """What need not be learned of an environment; None: it is learned."""

    reward: Reward | None = None
    terminated: Terminated | None = None


def _fallen(obs: jax.Array, action: jax.Array, after: jax.Array) -> jax.Array:
    return jnp.abs(after[1]) > 0.2


def _hopper_down(obs: jax.Array, action: jax.Array, after: jax.Array) -> jax.Array:
    return (after[0] <= 0.7) | (jnp.abs(after[1]) >= 0.2) | (jnp.abs(after[1:]) >= 100.0).any()


KNOWN = {
    "InvertedPendulum-v5": Known(lambda *seen: jnp.where(_fallen(*seen), 0.0, 1.0), _fallen),
    "Hopper-v5": Known(None, _hopper_down),
}
