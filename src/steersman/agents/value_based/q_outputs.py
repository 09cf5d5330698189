"""What the outputs of a Q network mean: a number for each action, or the distribution of the return."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts.replay import multi_step
from steersman.errors import UsageError
from steersman.theory import distributional, trees, values
from steersman.theory.returns import Mixture
from steersman.types import Array


class Output(NamedTuple):
    """One meaning of a batch of outputs ``[N, A]``, or ``[N, A, K]``.

    q(out) -> action values [N, A]
    loss(out, action [N], reward [N], discount [N], out_t, policy_t [N, A]) -> (loss [N], priority [N]): of out at the
        action, against reward + discount times what out_t, at the successor, says of an action drawn from policy_t.
        The gradient flows through all of it; out_t is for the caller to hold constant.
    joined(out_t [n, N, A] or [n, N, A, K], mixture of n rows) -> (out_t, policy_t), as of one successor, for ``loss``
        with reward 0 and discount 1: its actions are those of n steps, each with the whole return that ends in it.
    """

    size: int  # K; 0: a number
    q: Callable[[jax.Array], jax.Array]
    loss: Callable[..., tuple[jax.Array, jax.Array]]
    joined: Callable[[jax.Array, Mixture], tuple[jax.Array, jax.Array]]


def of(config: Any) -> Output:
    """The one that a DQNConfig asks for."""
    if config.distribution == "categorical":
        return categorical(config.v_min, config.v_max, config.num_atoms)
    if config.distribution == "quantile":
        mixed = config.target == "expected_sarsa" or multi_step.keeps(config) != ()
        return quantile(config.num_atoms, mixed, config.huber_threshold)
    return scalar(config.loss == "huber", config.huber_threshold, config.value_rescaling)


def check(config: Any) -> None:
    """Raise UsageError where a DQNConfig's distribution does not go with its other settings."""
    if config.distribution == "none":
        return
    if config.value_rescaling:
        raise UsageError(
            f"DQN: value_rescaling is of a number; distribution {config.distribution} has none. Drop one of the two."
        )
    if config.target != "q_learning":
        why = f"of the distributions that retrace mixes some count negative where target is {config.target}"
        multi_step.check_correction("DQN", config, why, "cut")
    if config.loss != "huber":
        raise UsageError(
            f"DQN: loss {config.loss} is of the TD error, but distribution {config.distribution} has a loss of its "
            "own. Drop one of the two."
        )
    if config.num_atoms < 2:
        raise UsageError(f"DQN: num_atoms = {config.num_atoms} is no distribution; it must be 2 or more.")
    low, high = config.v_min, config.v_max
    if config.distribution == "categorical" and isinstance(low, Real) and isinstance(high, Real) and low >= high:
        raise UsageError(
            f"DQN: v_min = {low} and v_max = {high} span no atoms; set them around the returns that are possible."
        )


def scalar(huber: bool = True, threshold: float | Array = 1.0, rescale: bool = False) -> Output:
    """The value itself. Huber's loss of the TD error, or half its square; priority: its size.

    rescale: the output is h of the value (``values.rescaled``), and the error h(r + discount h^-1(out_t)) - out.
    """
    q = values.unscaled if rescale else lambda out: out

    def loss(out: jax.Array, action: Array, reward: Array, discount: Array, out_t: jax.Array, policy_t: jax.Array):
        if rescale:
            target = values.expected_sarsa(jnp.zeros_like(out), action, reward, discount, q(out_t), policy_t)
            error = values.rescaled(target) - trees.take(out, action)
        else:
            error = values.expected_sarsa(out, action, reward, discount, out_t, policy_t)
        return distributional.huber(error, threshold) if huber else 0.5 * jnp.square(error), jnp.abs(error)

    def joined(out_t: jax.Array, mixture: Mixture) -> tuple[jax.Array, jax.Array]:
        discount = mixture.discount_t[..., None]
        q_t = mixture.r_t[..., None] + discount * trees.kept(discount, q(out_t))
        return _one_state(values.rescaled(q_t) if rescale else q_t), _one_state(mixture.weight_t)

    return Output(0, q, loss, joined)


def categorical(v_min: float | Array, v_max: float | Array, num: int) -> Output:
    """C51: logits of the probabilities of ``num`` atoms. Cross-entropy with the projected target; priority: the KL."""
    z = distributional.atoms(v_min, v_max, num)

    def loss(out: jax.Array, action: Array, reward: Array, discount: Array, out_t: jax.Array, policy_t: jax.Array):
        mixed = (policy_t[..., None] * jax.nn.softmax(out_t, axis=-1)).sum(1)
        target = distributional.categorical_projection(z, mixed, reward, discount)
        each = distributional.cross_entropy(target, _chosen(out, action))
        return each, each - distributional.entropy(target)

    def joined(out_t: jax.Array, mixture: Mixture) -> tuple[jax.Array, jax.Array]:
        """Mixed over actions, which keeps the projections few: each step is one action."""
        total = mixture.weight_t.sum(-1, keepdims=True)
        weight = jnp.maximum(mixture.weight_t, 0.0) / jnp.where(total > 0, total, 1.0)
        mixed = (weight[..., None] * jax.nn.softmax(out_t, axis=-1)).sum(-2)  # [n, N, K]
        target = distributional.categorical_projection(z, mixed, mixture.r_t, mixture.discount_t)
        logits = jnp.log(jnp.maximum(target, jnp.finfo(target.dtype).tiny))  # of a step that does not count, too
        return _one_state(logits[:, :, None]), _one_state(total)

    return Output(num, lambda out: (jax.nn.softmax(out, axis=-1) * z[None, None]).sum(-1), loss, joined)


def quantile(num: int, mixed: bool, threshold: float | Array = 1.0) -> Output:
    """QR-DQN: ``num`` quantiles. The quantile Huber loss; priority: the loss.

    mixed: policy_t spreads over actions; otherwise it has all its weight on one, whose quantiles alone are the target.
    """

    def loss(out: jax.Array, action: Array, reward: Array, discount: Array, out_t: jax.Array, policy_t: jax.Array):
        discount = jnp.asarray(discount)[:, None, None]
        theta = jnp.asarray(reward)[:, None, None] + discount * trees.kept(discount, out_t)  # [N, A, K]
        if mixed:
            weight = jnp.broadcast_to(policy_t[..., None] / num, theta.shape).reshape(theta.shape[0], -1)
            theta = theta.reshape(theta.shape[0], -1)
        else:
            weight, theta = None, jnp.where(policy_t[..., None] > 0, theta, 0.0).sum(1)
        each = distributional.quantile_huber_loss(_chosen(out, action), theta, weight, kappa=threshold)
        return each, each

    def joined(out_t: jax.Array, mixture: Mixture) -> tuple[jax.Array, jax.Array]:
        discount = mixture.discount_t[..., None, None]
        theta_t = mixture.r_t[..., None, None] + discount * trees.kept(discount, out_t)
        return _one_state(theta_t), _one_state(mixture.weight_t)

    return Output(num, lambda out: out.mean(-1), loss, joined)


def _one_state(x: jax.Array) -> jax.Array:
    """[n, N, A, ...] -> [N, n A, ...]: the actions of n states side by side."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _chosen(out: jax.Array, action: Array) -> jax.Array:
    """[N, A, K], [N] -> [N, K]; a select, whose gradient is one too."""
    return jnp.where(trees.one_hot(action, out.shape[1])[..., None], out, 0.0).sum(1)
