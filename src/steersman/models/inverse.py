"""Inverse dynamics: which action was taken between a state and its successor, a_t = f^-1(s_t, s_{t+1}).

    p(a | s, s'),  learned by maximum likelihood of the recorded actions

A normal distribution for each entry of a Box action, categories for Discrete, MultiDiscrete and MultiBinary ones. What
it cannot tell it says: where actions change nothing it gives the frequencies of the data, and no better. Christiano et
al. (2016, arXiv:1610.03518) act with it in another world; Pathak et al. (2017, arXiv:1705.05363) learn from it what of
an observation an agent has a hand in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.config import Rules
from steersman.models import fitting, temporal
from steersman.models.data import held_out
from steersman.models.model import Data
from steersman.models.scaling import Scaler, scaler, unscaled
from steersman.nets.heads import PolicyHead
from steersman.nets.layers.mlp import ACTIVATIONS, MLP
from steersman.theory.distributions import DiagGaussian, Shaped
from steersman.types import EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class InverseConfig(fitting.FittingConfig):
    """A model of inverse dynamics."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    activation: str = "silu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    model_steps: int = 3_000
    """Gradient steps of one fit, at most."""
    model_schedule: str = "cosine"
    """The model's step size over a fit: constant, or cosine, which falls to zero at model_steps."""
    model_patience: int = 20
    """Looks in a row without one percent of improvement that end a fit."""
    bootstrap: bool = False
    """Weigh the transitions by random numbers."""

    rules = Rules(choices={"activation": tuple(ACTIVATIONS)}, sizes=("hidden_sizes",))


class InverseNetwork(eqx.Module):
    """(state [D], change [D], edge [D]) -> the distribution of the action between them.

    It sees the change in standard deviations of changes: that of one step is a small part of the spread of states, and
    would drown in the difference of two of them. And it is told where the successor stands at an end of what was seen:
    what is cut there, as a speed at its limit is, hides the action that drove it further.
    """

    trunk: MLP
    head: PolicyHead

    def __init__(self, size: int, space: spaces.Space, config: InverseConfig, *, key: Key):
        trunk_key, head_key = jax.random.split(key)
        self.trunk = MLP(3 * size, config.hidden_sizes, activation=config.activation, key=trunk_key)
        self.head = PolicyHead(self.trunk.out_size, space, state_dependent_std=True, key=head_key)

    def __call__(self, state: jax.Array, change: jax.Array, edge: jax.Array) -> Any:
        return self.head(self.trunk(jnp.concatenate([state, change, edge])))


class InverseState(NamedTuple):
    """What is learned of inverse dynamics."""

    network: InverseNetwork
    state: Scaler  # of s and s'
    change: Scaler  # of s' - s


class Inverse(NamedTuple):
    """A model of inverse dynamics.

    init(key, first_rollout) -> M
    fit(M, data, key) -> (M, metrics)            from what it knew; beside what ``fitting.fit`` says, of the episodes
                                                 held out: ``inverse/r2`` of Box actions, ``inverse/accuracy`` of others
    action(M, obs, next_obs) -> distribution     of one point: ``mode()`` is the best guess, canonical
    """

    init: Callable[[Key, Rollout], InverseState]
    fit: Callable[[InverseState, Data, Key], tuple[InverseState, Metrics]]
    action: Callable[[InverseState, PyTree, PyTree], Any]


def inverse(config: InverseConfig, spec: EnvSpec) -> Inverse:
    """The model for an environment. Raises UsageError for images, and for action spaces without a distribution.

    >>> from steersman.envs.classic.pendulum import SPEC
    >>> model = inverse(InverseConfig(), SPEC)
    """
    flat, size = temporal.vectors(spec.observation_space, "A model of inverse dynamics")

    def init(key: Key, first_rollout: Rollout) -> InverseState:
        network = InverseNetwork(size, spec.action_space, config, key=key)
        return InverseState(network, unscaled(size), unscaled(size))

    def read(state: Scaler, change: Scaler, before: jax.Array, after: jax.Array) -> tuple[jax.Array, ...]:
        """What the network reads of vectors [..., D]; the edge is 1 at the upper end, -1 at the lower one, else 0."""
        edge = (after >= state.high).astype(jnp.float32) - (after <= state.low).astype(jnp.float32)
        return state.normalize(before), change.normalize(after - before), edge

    def action(M: InverseState, obs: PyTree, next_obs: PyTree) -> Any:
        return M.network(*read(M.state, M.change, flat(obs), flat(next_obs)))

    def fit(M: InverseState, data: Data, key: Key) -> tuple[InverseState, Metrics]:
        before, after = (jax.vmap(flat)(x) for x in (data.rows.obs, data.rows.next_obs))
        both = jnp.concatenate([before, after]), jnp.concatenate([data.valid, data.valid])
        state, change = scaler(*both), scaler(after - before, data.valid)
        rows = *jax.vmap(partial(read, state, change))(before, after), data.rows.action
        loss, score = (lambda net, batch, of=of: of(jax.vmap(net)(*batch[:-1]), batch[-1]) for of in (_loss, _score))
        one = jax.tree.map(lambda x: x[None], M.network)
        best, _, metrics = fitting.fit(config, loss, one, rows, data, key, score=score)
        network = jax.tree.map(lambda x: x[0], best)
        found = _told(jax.vmap(network)(*rows[:-1]), rows[-1], held_out(data, config.held_out_share))
        return InverseState(network, state, change), metrics | found

    return Inverse(init, fit, action)


def _loss(told: Any, action: PyTree) -> jax.Array:
    """-log p(a), [N]; of a normal e^2 / 2 + stop(variance) * -log p(stop(e)), e = a - mean: a mean is learned as fast
    where it is bad as where it is good, and a spread as fast as it, so that no row that a narrow one missed drowns the
    others."""
    told, action = _flat(told, action)
    if not isinstance(told, DiagGaussian):
        return -told.log_prob(action)
    square = jnp.square(action - told.loc)
    fixed, variance = jax.lax.stop_gradient((square, jnp.exp(2.0 * told.log_std)))
    return (0.5 * square + variance * (0.5 * fixed * jnp.exp(-2.0 * told.log_std) + told.log_std)).sum(-1)


def _score(told: Any, action: PyTree) -> jax.Array:
    """-log p(a), [N]; of a normal e^2 + (e^2 - variance)^2, e = a - mean: least at the right mean and variance, and
    never below 0 as a density's logarithm may be."""
    told, action = _flat(told, action)
    if not isinstance(told, DiagGaussian):
        return -told.log_prob(action)
    square = jnp.square(action - told.loc)
    return (square + jnp.square(square - jnp.exp(2.0 * told.log_std))).sum(-1)


def _told(told: Any, action: PyTree, apart: jax.Array) -> Metrics:
    """How good the best guess is, over the rows of a mask [N]; NaN where there are none."""
    told, action = _flat(told, action)
    mean = lambda x: jnp.where(apart[:, None], x, 0.0).sum(0) / apart.sum(dtype=jnp.float32)
    guess = told.mode()
    if isinstance(told, DiagGaussian):
        error, spread = (mean(jnp.square(action - x)).sum() for x in (guess, mean(action)[None]))
        return {"inverse/r2": 1.0 - error / spread}
    right = (guess == action).reshape(len(guess), -1).all(1, keepdims=True)
    return {"inverse/accuracy": mean(right.astype(jnp.float32))[0]}


def _flat(told: Any, action: PyTree) -> tuple[Any, jax.Array]:
    """A distribution over arrays, and its events, as vectors."""
    if isinstance(told, Shaped):
        return told.flat, action.reshape(action.shape[0], -1)
    return told, action
