"""Listeners that are ready: those that every run has (logs, the picture of its curve), and callbacks to give it.

steersman.train("ppo", "CartPole-v1", callbacks=[StopAtReturn(475)])
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError
from steersman.run.disk import logs, run_folder
from steersman.run.events import Compiling, Done, Stop, Trained
from steersman.run.settings import RunConfig, saved_settings


class StopAtReturn:
    """Stop once the mean return of training episodes reaches a threshold: over a row of the log, in every seed.

    A row is a hundredth of the run; training episodes explore, so the policy is as a rule a little better than that.
    of: "evaluation_return", for the mean return of an evaluation on the way.
    """

    def __init__(self, threshold: float, *, of: str = "episode_return"):
        self.threshold, self.of = threshold, of

    def __call__(self, event: Any) -> Stop | None:
        if not isinstance(event, Trained) or event.row is None:
            return None
        lowest = np.min(event.row.get(self.of, np.nan))  # NaN where a seed has finished no episode
        return Stop(f"a mean return of {lowest:g} reached {self.threshold:g}") if lowest >= self.threshold else None


class StopWithoutProgress:
    """Stop once the mean return of training episodes, over all seeds, has not risen for so many rows of the log.

    by: how much higher than the best so far counts. Rows in which no episode ended count too.
    """

    def __init__(self, rows: int = 20, *, by: float = 0.0):
        if rows < 1:
            raise UsageError(f"StopWithoutProgress: rows = {rows}; it must be 1 or more.")
        self.rows, self.by = rows, by
        self.best, self.since = -np.inf, 0

    def __call__(self, event: Any) -> Stop | None:
        if isinstance(event, Compiling):
            self.best, self.since = -np.inf, 0
        if not isinstance(event, Trained) or event.row is None:
            return None
        mean = np.mean(event.row["episode_return"])
        risen = mean > self.best + self.by
        self.best, self.since = (mean, 0) if risen else (self.best, self.since + 1)
        return Stop(f"no return above {self.best:g} for {self.rows} rows") if self.since >= self.rows else None


class Logging:
    """Writes the rows to a sink: ``metrics.jsonl``, TensorBoard, Weights & Biases."""

    def __init__(self, sink: logs.Sink):
        self.sink = sink

    def __call__(self, event: Any) -> None:
        if isinstance(event, Trained) and event.row is not None:
            self.sink.write(event.steps, {k: v for k, v in event.row.items() if k != "steps"})


class Curve:
    """Draws the learning curve of a run that is over, if any episode ended in it, or in its evaluations."""

    def __init__(self, run: run_folder.Run):
        self.run = run

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Done):
            return
        for name in ("episode_return", "evaluation_return"):  # who learns from data has but the second
            if any(np.isfinite(row.get(name, np.nan)).any() for row in event.history):
                from steersman.run.show import plots

                plots.learning_curve([self.run.path], self.run.curve, y=name)
                break


def loggers(stack: ExitStack, run: run_folder.Run, settings: RunConfig) -> list[Logging]:
    """Those that a run's settings ask for; closed by the stack."""
    sinks: list[logs.Sink] = []

    def add(sink: logs.Sink) -> None:
        stack.callback(sink.close)
        sinks.append(sink)

    add(logs.JsonLines(run.metrics))
    if settings.tensorboard:
        add(logs.TensorBoard(Path(run.path) / "tensorboard"))
    if settings.wandb:
        add(logs.WandB(run.path, settings.wandb, config=saved_settings(run.config)))
    return [Logging(sink) for sink in sinks]
