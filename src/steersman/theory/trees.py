"""Trees of arrays: pick an entry, select between two trees, follow one slowly."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

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


def aligned(**named: Array | float) -> list[jax.Array]:
    """The arguments as arrays, refused where broadcasting would grow them: [3] beside [3, 1] is [3, 3] in silence.

    Scalars go with all; of the others, which have one rank, one has the shape that all of them broadcast to, so [1, N]
    may stand beside an ensemble's [K, N]. Raises UsageError with the shapes. Free: they are known while tracing.
    """
    arrays = {name: jnp.asarray(x) for name, x in named.items()}
    shapes = {x.shape for x in arrays.values() if x.ndim}
    if len(shapes) > 1 and (len({len(shape) for shape in shapes}) > 1 or _broadcast(shapes) not in shapes):
        given = ", ".join(f"{name} {list(x.shape)}" for name, x in arrays.items())
        raise UsageError(f"Shapes that do not belong together: {given}. Give all of them one shape, or scalars.")
    return list(arrays.values())


def _broadcast(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def kept(weight: Array, x: Array) -> jax.Array:
    """x, but 0 where it is NaN or infinite and its weight is 0: then weight * kept(weight, x) is 0, as it should be.

    What stands behind the end of an episode may be anything. Finite x are left alone, and their gradients with them.
    """
    x = jnp.asarray(x)
    return jnp.where((jnp.asarray(weight) == 0) & ~jnp.isfinite(x), jnp.zeros((), x.dtype), x)


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
