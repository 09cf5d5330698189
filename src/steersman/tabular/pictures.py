"""Pictures of tabular answers, each a Figure: value maps with arrows, occupancy, backup diagrams, learning curves.

matplotlib is imported when a picture is first drawn, without a display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, ACCENT = "#222222", "#c0392b"
BACKUPS = (
    "v_pi",
    "q_pi",
    "v_star",
    "q_star",
    "td0",
    "sarsa",
    "expected_sarsa",
    "q_learning",
    "tree_backup",
    "monte_carlo",
)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def value_map(
    mdp: MDP, value: np.ndarray, policy: np.ndarray | None = None, *, title: str = "", numbers: bool = True
) -> Figure:
    """A gridworld's values as colours and numbers, and a policy [S] or [S, A] as arrows.

    A stochastic policy draws an arrow for each action, as long as it is likely. Raises UsageError for an MDP without a
    grid.
    """
    if mdp.grid is None:
        raise UsageError(f"{mdp.name} is not a gridworld, so it has no map. Make one with from_text, or use a table.")
    rows, columns = len(mdp.grid.rows), len(mdp.grid.rows[0])
    cells = mdp.grid.cells
    field = np.full((rows, columns), np.nan)
    shown = len(cells)  # a restarted or extended MDP may hold states off the map
    field[cells[:, 0], cells[:, 1]] = np.asarray(value)[:shown]
    figure = _figure(max(3.0, 0.8 * columns + 1.2), max(2.0, 0.8 * rows + 0.6))
    axes = figure.add_subplot()
    axes.set_facecolor("#555555")
    image = axes.imshow(field, cmap="viridis")
    figure.colorbar(image, ax=axes, shrink=0.8)
    low, high = np.nanmin(field), np.nanmax(field)
    for (i, j), v in np.ndenumerate(field):
        if np.isnan(v):
            continue
        light = (v - low) / (high - low + 1e-12) > 0.6
        sign = mdp.grid.rows[i][j]
        text = (sign + " " if sign in "SGX" else "") + (f"{v:.3g}" if numbers else "")
        axes.text(j, i + 0.36, text, ha="center", va="center", fontsize=7, color=INK if light else "white")
    if policy is not None:
        pi = np.asarray(policy)
        pi = pi if pi.ndim == 2 else np.eye(mdp.num_actions)[pi]
        for s, (i, j) in enumerate(cells):
            if mdp.terminal[s]:
                continue
            for a, (dy, dx) in enumerate(mdp.grid.moves):
                if pi[s, a] > 0.02:
                    length = 0.3 * pi[s, a] / max(1.0, float(np.hypot(dy, dx)))
                    axes.annotate(
                        "", (j + dx * length, i - 0.08 + dy * length), (j, i - 0.08),
                        arrowprops={"arrowstyle": "-|>", "color": ACCENT, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
                    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title or mdp.name)
    return figure


def occupancy_map(mdp: MDP, occupancy: np.ndarray, *, title: str = "") -> Figure:
    """Where a policy goes: visits per state from [S] or [S, A], on the grid."""
    occupancy = np.asarray(occupancy)
    visits = occupancy.sum(-1) if occupancy.ndim == 2 else occupancy
    return value_map(mdp, visits, title=title or f"{mdp.name}: expected discounted visits")


def backup_diagram(mdp: MDP, state: int, *, method: str = "v_star", action: int = 0, steps: int = 3) -> Figure:
    """The backup diagram of a state: open circles are states, filled ones actions, squares ends.

    Two levels of the state's own actions and successors, with their probabilities, for the expected backups (v_pi,
    v_star, q_pi, q_star); a single line of ``steps`` sampled transitions for the sampled ones. An arc marks a maximum.
    Raises UsageError for an unknown method or state. (Sutton & Barto 2018, sections 3.5 to 3.6, 7.5.)
    """
    if method not in BACKUPS:
        raise UsageError(f"No backup is called {method!r}; there are {', '.join(BACKUPS)}.")
    if not 0 <= state < mdp.num_states:
        raise UsageError(f"State {state} is outside 0..{mdp.num_states - 1}.")
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    axes.axis("off")
    if method in ("v_pi", "v_star", "q_pi", "q_star"):
        _expected_backup(axes, mdp, state, method, action)
    else:
        _sampled_backup(axes, mdp, state, method, steps)
    axes.set_title(f"{method} at state {state} of {mdp.name}")
    return figure


def _node(axes, x: float, y: float, *, kind: str, label: str = "") -> None:
    marker = {"state": "o", "action": "o", "end": "s"}[kind]
    size, face = {"state": (15, "white"), "action": (7, INK), "end": (12, "#bbbbbb")}[kind]
    axes.plot([x], [y], marker=marker, ms=size, mfc=face, mec=INK, zorder=3, clip_on=False)
    if label:
        axes.annotate(label, (x, y), xytext=(0, -17), textcoords="offset points", ha="center", fontsize=7)


def _line(axes, a: tuple[float, float], b: tuple[float, float], label: str = "") -> None:
    axes.plot([a[0], b[0]], [a[1], b[1]], color=INK, lw=1, zorder=1)
    if label:
        axes.annotate(label, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), fontsize=7, color=ACCENT, ha="center")


def _outcomes(mdp: MDP, s: int, a: int) -> list[tuple[int, float]]:
    chances = np.bincount(mdp.successors[s, a], mdp.probabilities[s, a], mdp.num_states)
    return [(int(i), float(chances[i])) for i in np.argsort(-chances)[:3] if chances[i] > 0]


def _expected_backup(axes, mdp: MDP, state: int, method: str, action: int) -> None:
    names = mdp.action_names or tuple(str(a) for a in range(mdp.num_actions))
    over_actions = range(min(mdp.num_actions, 6)) if method[0] == "v" else [action]
    leaves = [(a, s, p) for a in over_actions for s, p in _outcomes(mdp, state, a)]
    if method[0] == "v":
        _node(axes, 0.5, 1.0, kind="state", label="")
        axes.annotate(f"s = {state}", (0.5, 1.0), xytext=(14, 4), textcoords="offset points", fontsize=8)
    place = {i: (k + 0.5) / len(leaves) for k, i in enumerate(range(len(leaves)))}
    for a in over_actions:
        mine = [i for i, leaf in enumerate(leaves) if leaf[0] == a]
        x = float(np.mean([place[i] for i in mine]))
        if method[0] == "v":
            _line(axes, (0.5, 1.0), (x, 0.55))
        _node(axes, x, 0.55, kind="action")
        axes.annotate(names[a], (x, 0.55), xytext=(6, 5), textcoords="offset points", fontsize=8)
        for i in mine:
            _, successor, p = leaves[i]
            _line(axes, (x, 0.55), (place[i], 0.15), f"{p:.2g}")
            _node(axes, place[i], 0.15, kind="end" if mdp.terminal[successor] else "state", label=str(successor))
            if method[0] == "q":
                for b in range(min(mdp.num_actions, 4)):
                    shift = (b - 1.5) * 0.04
                    _line(axes, (place[i], 0.15), (place[i] + shift, -0.25))
                    _node(axes, place[i] + shift, -0.25, kind="action")
                if method == "q_star":
                    _arc(axes, place[i], 0.15, 0.12)
    if method == "v_star":
        _arc(axes, 0.5, 1.0, 0.16)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.4, 1.1)


def _arc(axes, x: float, y: float, size: float) -> None:
    angle = np.linspace(-0.75 * np.pi, -0.25 * np.pi, 30)
    axes.plot(x + size * np.cos(angle), y + size * np.sin(angle), color=ACCENT, lw=1.6)


def _sampled_backup(axes, mdp: MDP, state: int, method: str, steps: int) -> None:
    steps = {"td0": 1, "sarsa": 1, "expected_sarsa": 1, "q_learning": 1}.get(method, steps)
    from_action = method in ("sarsa", "expected_sarsa", "q_learning", "tree_backup")
    y, gap, s = 1.0, 1.0 / (2 * steps + 1), state
    if not from_action:
        _node(axes, 0.5, y, kind="state")
        axes.annotate(f"s = {state}", (0.5, y), xytext=(14, -3), textcoords="offset points", fontsize=8)
    else:
        y += gap
    for i in range(steps):
        _line(axes, (0.5, y), (0.5, y - gap)) if not (from_action and i == 0) else None
        _node(axes, 0.5, y - gap, kind="action")
        _line(axes, (0.5, y - gap), (0.5, y - 2 * gap))
        s = _outcomes(mdp, s, 0)[0][0]
        last = i == steps - 1
        _node(axes, 0.5, y - 2 * gap, kind="end" if method == "monte_carlo" and last else "state")
        y -= 2 * gap
        if from_action and (last or method == "tree_backup") and method != "sarsa":
            count = min(mdp.num_actions, 4)
            if last:
                offsets = (np.arange(count) - (count - 1) / 2) * 0.08
            else:  # the action taken goes on in the middle, the others beside it
                offsets = np.array([-0.08, 0.08, -0.16])[: count - 1]
            for x in 0.5 + offsets:
                _line(axes, (0.5, y), (x, y - gap))
                _node(axes, x, y - gap, kind="action")
            if method == "q_learning":
                _arc(axes, 0.5, y, 0.1)
        elif method == "sarsa":
            _line(axes, (0.5, y), (0.5, y - gap))
            _node(axes, 0.5, y - gap, kind="action")
    axes.set_xlim(0, 1)
    axes.set_ylim(y - 2 * gap, 1.1 + gap)


def curves(
    series: Mapping[str, np.ndarray],
    *,
    x: np.ndarray | None = None,
    xlabel: str = "episode",
    ylabel: str = "return",
    title: str = "",
) -> Figure:
    """Means over runs with 95% normal intervals of the mean, point by point: each series is [runs, points]."""
    figure = _figure(6, 4)
    axes = figure.add_subplot()
    for label, runs in series.items():
        runs = np.atleast_2d(np.asarray(runs, np.float64))
        at = np.arange(1, runs.shape[1] + 1) if x is None else np.asarray(x)
        (line,) = axes.plot(at, runs.mean(0), label=label, lw=1.4)
        if len(runs) > 1:
            half = 1.96 * runs.std(0, ddof=1) / np.sqrt(len(runs))
            axes.fill_between(at, runs.mean(0) - half, runs.mean(0) + half, color=line.get_color(), alpha=0.2, lw=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
