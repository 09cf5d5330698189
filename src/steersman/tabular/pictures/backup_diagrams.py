"""Backup diagrams: what an update looks at, drawn for any state of an MDP and any method of the chapter.

Open circles are states, filled ones actions, squares ends; an arc over branches is a maximum, no arc an expectation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP
from steersman.tabular.pictures.pictures import ACCENT, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXPECTED = ("v_pi", "v_star", "q_pi", "q_star")


class Chain(NamedTuple):
    """One line of sampled transitions."""

    root: str  # "state" or "action"
    leaf: str  # "state", "action", "expected" (all actions), "max" (the best) or "end"
    steps: int | None  # None: as many as asked for
    branches: bool = False  # the actions not taken hang beside the line


SAMPLED = {
    "td0": Chain("state", "state", 1),
    "n_step_td": Chain("state", "state", None),
    "monte_carlo": Chain("state", "end", None),
    "sarsa": Chain("action", "action", 1),
    "n_step_sarsa": Chain("action", "action", None),
    "expected_sarsa": Chain("action", "expected", 1),
    "q_learning": Chain("action", "max", 1),
    "double_q_learning": Chain("action", "max", 1),
    "r_learning": Chain("action", "max", 1),
    "dyna_q": Chain("action", "max", 1),
    "dyna_q_plus": Chain("action", "max", 1),
    "tree_backup": Chain("action", "expected", None, branches=True),
}
COMPOUND = {  # chains of 1, 2, ... steps, each with its weight
    "lambda_return": Chain("state", "state", None),
    "td_lambda": Chain("state", "state", None),
    "true_online_td_lambda": Chain("state", "state", None),
    "sarsa_lambda": Chain("action", "action", None),
    "watkins_q_lambda": Chain("action", "max", None),
}
BACKUPS = (*EXPECTED, *SAMPLED, *COMPOUND)
NOTES = {
    "double_q_learning": "one table names the best action, the other values it",
    "r_learning": "each reward less the average reward",
    "dyna_q": "and the same from remembered transitions",
    "dyna_q_plus": "and from remembered ones, with a bonus for age",
    "watkins_q_lambda": "cut where an action is not the best",
}


def backup_diagram(mdp: MDP, state: int, *, method: str = "v_star", action: int = 0, steps: int = 3) -> Figure:
    """The backup diagram of a state, or of a pair of ``state`` and ``action`` for the methods that learn q.

    v_pi, v_star, q_pi and q_star show the state's own actions and successors with their probabilities (at most three
    successors an action). The sampled methods follow a line of ``steps`` transitions, the likeliest ones of
    ``action``; the lambda methods show such lines side by side with their weights. Raises UsageError for an unknown
    method, state or action. (Sutton & Barto 2018, sections 3.5, 3.6, 7.1 to 7.5 and 12.1.)
    """
    if method not in BACKUPS:
        raise UsageError(f"No backup is called {method!r}; there are {', '.join(BACKUPS)}.")
    for what, given, count in (("State", state, mdp.num_states), ("Action", action, mdp.num_actions)):
        if not 0 <= given < count:
            raise UsageError(f"{what} {given} is outside 0..{count - 1}.")
    if steps < 1:
        raise UsageError(f"A backup has at least one step; got {steps}.")
    names = mdp.action_names or tuple(f"action {a}" for a in range(mdp.num_actions))
    from_pair = method[0] == "q" or (SAMPLED | COMPOUND).get(method, SAMPLED["td0"]).root == "action"
    root = f"state {state}" + (f", {names[action]}" if from_pair else "")
    title = f"{method.replace('_', ' ')} at {root} of {mdp.name}"
    if method in EXPECTED:
        figure = new_figure(6.4, 4.2)
        _expected(figure.add_subplot(), mdp, state, method, action, names)
    elif method in SAMPLED:
        chain = SAMPLED[method]
        length = chain.steps or steps
        figure = new_figure(4.6, 1.6 + 1.1 * length)
        axes = figure.add_subplot()
        bottom = _chain(axes, mdp, state, action, chain, length, 0.0)
        axes.set_xlim(-1.6, 1.6)
        axes.set_ylim(bottom - 0.5, 0.4)
    else:
        figure = new_figure(2.0 + 1.3 * steps, 2.2 + 1.1 * steps)
        axes = figure.add_subplot()
        bottom = 0.0
        for n in range(1, steps + 1):
            power = "" if n == 1 else r"\lambda" if n == 2 else rf"\lambda^{{{n - 1}}}"
            weight = rf"$(1-\lambda)\,{power}$" if n < steps else f"${power or 1}$"
            bottom = min(bottom, _chain(axes, mdp, state, action, COMPOUND[method], n, 2.0 * (n - 1), end=n == steps))
            axes.text(2.0 * (n - 1), 0.5, weight, ha="center", fontsize=10, color=ACCENT)
        axes.set_xlim(-1.2, 2.0 * steps - 0.8)
        axes.set_ylim(bottom - 0.6, 0.9)
    axes = figure.axes[0]
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    if method in NOTES:
        axes.text(0.5, -0.02, NOTES[method], transform=axes.transAxes, ha="center", va="top", fontsize=8, color=INK)
    return figure


def _node(axes: Axes, x: float, y: float, kind: str, label: str = "", *, below: bool = False) -> None:
    marker, size, face = {"state": ("o", 14, "white"), "action": ("o", 7, INK), "end": ("s", 12, "#cccccc")}[kind]
    axes.plot([x], [y], marker=marker, ms=size, mfc=face, mec=INK, zorder=3, clip_on=False)
    if label:
        offset, align = ((0, -18), "center") if below else ((11, -3), "left")
        axes.annotate(label, (x, y), xytext=offset, textcoords="offset points", ha=align, fontsize=8)


def _line(axes: Axes, a: tuple[float, float], b: tuple[float, float], label: str = "") -> None:
    axes.plot([a[0], b[0]], [a[1], b[1]], color=INK, lw=1, zorder=1)
    if label:
        middle = (0.45 * a[0] + 0.55 * b[0], 0.45 * a[1] + 0.55 * b[1])
        box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
        axes.annotate(label, middle, fontsize=7.5, color=ACCENT, ha="center", va="center", bbox=box)


def _arc(axes: Axes, x: float, y: float, ends: tuple[float, float], drop: float, size: float = 0.3) -> None:
    """Over the branches from (x, y) to the outer ``ends``, ``drop`` below; ``size`` of the way down."""
    across = np.linspace(ends[0] - x, ends[1] - x, 40) * size
    reach = max(abs(across[0]), abs(across[-1]), 1e-9)
    axes.plot(x + across, y - size * drop * (1 + 0.35 * (1 - (across / reach) ** 2)), color=ACCENT, lw=1.8, zorder=2)


def _outcomes(mdp: MDP, s: int, a: int) -> list[tuple[int, float]]:
    chances = np.bincount(mdp.successors[s, a], mdp.probabilities[s, a], mdp.num_states)
    return [(int(i), float(chances[i])) for i in np.argsort(-chances, kind="stable")[:3] if chances[i] > 0]


def _expected(axes: Axes, mdp: MDP, state: int, method: str, action: int, names: tuple[str, ...]) -> None:
    of_state = method[0] == "v"
    shown = range(min(mdp.num_actions, 6)) if of_state else [action]
    leaves = [(a, s, p) for a in shown for s, p in _outcomes(mdp, state, a)]
    place = [(k + 0.5) / len(leaves) for k in range(len(leaves))]
    centre = {a: float(np.mean([x for x, leaf in zip(place, leaves, strict=True) if leaf[0] == a])) for a in shown}
    top, middle, low = (1.0, 0.5, 0.0) if of_state else (1.0, 1.0, 0.5)
    if of_state:
        _node(axes, 0.5, top, "state", str(state))
        for x in centre.values():
            _line(axes, (0.5, top), (x, middle))
        if method == "v_star" and len(shown) > 1:
            _arc(axes, 0.5, top, (min(centre.values()), max(centre.values())), top - middle)
    for a, x in centre.items():
        _node(axes, x, middle, "action", names[a] if len(leaves) <= 14 else "")
    for x, (taken, successor, p) in zip(place, leaves, strict=True):
        end = bool(mdp.terminal[successor])
        _line(axes, (centre[taken], middle), (x, low), f"{p:.2g}")
        _node(axes, x, low, "end" if end else "state", str(successor), below=of_state)
        if not of_state and not end:
            spots = x + (np.arange(min(mdp.num_actions, 4)) - (min(mdp.num_actions, 4) - 1) / 2) * 0.2 / len(leaves)
            for spot in spots:
                _line(axes, (x, low), (spot, 0.0))
                _node(axes, spot, 0.0, "action")
            if method == "q_star":
                _arc(axes, x, low, (spots[0], spots[-1]), low, 0.45)
    axes.set_xlim(-0.03, 1.06)
    axes.set_ylim(-0.25, 1.12)


def _chain(axes: Axes, mdp: MDP, s: int, a: int, chain: Chain, steps: int, x: float, *, end: bool = False) -> float:
    """One line of transitions from the top, y = 0, downwards; returns the height of its lowest node."""
    names = mdp.action_names or tuple(str(i) for i in range(mdp.num_actions))
    side = min(mdp.num_actions, 4)
    y = 0.0
    if chain.root == "state":
        _node(axes, x, y, "state", str(s))
        _line(axes, (x, y), (x, y - 0.5))
        y -= 0.5
    _node(axes, x, y, "action", names[a])
    for i in range(steps):
        _line(axes, (x, y), (x, y - 0.5))
        y -= 0.5
        s = _outcomes(mdp, s, a)[0][0]
        last, over = i == steps - 1, bool(mdp.terminal[s])
        leaf = chain.leaf if last else "on"
        closed = over or leaf == "end" or (end and last)
        _node(axes, x, y, "end" if closed else "state", str(s) if over or leaf != "end" else "the end")
        if closed or leaf == "state":
            return y
        if leaf in ("expected", "max") or (chain.branches and not last):
            others = np.arange(side) - (side - 1) / 2
            spots = x + 0.3 * (others if last else np.array([0.0, *(o for o in (-1.0, 1.0, -2.0))][:side]))
            for spot in spots:
                _line(axes, (x, y), (spot, y - 0.5))
                _node(axes, spot, y - 0.5, "action")
            if leaf == "max" and side > 1:
                _arc(axes, x, y, (spots[0], spots[-1]), 0.5)
        else:
            _line(axes, (x, y), (x, y - 0.5))
            _node(axes, x, y - 0.5, "action", names[a])
        y -= 0.5
    return y
