"""A run under way: its parts, how far it is, who listens. What an event calls ``training``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steersman.errors import UsageError, raised_at
from steersman.run.disk import checkpoint, run_folder
from steersman.run.events import Assessed, Callback, Event, Saved, Stop, name_of
from steersman.run.loops.cadence import Cadence
from steersman.run.parts.setup import Setup
from steersman.run.plan import Plan
from steersman.run.policies import best
from steersman.run.policies.best import Best
from steersman.run.policies.periodic import without_memory
from steersman.run.policy import Policy
from steersman.run.progress import Progress, Row, save
from steersman.run.signals import Interruption


class Session:
    """Keeps a run's state between updates, and answers what listeners ask of it (``events.Training``)."""

    def __init__(self, plan: Plan, setup: Setup, run: run_folder.Run | None, signals: Interruption):
        self.setup, self.run, self.signals = setup, run, signals
        self.algorithm, self.environment = setup.algorithm.name, setup.spec.id
        self.seeds, self.within = setup.seeds, plan.within
        self.folder = None if run is None else run.path
        self.state: Any = None
        self.progress = Progress(Row(setup.run.seeds, setup.limits), [], began=time.perf_counter())
        changes = () if run is None else run.config.get("cadence", {}).get("changes", ())
        self.cadence = Cadence(setup.log_updates, setup.checkpoint_updates, setup.checkpoints_by_clock, changes)
        self.best = Best(setup.run.seeds)
        self.listeners: list[Callback] = []  # ours: they come first, and what they raise is ours
        self.callbacks = plan.callbacks
        self.stopped: dict[str, str] | None = None  # by which callback, why
        self._logged: dict[str, Any] = {}  # for the next row
        self._evaluated: dict[str, Any] = {}  # the same, by ``evaluate``
        self._calling = ""
        self._saved_at = -1  # updates behind the newest checkpoint of this sitting

    @property
    def steps(self) -> int:
        return self.setup.steps(self.progress.updates)

    @property
    def over(self) -> bool:
        """The budget is met."""
        return self.progress.updates >= self.setup.updates

    @property
    def ending(self) -> str:
        """Why the run ends before that; empty if it does not."""
        if self.signals.requested:
            return "a signal"
        return "" if self.stopped is None else ": ".join(filter(None, self.stopped.values()))

    def tell(self, event: Event) -> None:
        """Give an event to all listeners. A callback that raises ends the run, which is saved first if it may be."""
        for listener in self.listeners:
            listener(event)
        for callback in self.callbacks:
            self._calling = name_of(callback)
            with faults_of(callback, self._rescue):
                answer = callback(event)
                if isinstance(answer, Stop):
                    self.stop(answer.why)

    def write(self) -> Path | None:
        """Save the state as it is; the path, or None without a folder."""
        if self.run is None:
            return None
        path = checkpoint.step_path(self.run.checkpoints, self.steps)
        if self._saved_at != self.progress.updates:
            self.best.write(self.run.best)
            save(self.setup, self.run, self.state, self.progress)
            best.prune(self.run.best, [steps for steps, _ in checkpoint.saved(self.run.checkpoints)])
            self._saved_at = self.progress.updates
            self.tell(Saved(self, path, self.steps))
        return path

    def measured(self, updates: int, seconds: float) -> None:
        """Take note of how long the newest updates took; where rows and checkpoints are to come sooner, record that."""
        if self.cadence.measured(self.progress.updates, updates, seconds) and self.run is not None:
            self.run = run_folder.update(self.run, {"cadence": self.cadence.to_json()})

    def row(self) -> dict[str, Any]:
        """End the log row in progress: its means, with what callbacks have logged."""
        means = {"steps": self.steps, "seconds": self.progress.seconds(), **self.progress.row.means()}
        means |= self._evaluated
        twice = sorted(self._logged.keys() & means.keys())
        if twice:
            raise UsageError(f"A callback logs {twice[0]!r}, which every row has already. Log it by another name.")
        row = means | self._logged
        self.progress.history.append(row)
        self.progress.row = Row(self.setup.run.seeds, self.setup.limits, self.progress.row.newest)
        self._logged, self._evaluated = {}, {}
        return row

    def evaluate(self) -> Assessed | None:
        """Play a few episodes with each seed's policy, if it is time to: the row that ends here has their mean return.

        What the event says is told later, once that row is: a callback that raises finds it logged.
        """
        progress, periodic, loop = self.progress, self.setup.periodic, self.setup.loop
        progress.spent = progress.spent.now()
        if periodic is None or not periodic.cadence.due(progress.updates, progress.spent):
            return None
        began, compiled = time.perf_counter(), loop.compile_seconds
        returns, lengths, costs, said, unfinished = jax.tree.map(np.asarray, periodic.play(loop, self.state))
        mean = returns.mean(1, dtype=np.float64)
        score = np.where(np.isnan(mean), -np.inf, mean)
        paid = costs.mean(1, dtype=np.float64)  # [S, C]
        over = self.setup.limits.excess(paid)
        better = self.best.better(score, over)
        if better.any():
            self.best.keep(loop.agents(without_memory(self.state)), score, over, self.steps)
        progress.spent = progress.spent._replace(steps=progress.spent.steps + float(lengths.max(1).mean()))
        progress.evaluating += time.perf_counter() - began - (loop.compile_seconds - compiled)
        means = {"evaluation_return": mean}
        means |= {f"evaluation_cost{suffix}": paid[:, i] for i, suffix in enumerate(self.setup.limits.suffixes)}
        if np.isfinite(success := said.get("success", np.full_like(returns, np.nan))).any():
            means["evaluation_success"] = np.nan_to_num(success).mean(1)
        self._evaluated = {name: x if len(self.seeds) > 1 else float(x[0]) for name, x in means.items()}
        return Assessed(self, self.steps, returns, lengths, costs, unfinished, better)

    # What listeners ask

    def policy(self, seed_index: int = 0) -> Policy:
        return self.setup.policy(self.setup.loop.agents(self.state)[seed_index])

    def log(self, name: str, value: Any) -> None:
        number = np.asarray(value, np.float64)
        if number.shape not in ((), (len(self.seeds),)):
            raise UsageError(f"{name} = {value!r}; what is logged is one number, or one for each of the run's seeds.")
        self._logged[name] = number if number.shape else float(number)

    def save(self) -> Path | None:
        if self.run is None:
            raise UsageError("This run has no folder to save in; give it one: out=...")
        return self.write() if self.setup.compiled else None

    def stop(self, why: str) -> None:
        self.stopped = self.stopped or {"by": self._calling, "why": why}

    def _rescue(self) -> str:
        """After a fault of a callback: save where that is no other run, and say where it goes on."""
        if self.run is not None and self.setup.compiled and self.state is not None:
            self.callbacks = ()  # none of them is told of this
            self.write()
        return f" {self.kept()}".rstrip()

    def kept(self) -> str:
        """What of a run that ends here is on disk, and how to go on; empty for a run without a folder."""
        if self.run is None:
            return ""
        saved = checkpoint.saved(self.run.checkpoints)
        again = run_folder.to_resume(self.run)
        if not saved:
            return f"Nothing was saved yet: begin anew with {again}"
        return f"It is saved at {saved[-1][0]:,} steps; go on with: {again}"

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Let an interrupt that ends the run at once say what is kept of it."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self.kept()) from None


@contextmanager
def faults_of(callback: Callback, rescue: Any = lambda: "") -> Iterator[None]:
    """Turn what a callback raises into a UsageError that names it. rescue: called first; -> what else to say."""
    try:
        yield
    except Exception as error:
        said = f"{type(error).__name__}: {error}{raised_at(error)}"
        raise UsageError(f"The callback {name_of(callback)} ended the run with {said}.{rescue()}") from error


def tell_all(callbacks: Sequence[Callback], event: Any) -> None:
    """Give an event that is of no run under way to callbacks; what they answer has no one to hear it."""
    for callback in callbacks:
        with faults_of(callback):
            callback(event)
