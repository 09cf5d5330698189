"""What shards of a batch share: their index, keys that do not depend on how it is cut, and the one collective mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.types import Key, PyTree

_AXIS: ContextVar[str | tuple[str, ...] | None] = ContextVar("steersman_shard_axis", default=None)


@contextmanager
def sharded_over(axis_name: str | Sequence[str]) -> Iterator[None]:
    """While it lasts, the code being traced sees one shard of the batch, along the mapped axis ``axis_name``.

    Enter it *inside* the function given to ``jax.shard_map`` (or ``jax.vmap(..., axis_name=...)``), so that it is
    active while that function is traced and at no other time.
    """
    token = _AXIS.set(axis_name if isinstance(axis_name, str) else tuple(axis_name))
    try:
        yield
    finally:
        _AXIS.reset(token)


def shard_count() -> int:
    """How many shards the batch is cut into: a Python int; 1 outside ``sharded_over``."""
    axis = _AXIS.get()
    return 1 if axis is None else int(jax.lax.axis_size(axis))


def shard_index() -> int | jax.Array:
    """Which shard this is, an int32 scalar from 0; 0 outside ``sharded_over``."""
    axis = _AXIS.get()
    return 0 if axis is None else jax.lax.axis_index(axis)


def member_keys(key: Key, num: int) -> Key:
    """A key for each of this shard's ``num`` members, ``[num]``: key_i = fold_in(key, i), i counted over all shards.

    So a member draws the same numbers whether the batch is whole or cut into shards.
    """
    index = jnp.arange(num, dtype=jnp.int32) + jnp.asarray(shard_index(), jnp.int32) * num
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def member_orders(key: Key, num: int, length: int) -> jax.Array:
    """For each of this shard's ``num`` members its own order of ``length`` things, int32 ``[length, num]``.

    Random numbers whose low bits are the position: sorting plain integers takes a tenth of the time of an argsort on
    CPUs. Things whose remaining bits (25 for 128 things) are equal keep their order.
    """
    width = (length - 1).bit_length()
    bits = jax.vmap(lambda k: jax.random.bits(k, (length,), jnp.uint32))(member_keys(key, num))
    position = jnp.arange(length, dtype=jnp.uint32)
    mixed = jax.lax.bitcast_convert_type((bits >> width << width) | position[None, :], jnp.int32)
    return (jax.lax.sort(mixed, dimension=1, is_stable=False) & jnp.int32(2**width - 1)).T


def cross_sum(tree: PyTree) -> PyTree:
    """The sum of ``tree`` over the shards, leaf by leaf; the same tree when there is one."""
    axis = _AXIS.get()
    return tree if axis is None else jax.lax.psum(tree, axis)


def cross_rows(tree: PyTree) -> PyTree:
    """The rows of all shards, leaf by leaf, in the order of the shards; the same tree when there is one."""
    axis = _AXIS.get()
    return tree if axis is None else jax.lax.all_gather(tree, axis, tiled=True)


def cross_mean(tree: PyTree) -> PyTree:
    """The mean of ``tree`` over the shards: the same tree when there is one, one collective when there are more.

    All leaves, floating, any shapes, travel in a single ravelled vector (a collective per leaf costs a rendezvous of
    all devices per leaf). Half-precision leaves are averaged in float32. Raises UsageError for a leaf that is not
    floating.

    Inside ``jax.shard_map`` use ``check_vma=False``: otherwise ``jax.grad`` with respect to replicated parameters
    already *sums* over the shards, leaf by leaf, and the mean of equal sums is that sum again: shard_count() times
    too much.
    """
    axis = _AXIS.get()
    if axis is None:
        return tree
    paths, treedef = jax.tree.flatten_with_path(tree)
    leaves = [jnp.asarray(leaf) for _, leaf in paths]
    for (path, _), leaf in zip(paths, leaves, strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UsageError(
                f"cross_mean: leaf {jax.tree_util.keystr(path)} is {leaf.dtype}; only floating leaves have a mean."
            )
    if sum(leaf.size for leaf in leaves) == 0:
        return tree
    wide = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in leaves) else jnp.float32
    flat = (
        leaves[0].astype(wide).ravel()
        if len(leaves) == 1
        else jnp.concatenate([x.astype(wide).ravel() for x in leaves])
    )
    parts = jnp.split(jax.lax.pmean(flat, axis), np.cumsum([leaf.size for leaf in leaves])[:-1])
    return treedef.unflatten([p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)])
