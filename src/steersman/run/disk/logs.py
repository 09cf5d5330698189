"""Where metrics go: JSON lines always; TensorBoard and Weights & Biases when asked for.

A sink has ``write(steps, metrics)`` and ``close()``. A metric is a number, or an array ``[S]`` with one value per seed
of a run that trains several.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from steersman.errors import UsageError, to_install
from steersman.run.disk.files import explained, plain, replacing


class Sink(Protocol):
    """Something that metrics are written to."""

    def write(self, steps: int, metrics: Mapping[str, Any]) -> None:
        """Metrics as of ``steps`` environment steps; every number is finite, NaN or infinite."""
        ...

    def close(self) -> None:
        """Flush and let go. Safe to call twice."""
        ...


class JsonLines:
    """``metrics.jsonl``: one object per line, ``steps`` first. NaN and infinities become null, arrays lists.

    A line is written whole and at once, so a reader sees whole lines while the run goes on. Opening a file that a kill
    left with half a line cuts that half off.

    Raises:
        UsageError: the disk is full or not writable.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with explained("writing", self.path):
            _cut_half_line(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def write(self, steps: int, metrics: Mapping[str, Any]) -> None:
        line = json.dumps({"steps": int(steps), **plain(metrics)}, ensure_ascii=False).encode() + b"\n"
        with explained("writing", self.path):
            written = self._file.write(line)
            if written != len(line):  # the disk took a part: write the rest, or learn why not
                self._file.write(line[written:])

    def close(self) -> None:
        self._file.close()


def _cut_half_line(path: Path) -> None:
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        end = at = file.seek(0, os.SEEK_END)
        whole = 0  # bytes up to the last newline, which is looked for from the end
        while at > 0 and whole == 0:
            start = max(0, at - 4096)
            file.seek(start)
            newline = file.read(at - start).rfind(b"\n")
            whole, at = (start + newline + 1 if newline >= 0 else 0), start
        if whole < end:
            file.truncate(whole)


def truncate_to(path: str | Path, steps: int) -> None:
    """Drop the lines after ``steps``, and half lines: a run resumed at a checkpoint writes them again.

    Nothing happens if there is no such file.
    """
    path = Path(path)
    if not path.exists():
        return
    with explained("reading", path):
        lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (row := _row(line)) is not None and row["steps"] <= steps]
    if kept != lines:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, oldest first; null is read as NaN. A half-written last line is left out.

    Raises:
        UsageError: there is no such file, or another line than the last is not one of ours.
    """
    path = Path(path)
    with explained("reading", path):
        lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append({k: _nan_for_null(v) for k, v in row.items()})
        elif number < len(lines) or line.endswith(b"\n"):
            raise UsageError(f"{path}, line {number}, is not a line of metrics. Remove that line, or restore the file.")
    return rows


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows as arrays: name -> [N], or [N, S] where values are per seed; NaN where a row lacks the name.

    >>> columns([{"steps": 1, "loss": 2.0}, {"steps": 2}])
    {'steps': array([1., 2.]), 'loss': array([ 2., nan])}
    """
    found: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [np.atleast_1d(np.asarray(row.get(name, np.nan), np.float64)) for row in rows]
        width = max(v.shape[0] for v in values)
        table = np.full((len(rows), width), np.nan)
        for i, v in enumerate(values):
            table[i, : v.shape[0]] = v
        per_seed = any(isinstance(row.get(name), list | np.ndarray) for row in rows)
        found[name] = table if per_seed else table[:, 0]
    return found


def _row(line: bytes) -> dict[str, Any] | None:
    """A line as an object; None if it is half written or not one of ours."""
    with suppress(ValueError, RecursionError):
        row = json.loads(line)
        if line.endswith(b"\n") and isinstance(row, dict) and type(row.get("steps")) is int:
            return row if all(map(_is_metric, row.values())) else None
    return None


def _is_metric(value: Any) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, list) and all(map(_is_number, value)))


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, list):
        return [_nan_for_null(v) for v in value]
    return float("nan") if value is None else value


_OURS = r"(return|length|success)"
# The group of a row's entry, by the first pattern that fits its name; what fits none is the learner's.
_GROUPS = {
    "constraint": r"(episode_|discounted_)?cost(_.+)?|over_limit_.+|multiplier(_.+)?",  # costs and what limits them
    "rollout": rf"episodes|episode_{_OURS}|{_OURS}_\d+",  # of training episodes: those of the row, the last hundred
    "env": r"episode_.+|.+_100",  # what else their environment says of them
    "eval": r"evaluation_(?P<name>.+)",
    "time": r"(.*_)?seconds|.*_per_second",
}


def tag(name: str) -> str:
    """An entry of a row in the group where loggers show it: rollout, constraint, env, eval, time, else train.

    A name with a ``/`` has its group already.

    >>> tag("episode_return"), tag("evaluation_return"), tag("policy_loss"), tag("mine/loss")
    ('rollout/episode_return', 'eval/return', 'train/policy_loss', 'mine/loss')
    """
    if "/" in name:
        return name
    for group, pattern in _GROUPS.items():
        if found := re.fullmatch(pattern, name):
            return f"{group}/{found.groupdict().get('name', name)}"
    return f"train/{name}"


class Scalars:
    """Rows as single numbers under their ``tag``, for loggers that show one number a curve."""

    def __init__(self) -> None:
        self.last: tuple[int, float] | None = None  # steps, seconds

    def __call__(self, steps: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Arrays [S] as their mean, and each seed's value under ``tag/seed_i``; NaN is left out.

        ``time/steps_per_second`` is that of each seed since the row before, whatever the time went into.
        """
        flat: dict[str, float] = {}
        for name, value in metrics.items():
            values = np.asarray(value, np.float64)
            there = values[np.isfinite(values)]  # before a seed's first episode ends it has no return
            if there.size:
                flat[tag(name)] = float(np.mean(there))
            if values.ndim:
                flat |= {f"{tag(name)}/seed_{i}": float(v) for i, v in enumerate(values) if np.isfinite(v)}
        seconds = metrics.get("seconds")
        if seconds is not None:
            if self.last is not None and seconds > self.last[1]:
                flat["time/steps_per_second"] = (steps - self.last[0]) / (seconds - self.last[1])
            self.last = steps, seconds
        return flat


class TensorBoard:
    """TensorBoard event files in a folder. A resumed run's events replace those after the step it resumed from.

    settings: what the run was made with, by name: a text, and a row of TensorBoard's table of hyperparameters.

    Raises:
        UsageError: tensorboardX is not installed.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UsageError(f"tensorboardX is not installed. Install it with: {to_install('tensorboard')}") from None
        self._path, self._new, self._writer = Path(path), SummaryWriter, None
        self._settings, self._scalars = dict(settings or {}), Scalars()

    def write(self, steps: int, metrics: Mapping[str, Any]) -> None:
        with explained("writing", self._path):
            if self._writer is None:  # only now is it known which earlier events are void
                again = self._path.is_dir() and any(self._path.iterdir())
                self._writer = self._new(str(self._path), purge_step=steps if again else None)
                if self._settings and not again:
                    self._say_settings(self._writer)
            for name, value in self._scalars(steps, metrics).items():
                self._writer.add_scalar(name, value, steps)
            self._writer.flush()

    def _say_settings(self, writer: Any) -> None:
        from tensorboardX.summary import hparams

        writer.add_text("settings", "\n".join(["|||", "|-|-|", *(f"|{k}|{v}|" for k, v in self._settings.items())]))
        simple = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in self._settings.items()}
        experiment, start, _ = hparams(simple, {tag("episode_return"): None})
        for summary in (experiment, start):
            writer.file_writer.add_summary(summary)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB:
    """Weights & Biases; offline with WANDB_MODE=offline. The id in the run folder lets a resumed run go on there.

    Raises:
        UsageError: wandb is not installed, or cannot start.
    """

    def __init__(self, path: str | Path, project: str, config: Mapping[str, Any] | None = None):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UsageError(f"wandb is not installed. Install it with: {to_install('wandb')}") from None
        path = Path(path)
        marker = path / "wandb-id"
        with explained("writing", marker):
            if not marker.exists():
                marker.write_text(secrets.token_hex(8))
            identity = marker.read_text().strip()
        try:
            self._run = wandb.init(
                project=project, id=identity, resume="allow", name=path.name, dir=str(path), config=dict(config or {})
            )
        except wandb.errors.Error as error:
            raise UsageError(
                f"Weights & Biases cannot start: {error}. Log in with wandb login, or set WANDB_MODE=offline."
            ) from error
        self._run.define_metric("*", step_metric="steps")
        self._scalars = Scalars()

    def write(self, steps: int, metrics: Mapping[str, Any]) -> None:
        self._run.log({"steps": steps, **self._scalars(steps, metrics)})

    def close(self) -> None:
        self._run.finish()
