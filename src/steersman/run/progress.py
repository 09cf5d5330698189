"""What a run keeps beside its arrays: the log row in progress, the seconds spent; and how all of it is saved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from steersman.errors import TrainingFault, UsageError
from steersman.run.disk import checkpoint, logs, run_folder
from steersman.run.loops.loop import Totals
from steersman.run.policies.periodic import Spent
from steersman.run.prepare import Setup
from steersman.unroll import Episodes


class Row:
    """Collects the totals of some updates into one logged row: means per episode, and per update."""

    def __init__(self, seeds: int):
        self.seeds, self.totals, self.updates = seeds, None, 0

    def add(self, totals: Totals) -> None:
        new = (totals.episodes, totals.metrics)
        self.totals = new if self.totals is None else jax.tree.map(np.add, self.totals, new)
        self.updates += totals.updates

    def means(self) -> dict[str, Any]:
        """A number each, or [seeds]; NaN for what is of an episode where none ended."""
        assert self.totals is not None
        episodes, metrics = self.totals
        count = np.asarray(episodes.count, np.float64)
        costs = np.asarray(episodes.costs).T
        summed = {"episode_return": episodes.returns, "episode_length": episodes.lengths}
        summed |= dict(zip(logs.cost_names(len(costs)), costs, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {name: np.where(count > 0, total / count, np.nan) for name, total in summed.items()}
        means["episodes"] = count
        means |= {name: np.asarray(value, np.float64) / self.updates for name, value in metrics.items()}
        return {k: float(v[0]) if self.seeds == 1 else v for k, v in means.items()}

    def to_json(self) -> dict[str, Any]:
        """A row in progress, so that a resumed run logs what the uninterrupted one logs."""
        if self.totals is None:
            return {}
        episodes, metrics = self.totals
        pairs = {name: (str(x.dtype), x.tolist()) for name, x in {**episodes._asdict(), **metrics}.items()}
        return {"updates": self.updates, "totals": pairs}

    @classmethod
    def from_json(cls, seeds: int, content: dict[str, Any]) -> Row:
        """The inverse of ``to_json``."""
        row = cls(seeds)
        if content:
            arrays = {name: np.asarray(values, dtype) for name, (dtype, values) in content["totals"].items()}
            arrays.setdefault("costs", np.full((seeds, 1), np.nan))  # a row from before they were counted
            episodes = Episodes(*(arrays.pop(name) for name in Episodes._fields))
            row.totals, row.updates = (episodes, arrays), int(content["updates"])
        return row


@dataclass
class Progress:
    """How far a run is."""

    row: Row
    history: list[dict[str, Any]]  # the rows logged so far
    updates: int = 0
    wall: float = 0.0  # seconds of the sittings before this one
    compile: float = 0.0
    training: float = 0.0  # of all sittings
    began: float = 0.0  # this sitting, on time.perf_counter
    spent: Spent = field(default_factory=Spent)  # on evaluations on the way
    evaluating: float = 0.0  # seconds of them, of all sittings

    def seconds(self) -> float:
        return self.wall + time.perf_counter() - self.began


def save(setup: Setup, run: run_folder.Run, state: Any, progress: Progress) -> None:
    """Write a checkpoint, and let go of old ones; raises TrainingFault rather than keep a NaN."""
    kept = setup.loop.saved(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept.agent):
        if np.issubdtype(leaf.dtype, np.floating) and np.isnan(leaf).any():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise fault(name, "NaN", setup.steps(progress.updates), run)
    steps = setup.steps(progress.updates)
    header = {
        "steps": steps,
        "updates": progress.updates,
        "rows": setup.run.seeds if setup.run.seeds > 1 else 0,
        "row": progress.row.to_json(),
        "wall_seconds": progress.seconds(),
        "compile_seconds": progress.compile + setup.loop.compile_seconds,
        "training_seconds": progress.training,
        "evaluating_seconds": progress.evaluating,
        "spent": list(progress.spent),
    }
    checkpoint.save(checkpoint.step_path(run.checkpoints, steps), kept, header)
    checkpoint.prune(run.checkpoints, setup.run.keep_checkpoints)


def updates_done(newest: checkpoint.Latest) -> int:
    """Updates behind the newest whole checkpoint; 0 if there is none."""
    return 0 if newest.path is None else int(_entry(newest.content.header, "updates", newest.path))


def restore(setup: Setup, run: run_folder.Run, newest: checkpoint.Latest, began: float) -> tuple[Any, Progress]:
    """The state of the newest whole checkpoint, and the log cut back to it. Without one the run starts over.

    newest: read already, as ``checkpoint.latest(folder, checkpoint.read)`` does; its arrays go over into the state.
    """
    path = newest.path
    progress, steps = Progress(Row(setup.run.seeds), [], began=began), 0
    if path is None:
        state = setup.loop.start()
    else:
        header = newest.content.header
        loaded = newest.content.state(setup.loop.shapes())
        steps = int(_entry(header, "steps", path))
        wall, compiling, training = (
            float(_entry(header, f"{k}_seconds", path)) for k in ("wall", "compile", "training")
        )
        row, updates = _row(header, setup.run.seeds, path), int(_entry(header, "updates", path))
        spent, evaluating = Spent(*header.get("spent", ())), float(header.get("evaluating_seconds", 0.0))
        progress = Progress(row, [], updates, wall, compiling, training, began, spent, evaluating)
        state = setup.loop.restored(loaded, steps)
        checkpoint.set_aside(run.checkpoints, steps)
    logs.truncate_to(run.metrics, steps)
    progress.history = history_of(run)
    return state, progress


def history_of(run: run_folder.Run) -> list[dict[str, Any]]:
    """The rows of a run's log, as ``Result.history`` has them."""
    rows = logs.read_metrics(run.metrics) if run.metrics.exists() else []
    return [{k: np.asarray(v, np.float64) if isinstance(v, list) else v for k, v in row.items()} for row in rows]


def _entry(header: dict[str, Any], name: str, path: Any) -> float:
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _malformed(path, name)
    return value


def _row(header: dict[str, Any], seeds: int, path: Any) -> Row:
    try:
        return Row.from_json(seeds, header.get("row") or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _malformed(path, "row") from None


def _malformed(path: Any, name: str) -> UsageError:
    return UsageError(
        f"{path} is not a checkpoint of a training: {name!r} in its header cannot be used. Remove the file to go on "
        "from the one before."
    )


def check_finite(totals: Totals, steps: int, run: run_folder.Run | None) -> None:
    """Raise TrainingFault naming the first metric that is NaN or infinite."""
    bad = [name for name, value in totals.metrics.items() if not np.isfinite(value).all()]
    for name, total in (("episode_return", totals.episodes.returns), ("episode_cost", totals.episodes.costs)):
        values = np.asarray(total)
        if not np.isfinite(values).all():
            raise fault(name, str(values[~np.isfinite(values)][0]), steps, run)
    if bad:
        name = "loss" if "loss" in bad else bad[0]
        values = np.asarray(totals.metrics[name])
        raise fault(name, str(values[~np.isfinite(values)][0]), steps, run)


def fault(name: str, value: str, steps: int, run: run_folder.Run | None) -> TrainingFault:
    """What to tell the user of a number that is not one."""
    kept = checkpoint.latest(run.checkpoints)[0] if run is not None else None
    return TrainingFault(
        f"Training stopped near step {steps:,}: {name} is {value}. "
        + (f"The last good checkpoint is {kept}. " if kept else "")
        + "Usual causes: a learning rate that is too high, rewards of a huge scale (try --scale-rewards), an "
        "environment that returns NaN."
    )
