"""Trees of arrays as few arrays: how a host loop and its compiled programs hand data to each other.

A program that is called for every step of a simulator costs about 1 us for each array that stays with it, 2 us for each
numpy array it is given and 3 us for each output that is read, whatever their sizes. So what a step brings and takes
is one row of bytes each way, and the small arrays of a learner's state travel as one vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
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


class Bundle:
    """A tree of arrays as a list of few: its small leaves of one dtype in one vector, large ones as they are."""

    SMALL = 1 << 15  # bytes; a larger array costs more to copy than to hand over

    def __init__(self, tree: PyTree):
        leaves, self.structure = jax.tree.flatten(tree)
        groups: dict[Any, list[int]] = {}
        for i, leaf in enumerate(leaves):
            plain = jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == np.bool_
            groups.setdefault(str(leaf.dtype) if plain and leaf.nbytes <= self.SMALL else i, []).append(i)
        self._groups = [(many, tuple(leaves[i].shape for i in many)) for many in groups.values()]

    def __len__(self) -> int:
        return len(self._groups)

    def pack(self, tree: PyTree) -> list[Any]:
        """-> a vector or a leaf for each group"""
        leaves = self.structure.flatten_up_to(tree)
        return [_joined([leaves[i] for i in many]) if len(many) > 1 else leaves[many[0]] for many, _ in self._groups]

    def unpack(self, arrays: Sequence[Any]) -> PyTree:
        """The tree again. Groups given as None have None in their place."""
        leaves: list[Any] = [None] * self.structure.num_leaves
        for (many, shapes), array in zip(self._groups, arrays, strict=True):
            if array is not None:
                parts = _split(array, shapes) if len(many) > 1 else [array]
                for i, leaf in zip(many, parts, strict=True):
                    leaves[i] = leaf
        return jax.tree.unflatten(self.structure, leaves)


@jax.jit
def _joined(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])


@partial(jax.jit, static_argnums=1)
def _split(vector: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(jnp.split(vector, cuts), shapes, strict=True)]
