"""What a command shows: a progress bar while it trains, tables when it is done, or JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from steersman.run.files import plain


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
    if evaluation["unfinished"]:
        rows.append(("cut unfinished", number(evaluation["unfinished"])))
    return rows


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A table of two columns."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


class TrainingDisplay:
    """The ``report`` of ``steersman.train`` on a terminal: what runs, a bar with steps/s, return and time left."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[score]}", style="green"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task("starting", total=None, steps="", speed="", score="")

    def __enter__(self) -> TrainingDisplay:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def __call__(self, phase: str, numbers: dict[str, Any]) -> None:
        if phase == "compiling":
            for line in numbers["lines"]:
                self.console.print(line, highlight=False)
            self.progress.update(self.task, description="compiling")
        elif phase == "training":
            self.progress.update(
                self.task,
                description="training",
                completed=numbers["steps"],
                total=numbers["total"],
                steps=f"{numbers['steps']:,}/{numbers['total']:,}",
                speed=f"{numbers['steps_per_second']:,.0f} steps/s",
                score=f"return {number(float(numbers['episode_return']), 1)}",
            )
        elif phase == "evaluating":
            self.progress.update(self.task, description=f"evaluating, {numbers['episodes']} episodes")
