"""Learning curves as pictures: mean over seeds and bootstrap interval, one line per algorithm and environment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, nearest
from steersman.run.disk.files import replacing
from steersman.run.disk.logs import columns, read_metrics
from steersman.run.disk.run_folder import read_config
from steersman.run.show.groups import Drawn, Runs, grouped

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by colour-blind readers, without the yellow that is lost on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_LABELS = {
    "steps": "environment steps",
    "seconds": "wall time (s)",
    "return_100": "episode return, mean of the last 100",
    "length_100": "episode length (steps), mean of the last 100",
    "success_100": "success rate of the last 100 episodes",
    "episode_return": "episode return (sum of rewards)",
    "evaluation_return": "return of evaluations on the way",
    "episode_length": "episode length (steps)",
    "episode_cost": "episode cost",
}
TEXTS = ("held_out_reward", "reward", "held_out_accuracy", "held_out_loss", "loss")
_POINTS = 400  # on the common grid, when the runs were not logged at the same places
_RESAMPLES = 2000


class Curve(NamedTuple):
    """What is drawn for one group: places ``[N]``, mean ``[N]``, interval ``[N]`` (NaN where fewer than two seeds)."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    among: int  # how many there are with those that have no values


def learning_curve(
    runs: Runs,
    out: str | Path,
    x: str = "steps",
    y: str = "",
    *,
    confidence: float = 0.95,
    title: str | None = None,
) -> Path:
    """Draw run folders into one picture; -> its path. The suffix of ``out`` says which kind: .png, .svg, .pdf.

    y: by default the return, the mean over the last 100 episodes of each seed; under it, each cost that the runs count
    has a panel of its own, with its limit as a line. Of trainings on texts, the first of TEXTS that all of them have.

    Runs whose settings are equal but for the seed are one line, and lines are called by what differs; a comparison's
    folder stands for its runs, by its labels; a mapping label -> runs groups them otherwise. A run that trained several
    seeds counts as so many, the same settings and seed once. Seeds logged at different places are interpolated to a
    common grid; a line goes from where all of its seeds have a value to where the first of them stops. One seed is
    drawn without a band.

    Raises:
        UsageError: not a run, no such metric (the nearest names), nothing to draw yet, an unknown suffix, a full disk.
    """
    out = Path(out)
    check_suffix(out)
    groups, environment = grouped(runs)
    if not groups:
        raise UsageError("There is no run to plot. Give at least one run folder.")
    raw = {label: [(columns(read_metrics(r.path / "metrics.jsonl")), r) for r in g] for label, g in groups.items()}
    logged = {name for some in raw.values() for table, _ in some for name in table}
    tables = {label: [(with_rolling(table), run) for table, run in some] for label, some in raw.items()}
    every = [(table, run) for some in tables.values() for table, run in some if table]
    texts = all("language" in read_config(run.path / "config.json")["spec"] for _, run in every)
    y = _metric(y or (_of_texts(every) if texts else "return_100"), every)
    _metric(x, every)
    panels = {name: _curves(tables, x, name, confidence) for name in [y, *_below(y, every)]}
    if not panels[y]:
        paths = [str(run.path) for some in groups.values() for run in some]
        named = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        raise UsageError(
            f"{y} has no values yet in {named}: no episode ended, or all stop before one of them begins. Train longer, "
            "or plot another metric."
        )
    titles = {name: name if name in logged else f"episode_{name.removesuffix('_100')}" for name in panels}
    names, limits = _of_costs(groups)
    labels = {name: _label(titles[name], names.get(name, "")) for name in panels}
    shown = {labels[name]: curves for name, curves in panels.items() if curves}
    lines = {label: limits[name] for name, label in labels.items() if name in limits}
    counted_so = lambda name: name in limits or f"evaluation_{_number(name)}" not in limits  # else discounted there
    there = [name for name in panels if y in ("return_100", "episode_return") and counted_so(name)]
    points = {labels[name]: _curves(tables, x, f"evaluation_{_number(name)}", confidence) for name in there}
    along = "updates" if texts and x == "steps" else _label(x)
    figure = _draw(shown, list(groups), along, environment if title is None else title, confidence, points, lines)
    if x == "steps":
        in_steps(figure.axes[-1].xaxis)
    return save(figure, out)


Table = Mapping[str, np.ndarray]  # name -> column


def _metric(name: str, tables: Sequence[tuple[Table, Drawn]]) -> str:
    """A metric by its own name, or by that of the number that it is the mean of: ``success`` is ``success_100``."""
    whole = [f"{name}_100", f"{name.removeprefix('is_')}_100", f"episode_{name}"]
    name = next((n for n in (name, *whole) if any(n in table for table, _ in tables)), name)
    for table, run in tables:
        if name not in table:
            offer = nearest(name, table) or f"There are {', '.join(table)}."
            raise UsageError(f"{run.path} has no metric {name!r}. {offer}")
    return name


def _of_texts(tables: Sequence[tuple[Table, Drawn]]) -> str:
    """What is drawn of trainings on texts: the first that all of them have."""
    has = lambda name: all(np.isfinite(table.get(name, np.nan)).any() for table, _ in tables)
    return next((name for name in TEXTS if has(name)), TEXTS[-1])


def _below(y: str, tables: Sequence[tuple[Table, Drawn]]) -> list[str]:
    """What is drawn under a metric: the costs under the return."""
    names = sorted({name for table, _ in tables for name in table})
    kind = {"return_100": r"cost(_.+)?_100", "episode_return": r"episode_cost(_.+)?"}.get(y)
    return [name for name in names if kind is not None and re.fullmatch(kind, name)]


def _curves(tables: Mapping[str, Sequence[tuple[Table, Drawn]]], x: str, y: str, confidence: float) -> dict[str, Curve]:
    """Of the groups that have values."""
    found = {}
    for label, group in tables.items():
        series = [one for table, run in group for one in series_of(table, x, y, run.seeds)]
        drawn = curve(series, confidence, sum(len(run.seeds) for _, run in group)) if series else None
        if drawn is not None and len(drawn.x):
            found[label] = drawn
    return found


def curve(series: Sequence[tuple[np.ndarray, np.ndarray]], confidence: float = 0.95, among: int | None = None) -> Curve:
    """Mean and bootstrap interval over seeds on a common grid. series: per seed, (increasing places, values), [N].

    From where all of them have begun to where the first one stops: every mean is over the same seeds. There may be no
    such place. among: how many seeds there are with those that have no values.
    """
    begin, end = max(x[0] for x, _ in series), min(x[-1] for x, _ in series)
    places = np.unique(np.concatenate([x for x, _ in series]))
    places = places[(places >= begin) & (places <= end)]
    if len(places) > _POINTS and any(not np.array_equal(x[(x >= begin) & (x <= end)], places) for x, _ in series):
        places = np.linspace(begin, end, _POINTS)
    table = np.stack([np.interp(places, x, y) for x, y in series])  # [S, N]
    mean = table.mean(0)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if len(series) > 1:
        from steersman.theory.statistics import bootstrap_interval  # imports JAX, which one seed does not need

        for i, values in enumerate(table.T):
            low[i], high[i] = bootstrap_interval(values, np.mean, confidence, resamples=_RESAMPLES)
    return Curve(places, mean, low, high, len(series), among or len(series))


def with_rolling(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A log with the means over the last 100 episodes: rows of before there were any have those of the row itself."""
    found = dict(table)
    for name in [name for name in table if name.startswith("episode_")]:
        title = f"{name.removeprefix('episode_')}_100"
        rolling = table.get(title, np.full_like(table[name], np.nan))
        found[title] = np.where(np.isfinite(rolling), rolling, table[name])
    return found


def series_of(
    table: Mapping[str, np.ndarray], x: str, y: str, seeds: Sequence[int] | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per seed of a run: places and values, the last one carried on to the end; seeds with no value are left out."""
    if y not in table:
        return []
    along = table[x] if table[x].ndim == 1 else np.nanmean(table[x], axis=1)
    rows, found = np.atleast_2d(table[y].T), []
    for values in rows if seeds is None or len(rows) == 1 else rows[list(seeds)]:
        kept = np.isfinite(values) & np.isfinite(along)
        if kept.any():
            end = np.nanmax(along)
            places = np.append(along[kept], end)
            places, at = np.unique(places, return_index=True)
            found.append((places, np.append(values[kept], values[kept][-1])[at]))
    return found


def _number(name: str) -> str:
    """What a metric of training episodes is a mean of.

    >>> _number("cost_0_100"), _number("episode_return")
    ('cost_0', 'return')
    """
    return name.removesuffix("_100").removeprefix("episode_")


def _of_costs(groups: Mapping[str, Sequence[Drawn]]) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """-> (the metrics of a cost -> its name, where somebody gave it one; those metrics -> group -> its limit)"""
    names: dict[str, str] = {}
    limits: dict[str, dict[str, float]] = {}
    for label, runs in groups.items():
        config = read_config(runs[0].path / "config.json")
        costs, settings = tuple(config["spec"].get("cost_names", ())), config["config"]
        if not costs:
            continue
        from steersman.run.policies.limits import limits_of  # imports JAX, which runs without costs do not need

        found = limits_of(settings, costs)
        for i, (cost, suffix) in enumerate(zip(costs, found.suffixes, strict=True)):
            counted = [f"cost{suffix}_100", f"episode_cost{suffix}"] if found.discount == 1.0 else []
            for metric in (*counted, f"evaluation_cost{suffix}", f"discounted_cost{suffix}"):
                if not re.fullmatch(r"cost(_\d+)?", cost):
                    names[metric] = cost
                if found.most:
                    limits.setdefault(metric, {})[label] = found.most[i]
    return names, limits


def _label(name: str, cost: str = "") -> str:
    """A metric for people to read. cost: the name of the cost that it is of."""
    rolling = name.endswith("_100")
    if cost:
        kind = "evaluation cost" if name.startswith("evaluation") else "episode cost" if not rolling else "cost"
        return plain_text(f"{kind} {cost}" + (",\nmean of the last 100" if rolling else ""))
    said = re.sub(r"_100$", ", mean of the last 100", name)
    return _LABELS.get(name, plain_text(said.replace("_", " ")))


def plain_text(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def blank(width: float, height: float) -> Any:
    """An empty figure that knows how to draw itself; no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, out: Path) -> Path:
    """Write a figure, whole or not at all. Raises UsageError for an unknown suffix."""
    check_suffix(out)
    with replacing(out) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        figure.savefig(temporary, dpi=150)
    return out


def check_suffix(out: Path) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out} has the suffix {out.suffix!r}; a picture is one of {', '.join(SUFFIXES)}.")


def style(i: int) -> tuple[str, str]:
    """The colour and the line of the i-th group."""
    return _COLOURS[i % len(_COLOURS)], _STYLES[i // len(_COLOURS) % len(_STYLES)]


def ink(colour: str) -> tuple[float, ...]:
    """A colour dark enough for letters on white."""
    from matplotlib.colors import to_rgb

    rgb = np.asarray(to_rgb(colour))
    return tuple(rgb * min(1.0, 0.62 / (rgb @ (0.3, 0.6, 0.1) + 0.15)))


def tidy(axes: Any, x: str = "", y: str = "", title: str = "") -> None:
    """The look that all panels share."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def in_steps(axis: Any) -> None:
    """Ticks such as 150k."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(sep=""))


def draw_curves(axes: Any, curves: Mapping[str, Curve], styles: Sequence[int] | None = None) -> None:
    """One line and band a group. styles: which look each has; by default their order."""
    for i, c in zip(styles or range(len(curves)), curves.values(), strict=True):
        colour, line = style(i)
        marker = "o" if len(c.x) <= 10 else None
        whole = {"clip_on": marker is None}  # else the edge would cut the last point in half
        axes.plot(c.x, c.mean, line, color=colour, marker=marker, markersize=4, linewidth=1.6, zorder=3, **whole)
        if len(c.x) == 1:
            axes.vlines(c.x, c.low, c.high, color=colour, linewidth=1.6)  # a band needs two points
        else:
            axes.fill_between(c.x, c.low, c.high, color=colour, alpha=0.2, linewidth=0)
    first, last = (at(at(c.x) for c in curves.values()) for at in (min, max))
    axes.set_xlim(min(first, 0), last if last > 0 else None)  # 0 is where every run began


def draw_evaluations(axes: Any, curves: Mapping[str, Curve], groups: Sequence[str], legend: bool = True) -> None:
    """The mean return, or cost, of evaluations on the way, as points beside the line of training episodes."""
    for label, c in curves.items():
        colour, _ = style(groups.index(label))
        look = {"color": colour, "markerfacecolor": "white", "markersize": 4.5, "linewidth": 0.8, "zorder": 4}
        axes.plot(c.x, c.mean, "o:", clip_on=False, **look)
    if curves and legend:
        handles = [axes.plot([], [], *look, color="0.35", markerfacecolor="white")[0] for look in (["-"], ["o:"])]
        axes.legend(handles, ["training", "evaluation"], frameon=False, fontsize="small", loc="best")


def label_ends(axes: Any, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Name lines at the right edge, in their colours, spread where they would touch. ends: (label, x, y, colour)."""
    if not ends:
        return
    figure = axes.figure.figure  # the whole, where axes are in a part of it
    axes.set_ylim(axes.get_ylim())
    figure.draw_without_rendering()  # lays it out: only now is it known how tall the axes are
    to_axes = axes.transData + axes.transAxes.inverted()
    at = [tuple(to_axes.transform((x, y))) for _, x, y, _ in ends]
    size = 9.0
    gap = 1.3 * size / 72 * figure.dpi / axes.get_window_extent().height
    for (label, _, _, colour), (x, y), placed in zip(ends, at, spread([y for _, y in at], gap), strict=True):
        if x < 0.995 or abs(placed - y) > 0.01:
            axes.plot(
                [x, 1.0, 1.02], [y, y, placed], color=colour, linewidth=0.7, alpha=0.6, transform=axes.transAxes,
                clip_on=False, zorder=2, scalex=False, scaley=False,
            )  # fmt: skip
        axes.text(
            1.025, placed, plain_text(label), color=ink(colour), fontsize=size, fontweight="bold", va="center",
            transform=axes.transAxes,
        )  # fmt: skip


def spread(places: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """The places nearest to those given, by least squares, at least ``gap`` apart and in [low, high] if they fit.

    >>> spread([0.5, 0.5, 0.9], 0.25)
    [0.375, 0.625, 0.9]
    """
    order = np.argsort(places, kind="stable")
    blocks: list[list[float]] = []  # runs of neighbours that touch: [sum of wanted places less their gaps, how many]
    for i, at in enumerate(order):
        blocks.append([places[at] - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    flat = np.repeat([total / count for total, count in blocks], [int(count) for _, count in blocks])
    flat = np.clip(flat, low, max(low, high - (len(flat) - 1) * gap))
    found = np.empty(len(flat))
    found[order] = flat + gap * np.arange(len(flat))
    return [float(f) for f in found]


def _draw(
    panels: Mapping[str, Mapping[str, Curve]],
    groups: list[str],
    x: str,
    title: str,
    confidence: float,
    points: Mapping[str, Mapping[str, Curve]],
    limits: Mapping[str, Mapping[str, float]],
) -> Any:
    """Panels by their labels, the first one largest; a group looks the same in each.

    points: of panels, evaluations on the way; limits: of panels, by group.
    """
    curves, more = next(iter(panels.values())), len(panels) - 1
    wide = 0.085 * max(0, max(len(label) for label in curves) - 10)  # names stand beside the axes
    figure = blank(7.5 + min(wide, 6.0), max(4.3, 1.5 + 0.17 * len(curves)) + 2.4 * more)
    all_axes = figure.subplots(1 + more, sharex=True, squeeze=False, height_ratios=[1.0, *[0.6] * more])[:, 0]
    for axes, (y, part) in zip(all_axes, panels.items(), strict=True):
        draw_curves(axes, part, [groups.index(label) for label in part])
        tidy(axes, x if axes is all_axes[-1] else "", y)
    for axes, y in zip(all_axes, panels, strict=True):
        draw_evaluations(axes, points.get(y, {}), groups, legend=axes is all_axes[0])
    counts = {_seeds(c) for c in curves.values()}
    count = counts.pop() if len(counts) == 1 else ""
    banded = any(np.isfinite(c.low).any() for c in curves.values())
    about = [f"mean with its {100 * confidence:g}% bootstrap interval" if banded else "", count]
    figure.suptitle(plain_text(title) or None, x=0.01, ha="left", fontsize="large", fontweight="bold")
    all_axes[0].set_title(", ".join(filter(None, about)), loc="left", fontsize="small", color="0.35")
    names = {n: n if count else f"{n} ({_seeds(c)})" for n, c in curves.items()}
    for axes, (y, part) in zip(all_axes, panels.items(), strict=True):
        ends = [(names[n], c.x[-1], c.mean[-1], style(groups.index(n))[0]) for n, c in part.items()]
        label_ends(axes, [*ends, *_draw_limits(axes, limits.get(y, {}), groups)])
    return figure


def _draw_limits(axes: Any, limits: Mapping[str, float], groups: Sequence[str]) -> list[tuple[str, float, float, str]]:
    """A line across for the limit that groups share, or one for each; -> what is to stand at their ends."""
    shared = len(set(limits.values())) == 1
    found = {}
    for label, limit in limits.items():
        colour = "#666666" if shared else style(groups.index(label))[0]
        found[limit] = (f"limit {limit:g}", axes.get_xlim()[1], limit, colour)
    for _, _, limit, colour in found.values():
        axes.axhline(limit, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
    return list(found.values())


def _seeds(c: Curve) -> str:
    most = f"{c.seeds} of {c.among}" if c.seeds < c.among else f"{c.seeds}"
    return f"{most} seed{'s' if c.among > 1 else ''}"
