"""The loop over texts: a batch from the host, one compiled update, and what is logged, looked at and saved between two.

The loop over data (``run.loops.data_loop``) holds all of its data on the device and draws from it inside the program.
Texts are of many lengths: batches are padded on the host to one of few, each with a program of its own, the frozen
decoder is an argument of it, and learners that write their own answers make a batch out of the learner. So this loop
is a plain one, beside that.

What a run is between two updates is its ``Learner``: the count of updates in it is the position in the data, and the
key of an update is made of the seed and that count. So a run that goes on ends bit for bit as one that was not stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman.agents.language.common import Learner, Method, Trainer
from steersman.errors import TrainingFault, UsageError
from steersman.run.disk import checkpoint, logs, run_folder
from steersman.run.disk.files import explained, plain, replacing
from steersman.run.events import Callback, Compiling, Done, Event, Learned, Saved, Stop, Stopping, Within, name_of
from steersman.run.language.curve import loss_curve
from steersman.run.language.models import LanguageModel
from steersman.run.language.programs import Programs
from steersman.run.language.runs import shapes
from steersman.run.language.settings import AlignConfig
from steersman.run.session import faults_of
from steersman.run.signals import Interruption, stop_on_signals

ROWS = 200  # of the log, in a run; fewer in a short one
CHECKPOINT_SECONDS = 300.0  # between two checkpoints, besides those at evaluations


class Fed(NamedTuple):
    """A batch for one update."""

    batch: Any
    tokens: int  # in it
    told: dict[str, float]  # numbers for the log that only who made it knows


class Job(NamedTuple):
    """A training that is ready to begin: its parts, all made and checked."""

    method: Method
    config: Any
    run: AlignConfig
    model: LanguageModel
    trainer: Trainer
    programs: Programs
    total: int  # updates
    feed: Callable[[Learner, int], Fed]  # (learner, number of the update) -> its batch, which depends on nothing else
    evaluate: Callable[[Learner], dict[str, float]]  # what is to be known of a learner on the way; {}: nothing
    sample: Callable[[Learner], list[dict[str, Any]]]  # what it says by now
    description: str
    notes: tuple[str, ...]
    about: dict[str, Any]  # for config.json: model, data, their digests


@dataclass
class Aligned:
    """What a training of a language model gives back."""

    learner: Learner
    model: Callable[[], LanguageModel]  # what was learned, merged
    history: list[dict[str, Any]]  # one row per log step
    summary: dict[str, Any]
    run: Path | None
    interrupted: bool


@dataclass
class Progress:
    """How far a run is, beside its learner."""

    updates: int = 0
    tokens: int = 0
    wall: float = 0.0  # seconds of the sittings before this one
    training: float = 0.0  # of updates, all sittings
    compile: float = 0.0  # of the sittings before
    sums: dict[str, float] = field(default_factory=dict)  # of the log row in progress
    count: int = 0  # updates in it
    row_tokens: int = 0  # tokens before it
    row_training: float = 0.0  # seconds of training before it


class Alignment:
    """A training under way: what an event calls ``training``."""

    def __init__(
        self,
        job: Job,
        run: run_folder.Run | None,
        callbacks: Sequence[Callback],
        signals: Interruption,
        within: Within | None = None,
    ):
        self.job, self.run, self.callbacks, self.signals = job, run, callbacks, signals
        self.algorithm, self.environment = job.method.name, job.about["model"]
        self.seeds = [job.run.seed]
        self.within = within
        self.folder = None if run is None else run.path
        self.learner: Any = None
        self.progress, self.history = Progress(), []
        self.stopped: dict[str, str] | None = None
        self._calling, self._logged = "", {}
        self._began = self.saved = time.perf_counter()
        self.saved_at = -1  # updates behind the newest checkpoint of this sitting
        self.sink: logs.Sink | None = None

    def tell(self, event: Event) -> None:
        for callback in self.callbacks:
            self._calling = name_of(callback)
            with faults_of(callback, self._rescue):
                answer = callback(event)
                if isinstance(answer, Stop):
                    self.stop(answer.why)

    # What listeners ask

    def policy(self, seed_index: int = 0) -> Any:
        from steersman.run.language.answering import Assistant

        return Assistant(
            self.job.programs.model(self.learner), self.job.model.tokenizer, plain=bool(self.job.about["plain"])
        )

    def log(self, name: str, value: Any) -> None:
        self._logged[name] = float(value)

    def save(self) -> Path | None:
        if self.run is None:
            raise UsageError("This run has no folder to save in; give it one: out=...")
        return self.write()

    def stop(self, why: str) -> None:
        self.stopped = self.stopped or {"by": self._calling, "why": why}

    def _rescue(self) -> str:
        """After a fault of a callback: save, and say where it goes on."""
        if self.run is not None and self.learner is not None:
            self.callbacks = ()  # none of them is told of this
            self.write()
        return f" {_kept(self)}".rstrip()

    # The run

    @property
    def ending(self) -> str:
        if self.signals.requested:
            return "a signal"
        return "" if self.stopped is None else ": ".join(filter(None, self.stopped.values()))

    @property
    def seconds(self) -> float:
        return self.progress.wall + time.perf_counter() - self._began

    def write(self) -> Path | None:
        """Write a checkpoint; None without a folder."""
        if self.run is None:
            return None
        p = self.progress
        path = checkpoint.step_path(self.run.checkpoints, p.updates)
        if self.saved_at != p.updates:
            header = {"steps": p.updates, "tokens": p.tokens, "sums": p.sums, "count": p.count}
            header |= {"wall": self.seconds, "training": p.training, "compile": self.compile_seconds}
            checkpoint.save(path, {"agent": self.learner}, header)
            checkpoint.prune(self.run.checkpoints, self.job.run.keep_checkpoints)
            self.saved_at, self.saved = p.updates, time.perf_counter()
            self.tell(Saved(self, path, p.updates))
        return path

    @property
    def compile_seconds(self) -> float:
        return self.progress.compile + self.job.programs.compile_seconds

    def row(self, metrics: dict[str, float]) -> dict[str, Any]:
        """End the log row in progress."""
        p = self.progress
        row = {"steps": p.updates, "seconds": self.seconds, "tokens": p.tokens}
        row |= {name: total / p.count for name, total in p.sums.items()}
        if took := p.training - p.row_training:
            row["tokens_per_second"] = (p.tokens - p.row_tokens) / took
        row |= metrics | self._logged
        p.sums, p.count, p.row_tokens, p.row_training = {}, 0, p.tokens, p.training
        self._logged = {}
        self.history.append(row)
        if self.sink is not None:
            self.sink.write(row["steps"], {k: v for k, v in row.items() if k != "steps"})
        return row

    def look(self) -> dict[str, float]:
        """Ask how good it is by now, and let it say something; -> numbers for the row that ends here."""
        if self.run is not None and (said := self.job.sample(self.learner)):
            path = self.run.path / "samples.jsonl"
            with explained("writing", path), open(path, "a", encoding="utf-8") as file:
                for one in said:
                    file.write(json.dumps(plain({"steps": self.progress.updates, **one}), ensure_ascii=False) + "\n")
        return self.job.evaluate(self.learner)


def fit(
    job: Job,
    run: run_folder.Run | None,
    callbacks: Sequence[Callback] = (),
    newest: checkpoint.Latest | None = None,
    within: Within | None = None,
) -> Aligned:
    """Carry a job out, from its beginning or from a checkpoint; the folder is locked by who calls.

    Raises TrainingFault where a loss is NaN or infinite; what was saved stays.
    """
    with stop_on_signals() as signals:
        session = Alignment(job, run, callbacks, signals, within)
        session.tell(Compiling(session, job.description + _going_on(newest), job.total, job.notes))
        try:
            header = {} if newest is None or newest.path is None else newest.content.header
            if run is not None:
                cut_back(run, int(header.get("steps", -1)))
                session.sink = logs.JsonLines(run.metrics)  # after that, which may put another file in its place
            if newest is not None and header:
                _restore(session, newest)
            else:
                session.learner = job.programs.init(job.run.seed)
                metrics = session.look()
                if metrics:
                    session.tell(Learned(session, 0, job.total, 0.0, metrics, session.row(metrics)))
            _train(session)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(session)) from None
        finally:
            if session.sink is not None:
                session.sink.close()
        summary = _summary(session)
        if run is not None:
            run_folder.write_summary(run, summary)
            loss_curve(session.history, run.curve)
        session.tell(Done(session, summary, session.history))
    model = lambda: LanguageModel(job.programs.model(session.learner), job.model.tokenizer)
    return Aligned(session.learner, model, session.history, summary, session.folder, summary["status"] == "interrupted")


def _train(session: Alignment) -> None:
    job, progress = session.job, session.progress
    rows = max(1, job.total // ROWS)
    looks = max(1, -(-job.total // (job.run.evaluations + 1)))
    key = jax.random.key(job.run.seed)
    while progress.updates < job.total and not session.ending:
        tick, compiled = time.perf_counter(), job.programs.compile_seconds
        fed = job.feed(session.learner, progress.updates)
        batch_key = jax.random.fold_in(key, progress.updates)
        session.learner, found = job.programs.update(session.learner, fed.batch, batch_key)
        metrics = {name: float(value) for name, value in found.items()} | fed.told
        seconds = time.perf_counter() - tick - (job.programs.compile_seconds - compiled)
        progress.updates += 1
        progress.training += seconds
        progress.tokens += fed.tokens
        _check(session, metrics)
        progress.count += 1
        for name, value in metrics.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value
        at = progress.updates
        asked = at % looks == 0 or at == job.total
        row = None
        if asked or at % rows == 0:
            row = session.row(session.look() if asked else {})
        session.tell(Learned(session, at, job.total, fed.tokens / seconds, metrics, row))
        if asked or time.perf_counter() - session.saved > CHECKPOINT_SECONDS:
            session.write()
    if session.ending and progress.updates < job.total:
        session.tell(Stopping(session, session.ending))
        session.write()


def _check(session: Alignment, metrics: dict[str, float]) -> None:
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        kept = _kept(session)
        raise TrainingFault(
            f"Training stopped at update {session.progress.updates:,}: {bad[0]} is {metrics[bad[0]]}. Usual causes: a "
            f"learning rate that is too high, a max_grad_norm that is off. {kept}".rstrip()
        )


def _kept(session: Alignment) -> str:
    if session.run is None:
        return ""
    saved = checkpoint.saved(session.run.checkpoints)
    if not saved:
        return "Nothing was saved yet."
    return f"It is saved at {saved[-1][0]:,} updates; go on with: {run_folder.to_resume(session.run)}"


def _going_on(newest: checkpoint.Latest | None) -> str:
    if newest is None:
        return ""
    return f", going on from update {newest.content.header['steps']:,}" if newest.path else ", anew: nothing was saved"


def _restore(session: Alignment, newest: checkpoint.Latest) -> None:
    """The learner of a checkpoint; the log and the samples are cut back to it."""
    job, run, header = session.job, session.run, newest.content.header
    assert run is not None
    session.learner = newest.content.state({"agent": shapes(job.trainer, job.model)})["agent"]
    steps = int(header["steps"])
    named = {name: header[name] for name in ("tokens", "wall", "training", "compile", "sums", "count")}
    rest = {"row_tokens": header["tokens"], "row_training": header["training"]}
    session.progress = Progress(updates=steps, **named, **rest)
    session.saved_at = steps
    checkpoint.set_aside(run.checkpoints, steps)
    (run.path / "summary.json").unlink(missing_ok=True)
    session.history = logs.read_metrics(run.metrics)


def cut_back(run: run_folder.Run, steps: int) -> None:
    """Drop what was logged and sampled after so many updates: it is written again."""
    logs.truncate_to(run.metrics, steps)
    samples = run.path / "samples.jsonl"
    if samples.is_file():
        with explained("reading", samples):
            lines = samples.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["steps"] <= steps]
        with replacing(samples) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def _summary(session: Alignment) -> dict[str, Any]:
    job, p = session.job, session.progress
    over = p.updates >= job.total
    looked = [row for row in session.history if any(name.startswith("held_out") for name in row)]
    held = lambda row: {name: value for name, value in row.items() if name.startswith("held_out")}
    early = session.stopped is not None and not over and not session.signals.requested
    return {
        "algorithm": session.algorithm,
        "environment": session.environment,
        "status": "done" if over else "stopped early" if early else "interrupted",
        **({"stopped": session.stopped} if early else {}),
        "steps": p.updates,
        "tokens": p.tokens,
        "seeds": session.seeds,
        "wall_seconds": session.seconds,
        "compile_seconds": session.compile_seconds,
        "training_seconds": p.training,
        "tokens_per_second": p.tokens / max(p.training, 1e-9),
        "before": held(looked[0]) if looked else None,
        "after": held(looked[-1]) if looked else None,
    }
