"""Trees of arrays as rows of bytes: how a host loop and its compiled programs hand data to each other.

A program that is called for every step of a simulator costs about 2 us for each numpy array it is given and 3 us for
each output that is read, whatever their sizes; one row of bytes each way costs that once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman.types import PyTree

_ALIGN = 8


class Packing:
    """Where the leaves of a tree, anything that has shape and dtype, lie in a row of ``size`` bytes."""

    def __init__(self, tree: PyTree):
        leaves, self.structure = jax.tree.flatten(tree)
        self.spans: list[tuple[int, int, tuple[int, ...], np.dtype]] = []  # first byte, last, shape, dtype
        self.size = 0
        for leaf in leaves:
            shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
            stop = self.size + math.prod(shape) * dtype.itemsize
            self.spans.append((self.size, stop, shape, dtype))
            self.size = -(-stop // _ALIGN) * _ALIGN

    def views(self, rows: np.ndarray) -> list[np.ndarray]:
        """uint8 ``[..., size]`` -> each leaf ``[..., *shape]``, no copies."""
        lead = rows.shape[:-1]
        return [rows[..., start:stop].view(dtype).reshape(lead + shape) for start, stop, shape, dtype in self.spans]

    def tree(self, leaves: Sequence[Any]) -> PyTree:
        return jax.tree.unflatten(self.structure, leaves)

    # In compiled code.

    def pack(self, tree: PyTree) -> jax.Array:
        """-> uint8 ``[size]``"""
        parts = []
        for leaf, (start, stop, _, dtype) in zip(self.structure.flatten_up_to(tree), self.spans, strict=True):
            flat = jnp.asarray(leaf, dtype).reshape(-1)
            flat = flat.astype(jnp.uint8) if dtype == np.bool_ else jax.lax.bitcast_convert_type(flat, jnp.uint8)
            parts.append(jnp.pad(flat.reshape(-1), (0, (start - stop) % _ALIGN)))
        return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.uint8)

    def unpack(self, rows: jax.Array) -> PyTree:
        """uint8 ``[..., size]`` -> the tree, its leaves ``[..., *shape]``."""
        lead, leaves = rows.shape[:-1], []
        for start, stop, shape, dtype in self.spans:
            part = rows[..., start:stop]
            if dtype == np.bool_:
                leaf = part != 0
            elif dtype.itemsize == 1:
                leaf = jax.lax.bitcast_convert_type(part, dtype)
            else:
                leaf = jax.lax.bitcast_convert_type(part.reshape(*lead, -1, dtype.itemsize), dtype)
            leaves.append(leaf.reshape(lead + shape))
        return self.tree(leaves)
