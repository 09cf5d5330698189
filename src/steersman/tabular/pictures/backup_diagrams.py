"""Backup diagrams: what an update looks at, drawn for any state of an MDP and any method of the chapter.

Open circles are states, filled ones actions, squares ends; an arc over branches is a maximum, no arc an expectation.
The edges into a state have its probability, where it is not certain, and the reward r. Under it is the equation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, state_name
from steersman.tabular.pictures.equations import EQUATIONS
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
    called = state_name(mdp, state)
    root = (f"state {called}" if called == str(state) else called) + (f", {names[action]}" if from_pair else "")
    title = f"{method.replace('_', ' ')} at {root}: {mdp.name}"
    if method in EXPECTED:
        leaves = len(_leaves(mdp, state, method, action))
        figure = new_figure(max(6.4, 0.95 * leaves), 4.8)
        _expected(figure.add_subplot(), mdp, state, method, action, names)
    elif method in SAMPLED:
        chain = SAMPLED[method]
        length = chain.steps or steps
        figure = new_figure(5.4, 2.4 + 1.25 * length)
        axes = figure.add_subplot()
        bottom = _chain(axes, mdp, state, action, chain, length, 0.0)
        axes.set_xlim(-1.6, 1.6)
        axes.set_ylim(bottom - 0.4, 0.2)
    else:
        figure = new_figure(max(5.4, 2.0 + 1.5 * steps), 2.8 + 1.25 * steps)
        axes = figure.add_subplot()
        bottom = 0.0
        for n in range(1, steps + 1):
            power = "" if n == 1 else r"\lambda" if n == 2 else rf"\lambda^{{{n - 1}}}"
            weight = rf"$(1-\lambda)\,{power}$" if n < steps else f"${power or 1}$"
            bottom = min(bottom, _chain(axes, mdp, state, action, COMPOUND[method], n, 2.0 * (n - 1), end=n == steps))
            axes.text(2.0 * (n - 1), 0.35, weight, ha="center", fontsize=10, color=ACCENT)
        axes.set_xlim(-1.2, 2.0 * steps - 0.8)
        axes.set_ylim(bottom - 0.4, 0.7)
    axes = figure.axes[0]
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    below = [*((line, 10) for line in EQUATIONS[method]), *([(NOTES[method], 8)] if method in NOTES else [])]
    for i, (line, size) in enumerate(below):
        axes.annotate(
            line, (0.5, 0.0), xytext=(0, -4 - 28 * i), xycoords="axes fraction", textcoords="offset points",
            ha="center", va="top", fontsize=size, color=INK,
        )  # fmt: skip
    return figure


def _node(
    axes: Axes, x: float, y: float, kind: str, label: str = "", *, below: bool = False, upright: bool = False
) -> None:
    marker, size, face = {"state": ("o", 14, "white"), "action": ("o", 7, INK), "end": ("s", 12, "#cccccc")}[kind]
    axes.plot([x], [y], marker=marker, ms=size, mfc=face, mec=INK, zorder=3, clip_on=False)
    if label:
        offset, align = ((0, -7 if kind == "action" else -12), "center") if below else ((11, 0), "left")
        axes.annotate(
            label, (x, y), xytext=offset, textcoords="offset points", ha=align, va="top" if below else "center",
            fontsize=8, rotation=90 if upright else 0,
        )  # fmt: skip


def _from(axes: Axes, x: float, y: float, state: str) -> None:
    """Of a pair at the root: the state that the action is taken in."""
    axes.annotate(
        f"from {state}", (x, y), xytext=(-11, 0), textcoords="offset points", ha="right", va="center", fontsize=8
    )


def _line(axes: Axes, a: tuple[float, float], b: tuple[float, float], label: str = "", at: float = 0.5) -> None:
    axes.plot([a[0], b[0]], [a[1], b[1]], color=INK, lw=1, zorder=1)
    if label:
        middle = (a[0] + at * (b[0] - a[0]), a[1] + at * (b[1] - a[1]))
        box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}
        axes.annotate(label, middle, fontsize=7.5, color=ACCENT, ha="center", va="center", bbox=box)


def _arc(axes: Axes, x: float, y: float, ends: tuple[float, float], drop: float, size: float = 0.3) -> None:
    """Over the branches from (x, y) to the outer ``ends``, ``drop`` below; ``size`` of the way down."""
    across = np.linspace(ends[0] - x, ends[1] - x, 40) * size
    reach = max(abs(across[0]), abs(across[-1]), 1e-9)
    axes.plot(x + across, y - size * drop * (1 + 0.35 * (1 - (across / reach) ** 2)), color=ACCENT, lw=1.8, zorder=2)
    axes.annotate(
        "max", (x + across[-1], y - size * drop), xytext=(5, 2), textcoords="offset points", fontsize=8, color=ACCENT
    )


def _outcomes(mdp: MDP, s: int, a: int) -> list[tuple[int, float, float]]:
    """At most three (successor, probability, reward), the likeliest first."""
    chances = np.bincount(mdp.successors[s, a], mdp.probabilities[s, a], mdp.num_states)
    paid = np.broadcast_to(mdp.reward[s, a], mdp.successors[s, a].shape)
    if mdp.outcome_rewards is not None:
        paid = mdp.outcome_rewards[s, a]
    sums = np.bincount(mdp.successors[s, a], mdp.probabilities[s, a] * paid, mdp.num_states)
    best = np.argsort(-chances, kind="stable")[:3]
    return [(int(i), float(chances[i]), float(sums[i] / chances[i])) for i in best if chances[i] > 0]


def _edge(p: float, reward: float) -> str:
    return ("" if p > 1 - 1e-9 else f"p = {p:.2g}\n") + f"r = {reward:.3g}"


def _leaves(mdp: MDP, state: int, method: str, action: int) -> list[tuple[int, int, float, float]]:
    """(action, successor, probability, reward) of what an expected update looks at."""
    shown = range(min(mdp.num_actions, 6)) if method[0] == "v" else [action]
    return [(a, *outcome) for a in shown for outcome in _outcomes(mdp, state, a)]


def _expected(axes: Axes, mdp: MDP, state: int, method: str, action: int, names: tuple[str, ...]) -> None:
    of_state = method[0] == "v"
    leaves = _leaves(mdp, state, method, action)
    shown = dict.fromkeys(leaf[0] for leaf in leaves)
    place = [(k + 0.5) / len(leaves) for k in range(len(leaves))]
    centre = {a: float(np.mean([x for x, leaf in zip(place, leaves, strict=True) if leaf[0] == a])) for a in shown}
    top, middle, low = (1.0, 0.62, 0.0) if of_state else (1.0, 1.0, 0.45)
    if of_state:
        _node(axes, 0.5, top, "state", state_name(mdp, state))
        for x in centre.values():
            _line(axes, (0.5, top), (x, middle))
        if method == "v_star" and len(shown) > 1:
            _arc(axes, 0.5, top, (min(centre.values()), max(centre.values())), top - middle)
    else:
        _from(axes, centre[action], top, state_name(mdp, state))
    for a, x in centre.items():
        _node(axes, x, middle, "action", names[a])
    for x, (taken, successor, p, reward) in zip(place, leaves, strict=True):
        end = bool(mdp.terminal[successor])
        _line(axes, (centre[taken], middle), (x, low), _edge(p, reward), at=0.72)
        _node(axes, x, low, "end" if end else "state", state_name(mdp, successor), below=of_state)
        if not of_state and not end:
            side = min(mdp.num_actions, 4)
            spots = x + (np.arange(side) - (side - 1) / 2) * 0.2 / len(leaves)
            for a, spot in enumerate(spots):
                _line(axes, (x, low), (spot, 0.0))
                _node(axes, spot, 0.0, "action", names[a], below=True, upright=len(leaves) > 1)
            if method == "q_star":
                _arc(axes, x, low, (spots[0], spots[-1]), low, 0.45)
    axes.set_xlim(-0.03, 1.06)
    axes.set_ylim(-0.16, 1.08)


def _chain(axes: Axes, mdp: MDP, s: int, a: int, chain: Chain, steps: int, x: float, *, end: bool = False) -> float:
    """One line of transitions from the top, y = 0, downwards; returns the height of its lowest node."""
    names = mdp.action_names or tuple(str(i) for i in range(mdp.num_actions))
    side = min(mdp.num_actions, 4)
    others = [b for b in range(mdp.num_actions) if b != a][: side - 1]
    y = 0.0
    if chain.root == "state":
        _node(axes, x, y, "state", state_name(mdp, s))
        _line(axes, (x, y), (x, y - 0.5))
        y -= 0.5
    else:
        _from(axes, x, y, state_name(mdp, s))
    _node(axes, x, y, "action", names[a])
    for i in range(steps):
        s, _, reward = _outcomes(mdp, s, a)[0]
        _line(axes, (x, y), (x, y - 0.5), f"r = {reward:.3g}")
        y -= 0.5
        last, over = i == steps - 1, bool(mdp.terminal[s])
        leaf = chain.leaf if last else "on"
        closed = over or leaf == "end" or (end and last)
        whole = (leaf == "end" or (end and last)) and not over  # it goes on to wherever the episode ends
        _node(axes, x, y, "end" if closed else "state", "the end" if whole else state_name(mdp, s))
        if closed or leaf == "state":
            return y
        if leaf in ("expected", "max") or (chain.branches and not last):
            if last:
                spots = dict(zip(range(side), x + 0.35 * (np.arange(side) - (side - 1) / 2), strict=True))
            else:
                spots = dict(zip([a, *others], x + 0.35 * np.array([0.0, -1.0, 1.0, -2.0])[:side], strict=True))
            for b, spot in spots.items():
                _line(axes, (x, y), (spot, y - 0.5))
                on = not last and b == a  # the line goes on from it, so its name stands beside it
                _node(axes, spot, y - 0.5, "action", names[b], below=not on)
            if leaf == "max" and side > 1:
                _arc(axes, x, y, (min(spots.values()), max(spots.values())), 0.5)
        else:
            _line(axes, (x, y), (x, y - 0.5))
            _node(axes, x, y - 0.5, "action", names[a])
        y -= 0.5
    return y
