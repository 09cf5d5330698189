"""Partially observed problems from the literature, each with its source. ``pomdp_problem(name)`` makes one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from steersman.errors import UsageError, nearest
from steersman.tabular.pomdp import POMDP
from steersman.tabular.problems.builders import MOVES, from_arrays


def tiger(gamma: float = 0.95, accuracy: float = 0.85) -> POMDP:
    """Two doors, a tiger behind one: listen (-1, right with ``accuracy``) or open (+10, or -100 for the tiger).

    Opening puts the tiger behind a random door again. States: tiger left, right; actions: listen, open left, open
    right. At gamma 0.95, V*(1/2, 1/2) = 19.37. (Cassandra, Kaelbling & Littman 1994; Kaelbling, Littman & Cassandra
    1998.)
    """
    if not 0 <= accuracy <= 1:
        raise UsageError(f"tiger: accuracy = {accuracy}; it is the probability of hearing right, from 0 to 1.")
    reset = np.full((2, 2), 0.5)
    transitions = np.stack([np.eye(2), reset, reset], 1)
    rewards = np.array([[-1.0, -100.0, 10.0], [-1.0, 10.0, -100.0]])
    heard = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    names = ("listen", "open-left", "open-right")
    mdp = from_arrays(transitions, rewards, gamma=gamma, name="tiger", action_names=names)
    return POMDP(mdp, np.stack([heard, reset, reset]), ("hear-left", "hear-right"), ("tiger-left", "tiger-right"))


def hallway(gamma: float = 0.95, *, restart: bool = False) -> POMDP:
    """A robot that does not know where it is, in a corridor of 11 cells with four alcoves; +1 for the goal, the last.

    States: 15 cells x 4 headings; the first 56 are starts. Actions: stay, forward, right, around, left, each noisy.
    It senses the walls ahead, right, behind and left (a wall with 0.9, none as one with 0.05): observation 8 ahead + 4
    right + 2 behind + left. Facing an alcove from the corridor shows its landmark instead (16 to 19), the goal itself
    (20). Entering the goal ends the episode; ``restart`` goes on from a random start, as the published file
    hallway.POMDP does. (Littman, Cassandra & Kaelbling 1995, "Learning policies for partially observable environments:
    scaling up"; probabilities as in Cassandra's file.)
    """
    cells = [(0, c) for c in range(11)] + [(1, c) for c in (2, 4, 6, 8)]
    number = {cell: i for i, cell in enumerate(cells)}
    compass = list(MOVES.values())  # north, east, south, west
    goal, starts = np.arange(56, 60), np.arange(56)

    def beside(cell: tuple[int, int], heading: int) -> int | None:
        dy, dx = compass[heading % 4]
        return number.get((cell[0] + dy, cell[1] + dx))

    slips = ((0, 0, 0.8), (1, 1, 0.05), (3, 3, 0.05), (2, 0, 0.025), (2, 2, 0.025))  # towards, heading then, chance
    turns = {2: (0.1, 0.7, 0.1, 0.1), 3: (0.1, 0.15, 0.6, 0.15), 4: (0.1, 0.1, 0.1, 0.7)}  # by quarters to the right
    move = np.zeros((60, 5, 60))
    seen = np.zeros((60, 21))
    for i, cell in enumerate(cells):
        for h in range(4):
            s = 4 * i + h
            move[s, 0, s] = 1.0
            move[s, 1, s] = 0.05
            for towards, turned, chance in slips:
                there = beside(cell, h + towards)
                move[s, 1, s if there is None else 4 * there + (h + turned) % 4] += chance
            for action, chances in turns.items():
                for quarters, chance in enumerate(chances):
                    move[s, action, 4 * i + (h + quarters) % 4] = chance
            walls = np.array([beside(cell, h + side) is None for side in range(4)])
            if cell[0] == 0 and h == 2 and not walls[0]:
                seen[s, 16 + [2, 4, 6, 8].index(cell[1])] = 1.0
            else:
                for o in range(16):
                    found = np.array([o & 8, o & 4, o & 2, o & 1]) > 0
                    right, wrong = np.where(walls, 0.9, 0.95), np.where(walls, 0.1, 0.05)
                    seen[s, o] = np.where(found == walls, right, wrong).prod()
    seen[goal] = np.eye(21)[20]
    rewards = np.zeros((60, 5, 60))
    rewards[:, :, goal] = 1.0
    if restart:
        move[goal] = 0.0
        move[np.ix_(goal, np.arange(5), starts)] = 1 / 56
    mdp = from_arrays(
        move, rewards, gamma=gamma, start=np.isin(np.arange(60), starts) / 56, terminal=None if restart else goal,
        name="hallway", action_names=("stay", "forward", "right", "around", "left"),
    )  # fmt: skip
    states = tuple(f"{row},{column}{way}" for row, column in cells for way in "NESW")
    signs = tuple(
        "".join(w for w, bit in zip("ARBL", (8, 4, 2, 1), strict=True) if o & bit) or "open" for o in range(16)
    )
    return POMDP(mdp, np.repeat(seen[None], 5, 0), (*signs, "mark-1", "mark-2", "mark-3", "mark-4", "goal"), states)


POMDPS: dict[str, Callable[..., POMDP]] = {"tiger": tiger, "hallway": hallway}


def pomdp_problem(name: str, **settings: float) -> POMDP:
    """A classic by name, or the path of a ``.POMDP`` file. Raises UsageError with the nearest names."""
    if name in POMDPS:
        return POMDPS[name](**settings)
    if name.lower().endswith((".pomdp", ".mdp")):
        from steersman.tabular.problems.cassandra import read_pomdp

        return read_pomdp(name, **settings)
    raise UsageError(
        f"No partially observed problem is called {name!r}. {nearest(name, POMDPS)} Known: {', '.join(POMDPS)}, and "
        "paths of .POMDP files.".replace("  ", " ")
    )
