"""Which parts of an observation move a network's value, and which its choice of action: Jacobian saliency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from steersman.types import PyTree

Streams = Callable[[PyTree], tuple[jax.Array, jax.Array]]  # obs -> (V, a scalar; A [A])


@runtime_checkable
class HasStreams(Protocol):
    """A network that says its two streams: dueling ones have them apart, others say what stands for them."""

    def streams(self, obs: PyTree) -> tuple[jax.Array, jax.Array]:
        """One observation -> (V(obs), a scalar, and A(obs, .), ``[A]``)."""
        ...


def saliency(streams: Streams, obs: PyTree) -> tuple[PyTree, PyTree]:
    """The absolute Jacobians of the two streams with respect to one observation.

        (|dV(s) / ds|,  |dA(s, a*) / ds|),   a* = argmax_a A(s, a)

    obs: one observation. -> two trees like it, float32, in units of V and A per unit of the observation (an image's
    counted 0..255). Only floating and uint8 entries are differentiated; others (categories, counts) get zeros.
    Simonyan et al. (2014), arXiv:1312.6034; for the streams of dueling networks Wang et al. (2016), section 4.1.

    >>> saliency(lambda s: (jnp.dot(jnp.array([1.0, -2.0]), s), s), jnp.array([3.0, 4.0]))
    (Array([1., 2.], dtype=float32), Array([0., 1.], dtype=float32))
    """
    leaves, tree = jax.tree.flatten(obs)
    leaves = [jnp.asarray(x) for x in leaves]
    smooth = [jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == jnp.uint8 for x in leaves]

    def both(moving: list[jax.Array]) -> jax.Array:
        given = iter(moving)
        value, advantage = streams(
            tree.unflatten([next(given) if s else x for s, x in zip(smooth, leaves, strict=True)])
        )
        best = jnp.argmax(jax.lax.stop_gradient(advantage))
        return jnp.stack([value, advantage[best]])

    rows = jax.jacrev(both)([x.astype(jnp.float32) for s, x in zip(smooth, leaves, strict=True) if s])

    def one(i: int) -> PyTree:
        given = iter(rows)
        return tree.unflatten(
            [
                jnp.abs(next(given)[i]) if s else jnp.zeros(x.shape, jnp.float32)
                for s, x in zip(smooth, leaves, strict=True)
            ]
        )

    return one(0), one(1)
