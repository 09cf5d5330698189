"""What a run keeps beside its arrays: the log row in progress, the seconds spent; and how all of it is saved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from steersman.episodes import ALWAYS, NEWEST, Episodes, Newest
from steersman.errors import TrainingFault, UsageError
from steersman.run.disk import checkpoint, logs, run_folder
from steersman.run.loops.loop import Totals
from steersman.run.parts.setup import Setup
from steersman.run.policies.limits import Limits
from steersman.run.policies.periodic import Spent

_OF_SUCCESS = ("episode_success", "success_100")
_ORDER = {name: i for i, name in enumerate(ALWAYS)}

HUGE = 1e15  # float32 squares of many such numbers still add up; of much larger ones no longer


class Row:
    """Collects the totals of some updates into one logged row: means per episode, and per update.

    ``newest`` is not of these updates alone: the last episodes of each seed, whatever row they ended in.
    """

    def __init__(self, seeds: int, limits: Limits, newest: Newest | None = None):
        self.seeds, self.limits, self.totals, self.updates, self.newest = seeds, limits, None, 0, newest

    def add(self, totals: Totals) -> None:
        episodes = totals.episodes.sums
        if self.totals is not None:
            before, metrics = self.totals
            # By name: a row of before they were counted has none.
            logged = {name: before.logged.get(name, 0.0) + said for name, said in episodes.logged.items()}
            plus = lambda a, b: jax.tree.map(np.add, a, b)
            episodes = plus(before._replace(logged={}), episodes._replace(logged={}))._replace(logged=logged)
            self.totals = episodes, plus(metrics, totals.metrics)
        else:
            self.totals = episodes, totals.metrics
        later = totals.episodes.newest
        self.newest = later if self.newest is None else self.newest.then(later)
        self.updates += totals.updates

    def means(self) -> dict[str, Any]:
        """A number each, or [seeds]; NaN for what is of an episode where none ended.

        ``episode_return`` is of the episodes that ended in this row, ``return_100`` of the last hundred of each seed.
        """
        assert self.totals is not None
        episodes, metrics = self.totals
        count = np.asarray(episodes.count, np.float64)
        costs = np.asarray(episodes.costs).T
        summed = {"episode_return": episodes.returns, "episode_length": episodes.lengths}
        summed |= {f"episode_cost{suffix}": cost for suffix, cost in zip(self.limits.suffixes, costs, strict=True)}
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {name: np.where(count > 0, total / count, np.nan) for name, total in summed.items()}
            for name, said in episodes.logged.items():
                total, given = np.asarray(said, np.float64).T
                among = np.where(given > 0, count, 0.0) if name == "success" else given
                means[f"episode_{name}"] = np.where(among > 0, total / among, np.nan)
        means |= self.rolling()
        of_success = [means[name] for name in _OF_SUCCESS if name in means]
        if not any(np.isfinite(mean).any() for mean in of_success):  # nobody says it here
            means = {name: mean for name, mean in means.items() if name not in _OF_SUCCESS}
        means["episodes"] = count
        means |= {name: np.asarray(value, np.float64) / self.updates for name, value in metrics.items()}
        return {k: float(v[0]) if self.seeds == 1 else v for k, v in means.items()}

    def rolling(self) -> dict[str, np.ndarray]:
        """The means of each seed's last hundred episodes, of as many as have ended: [seeds] by name.

        Of a limited cost also the share of them that cost more than its limit.
        """
        if self.newest is None:
            return {}
        there, found, columns = self.newest.when >= 0, {}, {}
        for name, values in sorted(self.newest.numbers.items(), key=lambda pair: _ORDER.get(pair[0], len(_ORDER))):
            many = [(name, values)]
            if name == "cost":
                each = list(zip(self.limits.suffixes, np.moveaxis(values, -1, 0), strict=True))
                many = [(f"cost{suffix}", column) for suffix, column in each]
                if self.limits.discount == 1.0:
                    over = lambda cost, limit: np.where(np.isfinite(cost), cost > limit, np.nan)
                    pairs = zip(each, self.limits.most, strict=False)
                    many += [(f"over_limit{suffix}", over(cost, limit)) for (suffix, cost), limit in pairs]
            columns |= {f"{one}_{NEWEST}": column for one, column in many}
        for title, column in columns.items():
            known = there & np.isfinite(column)
            # An episode of which nothing is said was no success, where anybody says so.
            among = there & known.any(1, keepdims=True) if title == _OF_SUCCESS[1] else known
            total, count = np.where(known, column, 0.0).sum(1, dtype=np.float64), among.sum(1)
            found[title] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return found

    def to_json(self) -> dict[str, Any]:
        """A row in progress, so that a resumed run logs what the uninterrupted one logs."""
        if self.totals is None:
            return {}
        episodes, metrics = self.totals
        named = {f"info/{name}": said for name, said in episodes.logged.items()}
        sums = {name: x for name, x in episodes._asdict().items() if name not in ("logged", "newest")}
        pairs = {name: (str(x.dtype), x.tolist()) for name, x in {**sums, **named, **metrics}.items()}
        return {"updates": self.updates, "totals": pairs}

    def newest_json(self) -> dict[str, Any]:
        """The last episodes, by name: [seeds][as many as the seed with most has]."""
        if self.newest is None or not (self.newest.when >= 0).any():
            return {}
        counts = (self.newest.when >= 0).sum(1)
        numbers = {name: x[:, NEWEST - counts.max() :].tolist() for name, x in self.newest.numbers.items()}
        return {"counts": counts.tolist(), "numbers": numbers}

    @classmethod
    def from_json(cls, seeds: int, limits: Limits, content: dict[str, Any], newest: dict[str, Any]) -> Row:
        """The inverse of ``to_json`` and ``newest_json``."""
        row = cls(seeds, limits, _newest(newest) if newest else None)
        if content:
            arrays = {name: np.asarray(values, dtype) for name, (dtype, values) in content["totals"].items()}
            arrays.setdefault("costs", np.full((seeds, 1), np.nan))  # a row from before they were counted
            sums: Any = [arrays.pop(name) for name in ("count", "returns", "lengths", "costs")]
            logged = {name.removeprefix("info/"): arrays.pop(name) for name in [*arrays] if name.startswith("info/")}
            row.totals, row.updates = (Episodes(*sums, logged=logged, newest=()), arrays), int(content["updates"])
        return row


def _newest(content: dict[str, Any]) -> Newest:
    def full(values: Any) -> np.ndarray:
        array = np.asarray(values, np.float32)
        front = np.full((len(array), NEWEST - array.shape[1], *array.shape[2:]), np.nan, np.float32)
        return np.concatenate([front, array], 1)

    counts = np.asarray(content["counts"], np.int32)[:, None]
    when = np.where(np.arange(NEWEST, dtype=np.int32) < NEWEST - counts, np.int32(-1), np.int32(0))
    return Newest(when, {name: full(values) for name, values in content["numbers"].items()})


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
            raise fault(name, "NaN", setup.steps(progress.updates), run, _huge(state))
    steps = setup.steps(progress.updates)
    header = {
        "steps": steps,
        "updates": progress.updates,
        "rows": setup.run.seeds if setup.run.seeds > 1 else 0,
        "row": progress.row.to_json(),
        "newest": progress.row.newest_json(),
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
    progress, steps = Progress(Row(setup.run.seeds, setup.limits), [], began=began), 0
    if path is None:
        state = setup.loop.start()
    else:
        header = newest.content.header
        loaded = newest.content.state(setup.loop.shapes())
        steps = int(_entry(header, "steps", path))
        wall, compiling, training = (
            float(_entry(header, f"{k}_seconds", path)) for k in ("wall", "compile", "training")
        )
        row, updates = _row(header, setup, path), int(_entry(header, "updates", path))
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


def _row(header: dict[str, Any], setup: Setup, path: Any) -> Row:
    try:
        return Row.from_json(setup.run.seeds, setup.limits, header.get("row") or {}, header.get("newest") or {})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _malformed(path, "row") from None


def _malformed(path: Any, name: str) -> UsageError:
    return UsageError(
        f"{path} is not a checkpoint of a training: {name!r} in its header cannot be used. Remove the file to go on "
        "from the one before."
    )


def check_finite(totals: Totals, steps: int, run: run_folder.Run | None, state: Any = None) -> None:
    """Raise TrainingFault naming the first metric that is NaN or infinite, and what in the loop's state explains it."""
    bad = [name for name, value in totals.metrics.items() if not np.isfinite(value).all()]
    for name, total in (("episode_return", totals.episodes.returns), ("episode_cost", totals.episodes.costs)):
        values = np.asarray(total)
        if not np.isfinite(values).all():
            raise fault(name, str(values[~np.isfinite(values)][0]), steps, run, _huge(state))
    if bad:
        entries = (x for x in bad if x.startswith("model/nrmse_"))  # which entry of the observation is predicted so
        name = "loss" if "loss" in bad else next(entries, bad[0])
        values = np.asarray(totals.metrics[name])
        size = np.abs(totals.episodes.returns).max(initial=0.0) / max(np.max(totals.episodes.count, initial=0), 1)
        paid = f"episodes return about {size:.1g}" if size > HUGE else ""
        raise fault(name, str(values[~np.isfinite(values)][0]), steps, run, _huge(state) or paid)


def _huge(state: Any) -> str:
    """Where a loop's state shows an observation or a reward, of now or in replay, whose square would overflow."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if {"obs", "next_obs", "reward"} & set(name.split("/")) and np.issubdtype(leaf.dtype, np.floating):
            size = np.abs(np.asarray(leaf))
            size = np.where(np.isfinite(size), size, 0.0)
            if size.max(initial=0.0) > HUGE:
                where = np.unravel_index(size.argmax(), size.shape)
                return f"{name} holds {np.asarray(leaf)[where]:.3g} at {[int(i) for i in where]}"
    return ""


def fault(name: str, value: str, steps: int, run: run_folder.Run | None, huge: str = "") -> TrainingFault:
    """What to tell the user of a number that is not one. huge: what was seen that is too large for float32."""
    kept = checkpoint.latest(run.checkpoints)[0] if run is not None else None
    return TrainingFault(
        f"Training stopped near step {steps:,}: {name} is {value}. "
        + (f"The last good checkpoint is {kept}. " if kept else "")
        + (
            f"The cause: {huge}, and its square overflows float32. Clip it in the environment, or try "
            "--normalize-observations (observations) and --scale-rewards (rewards)."
            if huge
            else "Usual causes: a learning rate that is too high, rewards or observations of a huge scale (try "
            "--scale-rewards, --normalize-observations), an environment that returns NaN."
        )
    )
