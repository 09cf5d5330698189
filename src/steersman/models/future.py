"""Future return: the distribution of the return to go of whoever acted, V(s) or Q(s, a), as quantiles.

    G_t = r_t + gamma_t G_{t+1},   theta_i(s) ~ the tau_i-quantile of G_t,   tau_i = (2 i + 1) / (2 M)

``td``: the targets are r + gamma_t theta_j(s'), of a slow copy (Dabney et al. 2018, arXiv:1710.10044). ``monte_carlo``:
they are what the episode went on to pay, and where it was truncated what the slow copy expects there. By ``td``,
stretches of different episodes are put together; ``monte_carlo`` believes nothing but what was seen, and does not need
a state to tell all that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.config import Rules
from steersman.models import temporal
from steersman.models.data import held_out
from steersman.models.model import Data
from steersman.models.scaling import Scaler, scaler, unscaled
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import MLP
from steersman.theory.distributional import quantile_huber_loss
from steersman.theory.returns import discounts
from steersman.types import EnvSpec, Key, Metrics, PyTree, Rollout

NOTHING = 0.01  # a discount below which what would follow is left out


@dataclass(frozen=True)
class FutureConfig(temporal.TemporalConfig):
    """A model of the future return."""

    gamma: float = 0.99
    """Discount factor."""
    quantiles: int = 32
    """Quantiles of the return (M)."""
    target: str = "td"
    """What they are learned from: td, one step and what is expected after it, or monte_carlo, the episode's end."""
    given_action: bool = False
    """Learn Q(s, a) instead of V(s)."""
    kappa: float = 0.05
    """Where the loss turns linear, in standard deviations of the return: well below 1, or they are no quantiles."""

    rules = Rules(
        at_least_one=("quantiles",),
        positive=("kappa",),
        fraction=("gamma",),
        choices={"target": ("td", "monte_carlo")},
    )


class FutureNetwork(eqx.Module):
    """inputs [D] -> M numbers, ascending, in standard deviations of the return."""

    trunk: MLP
    head: Linear

    def __init__(self, size: int, config: FutureConfig, *, key: Key):
        trunk_key, head_key = jax.random.split(key)
        self.trunk = MLP(size, config.hidden_sizes, activation=config.activation, key=trunk_key)
        self.head = orthogonal_linear(self.trunk.out_size, config.quantiles, head_key, gain=0.1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.trunk(x))


class FutureState(NamedTuple):
    """What is learned of the future return."""

    network: FutureNetwork
    inputs: Scaler
    returns: Scaler  # [1], of the returns that were seen


class Future(NamedTuple):
    """A model of the future return.

    init(key, first_rollout) -> M
    fit(M, data, key) -> (M, metrics)            from what it knew; of the episodes held out, of which the returns are
                                                 known to their end: ``future/coverage90``, the share of them between
                                                 the quantiles 0.05 and 0.95, and ``future/r2`` of the mean
    quantiles(M, obs, action=None) -> [M]        of one point, ascending; their mean is V(s), or Q(s, a)
    """

    init: Callable[[Key, Rollout], FutureState]
    fit: Callable[[FutureState, Data, Key], tuple[FutureState, Metrics]]
    quantiles: Callable[..., jax.Array]


def future(config: FutureConfig, spec: EnvSpec) -> Future:
    """The model for an environment; ``given_action`` says whether of V or of Q. Raises UsageError for images.

    The terminal value of a planner after which all goes on as in the data:
    ``value = lambda obs: model.quantiles(M, obs).mean()``.

    >>> from steersman.envs.classic.pendulum import SPEC
    >>> model = future(FutureConfig(gamma=0.95), SPEC)
    """
    what = "A model of the future return"
    see, size = temporal.vectors(spec.observation_space, what)
    do, more = temporal.vectors(spec.action_space, what)
    size += more if config.given_action else 0

    def read(obs: PyTree, action: PyTree) -> jax.Array:
        return jnp.concatenate([see(obs), do(action)]) if config.given_action else see(obs)

    def init(key: Key, first_rollout: Rollout) -> FutureState:
        return FutureState(FutureNetwork(size, config, key=key), unscaled(size), unscaled(1))

    def quantiles(M: FutureState, obs: PyTree, action: PyTree | None = None) -> jax.Array:
        return jnp.sort(M.returns.restore(M.network(M.inputs.normalize(read(obs, action)))))

    def fit(M: FutureState, data: Data, key: Key) -> tuple[FutureState, Metrics]:
        rows, apart = data.rows, held_out(data, config.held_out_share)
        x, after = jax.vmap(read)(rows.obs, rows.action), jax.vmap(see)(rows.next_obs)
        index = jnp.arange(len(x), dtype=jnp.int32)
        whole = to_go(data, config.gamma)
        M = M._replace(inputs=scaler(x, data.valid), returns=scaler(whole[0][:, None], data.valid))
        one = jnp.asarray(rows.reward), discounts(rows.terminated, config.gamma), index
        paid, left, end = one if config.target == "td" else whole
        usable = data.valid
        if config.given_action:  # what is done after it is done in the next row of the episode
            following = jnp.minimum(end + 1, len(x) - 1)
            known = data.valid[following] & (data.episode[following] == data.episode) & (following > end)
            done = jax.vmap(do)(jax.tree.map(lambda a: a[jnp.minimum(index + 1, len(x) - 1)], rows.action))
            after, usable = jnp.concatenate([after, done], 1), usable & (known | (left <= NOTHING))
        x, after = M.inputs.normalize(x), M.inputs.normalize(after)
        mean, std = M.returns.mean, jnp.where(M.returns.varies, M.returns.std, 1.0)
        draw = temporal.drawer(usable & ~apart, config.batch_size)

        def loss(network: FutureNetwork, slow: FutureNetwork, key: Key) -> jax.Array:
            i = draw(key)
            onward = M.returns.restore(jax.vmap(slow)(after[end[i]]))  # [n, M]
            target = (paid[i][:, None] + left[i][:, None] * onward - mean[None]) / std[None]
            theta = jax.vmap(network)(x[i])
            return quantile_huber_loss(theta, jax.lax.stop_gradient(target), kappa=config.kappa).mean()

        network, final = temporal.descended(config, loss, M.network, key)
        M = M._replace(network=network)
        return M, {"future/loss": final} | _told(M, x, whole[0], apart & (whole[1] <= NOTHING))

    return Future(init, fit, quantiles)


def to_go(data: Data, gamma: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each row to the end of its episode: the discounted return [N], the discount of what would follow [N], and the
    row it ends in, int32 [N].

        G_t = r_t + gamma G_{t+1},   D_t = gamma D_{t+1};   r and gamma (1 - terminated) in the last row
    """
    end, index = temporal.ends(data), jnp.arange(data.episode.shape[0], dtype=jnp.int32)
    now = jnp.asarray(data.rows.reward), discounts(data.rows.terminated, gamma), end == index

    def step(later: tuple[jax.Array, jax.Array], row: Any):
        reward, discount, last = row
        paid = jnp.where(last, reward, reward + gamma * later[0])
        left = jnp.where(last, discount, gamma * later[1])
        return (paid, left), (paid, left)

    zero = jnp.zeros((), jnp.float32)
    _, (paid, left) = jax.lax.scan(step, (zero, zero), now, reverse=True)
    return paid, left, end


def between(theta: jax.Array, tau: float) -> jax.Array:
    """The tau-quantile of those that ``theta`` [..., M] are, ascending: linear between two, the last beyond them.

    >>> float(between(jnp.array([0.0, 1.0]), 0.5)), float(between(jnp.array([0.0, 1.0]), 0.25))
    (0.5, 0.0)
    """
    last = theta.shape[-1] - 1
    at = min(max(tau * (last + 1) - 0.5, 0.0), float(last))
    low = int(at)
    return theta[..., low] + (at - low) * (theta[..., min(low + 1, last)] - theta[..., low])


def _told(M: FutureState, x: jax.Array, paid: jax.Array, mask: jax.Array) -> Metrics:
    """Over the rows of a mask [N]; NaN where there are none."""
    found = jnp.sort(M.returns.restore(jax.vmap(M.network)(x)), axis=-1)  # [N, M]
    low, high = between(found, 0.05), between(found, 0.95)
    mean = lambda y: jnp.where(mask, y, 0.0).sum() / mask.sum(dtype=jnp.float32)
    error, spread = (mean(jnp.square(paid - y)) for y in (found.mean(-1), mean(paid)))
    inside = ((paid >= low) & (paid <= high)).astype(jnp.float32)
    return {"future/coverage90": mean(inside), "future/r2": 1.0 - error / spread}
