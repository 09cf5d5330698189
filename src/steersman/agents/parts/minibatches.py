"""Batches: shuffled, cut into minibatches, standardised; and the loop of epochs over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts.checks import check_minibatches
from steersman.types import Key, PyTree


def standardise(x: jax.Array, weight: jax.Array | None = None, *, axis: int | None = None) -> jax.Array:
    """x with mean 0 and standard deviation 1 along ``axis`` (none: over all of it) and over all shards.

    weight: how much each entry counts, of x's shape; none: all the same.
    """
    w = jnp.ones_like(x) if weight is None else weight
    mean_of = lambda y: y.mean(axis, keepdims=True)
    total, first, second = shards.cross_mean((mean_of(w), mean_of(w * x), mean_of(w * jnp.square(x))))
    share = jnp.maximum(total, 1e-8)
    mean, square = first / share, second / share
    return (x - mean) * jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + 1e-8)


def shuffled_minibatches(key: Key, batch: PyTree, num_minibatches: int) -> PyTree:
    """``[T, B, ...]`` -> ``[M, T * B / M, ...]``, every transition once, in an order drawn from ``key``.

    Each environment's time steps are shuffled on their own, and a minibatch takes T / M of each. Where M does not
    divide T, all transitions of this shard are shuffled together.
    """
    length, num_envs = jax.tree.leaves(batch)[0].shape[:2]
    check_minibatches(length, num_envs, num_minibatches)
    flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(length * num_envs, *x.shape[2:]), batch)
    if length % num_minibatches == 0:
        order = shards.member_orders(key, num_envs, length)
        index = order * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[None, :]
    else:
        index = jax.random.permutation(jax.random.fold_in(key, shards.shard_index()), length * num_envs)
    index = index.reshape(num_minibatches, -1)
    return jax.tree.map(lambda x: x[index], flat)


def epochs(
    step: Callable[[PyTree, PyTree], tuple[PyTree, Any]],
    carry: PyTree,
    minibatches: Callable[[PyTree, Key], PyTree],
    key: Key,
    num_epochs: int,
) -> tuple[PyTree, Any]:
    """``step(carry, minibatch) -> (carry, metrics)`` over all minibatches of every epoch; -> (carry, metrics [E, M]).

    minibatches: (carry, key) -> ``[M, ...]``, made anew before each epoch.
    """

    def epoch(carry: PyTree, key: Key) -> tuple[PyTree, Any]:
        return jax.lax.scan(step, carry, minibatches(carry, key))

    return jax.lax.scan(epoch, carry, jax.random.split(key, num_epochs))
