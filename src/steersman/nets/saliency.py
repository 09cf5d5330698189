"""Which parts of an observation move a network's value, and which its choice of action: saliency by gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from steersman.types import Key, PyTree

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
    return _absolute(_gradients(streams, obs, _moving(obs)))


def smooth_saliency(
    streams: Streams, obs: PyTree, key: Key, *, samples: int = 32, noise: float = 0.15
) -> tuple[PyTree, PyTree]:
    """SmoothGrad: ``saliency`` of the gradients' mean over noisy copies of the observation, free of their speckle.

        |1/n sum_i dV(s + e_i) / ds|,  |1/n sum_i dA(s + e_i, a*) / ds|,   e_i ~ N(0, (noise (max s - min s))^2)

    with n = ``samples``, and a* that of the clean observation. Each array of a Dict has its own range, max s - min s.
    A network of rectifiers is linear in pieces, and its gradient jumps between them; a mean over a neighbourhood does
    not. Smilkov et al. (2017), arXiv:1706.03825, section 3, where noise of 0.1 to 0.2 and 50 samples look best.

    samples = 1 with noise = 0 is ``saliency``.
    """
    clean = _moving(obs)

    def one(key: Key) -> tuple[PyTree, PyTree]:
        keys = jax.random.split(key, len(clean))
        spread = [noise * (x.max() - x.min()) for x in clean]
        noisy = [x + s * jax.random.normal(k, x.shape) for x, s, k in zip(clean, spread, keys, strict=True)]
        return _gradients(streams, obs, noisy)

    return _absolute(jax.tree.map(lambda x: x.mean(0), jax.vmap(one)(jax.random.split(key, samples))))


def _is_moving(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) or x.dtype == jnp.uint8


def _moving(obs: PyTree) -> list[jax.Array]:
    """The entries that are differentiated, as float32."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(obs)]
    return [x.astype(jnp.float32) for x in leaves if _is_moving(x)]


def _gradients(streams: Streams, obs: PyTree, moving: list[jax.Array]) -> tuple[PyTree, PyTree]:
    """The gradients of V and A(., a*) at ``moving``, the differentiated entries; a* is of ``obs`` itself."""
    leaves, tree = jax.tree.flatten(obs)
    leaves = [jnp.asarray(x) for x in leaves]

    def filled(values: list[jax.Array], other: Callable[[jax.Array], jax.Array]) -> PyTree:
        given = iter(values)
        return tree.unflatten([next(given) if _is_moving(x) else other(x) for x in leaves])

    best = jnp.argmax(streams(filled(_moving(obs), lambda x: x))[1])

    def both(values: list[jax.Array]) -> jax.Array:
        value, advantage = streams(filled(values, lambda x: x))
        return jnp.stack([value, advantage[best]])

    rows = jax.jacrev(both)(moving)
    held = lambda x: jnp.zeros(x.shape, jnp.float32)
    return filled([row[0] for row in rows], held), filled([row[1] for row in rows], held)


def _absolute(maps: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    return jax.tree.map(jnp.abs, maps)
