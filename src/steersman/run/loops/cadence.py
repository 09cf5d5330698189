"""When a row of the log and a checkpoint are due, in updates."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

ROW_SECONDS, CHECKPOINT_SECONDS = 10.0, 300.0  # about as long as either may take, in a run of hours
LEAST_SECONDS = 0.1  # of updates whose time says something; of less the call is the larger part


class Cadence:
    """After which updates a row of the log and a checkpoint are due: so many a run, and in long ones by the clock.

    How long an update takes is measured, but what follows from it is decided in updates, once, and recorded: a run that
    goes on from an earlier checkpoint logs and saves where it did before. What is learned does not depend on it.
    """

    def __init__(self, rows: int, checkpoints: int, by_clock: bool, changes: Sequence[Sequence[int]] = ()):
        self.by_clock = by_clock  # checkpoints too
        self.changes = [[0, rows, checkpoints], *map(list, changes)]  # from an update on, updates between two of each
        self._pace: deque[float] = deque(maxlen=5)  # seconds of an update

    def due(self, at: int) -> tuple[int, int, int]:
        """After ``at`` updates: at which the next row is due, the next checkpoint, the next change of these."""
        rows, checkpoints = (min(change[i] for change in self.changes if change[0] <= at) for i in (1, 2))
        change = min((change[0] for change in self.changes if change[0] > at), default=sys.maxsize)
        return (at // rows + 1) * rows, (at // checkpoints + 1) * checkpoints, change

    def measured(self, at: int, updates: int, seconds: float) -> bool:
        """Take note of how long some updates took, up to ``at``; -> whether that changes what is due from now on."""
        if seconds < LEAST_SECONDS:
            return False
        self._pace.append(seconds / updates)
        pace = float(np.median(self._pace))  # not the mean: a machine may sleep for a night
        rows, checkpoints = (min(change[i] for change in self.changes if change[0] <= at) for i in (1, 2))
        wanted = [max(1, int(limit / pace)) for limit in (ROW_SECONDS, CHECKPOINT_SECONDS)]
        slow = [1.5 * wanted[0] < rows, self.by_clock and 1.5 * wanted[1] < checkpoints]
        if len(self._pace) < 5 or not any(slow):
            return False
        self.changes.append([at, wanted[0] if slow[0] else rows, wanted[1] if slow[1] else checkpoints])
        self._pace.clear()
        return True

    def to_json(self) -> dict[str, Any]:
        return {"checkpoints_by_clock": self.by_clock, "changes": self.changes[1:]}
