"""What a sensor may say beside what it sees."""

from __future__ import annotations

from typing import Any, NamedTuple

from steersman.types import PyTree


class Reading(NamedTuple):
    """An observation that says how the last step went.

    Where an episode has ended (``terminated`` or ``truncated``), ``obs`` opens the next one, and ``final_obs`` is what
    was seen last of the one before.
    """

    obs: PyTree
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    final_obs: PyTree = None  # None: obs
    costs: Any = 0.0  # [C], or one number for all
