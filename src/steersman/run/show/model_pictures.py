"""Pictures of a model's quality: rollouts, error over the horizon, calibration, disagreement, promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.models.report import BINS, NOMINAL, Quality
from steersman.run.show.plots import blank, in_steps, label_ends, plain_text, save, style, tidy

PANELS = 6  # entries whose rollouts are drawn
POINTS = 2000  # of a scatter
GREY = "0.45"


def write(found: Quality, names: Sequence[str], folder: Path, promised: Mapping[str, np.ndarray]) -> list[Path]:
    """Draw all that there is to draw; -> the files. promised: columns of the log, with ``steps``, or nothing."""
    pictures = {
        "rollouts": rollouts(found, names),
        "horizon": horizon(found),
        "calibration": calibration(found, names),
        "disagreement": disagreement(found),
    }
    kept = promises(promised)
    pictures |= {} if kept is None else {"promises": kept}
    return [save(figure, folder / f"{name}.png") for name, figure in pictures.items()]


def rollouts(found: Quality, names: Sequence[str]) -> Any:
    """One window, the one of the median error at its end: what came, and the members' draws with their bands."""
    window = int(np.argsort(found.error[:, -1])[len(found.error) // 2])
    drawn, came = found.drawn[:, :, window], found.windows.came[window]  # [E, P, H, D + 1], [H, D + 1]
    shown = chosen(found, len(names))
    rows = -(-len(shown) // 3) if len(shown) > 2 else 1
    columns = -(-len(shown) // rows)
    figure = blank(3.3 * columns, 0.7 + 2.2 * rows)
    t = np.arange(1, came.shape[0] + 1)
    every = drawn.reshape(-1, *drawn.shape[2:])
    blue, _ = style(0)
    for axes, d in zip(figure.subplots(rows, columns, squeeze=False).reshape(-1), shown, strict=False):
        for low, high, alpha in ((5, 95, 0.18), (25, 75, 0.3)):
            axes.fill_between(
                t, *np.percentile(every[..., d], (low, high), axis=0), color=blue, alpha=alpha, linewidth=0
            )
        axes.plot(t, drawn[:, 0, :, d].T, color=blue, linewidth=0.6, alpha=0.7)
        axes.plot(t, came[:, d], color="black", linewidth=1.6)
        tidy(axes, title=plain_text(names[d]))
        _ahead(axes, len(t))
    for axes in figure.axes[len(shown) :]:
        axes.set_visible(False)
    for axes in figure.axes[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel("steps ahead")
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    told = [
        Line2D([], [], color="black", linewidth=1.6, label="what came"),
        Line2D([], [], color=blue, linewidth=0.6, label="a member"),
        Patch(color=blue, alpha=0.45, linewidth=0, label="half of the draws"),
        Patch(color=blue, alpha=0.18, linewidth=0, label="nine tenths"),
    ]
    figure.legend(handles=told, loc="outside upper left", ncols=4, frameon=False, fontsize="small")
    return figure


def chosen(found: Quality, count: int) -> list[int]:
    """Up to six of the entries that vary, the reward among them: evenly spread over the observation."""
    varies = np.flatnonzero(found.varies[:-1]).tolist()
    room = PANELS - 1
    spread = np.unique(np.linspace(0, len(varies) - 1, min(room, len(varies))).round().astype(int)) if varies else []
    reward = [count - 1] if found.varies[-1] or not varies else []
    return [*(varies[i] for i in spread), *reward]


def horizon(found: Quality) -> Any:
    """The error of open-loop rollouts by steps ahead, beside persistence and the best linear model."""
    figure = blank(7.0, 4.0)
    axes = figure.subplots()
    t = np.arange(1, found.error.shape[1] + 1)
    lines = (("the model", found.error), ("persistence", found.persistence), ("linear", found.linear))
    ends, top = [], 1e-6
    for i, (name, error) in enumerate(lines):
        colour, _ = style(i)
        middle = np.median(error, axis=0)
        axes.plot(t, middle, color=colour, linewidth=1.8 if i == 0 else 1.2, marker="o" if len(t) == 1 else None)
        ends.append((name, t[-1], middle[-1], colour))
        top = max(top, float(middle.max())) if i < 2 else top  # a linear model may leave for infinity
    low, high = np.percentile(found.error, (10, 90), axis=0)
    axes.fill_between(t, low, high, color=style(0)[0], alpha=0.2, linewidth=0)
    limit = 1.1 * max(top, float(high.max()))
    axes.set_ylim(0, limit)
    _ahead(axes, len(t))
    tidy(axes, "steps ahead", "error (standard deviations)")
    about = f"median over {len(found.error)} stretches; of the model, 10 to 90% of them"
    axes.set_title(about, loc="left", fontsize="small", color="0.35")
    label_ends(axes, [(name, x, min(y, limit), colour) for name, x, y, colour in ends])
    return figure


def _ahead(axes: Any, steps: int) -> None:
    """The axis of steps ahead: whole ones, from the first to the last."""
    axes.set_xlim(1 if steps > 1 else 0, steps)
    axes.xaxis.get_major_locator().set_params(integer=True)


def calibration(found: Quality, names: Sequence[str]) -> Any:
    """Left: how often what came lies within an interval, by the probability that the model gives it. Right: PITs."""
    figure = blank(8.4, 3.9)
    left, right = figure.subplots(1, 2)
    varies = np.flatnonzero(found.varies).tolist()
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    few = len(varies) <= 7
    for i, d in enumerate(varies):
        colour = style(i)[0] if few else style(0)[0]
        shown = {"label": plain_text(names[d])} if few else {}
        left.plot(NOMINAL, found.coverage[:, d], color=colour, linewidth=1.3, alpha=1.0 if few else 0.4, **shown)
    left.set(xlim=(0, 1), ylim=(0, 1))
    tidy(left, "probability of the interval", "share of what came inside")
    left.text(0.03, 0.94, "too wide", color=GREY, fontsize="small", transform=left.transAxes)
    left.text(0.97, 0.03, "too narrow", color=GREY, fontsize="small", ha="right", transform=left.transAxes)
    if few:
        left.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    places = np.concatenate([found.pit[:, d] for d in varies]) if varies else np.zeros(0)
    heights, edges = np.histogram(places, bins=BINS, range=(0, 1))
    heights = heights * BINS / max(len(places), 1)
    right.bar(edges[:-1], heights, width=1 / BINS, align="edge", color=style(0)[0], alpha=0.75, edgecolor="white")
    right.axhline(1.0, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    right.set_xlim(0, 1)
    tidy(right, "place in the predicted distribution (PIT)", "density, 1 if all is right")
    for axes in (left, right):
        axes.set_box_aspect(1)
    return figure


def disagreement(found: Quality) -> Any:
    """The error of one step by how far the members' means are apart: does it know what it does not know?"""
    figure = blank(5.6, 4.4)
    axes = figure.subplots()
    x, y = (np.maximum(v, 1e-7) for v in (found.disagreement, found.surprise))
    if len(found.one_step.mean) == 1:
        tidy(axes, title="one member: nobody to disagree with")
        return figure
    picked = np.random.default_rng(0).permutation(len(x))[:POINTS]
    axes.scatter(x[picked], y[picked], s=5, color=style(0)[0], alpha=0.3, linewidth=0)
    ranked = np.argsort(x)
    groups = [g for g in np.array_split(ranked, 12) if len(g)]
    middle = [(np.median(x[g]), np.median(y[g])) for g in groups]
    axes.plot(*zip(*middle, strict=True), "o-", color=style(1)[0], markersize=4, linewidth=1.4)
    axes.set(xscale="log", yscale="log")
    low, high = (float(np.percentile(np.concatenate([x, y]), q)) for q in (0.5, 99.9))
    axes.plot([low, high], [low, high], color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
    tidy(axes, "disagreement of the members (standard deviations)", "error of one step (standard deviations)")
    about = f"rank correlation {found.rank_correlation:.2f}; the line: medians of twelve equal groups"
    axes.set_title(about, loc="left", fontsize="small", color="0.35")
    return figure


def promises(columns: Mapping[str, np.ndarray]) -> Any | None:
    """The return that plans promised over their horizon and the one that came, by environment steps; None where the
    log has none."""
    named = {"plan/predicted_return": "promised", "plan/realised_return": "came"}
    if not all(name in columns for name in ("steps", *named)):
        return None
    figure = blank(7.0, 3.8)
    axes = figure.subplots()
    steps = columns["steps"] if columns["steps"].ndim == 1 else columns["steps"][:, 0]
    ends = []
    for i, (name, said) in enumerate(named.items()):
        values = columns[name] if columns[name].ndim == 1 else columns[name].mean(1)
        seen = np.isfinite(values)
        look = {"color": style(i)[0], "linewidth": 1.5, "marker": "o", "markersize": 3, "clip_on": False}
        axes.plot(steps[seen], values[seen], **look)
        if seen.any():
            ends.append((said, steps[seen][-1], values[seen][-1], style(i)[0]))
    if ends:
        axes.set_xlim(0, max(x for _, x, _, _ in ends))
    tidy(axes, "environment steps", "return over a plan's horizon")
    in_steps(axes.xaxis)
    label_ends(axes, ends)
    return figure
