"""What a command shows: a progress bar while it trains, tables when it is done, or JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from steersman.run.disk.files import plain


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(plain(content), ensure_ascii=False))


def number(value: Any, digits: int = 2) -> str:
    """A number for a table: thousands separated, few digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"


def evaluation_rows(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table about an evaluation."""
    low, high = evaluation["ci95"]
    rows = [
        ("episodes", number(evaluation["episodes"])),
        ("mean return", f"{number(evaluation['mean'])}   (95% interval {number(low)} to {number(high)})"),
        ("median, IQM", f"{number(evaluation['median'])}, {number(evaluation['iqm'])}"),
        ("lowest, highest", f"{number(evaluation['min'])}, {number(evaluation['max'])}"),
        ("mean length", number(evaluation["mean_length"], 1)),
    ]
    means = evaluation.get("mean_cost", [])
    for i, (mean, (low, high)) in enumerate(zip(means, evaluation.get("cost_ci95", []), strict=True)):
        name = "mean cost" if len(means) == 1 else f"mean cost {i}"
        rows.insert(2 + i, (name, f"{number(mean)}   (95% interval {number(low)} to {number(high)})"))
    if evaluation["unfinished"]:
        rows.append(("cut unfinished", number(evaluation["unfinished"])))
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
    """The ``report`` of ``steersman.train`` on a terminal: what runs, a bar with steps/s, return and time left."""

    def __init__(self, notes: list[str], bar_width: int = 12) -> None:
        self.notes = notes
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

    def __call__(self, phase: str, numbers: dict[str, Any]) -> None:
        if phase == "compiling":
            lines = [numbers["setup"].describe(), *self.notes, f"run folder: {numbers['run']}"]
            for line in lines if numbers["run"] else lines[:-1]:
                self.console.print(line, soft_wrap=not self.console.is_terminal)
            self._show(f"{self.name}: compiling" if self.name else "compiling", total=None)
        elif phase == "training":
            self._show(
                self.name or "training",
                completed=numbers["steps"],
                total=numbers["total"],
                steps=f"{short(numbers['steps'])}/{short(numbers['total'])}",
                speed=f"{short(numbers['steps_per_second'])} steps/s",
                score=f"return {number(float(numbers['episode_return']), 1)}",
                left=_left(self.progress.tasks[0].time_remaining),
            )
        elif phase == "stopping":
            self._show("stopping; once more to stop at once")
        elif phase == "evaluating":
            what = f"evaluating, {numbers['episodes']} episodes"
            self._show(f"{self.name}: {what}" if self.name else what, total=None, speed="", steps="", left="")
        elif phase == "done already":
            self.console.print("This run is done already. Train it for longer with --steps N.")

    def _show(self, what: str, **numbers: Any) -> None:
        self.progress.update(self.task, description=what, **numbers)


class ComparisonDisplay:
    """The ``report`` of ``steersman.compare`` on a terminal: the bar of the run that trains, a line per entry done."""

    def __init__(self) -> None:
        self.bar = TrainingDisplay([], bar_width=6)  # its name takes the place

    def __enter__(self) -> ComparisonDisplay:
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)

    def __call__(self, phase: str, numbers: dict[str, Any]) -> None:
        label = numbers["entry"] if len(numbers["entry"]) <= 14 else numbers["entry"][:13] + "…"
        self.bar.name = f"{label} {numbers['index'] + 1}/{numbers['entries']}"
        if numbers["runs"] > 1 and phase not in ("compared", "failed"):
            self.bar.name = f"{label} seed {numbers['run_number'] + 1}/{numbers['runs']}"
        if phase == "compiling" and numbers.get("run_number", 0) == 0:
            setup = numbers["setup"]
            prefix = "" if numbers["entry"] == setup.algorithm.name else f"{numbers['entry']}: "
            self.bar.console.print(prefix + setup.describe(), soft_wrap=not self.bar.console.is_terminal)
        if phase == "compiling":
            self.bar._show(f"{self.bar.name}: compiling", total=None)
        elif phase == "compared":
            mean = numbers["outcome"].mean
            interval = "" if math.isnan(mean.low) else f" ({number(mean.low)} to {number(mean.high)})"
            self.bar.console.print(f"{numbers['entry']}: mean return {number(mean.value)}{interval}")
        elif phase == "failed":
            self.bar.console.print(f"{numbers['entry']}: failed. {numbers['error']}", style="red")
        elif phase != "done already":
            self.bar(phase, numbers)


def _left(seconds: float | None) -> str:
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
