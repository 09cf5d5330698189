"""What a command shows: a progress bar while it trains, tables when it is done, or JSON."""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from steersman.run.compare.results import Compared, Failed
from steersman.run.disk.files import plain
from steersman.run.events import (
    AlreadyDone,
    Assessed,
    Compiling,
    Evaluating,
    Event,
    Stopping,
    Trained,
    Within,
)
from steersman.run.policies.limits import EXCEEDED, HOLDS, UNCERTAIN

_held: list[list[str]] = []  # what json_alone prints when it ends


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    text = json.dumps(plain(content), ensure_ascii=False)
    if _held:
        _held[-1].append(text)
    else:
        print(text)


@contextmanager
def json_alone() -> Iterator[None]:
    """Keep standard output for JSON: what else is printed, by an environment, in C or in a worker, goes to stderr."""
    texts: list[str] = []
    _held.append(texts)
    sys.stdout.flush()
    try:
        with redirect_stdout(sys.stderr), _descriptor_to_stderr():
            yield
    finally:
        _held.pop()
        for text in texts:
            print(text)


@contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    """Standard output of the whole process, which its children inherit."""
    try:
        kept = os.dup(1)
    except OSError:  # it has none
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # what C code has printed and not written yet
        os.dup2(kept, 1)
        os.close(kept)


def working(what: str) -> AbstractContextManager[Any]:
    """On a terminal, a spinner with a word about what takes a while; it is gone when that is done."""
    return Console(stderr=True, highlight=False, markup=False).status(what)


def number(value: Any, digits: int = 2) -> str:
    """A number for a table: thousands separated, few digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"


def evaluation_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table about an evaluation."""
    low, high = map(number, evaluation["ci95"])
    sure = "one episode: no interval" if evaluation["episodes"] == 1 else f"95% interval {low} to {high}"
    rows = [
        ("episodes", number(evaluation["episodes"])),
        ("mean return", f"{number(evaluation['mean'])}   ({sure})"),
        ("median, IQM", f"{number(evaluation['median'])}, {number(evaluation['iqm'])}"),
        ("lowest, highest", f"{number(evaluation['min'])}, {number(evaluation['max'])}"),
        ("mean length", number(evaluation["mean_length"], 1)),
    ]
    means, verdicts = evaluation.get("mean_cost", []), evaluation.get("limits", [])
    names = evaluation.get("cost_names") or [f"cost_{i}" for i in range(len(means))]  # of runs from before they had any
    for i, (mean, (low, high)) in enumerate(zip(means, evaluation.get("cost_ci95", []), strict=True)):
        over = f"; {100 * verdicts[i]['over']:.0f}% of episodes over {verdicts[i]['limit']:g}" if verdicts else ""
        said = f"{number(mean)}   (95% interval {number(low)} to {number(high)}{over})"
        rows.insert(2 + i, (f"mean {_cost(names, i)}", said))
    rows[2 + len(means) : 2 + len(means)] = [
        (f"limit on {_cost(names, i)}", f"{verdict['limit']:g}: {_verdict(verdict)}")
        for i, verdict in enumerate(verdicts)
    ]
    for name, of in evaluation.get("logged", {}).items():
        low, high = of["ci95"]
        if name == "success":
            value = f"{100 * of['mean']:.1f}%   (95% interval {100 * low:.1f}% to {100 * high:.1f}%)"
            rows.append(("success rate", value))
        else:
            rows.append((f"mean {name}", f"{number(of['mean'])}   (95% interval {number(low)} to {number(high)})"))
    if evaluation["unfinished"]:
        cut = f"{number(evaluation['unfinished'])}   (without an end by then; they count with what they had)"
        rows.append(("cut unfinished", cut))
    return rows


def _cost(names: Sequence[str], i: int) -> str:
    return "cost" if len(names) == 1 else f"cost {names[i].removeprefix('cost_')}"


def _verdict(verdict: Mapping[str, Any]) -> str:
    """Whether a limit holds, and why that is said."""
    why = {
        HOLDS: "the interval is at or under it",
        EXCEEDED: "the interval is above it",
        UNCERTAIN: "the interval does not tell",
    }
    seeds = "" if verdict["seeds"] is None else f"; {100 * verdict['seeds']:.0f}% of seeds are at or under it"
    return f"{verdict['said']}   ({why[verdict['said']]}{seeds})"


def limit_rows(limits: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The rows of a table about the limits of a run, beside those of its evaluation."""
    rows, names = [], [limit["cost"] for limit in limits]
    for i, limit in enumerate(limits):
        name = _cost(names, i)
        if trained := limit.get("training"):
            low, high = map(number, trained["ci95"])
            rows.append((f"{name} in training", f"{number(trained['mean'])}   (95% interval {low} to {high})"))
            rows.append(("  there, the limit", _verdict(trained)))
        if least := limit.get("least"):
            met = f"the limit of {limit['limit']:g} was never met"
            rows.append((f"least {name}", f"{number(least['cost'])} at {number(least['steps'])} steps: {met}"))
        if "multiplier" in limit:
            cap = "   (its cap: it can weigh no more)" if limit["at_cap"] else ""
            rows.append((f"multiplier of {name}", f"{number(limit['multiplier'])}{cap}"))
    return rows


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A title and two columns."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def print_columns(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A title, a header and rows: names to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(header):
        table.add_column(name, style="cyan" if i == 0 else None, justify="right" if i else "left", no_wrap=i > 0)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    console.print(title, style="bold")
    console.print(table, "")


class TrainingDisplay:
    """A listener that shows a training on a terminal: what runs, a bar with steps/s, return and time left."""

    def __init__(self, notes: list[str], bar_width: int = 12) -> None:
        self.notes, self.assessed = notes, ""
        self.name = ""  # of the one in training, where there are several
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=bar_width),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[score]}", style="green"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("starting", total=None, steps="", speed="", score="", left="")

    def __enter__(self) -> TrainingDisplay:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def __call__(self, event: Any) -> None:
        named = lambda what: f"{self.name}: {what}" if self.name else what
        match event:
            case Compiling():
                self.assessed = ""
                folder = event.training.folder
                lines = [event.description, *event.notes, *self.notes, *([f"run folder: {folder}"] if folder else [])]
                for line in lines if event.training.within is None else ():
                    self.console.print(line, soft_wrap=not self.console.is_terminal)
                self._show(named("compiling"), total=None)
            case Trained():
                costs = _costs(event.costs_100, event.cost_limits)
                self._show(
                    self.name or "training",
                    completed=event.steps,
                    total=event.total,
                    steps=f"{short(event.steps)}/{short(event.total)}",
                    speed=f"{short(event.steps_per_second)} steps/s",
                    score=f"return {number(event.return_100, 1)}{costs}{self.assessed}",
                    left=left(self.progress.tasks[0].time_remaining),
                )
            case Assessed():
                self.assessed = f", evaluated {number(float(event.returns.mean()), 1)}"
            case Stopping(why="a signal"):
                self._show("stopping; once more to stop at once")
            case Stopping():
                self.console.print(f"Stopped early by {event.why}.")
            case Evaluating():
                self._show(named(f"evaluating, {event.episodes} episodes"), total=None, speed="", steps="", left="")
            case AlreadyDone():
                self.console.print(
                    f"This run is {event.summary['status']} already. Train it for longer with --steps N."
                )

    def _show(self, what: str, **numbers: Any) -> None:
        self.progress.update(self.task, description=what, **numbers)


class ComparisonDisplay:
    """A listener that shows a comparison on a terminal: the bar of the run that trains, a line per entry done."""

    def __init__(self, display: type[TrainingDisplay] = TrainingDisplay) -> None:
        self.bar = display([], bar_width=6)  # its name takes the place

    def __enter__(self) -> ComparisonDisplay:
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def __call__(self, event: Any) -> None:
        match event:
            case Compared():
                mean = event.outcome.mean
                interval = "" if math.isnan(mean.low) else f" ({number(mean.low)} to {number(mean.high)})"
                self.bar.console.print(f"{event.entry}: mean {event.outcome.measure} {number(mean.value)}{interval}")
            case Failed():
                self.bar.console.print(f"{event.entry}: failed. {event.error}", style="red")
            case Event(training=training) if training.within is not None:
                self._place(training.within)
                if isinstance(event, Compiling) and training.within.run_number == 0:
                    entry = training.within.entry
                    prefix = "" if entry == training.algorithm else f"{entry}: "
                    self.bar.console.print(prefix + event.description, soft_wrap=not self.bar.console.is_terminal)
                self.bar(event)

    def _place(self, within: Within) -> None:
        """Name the bar after the run that trains."""
        label = within.entry if len(within.entry) <= 14 else within.entry[:13] + "…"
        self.bar.name = f"{label} {within.entry_number + 1}/{within.entries}"
        if within.runs > 1:
            self.bar.name = f"{label} seed {within.run_number + 1}/{within.runs}"


def _costs(costs: Sequence[float], limits: Sequence[float] = ()) -> str:
    """Mean costs beside a return, each with its limit; nothing where there are none.

    >>> _costs([]), _costs([3.0]), _costs([3.0, 0.25], [25, 1])
    ('', ', cost 3.0', ', costs 3.0/25, 0.2/1')
    """
    most = [f"/{limit:g}" for limit in limits] or [""] * len(costs)
    each = ", ".join(f"{number(cost, 1)}{limit}" for cost, limit in zip(costs, most, strict=True))
    return f", cost{'s' if len(costs) > 1 else ''} {each}" if each else ""


def left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m left" if hours else f"{minutes}:{seconds:02} left"


def short(value: float) -> str:
    """A count in at most six characters.

    >>> [short(n) for n in (512, 20_496, 1_250_000, 3e9)]
    ['512', '20.5k', '1.25M', '3G']
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
