"""A sum tree: numbers whose running total is searched in O(log n), of which many are changed at once.

Every node is the sum of its ``WIDTH`` children. 16 children make five levels of a million leaves where two make
twenty; a level costs one gather and one scatter whatever its width, so the wide tree is three times as fast on a CPU.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from steersman.types import Array, Key

WIDTH = 16
NOWHERE = 2**30  # an index past the end of any tree, on every level of it
DEEP = 5  # levels from which float32 has too few bits to choose the last one

SumTree = tuple[jax.Array, ...]  # the leaves, their parents, ..., the children of the root; each float32 [k * WIDTH]


def empty(leaves: int) -> SumTree:
    """A tree of ``leaves`` zeros (and more, to fill the last node)."""
    levels = [math.ceil(leaves / WIDTH)]
    while levels[-1] > 1:
        levels.append(math.ceil(levels[-1] / WIDTH))
    return tuple(jnp.zeros((nodes * WIDTH,), jnp.float32) for nodes in levels)


def total(tree: SumTree) -> jax.Array:
    """The sum of all leaves."""
    return tree[-1].sum()


def put(tree: SumTree, index: Array, value: Array) -> SumTree:
    """Set leaves ``index`` int32 [K] to ``value`` float32 [K], 0 or more. Index ``NOWHERE`` is passed over.

    Of several values for one leaf the largest stays, on every device. Parents are summed anew, so no error piles up.
    """
    index = jnp.asarray(index)
    leaves = tree[0].at[index].set(0.0, mode="drop").at[index].max(value, mode="drop")
    levels = [leaves]
    for level in tree[1:]:
        index = index // WIDTH
        sums = levels[-1].reshape(-1, WIDTH)[index].sum(1)
        levels.append(level.at[index].set(sums, mode="drop"))
    return tuple(levels)


def stratified(tree: SumTree, key: Key, num: int) -> tuple[jax.Array, jax.Array]:
    """-> (``num`` leaves int32 [num], what each holds float32 [num]), with replacement, P(i) = leaf_i / total; one from
    each of num equal shares of the total, so the draws are spread. The total must be above 0. Schaul et al. (2016),
    appendix B.2.1.

    The values come from the search itself: a leaf that is read again has XLA copy all leaves before the next ``put``.
    """
    share_key, last_key = jax.random.split(key)
    offset = jax.random.uniform(share_key, (num,), jnp.float32)
    u = (jnp.arange(num, dtype=jnp.float32) + offset) / num  # where in [0, 1) of the node's sum to look
    node, share = jnp.zeros((num,), jnp.int32), jnp.zeros((num,), jnp.float32)
    for depth in reversed(range(len(tree))):
        if depth == 0 and len(tree) >= DEEP:
            u = jax.random.uniform(last_key, (num,), jnp.float32)
        child, u, share = _descend(tree[depth].reshape(-1, WIDTH)[node], u)
        node = node * WIDTH + child
    return node, share


def _descend(weight: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """weight [N, WIDTH], u [N] in [0, 1) -> (the child whose share of the sum u falls in, where in that share, it)."""
    lower = jnp.tril(jnp.ones((WIDTH, WIDTH), jnp.float32))
    up_to = jnp.dot(weight, lower.T, precision=jax.lax.Precision.HIGHEST)  # running sums
    target = u * up_to[:, -1]
    # The first child past the target, never an empty one, whatever the rounding.
    inside = (weight > 0) & ((up_to > target[:, None]) | (up_to >= up_to[:, -1:]))
    child = jnp.argmax(inside, axis=1).astype(jnp.int32)
    pick = jnp.arange(WIDTH, dtype=jnp.int32)[None] == child[:, None]
    share, end = (jnp.where(pick, x, 0.0).sum(1) for x in (weight, up_to))
    rest = (target - (end - share)) / jnp.where(share > 0, share, 1.0)
    return child, jnp.clip(rest, 0.0, 1.0 - 2.0**-24), share
