"""What happens in a run, as values: each event is given to every listener, in the order of the run.

    Compiling -> Compiled -> Trained, Assessed, Saved ... -> (Stopping) -> Evaluating -> Evaluated -> Done

A language model is trained with Compiling -> Learned, Saved ... -> (Stopping) -> Done.

A listener is a function of one event: the progress bar, the loggers, the picture of the curve, and the callbacks that a
user gives. It may look at the policy, log a number, save, or stop the run. All of it happens between two calls of
compiled programs; a listener that only looks changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

    from steersman.run.evaluate import Evaluation
    from steersman.run.policy import Policy


class Stop(NamedTuple):
    """What a callback returns to end the run here: trained no further, saved, evaluated, and done."""

    why: str = ""


class Within(NamedTuple):
    """Where in a comparison a run is."""

    entry: str  # its label
    entry_number: int  # from 0
    entries: int
    run_number: int  # of the entry's runs, from 0: one per seed on host environments
    runs: int


class Training(Protocol):
    """The run, as a listener may use it."""

    algorithm: str
    environment: str
    seeds: list[int]
    folder: Path | None  # the run folder
    within: Within | None  # of a comparison

    def policy(self, seed_index: int = 0) -> Policy: ...
    def log(self, name: str, value: Any) -> None: ...
    def save(self) -> Path | None: ...
    def stop(self, why: str) -> None: ...


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    training: Training = field(repr=False, compare=False)

    @property
    def policy(self) -> Policy:
        """The policy as it is now, of the first seed (``training.policy(i)`` for others); made when asked for.

        Good until the callback returns: then the run goes on in the same memory. ``save`` keeps it.
        """
        return self.training.policy()

    def log(self, name: str, value: Any) -> None:
        """Put a number, or one for each seed, into the next row of the log; the newest of a name counts."""
        self.training.log(name, value)

    def stop(self, why: str = "") -> None:
        """End the run here, as returning ``Stop(why)`` does."""
        self.training.stop(why)

    def save(self) -> Path | None:
        """Write a checkpoint now; -> its path.

        None where a checkpoint off schedule would change the run, on host environments: there the next one on schedule
        is as soon as can be. UsageError for a run without a folder.
        """
        return self.training.save()


@dataclass(frozen=True)
class Compiling(Event):
    """The run begins: its programs are compiled and its first rollout is played. What remembers, begins anew here."""

    description: str
    total: int  # steps, of each seed
    notes: tuple[str, ...] = ()  # what else is to be known before it begins


@dataclass(frozen=True)
class Compiled(Event):
    """It can train now; or, resumed, is where it was."""

    steps: int
    seconds: float  # of compiling, so far


@dataclass(frozen=True)
class Trained(Event):
    """Some updates are done. How many depends on the machine's speed; the rows do so in very long runs alone."""

    steps: int  # so far, of each seed
    total: int
    steps_per_second: float  # of these updates, of all seeds
    return_100: float  # mean return of the last hundred episodes, over the seeds; NaN before each seed has ended one
    row: Mapping[str, Any] | None  # of the log, where one ended here: a number each, or [seeds]
    costs_100: tuple[float, ...] = ()  # of each cost, as return_100
    cost_limits: tuple[float, ...] = ()  # of each, where they are limited


@dataclass(frozen=True)
class Learned(Event):
    """An update of a language model is done, or, at the start, none yet."""

    steps: int  # updates so far
    total: int
    tokens_per_second: float  # of this update
    metrics: Mapping[str, float]  # of this update
    row: Mapping[str, Any] | None  # of the log, where one ended here


@dataclass(frozen=True)
class Assessed(Event):
    """The policy was evaluated on the way, on a few episodes: their mean is in the row of the ``Trained`` before."""

    steps: int
    returns: np.ndarray  # [S, N]: of each seed's episodes, the same ones each time
    lengths: np.ndarray  # [S, N]
    costs: np.ndarray  # [S, N, C]
    unfinished: np.ndarray  # [S, N]: cut, and counted with what they had
    best: np.ndarray  # [S]: whether it is the seed's best so far, which is kept


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written."""

    path: Path
    steps: int


@dataclass(frozen=True)
class Stopping(Event):
    """A signal or a callback ends the run before its budget does."""

    why: str


@dataclass(frozen=True)
class Evaluating(Event):
    """The final evaluation begins."""

    episodes: int  # of each seed


@dataclass(frozen=True)
class Evaluated(Event):
    """The final evaluation is done: of one seed, or of several pooled."""

    evaluation: Evaluation


@dataclass(frozen=True)
class Done(Event):
    """The run is over; ``summary.json`` is written."""

    summary: Mapping[str, Any]
    history: list[dict[str, Any]] = field(repr=False)  # the rows of the log


class AlreadyDone(NamedTuple):
    """A run that was to go on had nothing left to do."""

    summary: Mapping[str, Any]


Callback = Callable[[Any], Stop | None]  # a function of an event
FINISHED = ("done", "stopped early")  # what a summary's status says of a run that is over, evaluation and all


def name_of(callback: Callback) -> str:
    """What a callback is called in messages.

    >>> name_of(name_of), name_of(Stop("."))
    ('name_of', 'Stop')
    """
    return getattr(callback, "__qualname__", type(callback).__name__)
