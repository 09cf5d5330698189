"""Batches of texts: rows of about a length side by side, padded to one of few lengths, so that few programs compile.

Which rows are in batch number i is a function of the seed and of i alone: a run that goes on needs no more than how far
it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steersman.agents.language.common import Pairs, Texts
from steersman.run.language.data import Encoded, Pair

SHORTEST = 32  # of the lengths that rows are padded to, which double
WINDOW = 16  # batches whose rows are sorted by length together


def padded_length(longest: int, most: int) -> int:
    """The length that rows are padded to: 32, 64, 128 ..., or ``most`` where that is less.

    >>> padded_length(7, 100), padded_length(40, 100), padded_length(80, 100)
    (32, 64, 100)
    """
    length = SHORTEST
    while length < longest:
        length *= 2
    return min(length, max(most, longest))


def texts_of(rows: Sequence[Encoded], count: int, length: int, pad: int) -> Texts:
    """Rows padded on the right to [count, length]; those beyond the given ones hold nothing."""
    tokens = np.full((count, length), pad, np.int32)
    mask, weight = np.zeros((count, length), bool), np.zeros((count, length), np.float32)
    for i, row in enumerate(rows):
        size = len(row.tokens)
        tokens[i, :size], mask[i, :size], weight[i, :size] = row.tokens, True, row.learned
    return Texts(tokens, mask, weight)


def batch_of(rows: Sequence[Any], count: int, length: int, pad: int) -> Texts | Pairs:
    """A batch of ``Encoded`` or of ``Pair`` rows."""
    if isinstance(rows[0], Pair):
        return Pairs(*(texts_of([row[i] for row in rows], count, length, pad) for i in range(2)))
    return texts_of(rows, count, length, pad)


def size_of(row: Any) -> int:
    """Tokens of a row; of a pair, of its longer text."""
    return max(len(one.tokens) for one in row) if isinstance(row, Pair) else len(row.tokens)


class Batches:
    """The batches of a run, by their number: every row once in each epoch, in an order of the epoch's own.

    A shuffled epoch is cut into windows, whose rows are sorted by length and cut into batches, whose order is shuffled
    again. The last batch of an epoch is filled up with rows of nothing.
    """

    def __init__(self, rows: Sequence[Any], batch_size: int, pad: int, seed: int = 0, shuffled: bool = True):
        self.rows, self.batch_size, self.pad, self.seed, self.shuffled = rows, batch_size, pad, seed, shuffled
        self.sizes = np.asarray([size_of(row) for row in rows])
        self.longest = -(-int(self.sizes.max()) // 16) * 16
        self.per_epoch = -(-len(rows) // batch_size)
        self._epoch, self._order = -1, []

    def __call__(self, index: int) -> Any:
        """Batch number ``index``, from 0: ``Texts`` or ``Pairs`` of numpy arrays."""
        epoch, at = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(epoch)
        chosen = self._order[at]
        length = padded_length(int(self.sizes[chosen].max()), self.longest)
        return batch_of([self.rows[i] for i in chosen], self.batch_size, length, self.pad)

    def lengths(self) -> list[int]:
        """The lengths that rows may be padded to."""
        return sorted({padded_length(int(size), self.longest) for size in self.sizes})

    def _ordered(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.rows)) if self.shuffled else np.arange(len(self.rows))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), WINDOW * self.batch_size):
            window = order[start : start + WINDOW * self.batch_size]
            window = window[np.argsort(self.sizes[window], kind="stable")]
            batches += [window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))] if self.shuffled else batches
