"""Trees of arrays: pick an entry, select between two trees, follow one slowly."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.types import Array, PyTree


def take(x: Array, index: Array) -> jax.Array:
    """The entry ``x[..., index]`` of the last axis, one per leading element.

    x [..., A], index int [...] -> [...]. Written as a masked sum, not a gather: its gradient is a select where a
    gather's is a scatter, which CPUs run one element at a time. Entries not picked may be infinite. An index outside
    [0, A) gives 0.

    >>> take(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0]))
    Array([2., 3.], dtype=float32)
    """
    x, index = jnp.asarray(x), jnp.asarray(index)
    return jnp.sum(jnp.where(one_hot(index, x.shape[-1]), x, jnp.zeros((), x.dtype)), axis=-1)


def one_hot(index: Array, size: int) -> jax.Array:
    """True where the last axis equals ``index``: int [...] -> bool [..., size]."""
    index = jnp.asarray(index)
    return index[..., None] == jax.lax.broadcasted_iota(index.dtype, (*index.shape, size), index.ndim)


def where(mask: Array, a: PyTree, b: PyTree) -> PyTree:
    """``a`` where ``mask`` is true, else ``b``, leaf by leaf; ``mask`` names the leading axes of every leaf.

    mask bool [B] (or [T, B], ...); leaves of a and b [B, ...], of equal shapes. Typed PRNG keys are leaves too.
    Raises UsageError when a leaf lacks those leading axes, or a and b differ in shape: nothing is broadcast by luck.
    """
    mask = jnp.asarray(mask).astype(bool)

    def select(x: Array, y: Array) -> jax.Array:
        x, y = jnp.asarray(x), jnp.asarray(y)
        if x.shape != y.shape or x.shape[: mask.ndim] != mask.shape:
            raise UsageError(
                f"where: mask {mask.shape} and leaves {x.shape}, {y.shape}: leaves must start with the mask's axes."
            )
        return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, y)

    return jax.tree.map(select, a, b)


def polyak(target: PyTree, online: PyTree, tau: float | Array) -> PyTree:
    """target + tau (online - target), leaf by leaf: a target network that follows slowly; tau = 1 copies.

    Polyak and Juditsky (1992) for averages of iterates; Lillicrap et al. (2016) for targets.
    """
    return jax.tree.map(lambda t, o: t + tau * (o - t), target, online)
