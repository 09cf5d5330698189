"""A run under way: its parts, how far it is, who listens. What an event calls ``training``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError, raised_at
from steersman.run.disk import checkpoint, run_folder
from steersman.run.events import Callback, Event, Saved, Stop, name_of
from steersman.run.loops.cadence import Cadence
from steersman.run.plan import Plan
from steersman.run.policy import Policy
from steersman.run.prepare import Setup
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
        self.progress = Progress(Row(setup.run.seeds), [], began=time.perf_counter())
        changes = () if run is None else run.config.get("cadence", {}).get("changes", ())
        self.cadence = Cadence(setup.log_updates, setup.checkpoint_updates, setup.checkpoints_by_clock, changes)
        self.listeners: list[Callback] = []  # ours: they come first, and what they raise is ours
        self.callbacks = plan.callbacks
        self.stopped: dict[str, str] | None = None  # by which callback, why
        self._logged: dict[str, Any] = {}  # for the next row
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
            save(self.setup, self.run, self.state, self.progress)
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
        twice = sorted(self._logged.keys() & means.keys())
        if twice:
            raise UsageError(f"A callback logs {twice[0]!r}, which every row has already. Log it by another name.")
        row = means | self._logged
        self.progress.history.append(row)
        self.progress.row, self._logged = Row(self.setup.run.seeds, self.progress.row.newest), {}
        return row

    # What listeners ask

    def policy(self, seed_index: int = 0) -> Policy:
        return Policy(self.setup.agent, self.setup.loop.agents(self.state)[seed_index], self.setup.spec)

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
