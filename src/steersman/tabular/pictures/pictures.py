"""Pictures of tabular answers, each a Figure: learning curves, alone and above a map, and plans of POMDPs.

matplotlib is imported when a picture is first drawn, without a display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steersman.errors import UsageError
from steersman.theory.statistics import bootstrap_band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from steersman.tabular.planning.pomdp_planning import AlphaPolicy

INK, ACCENT = "#222222", "#c0392b"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def curves(
    series: Mapping[str, np.ndarray],
    *,
    x: np.ndarray | None = None,
    xlabel: str = "episode",
    ylabel: str = "return",
    title: str = "",
    confidence: float = 0.95,
    trim: float = 0.0,
) -> Figure:
    """Means over runs with the bootstrap interval of the mean, point by point: each series is [runs, points].

    ``trim`` leaves the lowest and highest share of the means out of the picture, such as very long first episodes.
    """
    figure = new_figure(6.4, 4.2)
    draw_curves(figure.add_subplot(), series, x, confidence, trim)
    style(figure.axes[0], xlabel, ylabel, title)
    return figure


def draw_curves(
    axes: Axes, series: Mapping[str, np.ndarray], x: np.ndarray | None, confidence: float = 0.95, trim: float = 0.0
) -> None:
    """What ``curves`` draws."""
    for label, runs in series.items():
        runs = np.atleast_2d(np.asarray(runs, np.float64))
        band(axes, np.arange(1, runs.shape[1] + 1) if x is None else np.asarray(x), runs, label, confidence=confidence)
    if trim:
        means = [np.atleast_2d(np.asarray(runs, np.float64)).mean(0) for runs in series.values()]
        low, high = min(np.quantile(m, trim) for m in means), max(np.quantile(m, 1 - trim) for m in means)
        room = 0.15 * (high - low) or 1.0
        axes.set_ylim(max(low - room, axes.get_ylim()[0]), min(high + room, axes.get_ylim()[1]))
    if any(len(np.atleast_2d(runs)) > 1 for runs in series.values()):
        about = f"mean over runs, {100 * confidence:g}% bootstrap interval"
        axes.text(1.0, 1.01, about, transform=axes.transAxes, ha="right", va="bottom", fontsize=7, color="#666666")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)


def smoothed(runs: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of so many points after each other: [runs, points] -> (their last points, counted from 1; the means).

    >>> smoothed(np.array([[1.0, 3.0, 5.0, 7.0, 0.0]]), 2)
    (array([2, 4]), array([[2., 6.]]))
    """
    count = runs.shape[1] // width
    return (np.arange(count) + 1) * width, runs[:, : count * width].reshape(len(runs), count, width).mean(-1)


def band(
    axes: Axes, x: np.ndarray, runs: np.ndarray, label: str, *, color: Any = None, confidence: float = 0.95
) -> None:
    """The mean of [runs, points] as a line in its bootstrap interval."""
    (line,) = axes.plot(x, runs.mean(0), label=label, lw=1.4, color=color)
    if len(runs) > 1:
        low, high = bootstrap_band(runs, confidence)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, lw=0)


def style(axes: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """What all curves share."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def alpha_vectors(plan: AlphaPolicy, actions: tuple[str, ...], *, title: str = "", xlabel: str = "") -> Figure:
    """A plan of a POMDP with two states: its vectors over P(state 0), and their upper surface, the value.

    Raises UsageError for another number of states.
    """
    if plan.alphas.shape[1] != 2:
        raise UsageError(f"Vectors are drawn over two states; this POMDP has {plan.alphas.shape[1]}.")
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    p = np.linspace(0, 1, 401)
    lines = np.stack([p, 1 - p], -1) @ plan.alphas.T  # [points, N]
    best = lines.argmax(-1)
    for a in np.unique(plan.actions):
        mine = np.flatnonzero(plan.actions == a)
        color = f"C{int(a)}"
        axes.plot(p, lines[:, mine], color=color, lw=0.7, alpha=0.35)
        axes.plot(p, np.where(np.isin(best, mine), lines.max(-1), np.nan), color=color, lw=2.6, label=actions[int(a)])
    low, high = float(lines.max(-1).min()), float(lines.max(-1).max())
    axes.set_ylim(low - 0.25 * (high - low), high + 0.08 * (high - low))
    style(axes, xlabel, "value", title)
    axes.legend(fontsize=8, frameon=False, title="best action", title_fontsize=8)
    return figure


def bounds_by_iteration(plan: AlphaPolicy, *, title: str = "") -> Figure:
    """How the two bounds of a POMDP's start value closed in on it."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    x = np.arange(1, len(plan.history) + 1)
    axes.fill_between(x, plan.history[:, 0], plan.history[:, 1], alpha=0.15, lw=0, color="C0")
    axes.plot(x, plan.history[:, 1], lw=1.6, color="C1", label="no policy is worth more")
    axes.plot(x, plan.history[:, 0], lw=1.6, color="C0", label="the plan is worth at least")
    style(axes, "iteration", "value of the start", title)
    axes.legend(fontsize=8, frameon=False)
    return figure
