"""Making an MDP from a list of the pairs of state and action that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP
from steersman.tabular.problems.builders import from_arrays


def from_pairs(
    states: np.ndarray | Sequence[int],
    actions: np.ndarray | Sequence[int],
    transitions: Any,
    rewards: np.ndarray | Sequence[float],
    *,
    gamma: float,
    start: np.ndarray | int | None = None,
    terminal: np.ndarray | Sequence[int] | None = None,
    **labels: Any,
) -> MDP:
    """An MDP from its L pairs: pair i is ``actions[i]`` in ``states[i]``; a pair that is not listed is not available.

    ``transitions`` [L, S], an array or scipy sparse: row i is P(. | pair i); ``rewards`` [L]. The rest as
    :func:`from_arrays`. A state without a pair has to be terminal. Raises UsageError as :class:`MDP` does, and for
    numbers that do not fit together or a pair that is listed twice.

    >>> stay_or_go = from_pairs([0, 0, 1], [0, 1, 0], [[1, 0], [0, 1], [0, 1]], [0.0, 1.0, 0.0], gamma=0.9)
    >>> stay_or_go.available.tolist()
    [[True, True], [True, False]]
    """
    s, a, r = np.asarray(states), np.asarray(actions), np.asarray(rewards, np.float64)
    table = sp.csr_matrix(transitions)
    pairs, size = int(table.shape[0]), int(table.shape[1])  # pyright: ignore[reportOptionalSubscript]
    if not s.shape == a.shape == r.shape == (pairs,) or pairs == 0:
        shapes = f"{s.shape}, {a.shape}, {r.shape} and {table.shape}"
        raise UsageError(f"states, actions and rewards are [L], transitions [L, S], one for each pair; got {shapes}.")
    if s.min() < 0 or s.max() >= size or a.min() < 0:
        raise UsageError(f"A pair is outside its range: states are 0..{size - 1}, actions count from 0.")
    width = int(a.max()) + 1
    at = s * width + a
    numbers, counts = np.unique(at, return_counts=True)
    if counts.max() > 1:
        i, j = divmod(int(numbers[counts.argmax()]), width)
        raise UsageError(f"The pair of state {i} and action {j} is listed {counts.max()} times; once is right.")
    place = sp.csr_matrix((np.ones(pairs, table.dtype), (at, np.arange(pairs))), shape=(size * width, pairs))
    full = np.full(size * width, -np.inf)
    full[at] = r
    common = {"gamma": gamma, "start": start, "terminal": terminal, **labels}
    return from_arrays(sp.csr_matrix(place @ table), full.reshape(size, width), **common)
