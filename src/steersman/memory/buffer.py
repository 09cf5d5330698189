"""What a replay memory is: four pure functions over a state of arrays, and the batch it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from steersman.types import Array, Key, PyTree, Rollout


class Sample(NamedTuple):
    """N items drawn with replacement. An item is n consecutive steps of one environment, or fewer.

    It ends early where the episode ends, terminated or truncated, and at the newest step. The target of any item is
    ``batch.reward + discount * value(batch.next_obs)``. Of ``memory.sequences`` the items are single steps, in order:
    all but ``index`` is [S, N], and ``batch.carry`` [N, ...].
    """

    batch: Rollout  # [N, ...]; reward, costs = sum_k gamma^k r; next_obs, terminated, truncated: of the last step
    discount: Array  # float32 [N]: gamma^n (1 - terminated), n the steps really taken
    weight: Array  # float32 [N]: importance weights; ones for uniform
    index: Any  # int32 [N]: which transition, for ``Buffer.update``
    # [N, n, ...], of memories that are asked for it: the single steps of each item, in order. An item of fewer steps
    # repeats its last, and ``truncated`` is set wherever an item stops without a termination.
    path: Rollout | None = None


class Buffer(NamedTuple):
    """A replay memory. Its state ``M`` is arrays only: it can be donated, vmapped, scanned over and saved.

    init(first_rollout) -> M                 allocates, and holds the rollout [T, B, ...] (of a longer one, its end)
    add(M, rollout) -> M                     [T, B, ...] that goes on where the last rollout stopped
    sample(M, key) -> Sample                 N items, in O(N) whatever the capacity
    update(M, index, priority) -> M          priorities [N] of sampled items; does nothing in a uniform memory
    """

    init: Callable[[Rollout], PyTree]
    add: Callable[[PyTree, Rollout], PyTree]
    sample: Callable[[PyTree, Key], Sample]
    update: Callable[[PyTree, Array, Array], PyTree]


def nbytes(tree: PyTree) -> int:
    """Bytes of a tree of arrays, or of the shapes that ``jax.eval_shape(buffer.init, rollout)`` gives.

    >>> import numpy as np
    >>> nbytes({"a": np.zeros((2, 3), np.uint8), "b": np.zeros(4, np.float32)})
    22
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
