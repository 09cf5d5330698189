"""Listeners that are ready: those that every run has (logs, the picture of its curve), and callbacks to give it.

steersman.train("ppo", "CartPole-v1", callbacks=[StopAtReturn(475)])
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError, warn_once
from steersman.run.disk import logs, run_folder
from steersman.run.events import Compiling, Done, Stop, Trained
from steersman.run.policies.limits import Limits
from steersman.run.settings import RunConfig, saved_settings


class StopAtReturn:
    """Stop once the mean return of each seed's last hundred training episodes reaches a threshold.

    Looked at where a row of the log ends; training episodes explore, so the policy is as a rule a little better. of:
    "evaluation_return", for the mean return of an evaluation on the way.
    """

    def __init__(self, threshold: float, *, of: str = "return_100"):
        self.threshold, self.of = threshold, of

    def __call__(self, event: Any) -> Stop | None:
        if not isinstance(event, Trained) or event.row is None:
            return None
        lowest = np.min(event.row.get(self.of, np.nan))  # NaN where a seed has finished no episode
        return Stop(f"a mean return of {lowest:g} reached {self.threshold:g}") if lowest >= self.threshold else None


class StopWithoutProgress:
    """Stop once the mean return of the last hundred training episodes has not risen for so many rows of the log.

    Over all seeds. by: how much higher than the best so far counts. Rows in which no episode ended count too. A row is
    a hundredth of the run, in one of hours about ten seconds.
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
        mean = np.mean(event.row["return_100"])
        risen = mean > self.best + self.by
        self.best, self.since = (mean, 0) if risen else (self.best, self.since + 1)
        return Stop(f"no return above {self.best:g} for {self.rows} rows") if self.since >= self.rows else None


class Unending:
    """Warns, once, where no episode has ended in many steps of each environment: then there is no return to show.

    limit: the longest an episode may be, 0 where that is not known.
    """

    def __init__(self, num_envs: int, limit: int, patience: int = 10_000):
        self.num_envs, self.patience = num_envs, max(patience, limit)
        self.ended = None  # the steps at which an episode was last seen to have ended, or the first row of this sitting

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Trained) or event.row is None:
            return
        if self.ended is None or np.any(event.row["episodes"]):
            self.ended = event.steps
        waited = (event.steps - self.ended) // self.num_envs
        if waited >= self.patience:
            environment = event.training.environment
            warn_once(
                f"{environment} unending",
                f"No episode of {environment} has ended in the last {waited:,} steps of each environment: there is no "
                "return to show. Let it terminate, or give it a time limit: gymnasium.wrappers.TimeLimit(env, 1000).",
            )


class Costless:
    """Warns, once, of a cost that no episode of a run has paid any of."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def __call__(self, event: Any) -> None:
        if not isinstance(event, Done):
            return
        environment = event.training.environment
        for name, suffix in zip(self.limits.names, self.limits.suffixes, strict=True):
            seen = [np.ravel(row.get(f"episode_cost{suffix}", np.nan)) for row in event.history]
            paid = np.concatenate(seen or [np.zeros(0)])
            if np.isfinite(paid).any() and not np.nansum(np.abs(paid)):
                limited = (
                    "its limit limits nothing, and its multiplier stays 0" if self.limits.most else "it says nothing"
                )
                warn_once(
                    f"{environment} costs nothing {name}",
                    f"The cost {name!r} of {environment} was 0 in every episode: {limited}. Look at what it is made "
                    "of: a threshold that is never passed, or an entry of info that means something else.",
                )


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
        for name in ("return_100", "evaluation_return"):  # who learns from data has but the second
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
        add(logs.TensorBoard(Path(run.path) / "tensorboard", saved_settings(run.config)))
    if settings.wandb:
        add(logs.WandB(run.path, settings.wandb, config=saved_settings(run.config)))
    return [Logging(sink) for sink in sinks]
