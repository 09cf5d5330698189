"""Learning curves as pictures: mean over seeds and bootstrap interval, one line per algorithm and environment."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, nearest
from steersman.run.files import replacing
from steersman.run.folder import read_config
from steersman.run.logs import columns, read_metrics

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by colour-blind readers, without the yellow that is lost on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_LABELS = {
    "steps": "environment steps",
    "seconds": "wall time (s)",
    "episode_return": "episode return (sum of rewards)",
    "episode_length": "episode length (steps)",
}
_POINTS = 400  # on the common grid, when the runs were not logged at the same places
_RESAMPLES = 2000


class Curve(NamedTuple):
    """What is drawn for one group: places ``[N]``, mean ``[N]``, interval ``[N]`` (NaN where fewer than two seeds)."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def learning_curve(
    runs: Sequence[str | Path] | Mapping[str, Sequence[str | Path]],
    out: str | Path,
    x: str = "steps",
    y: str = "episode_return",
    *,
    confidence: float = 0.95,
    title: str | None = None,
) -> Path:
    """Draw run folders into one picture; -> its path. The suffix of ``out`` says which kind: .png, .svg, .pdf.

    Runs of one algorithm on one environment are seeds of one group; a mapping label -> runs groups them otherwise. A
    run that trained several seeds counts as so many. Seeds logged at different places are interpolated to a common
    grid; a group is shown where at least half of its seeds have data. One seed is drawn without a band.

    Raises:
        UsageError: not a run, no such metric (the nearest names), nothing to draw yet, an unknown suffix, a full disk.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out} has the suffix {out.suffix!r}; a picture is one of {', '.join(SUFFIXES)}.")
    groups, environment = _grouped(runs)
    if not groups:
        raise UsageError("There is no run to plot. Give at least one run folder.")
    gathered = {label: [s for path in paths for s in _series(Path(path), x, y)] for label, paths in groups.items()}
    curves = {label: curve(series, confidence) for label, series in gathered.items() if series}
    if not curves:
        raise UsageError(
            f"{y} has no values yet in {_list(groups)}: no episode ended. Train longer, or plot another metric."
        )
    figure = _draw(curves, _label(x), _label(y), environment if title is None else title, confidence)
    if x == "steps":
        from matplotlib.ticker import EngFormatter

        figure.axes[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    with replacing(out) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        figure.savefig(temporary, dpi=150)
    return out


def curve(series: Sequence[tuple[np.ndarray, np.ndarray]], confidence: float = 0.95) -> Curve:
    """Mean and bootstrap interval over seeds on a common grid. series: per seed, (increasing places, values), [N]."""
    places = np.unique(np.concatenate([x for x, _ in series]))
    if len(places) > _POINTS and any(not np.array_equal(x, places) for x, _ in series):
        places = np.linspace(places[0], places[-1], _POINTS)
    table = np.stack([np.interp(places, x, y, left=np.nan, right=np.nan) for x, y in series])  # [S, N]
    there = np.isfinite(table)
    shown = 2 * there.sum(0) >= len(series)
    places, table, there = places[shown], table[:, shown], there[:, shown]
    mean = np.array([table[t, i].mean() for i, t in enumerate(there.T)])
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if len(series) > 1:
        from steersman.theory.statistics import bootstrap_interval  # imports JAX, which one seed does not need

        for i, t in enumerate(there.T):
            if t.sum() > 1:
                low[i], high[i] = bootstrap_interval(table[t, i], np.mean, confidence, resamples=_RESAMPLES)
    return Curve(places, mean, low, high, len(series))


def _grouped(
    runs: Sequence[str | Path] | Mapping[str, Sequence[str | Path]],
) -> tuple[dict[str, Sequence[str | Path]], str]:
    """-> label -> runs, and a title: what all groups share."""
    if isinstance(runs, Mapping):
        return dict(runs), ""
    found: dict[tuple[str, str], list[str | Path]] = {}
    for path in runs:
        if not (Path(path) / "config.json").is_file():
            raise UsageError(f"{path} is not a run: it has no config.json. Give folders that steersman train wrote.")
        config = read_config(Path(path) / "config.json")
        found.setdefault((config["algorithm"], config["environment"]), []).append(path)
    algorithms, environments = {a for a, _ in found}, {e for _, e in found}
    if len(environments) == 1:
        return {a: paths for (a, _), paths in found.items()}, "".join(environments)
    if len(algorithms) == 1:
        return {e: paths for (_, e), paths in found.items()}, "".join(algorithms)
    return {f"{a}, {e}": paths for (a, e), paths in found.items()}, ""


def _series(run: Path, x: str, y: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per seed of a run: places and values, without the gaps; seeds with no value are left out."""
    table = columns(read_metrics(run / "metrics.jsonl"))
    for name in (x, y):
        if table and name not in table:
            offer = nearest(name, table) or f"There are {', '.join(table)}."
            raise UsageError(f"{run} has no metric {name!r}. {offer}")
    if not table:
        return []
    along = table[x] if table[x].ndim == 1 else np.nanmean(table[x], axis=1)
    found = []
    for values in np.atleast_2d(table[y].T):
        kept = np.isfinite(values) & np.isfinite(along)
        places, at = np.unique(along[kept], return_index=True)
        if len(places):
            found.append((places, values[kept][at]))
    return found


def _label(name: str) -> str:
    return _LABELS.get(name, _plain(name.replace("_", " ")))


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # or matplotlib reads mathematics


def _list(groups: Mapping[str, Sequence[str | Path]]) -> str:
    paths = [str(p) for group in groups.values() for p in group]
    return ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")


def _draw(curves: Mapping[str, Curve], x: str, y: str, title: str, confidence: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    crowded = len(curves) > 6
    figure = Figure(figsize=(9 if crowded else 7, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (name, c) in enumerate(curves.items()):
        colour, style = _COLOURS[i % len(_COLOURS)], _STYLES[i // len(_COLOURS) % len(_STYLES)]
        label = _plain(f"{name} ({c.seeds} seed{'s' if c.seeds > 1 else ''})")
        marker = "o" if len(c.x) <= 10 else None
        axes.plot(c.x, c.mean, style, color=colour, label=label, marker=marker, markersize=4, linewidth=1.6, zorder=3)
        if len(c.x) == 1:
            axes.vlines(c.x, c.low, c.high, color=colour, linewidth=1.6)  # a band needs two points
        else:
            axes.fill_between(c.x, c.low, c.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(_plain(title))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if min(c.x.min() for c in curves.values()) >= 0:
        axes.set_xlim(left=0)  # where every run began
    banded = any(np.isfinite(c.low).any() for c in curves.values())
    about = f"mean, {100 * confidence:g}% bootstrap interval over seeds" if banded else None
    if crowded:
        figure.legend(loc="outside right upper", frameon=False, title=about, fontsize="small", title_fontsize="small")
    else:
        axes.legend(frameon=False, title=about, fontsize="small", title_fontsize="small")
    return figure
