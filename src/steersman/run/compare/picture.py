"""A comparison as one picture: learning curves, final evaluations, seeds that solve the task, profile, improvement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steersman.run.compare.results import Comparison, Outcome
from steersman.run.show import plots
from steersman.theory.comparison import Estimate, performance_profile

MOST_PAIRS = 10  # shown as a picture; comparison.json has all
_LEVELS = 201
_TRAINING = "training return, mean of the last 100 episodes"


def plot(
    what: Comparison | str | Path | Sequence[str | Path], out: str | Path, *, x: str = "steps", y: str = ""
) -> Path:
    """Draw a comparison, or the learning curves of run folders; -> the picture's path: .png, .svg or .pdf.

    what: what ``steersman.compare`` gave, or one run folder or several (a comparison's folder stands for its runs).
    y, x: for runs, any name in ``metrics.jsonl``, along ``steps`` or ``seconds``; by default the return, or of texts
    the reward of what is held out.
    """
    if isinstance(what, Comparison):
        return comparison_picture(what, out)
    runs = [what] if isinstance(what, str | Path) else list(what)
    return plots.learning_curve(runs, out, x=x, y=y)


def comparison_picture(result: Comparison, out: str | Path) -> Path:
    """Draw a comparison; -> its path. The suffix says which kind: .png, .svg, .pdf. Raises UsageError for another."""
    out = Path(out)
    plots.check_suffix(out)
    outcomes = list(result.outcomes.values())
    below: list[Callable[[Any, Comparison, list[Outcome]], None]] = [_profile]
    if result.limited:  # a return alone says little then
        below = [partial(_cost, i) for i in range(len(outcomes[0].limits.names))]
    below = [*([_solved] if result.threshold is not None else []), *below, *([_pairs] if len(outcomes) > 1 else [])]
    tall = 0.22 * max(0, len(outcomes) - 6)
    figure = plots.blank(12, 7.6 + tall)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.15 + tall / 4, 1))  # each row with margins of its own
    curves, final = upper.subplots(1, 2, width_ratios=(2, 1))
    panels = list(np.atleast_1d(lower.subplots(1, len(below))))
    number, seeds = len(result.seeds), len(result.seeds) > 1
    about = f"{number} seeds; bands and bars are 95% bootstrap intervals over seeds" if seeds else "1 seed"
    figure.suptitle(plots.plain_text(result.environment), x=0.008, ha="left", fontsize=14, fontweight="bold")
    _final(final, result, outcomes)
    for draw, axes in zip(below, panels, strict=True):
        draw(axes, result, outcomes)
    _learning(curves, result, outcomes, about)  # last: its labels are placed in the finished layout
    return plots.save(figure, out)


def _learning(axes: Any, result: Comparison, outcomes: list[Outcome], about: str) -> None:
    made = {o.label: [s for s in o.series if len(s[0])] for o in outcomes}
    drawn = {label: plots.curve(series) for label, series in made.items() if series}
    curves = {label: c for label, c in drawn.items() if len(c.x)}
    along, up = ("updates", result.of_texts) if result.of_texts else ("environment steps", _TRAINING)
    plots.tidy(axes, along, up, "Learning")
    axes.set_title(about, loc="right", fontsize="small", color="0.35")
    if not curves:
        return
    plots.draw_curves(axes, curves, [list(made).index(label) for label in curves])
    plots.in_steps(axes.xaxis)
    ends = [(n, c.x[-1], c.mean[-1], plots.style(list(made).index(n))[0]) for n, c in curves.items()]
    if result.threshold is not None:
        axes.axhline(result.threshold, color="0.45", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ends.append((f"threshold {result.threshold:g}", axes.get_xlim()[1], result.threshold, "#888888"))
    plots.label_ends(axes, ends)


def _final(axes: Any, result: Comparison, outcomes: list[Outcome]) -> None:
    what = result.of_texts or f"mean return over {result.evaluation_episodes} episodes"
    plots.tidy(axes, what, "", "Final evaluation")
    axes.set_title("● mean   ◇ IQM   · a seed", loc="right", fontsize="small", color="0.35")
    for i, o in enumerate(outcomes):
        colour = plots.style(i)[0]
        _bar(axes, o.mean, i, colour, "o", colour)
        _bar(axes, o.iqm, i + 0.18, colour, "D", "white")
        axes.plot(o.scores, np.full(len(o.scores), i + 0.36), "o", color=colour, alpha=0.45, markersize=3.5, mew=0)
    _rows(axes, [o.label for o in outcomes], [plots.style(i)[0] for i in range(len(outcomes))])
    if result.threshold is not None:
        axes.axvline(result.threshold, color="0.45", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def _cost(i: int, axes: Any, result: Comparison, outcomes: list[Outcome]) -> None:
    plots.tidy(axes, "mean cost; dashed: its limit; hollow: over it", "", "")
    title = f"Cost: {outcomes[0].limits.names[i]}" if len(outcomes[0].limits.names[i]) < 24 else f"Cost {i}"
    axes.set_title(plots.plain_text(title), loc="left", fontsize="medium", fontweight="bold")
    for row, o in enumerate(outcomes):
        colour = plots.style(row)[0]
        _bar(axes, o.mean_cost[i], row, colour, "o", colour if o.feasible else "white")
        axes.plot(
            o.costs[:, i], np.full(len(o.costs), row + 0.25), "o", color=colour, alpha=0.45, markersize=3.5, mew=0
        )
        if o.limits.most:
            axes.plot(
                [o.limits.most[i]] * 2, [row - 0.4, row + 0.4], color="0.35", linewidth=1.2, linestyle=(0, (4, 3))
            )
    _rows(axes, [o.label for o in outcomes], [plots.style(row)[0] for row in range(len(outcomes))])


def _bar(axes: Any, estimate: Estimate, y: float, colour: str, marker: str, face: str) -> None:
    if np.isfinite(estimate.low):
        axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3)
    axes.plot([estimate.value], [y], marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=4)


def _rows(axes: Any, labels: list[str], colours: list[str]) -> None:
    """Rows from top to bottom, each under its name: beside them, names would take the picture's width."""
    for i, (label, colour) in enumerate(zip(labels, colours, strict=True)):
        axes.annotate(
            plots.plain_text(label), (0.0, i - 0.2), xycoords=("axes fraction", "data"), va="bottom",
            color=plots.ink(colour), fontsize="small", fontweight="bold", zorder=5,
        )  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.4, -0.65)
    axes.spines["left"].set_visible(False)


def _solved(axes: Any, result: Comparison, outcomes: list[Outcome]) -> None:
    along = "updates" if result.of_texts else "environment steps"
    plots.tidy(axes, along, "fraction of seeds", f"Seeds that have reached {result.threshold:g}")
    last = max(o.steps for o in outcomes)
    grid = np.linspace(0, last, _LEVELS)
    ends = []
    for i, o in enumerate(outcomes):
        finite = np.where(np.isfinite(o.threshold_steps), o.threshold_steps, 2.0 * last)
        above = performance_profile(finite, grid)
        _steps(axes, grid, Estimate(1 - above.value, 1 - above.high, 1 - above.low), i)
        if o.reached:
            ends.append((f"{o.reached}/{len(finite)}", last, float(1 - above.value[-1]), plots.style(i)[0]))
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(0, last)
    plots.in_steps(axes.xaxis)
    plots.label_ends(axes, ends)


def _profile(axes: Any, result: Comparison, outcomes: list[Outcome]) -> None:
    plots.tidy(axes, result.of_texts or "return", "fraction of seeds above it", "Performance profile, final evaluation")
    scores = np.concatenate([o.scores for o in outcomes])
    margin = 0.03 * (np.ptp(scores) or max(1.0, abs(scores[0])))
    levels = np.linspace(scores.min() - margin, scores.max() + margin, _LEVELS)
    for i, o in enumerate(outcomes):
        _steps(axes, levels, performance_profile(o.scores, levels), i)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(levels[0], levels[-1])


def _steps(axes: Any, x: np.ndarray, estimate: Estimate, i: int) -> None:
    colour, line = plots.style(i)
    axes.plot(x, estimate.value, line, color=colour, linewidth=1.6, drawstyle="steps-post", zorder=3)
    axes.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.12, linewidth=0, step="post")


def _pairs(axes: Any, result: Comparison, outcomes: list[Outcome]) -> None:
    pairs = result.ranked[:MOST_PAIRS]
    hidden = len(result.ranked) - len(pairs)
    more = f"; {hidden} more" if hidden else ""
    plots.tidy(axes, f"probability; hollow: undecided{more}", "", "Probability of improvement")
    place = {label: i for i, label in enumerate(result.outcomes)}
    colours = [plots.style(place[better])[0] for better, _, _ in pairs]
    for row, ((_, _, p), colour) in enumerate(zip(pairs, colours, strict=True)):
        _bar(axes, p, row, colour, "o", colour if p.low > 0.5 else "white")
    _rows(axes, [f"{better} over {than}" for better, than, _ in pairs], colours)
    axes.axvline(0.5, color="0.45", linewidth=0.9, zorder=1)
    axes.set_xlim(0, 1.02)
