"""Maps of gridworlds, each a Figure: values with a policy's arrows, occupancy, the ways that greedy policies take.

Cells that no policy reaches from the start are hatched: their values are of no use to anyone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, Grid
from steersman.tabular.pictures.pictures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WALL, EMPTY = "#555555", "#f4f4f4"


def reachable(mdp: MDP) -> np.ndarray:
    """Which states some policy reaches from the start, bool [S]."""
    reached, new = mdp.start > 0, np.flatnonzero(mdp.start > 0)
    while new.size:
        after = np.unique(mdp.successors[new][mdp.probabilities[new] > 0])
        new = after[~reached[after]]
        reached[new] = True
    return reached


def greedy_path(mdp: MDP, policy: np.ndarray) -> list[int]:
    """The states that a policy [S] goes through from the likeliest start, by the likeliest successors.

    It ends at a terminal state, or where it comes back to a state: there it would go round for ever.
    """
    path = [int(mdp.start.argmax())]
    while not mdp.terminal[path[-1]]:
        s, a = path[-1], int(policy[path[-1]])
        chances = np.bincount(mdp.successors[s, a], mdp.probabilities[s, a], mdp.num_states)
        path.append(int(chances.argmax()))
        if path[-1] in path[:-1]:
            break
    return path


def has_paths(mdp: MDP) -> bool:
    """Whether likeliest steps say where a policy goes: on a grid where each action has a successor above one half."""
    if mdp.grid is None:
        return False
    same = mdp.successors[..., :, None] == mdp.successors[..., None, :]  # a successor may be listed twice
    chance = (same * mdp.probabilities[..., None, :]).sum(-1).max(-1)  # [S, A], of the likeliest
    return bool((chance > 0.5).all())


def grid_of(mdp: MDP) -> Grid:
    """Raises UsageError for an MDP without a grid."""
    if mdp.grid is None:
        raise UsageError(f"{mdp.name} is not a gridworld, so it has no map. Make one with from_text, or use a table.")
    return mdp.grid


def value_map(
    mdp: MDP, value: np.ndarray, policy: np.ndarray | None = None, *, title: str = "", numbers: bool = True
) -> Figure:
    """A gridworld's values as colours and numbers, and a policy [S] or [S, A] as arrows.

    A stochastic policy draws an arrow for each action, as long as it is likely. Raises UsageError for an MDP without a
    grid.
    """
    grid = grid_of(mdp)
    rows, columns = len(grid.rows), len(grid.rows[0])
    shown = len(grid.cells)  # a restarted or extended MDP may hold states off the map
    there = reachable(mdp)[:shown]
    field = np.full((rows, columns), np.nan)
    field[tuple(grid.cells[there].T)] = np.asarray(value)[:shown][there]
    figure = new_figure(max(3.0, 0.8 * columns + 1.2), max(2.0, 0.8 * rows + 0.6))
    axes = figure.add_subplot()
    image = axes.imshow(field, cmap="viridis")
    figure.colorbar(image, ax=axes, shrink=0.8)
    low, high = np.nanmin(field), np.nanmax(field)
    ink = lambda v: INK if (v - low) / (high - low + 1e-12) > 0.6 else "white"  # what is read on that colour
    lettered = _draw_cells(axes, mdp)
    for (i, j), v in np.ndenumerate(field):
        if np.isnan(v):
            continue
        text = (f"{grid.rows[i][j]} " if lettered[i, j] else "") + (f"{v:.3g}" if numbers else "")
        axes.text(j, i + 0.36, text, ha="center", va="center", fontsize=7, color=ink(v))
    if policy is not None:
        pi = np.asarray(policy)
        pi = pi if pi.ndim == 2 else np.eye(mdp.num_actions)[pi]
        for s in np.flatnonzero(there & ~mdp.terminal[:shown]):
            i, j = grid.cells[s]
            for a, (dy, dx) in enumerate(grid.moves):
                if pi[s, a] > 0.02:
                    length = 0.3 * pi[s, a] / max(1.0, float(np.hypot(dy, dx)))
                    _arrow(axes, (j, i - 0.08), (j + dx * length, i - 0.08 + dy * length), ink(field[i, j]), 1.2)
    axes.set_title(title or mdp.name)
    return figure


def occupancy_map(mdp: MDP, occupancy: np.ndarray, *, title: str = "") -> Figure:
    """Where a policy goes: visits per state from [S] or [S, A], on the grid."""
    occupancy = np.asarray(occupancy)
    visits = occupancy.sum(-1) if occupancy.ndim == 2 else occupancy
    return value_map(mdp, visits, title=title or f"{mdp.name}: expected discounted visits")


def draw_paths(axes: Axes, mdp: MDP, policies: Mapping[str, np.ndarray]) -> None:
    """The ways of several policies [S] over an empty map, side by side in each cell, in the colours of curves."""
    grid = grid_of(mdp)
    blank = np.full((len(grid.rows), len(grid.rows[0])), np.nan)
    axes.imshow(blank)
    for (i, j), letter in np.ndenumerate(_draw_cells(axes, mdp, EMPTY)):
        if letter:
            axes.text(j - 0.34, i - 0.3, grid.rows[i][j], ha="center", va="center", fontsize=8, color=INK, zorder=4)
    shifts = 0.16 * (np.arange(len(policies)) - (len(policies) - 1) / 2)
    for k, (shift, policy) in enumerate(zip(shifts, policies.values(), strict=True)):
        path = grid.cells[[s for s in greedy_path(mdp, policy) if s < len(grid.cells)]]
        axes.plot(path[:, 1] + shift, path[:, 0] + shift, color=f"C{k}", lw=2.4, solid_capstyle="round", zorder=3)
        if len(path) > 1:
            (y, x), (dy, dx) = path[-1] + shift, path[-1] - path[-2]
            _arrow(axes, (x - 0.4 * dx, y - 0.4 * dy), (x, y), f"C{k}", 2.4)


def _arrow(axes: Axes, tail: tuple[float, float], head: tuple[float, float], color: str, width: float) -> None:
    look = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=look, zorder=3)


def _draw_cells(axes: Axes, mdp: MDP, face: str = "none") -> np.ndarray:
    """Walls, the cells' borders, and hatches where nobody comes; -> which cells have a letter to show, bool."""
    from matplotlib.patches import Rectangle

    grid = grid_of(mdp)
    axes.set_facecolor(WALL)
    for (i, j), there in zip(grid.cells, reachable(mdp), strict=False):
        hatch = {} if there else {"hatch": "////", "facecolor": "white"}
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, **({"facecolor": face, "edgecolor": "#bbbbbb", "lw": 0.6} | hatch))
        axes.add_patch(cell)
    axes.set_xticks([])
    axes.set_yticks([])
    letters = np.array([list(row) for row in grid.rows])
    few = (letters == "S").sum() <= len(grid.cells) // 2  # where every cell is a start, to say so says nothing
    return np.isin(letters, ["G", "X", *("S" if few else "")])
