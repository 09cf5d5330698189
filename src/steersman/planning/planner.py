"""What a planner is: a function of a score over sequences of actions.

Axes: ``N`` sequences, ``H`` steps ahead, ``A`` entries of a flat action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from steersman.types import Key, PyTree

# (sequences [N, H, A], key) -> the return of each, [N]. Box actions are canonical and flat, in [-1, 1]; for a Discrete
# space an entry is a logit, and the action is the largest of the A.
Score = Callable[[jax.Array, Key], jax.Array]


class Plan(NamedTuple):
    """What a planner found."""

    action: PyTree  # the first action, as the environment takes it
    warm: PyTree  # what the search of the next step begins from
    value: jax.Array  # the return promised to the sequence that was chosen
    spread: jax.Array  # standard deviation of the search's distribution at the first action, the mean over entries


class Planner(NamedTuple):
    """A search: begin() -> warm, at the start of an episode; plan(score, warm, key) -> Plan."""

    begin: Callable[[], PyTree]
    plan: Callable[[Score, PyTree, Key], Plan]
