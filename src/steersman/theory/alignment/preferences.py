"""Learning from preferences: their likelihood, what it says of a policy, and the divergence that such a policy pays.

An answer y to a prompt is preferred over y' with the probability of Bradley and Terry (1952),

    P(y > y') = sigmoid(r(y) - r(y'))

A policy that is to earn reward near a reference maximises J = E_pi[r] - beta KL(pi || ref). Over whole answers the
optimum is known, ``gibbs``; turned around, it makes a policy its own reward (``implicit_reward``, ``dpo_loss``).

log_ratio is log pi(y) - log ref(y) of a *whole* answer, summed over its tokens, unless a function says otherwise.
Losses are per sample ``[...]``, to be minimised.

**The KL term, and where it is put.** Of samples y ~ pi, with d = log pi - log ref, there are three estimators of
KL(pi || ref) (Schulman, "Approximating KL divergence"), and as a *loss* they have, on average, three gradients:

    k1 = d               0. Subtracted from the reward, with no gradient through it: that of KL(pi || ref)
    k2 = d^2 / 2         that of KL(pi || ref), where d is of the whole answer
    k3 = e^-d - 1 + d    that of the *other* divergence, KL(ref || pi), likewise

Per token, neither k2 nor k3 as a loss is exact, nor k3 times the ratio pi / pi_old, whose gradient is that of k2: a
token also moves the divergence of the tokens after it. Over all answers of up to four tokens out of five, enumerated,
for one pair of random networks, against the gradient of KL(pi || ref) (``benchmarks/kl_gradients.py``; the sizes are of
this pair, that they are not 0 is general):

    form                                             relative error    cosine
    k1 in the reward, summed over the answer         8e-7                1.000
    k1 in the reward, from each token on             8e-7                1.000
    k2 of the whole answer, as a loss                8e-7                1.000
    k2 of each token, as a loss                      0.66                0.797
    k3 times the ratio, of each token                0.66                0.797
    k3 of each token, as a loss                      0.87                0.515
    k1 of each token, as a loss                      1.00                no gradient
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.theory.surrogates import approximate_kl
from steersman.theory.trees import aligned
from steersman.types import Array

Scalar = float | Array


def bradley_terry_loss(chosen: Array, rejected: Array, margin: Scalar = 0.0) -> jax.Array:
    """-log sigmoid(r(chosen) - r(rejected) - margin): minus the log-likelihood of a preference.

    margin: by how much the chosen one is to be ahead, where labels say how clear a preference was. Bradley and Terry
    (1952); Christiano et al. (2017); Touvron et al. (2023), section 3.2.2, for the margin.

    >>> bradley_terry_loss(jnp.array([0.0, 2.0]), jnp.array([0.0, 0.0])).round(4)
    Array([0.6931, 0.1269], dtype=float32)
    """
    chosen, rejected, margin = aligned(chosen=chosen, rejected=rejected, margin=margin)
    return jax.nn.softplus(rejected + margin - chosen)


def implicit_reward(log_ratio: Array, beta: Scalar) -> jax.Array:
    """beta (log pi(y) - log ref(y)): the reward whose optimum pi is, up to a constant of the prompt.

    Rafailov et al. (2023), eq. 5.
    """
    return jnp.asarray(log_ratio) * beta


def dpo_loss(chosen: Array, rejected: Array, beta: Scalar, smoothing: Scalar = 0.0) -> jax.Array:
    """-(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h the difference of the two log-ratios [...].

    Where preferences follow Bradley-Terry of a reward, and all answers are seen, its minimum is ``gibbs`` of that
    reward. smoothing is e in [0, 1/2): the share of labels that are taken for wrong; it bounds what a certain
    preference asks for. Rafailov et al. (2023), eq. 7; Mitchell (2023) for e.

    >>> round(float(dpo_loss(jnp.array(1.0), jnp.array(-1.0), 0.5)), 4)
    0.3133
    """
    chosen, rejected = aligned(chosen=chosen, rejected=rejected)
    h, wrong = (chosen - rejected) * beta, jnp.asarray(smoothing, jnp.float32)
    return (1.0 - wrong) * jax.nn.softplus(-h) + wrong * jax.nn.softplus(h)


def ipo_loss(chosen: Array, rejected: Array, tau: Scalar) -> jax.Array:
    """(h - 1 / (2 tau))^2, h the difference of the two log-ratios [...].

    It regresses h instead of pushing it without end, so certain preferences too leave the policy near the reference.
    tau regularises the *probability of being preferred*, not a reward: it is not DPO's beta. Azar et al. (2023),
    eq. 17.

    >>> ipo_loss(jnp.array([1.0]), jnp.array([-1.0]), 0.25)
    Array([0.], dtype=float32)
    """
    chosen, rejected = aligned(chosen=chosen, rejected=rejected)
    return jnp.square(chosen - rejected - 0.5 / tau)


def k1(log_ratio: Array) -> jax.Array:
    """d: unbiased, of either sign. To be subtracted from rewards; as a loss it has no expected gradient."""
    return jnp.asarray(log_ratio)


def k2(log_ratio: Array) -> jax.Array:
    """d^2 / 2: never negative, biased, its expected gradient is that of KL(pi || ref)."""
    return 0.5 * jnp.square(jnp.asarray(log_ratio))


def k3(log_ratio: Array) -> jax.Array:
    """e^-d - 1 + d: never negative, unbiased, and its expected gradient is that of KL(ref || pi)."""
    return approximate_kl(-jnp.asarray(log_ratio))


def gibbs(log_ref: Array, reward: Array, beta: Scalar) -> jax.Array:
    """log pi*, [..., N] over an enumerated set of answers: pi* = ref exp(r / beta) / Z, the optimum of J.

    Its value is beta log Z = ``value_near(pi*, ...)``. Ziegler et al. (2019), section 2; Rafailov et al. (2023), eq. 4.

    >>> jnp.exp(gibbs(jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.0, jnp.log(3.0)]), 1.0)).round(4)
    Array([0.25, 0.75], dtype=float32)
    """
    log_ref, reward = aligned(log_ref=log_ref, reward=reward)
    return jax.nn.log_softmax(log_ref + reward / beta, axis=-1)


def value_near(log_prob: Array, log_ref: Array, reward: Array, beta: Scalar) -> jax.Array:
    """J = E_pi[r] - beta KL(pi || ref), of log-probabilities [..., N] over an enumerated set -> [...]."""
    log_prob, log_ref, reward = aligned(log_prob=log_prob, log_ref=log_ref, reward=reward)
    return jnp.sum(jnp.exp(log_prob) * (reward - beta * (log_prob - log_ref)), axis=-1)


def proportional_kl_coefficient(coefficient: Scalar, kl: Scalar, target: Scalar, gain: Scalar) -> jax.Array:
    """beta (1 + gain clip(kl / target - 1, -0.2, 0.2)): a proportional controller of the divergence. Scalars.

    gain: how many samples were seen over how many it is to take to react; 0.01 and less. Ziegler et al. (2019),
    section 2.2. ``surrogates.adapt_kl_coefficient`` is PPO's own, which halves and doubles.

    >>> [round(float(proportional_kl_coefficient(1.0, kl, 6.0, 0.1)), 3) for kl in (0.0, 6.0, 6.6, 60.0)]
    [0.98, 1.0, 1.01, 1.02]
    """
    error = jnp.clip(jnp.asarray(kl, jnp.float32) / target - 1.0, -0.2, 0.2)
    return jnp.asarray(coefficient, jnp.float32) * (1.0 + gain * error)
