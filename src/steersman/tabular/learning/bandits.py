"""Bandits: the one-state case. Many are played side by side in one compiled program.

The arms of a testbed are Gaussian; a bandit of any rewards is an MDP of one state and ``control.learn``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.tabular.learning.behaviour import Behaviour
from steersman.theory.distributions import Categorical
from steersman.types import Array, Key


class Played(NamedTuple):
    """A run of each bandit, leading axis ``B``; ``T`` pulls."""

    reward: Array  # float32 [B, T]
    optimal: Array  # bool [B, T]: the best arm was pulled
    regret: Array  # float32 [B, T]: mean of the best arm minus mean of the one pulled


def gaussian_arms(key: Key, num: int, arms: int = 10) -> Array:
    """Mean rewards q*(a) ~ N(0, 1), float32 [B, A]. (Sutton & Barto 2018, section 2.3.)"""
    return jax.random.normal(key, (num, arms))


def play(
    means: Array,
    behaviour: Behaviour,
    key: Key,
    *,
    pulls: int,
    alpha: float | Array | None = None,
    initial: float = 0.0,
    drift: float = 0.0,
) -> Played:
    """Pull an arm of every bandit ``pulls`` times; rewards N(mean, 1); Q <- Q + alpha (R - Q), by sample means if None.

    ``initial`` > 0 is optimistic; ``drift`` moves every mean by N(0, drift^2) a pull. (Sutton & Barto 2018, 2.4 to
    2.7.)
    """

    def pull(carry, key):
        means, q, counts, step = carry
        act, noise, walk = jax.random.split(key, 3)
        a = behaviour(q, counts, step).sample(act)
        reward = means[a] + jax.random.normal(noise)
        counts = counts.at[a].add(1.0)
        rate = 1.0 / counts[a] if alpha is None else alpha
        out = (reward, means[a] >= means.max(), means.max() - means[a])
        means = means + drift * jax.random.normal(walk, means.shape)
        return (means, q.at[a].add(rate * (reward - q[a])), counts, step + 1), out

    return _many(pull, means, key, pulls, lambda m: (m, jnp.full_like(m, initial), jnp.zeros_like(m), jnp.int32(0)))


def gradient_bandit(means: Array, key: Key, *, pulls: int, alpha: float | Array, baseline: bool = True) -> Played:
    """Preferences H, softmax policy: H <- H + alpha (R - mean R) (1[a] - pi). (Sutton & Barto 2018, section 2.8.)"""

    def pull(carry, key):
        means, h, mean, step = carry
        act, noise = jax.random.split(key)
        policy = Categorical(h)
        a = policy.sample(act)
        reward = means[a] + jax.random.normal(noise)
        step = step + 1.0
        mean = mean + (reward - mean) / step
        advantage = reward - mean if baseline else reward
        h = h + alpha * advantage * (jax.nn.one_hot(a, h.shape[0]) - policy.probabilities())
        return (means, h, mean, step), (reward, means[a] >= means.max(), means.max() - means[a])

    return _many(pull, means, key, pulls, lambda m: (m, jnp.zeros_like(m), jnp.zeros(()), jnp.zeros(())))


def _many(pull, means: Array, key: Key, pulls: int, begin) -> Played:
    def one(m, key):
        return Played(*jax.lax.scan(pull, begin(m), jax.random.split(key, pulls))[1])

    means = jnp.asarray(means, jnp.float32)
    return jax.jit(jax.vmap(one))(means, jax.random.split(key, means.shape[0]))
