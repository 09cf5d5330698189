"""The run folder: all that a run leaves behind, and all that is needed to run it again.

::

    config.json      algorithm, environment, settings, spaces, versions: enough to repeat the run
    metrics.jsonl    one line per log step          tensorboard/, wandb/   when asked for
    checkpoints/     step_000001000000.safetensors  summary.json           steps, times, final evaluation
    best/            the best policy of evaluations on the way
    .lock            held while a process trains here

Every file is written under a temporary name, flushed and renamed: a kill leaves the old file or the new, never half.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steersman.errors import UsageError
from steersman.run.disk.files import TEMPORARY, explained, lock, plain, read_json, write_json

FORMAT = "1.1"  # of the folder: another number before the dot means it cannot be read
_FIELDS = {
    "format": str,
    "algorithm": str,
    "environment": str,
    "config": dict,
    "run": dict,
    "spec": dict,
    "versions": dict,
}
_PACKAGES = ("steersman", "jax", "jaxlib", "numpy", "equinox", "optax", "gymnasium")


class RunWarning(UserWarning):
    """Something about a run folder that its user should know."""


def warn(*notes: str) -> None:
    """Tell the user what is odd about a run folder; nothing for empty notes."""
    for note in filter(None, notes):
        warnings.warn(note, RunWarning, stacklevel=3)


@dataclass(frozen=True)
class Run:
    """A run folder that has been created or opened: its paths and its ``config.json``.

    ``warning`` says, in one sentence or not at all, what differs from the versions the run was made with.
    """

    path: Path
    config: dict[str, Any]
    warning: str = ""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"


def default_path(algorithm: str, environment: str, seed: int, root: str | Path = "runs") -> Path:
    """``runs/<algorithm>-<environment>-<seed>-<time>``, with a counter if that name is taken. Creates nothing."""
    place = re.sub(r"[^\w.]+", "-", environment).strip("-")
    stem = f"{algorithm}-{place}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, counter = Path(root) / stem, 1
    while path.exists():
        counter += 1
        path = Path(root) / f"{stem}-{counter}"
    return path


def create(path: str | Path, config: Mapping[str, Any]) -> Run:
    """Make a new run folder and write its ``config.json``; nothing is left behind if that fails.

    ``config`` needs ``algorithm``, ``environment`` (strings), ``config``, ``run`` and ``spec`` (objects); ``format``
    and ``versions`` are filled in.

    Raises:
        UsageError: ``path`` holds a run or other files, is a file, or cannot be written.
    """
    path = Path(path)
    content = {"format": FORMAT, "versions": versions(), **config}
    problem = _malformed(content)
    if problem:
        raise ValueError(f"config.json would be malformed: {problem}")
    json.dumps(content)  # a value that JSON cannot hold must be found before anything is created
    made: list[Path] = []
    with ExitStack() as held:
        try:
            with explained("creating the run folder", path):
                if path.exists():
                    _refuse_occupied(path)
                ours = not (path / ".lock").exists()
                for folder in [p for p in (path, *path.parents) if not p.exists()][::-1]:
                    with suppress(FileExistsError):  # made by another process this moment: theirs, not ours to undo
                        folder.mkdir()
                        made.append(folder)
            held.enter_context(lock(path))
        except BaseException:
            _undo(path, made, False)  # a lock that is there is another's
            raise
        try:
            with explained("creating the run folder", path):
                _refuse_occupied(path)
                (path / "checkpoints").mkdir(exist_ok=True)
                made.append(path / "checkpoints")
            write_json(path / "config.json", content)
        except BaseException:
            _undo(path, made, ours)  # while nobody else can begin here
            raise
    return open_run(path)


def _refuse_occupied(path: Path) -> None:
    leavings = {".lock"} if any((path / "checkpoints").glob("*")) else {".lock", "checkpoints"}  # of a kill right here
    found = sorted(p.name for p in path.iterdir() if p.name not in leavings and not TEMPORARY.fullmatch(p.name))
    if "config.json" in found:
        raise UsageError(
            f"{path} already holds a run. Go on with it: {_how_to_resume(path)}; or put a new one in its place: "
            "--replace; or give --out another folder."
        )
    if found:
        raise UsageError(
            f"{path} is not empty ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''}) and is not a run. "
            "Give --out a new or an empty folder."
        )


def to_resume(run: Run) -> str:
    """The command that goes on with a run, with what is the user's own named again."""
    if "language" in run.config["spec"]:
        return f"steersman align --resume {run.path}{named_again(run.config['spec']['language'].get('own', {}))}"
    environment = run.config["environment"]
    named = {
        "environment": environment if ":" in environment.partition(",")[0] else None,
        "algorithm": run.config["run"].get("foreign"),
        "network": run.config["run"].get("network"),
    }
    again = named_again({what: [name] for what, name in named.items() if isinstance(name, str)})
    return f"steersman train --resume {run.path}{again}"


def named_again(own: Mapping[str, Sequence[str]]) -> str:
    """Flags that name what is the user's own.

    >>> named_again({"environment": ["arm:make"], "reward": []})
    ' --environment arm:make'
    """
    return "".join(f" --{what} {shlex.join(names)}" for what, names in own.items() if names)


def _how_to_resume(path: Path) -> str:
    try:
        return to_resume(Run(path, read_config(path / "config.json")))
    except UsageError:  # it is damaged, which is for the command to say
        return f"steersman train --resume {path}"


# What a run, and what is made of it, is kept in.
_OURS = ("config.json", "metrics.jsonl", "summary.json", "initial.safetensors", "checkpoints", "best*", ".lock")
_OURS = (*_OURS, "samples.jsonl", "tensorboard", "wandb", "wandb-id", "curve.*", "video.*", "saliency.*")


def remove(path: str | Path) -> None:
    """Remove the run that a folder holds, so that another one can take its place; an empty folder, or none, is well.

    Raises:
        UsageError: the folder holds something else, or more, than a run; or a process trains there.
    """
    path = Path(path)
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / "config.json").is_file():
        raise UsageError(f"{path} is not a run, so --replace leaves it alone. Give --out a new or an empty folder.")
    read_config(path / "config.json")
    others = [p.name for p in path.iterdir() if not (TEMPORARY.fullmatch(p.name) or any(map(p.match, _OURS)))]
    if others:
        raise UsageError(
            f"{path} holds more than a run: {', '.join(sorted(others)[:3])}. --replace removes nothing that no run "
            "wrote: move it elsewhere, or give --out another folder."
        )
    with lock(path), explained("removing the run of", path):
        for part in sorted(path.iterdir(), key=lambda p: p.name == "config.json"):  # until the last it is a run
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            elif part.name != ".lock":
                part.unlink()


def _undo(path: Path, made: list[Path], ours: bool) -> None:
    """Remove what ``create`` made (``ours``: the lock too); folders go only when empty: what others put there stays."""
    for folder in (path / "checkpoints", path, *path.parents):
        with suppress(OSError):
            if folder == path and ours and [p.name for p in path.iterdir()] == [".lock"]:
                (path / ".lock").unlink()
            if folder in made:
                folder.rmdir()


def open_run(path: str | Path) -> Run:
    """Open an existing run folder. ``.warning`` of the result names versions that differ from those it was made with.

    Raises:
        UsageError: no such folder, not a run, a truncated or malformed ``config.json``, another format, or a newer
            steersman.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"A run is named by its folder, a path; got a {type(path).__name__}. Of a Result it is .run.")
    path = Path(path)
    if not path.is_dir():
        there = f"{path} is a file, not a run folder" if path.is_file() else f"There is no run folder {path}"
        raise UsageError(f"{there}. Give the folder that a training wrote (its --out).")
    if not (path / "config.json").is_file():
        runs = ", ".join(map(str, (p for group in compared(path).values() for p in group)))
        what = f"is a comparison; its runs are {runs}" if runs else "is not a run: it has no config.json"
        what = "is an exported policy, not a run" if (path / "policy.json").is_file() else what
        raise UsageError(f"{path} {what}. Give the folder that a training wrote (its --out).")
    config = read_config(path / "config.json")
    return Run(path, config, _compare_versions(config["versions"], path))


def compared(path: Path) -> dict[str, list[Path]]:
    """The run folders of a comparison's folder by label, as far as they are there; {} for another folder."""
    if not (path / "comparison.json").is_file():
        return {}
    entries = read_json(path / "comparison.json").get("entries", {})
    found = {}
    for label, entry in entries.items():
        place = path / entry["folder"]
        number = lambda run: int(run.name.removeprefix("seed-"))
        runs = [place] if (place / "config.json").is_file() else sorted(place.glob("seed-[0-9]*"), key=number)
        found[label] = [run for run in runs if (run / "config.json").is_file()]
    return found


def update(run: Run, config: Mapping[str, Any]) -> Run:
    """Rewrite ``config.json`` of an open run, as with a new budget of steps; its format and versions stay."""
    content = {**run.config, **config}
    problem = _malformed(content)
    if problem:
        raise ValueError(f"config.json would be malformed: {problem}")
    write_json(run.path / "config.json", content)
    return replace(run, config=json.loads(json.dumps(content)))


def read_config(path: str | Path) -> dict[str, Any]:
    """Read and check a ``config.json``; raises UsageError as ``open_run`` does."""
    config = read_json(path)
    number = config.get("format")
    if isinstance(number, str) and number.split(".")[0] != FORMAT.split(".")[0]:
        raise UsageError(
            f"{path} has run format {number!r}; this steersman reads {FORMAT}. Open it with the steersman that made it"
            f"{_made_by(config.get('versions'))}."
        )
    problem = _malformed(config)
    if problem:
        raise UsageError(f"{path} is not a run's config.json: {problem}. Restore it, or start a new run.")
    return config


def _malformed(config: Mapping[str, Any]) -> str:
    missing = [k for k in _FIELDS if k not in config]
    if missing:
        return f"missing {', '.join(missing)}"
    wrong = [
        f"{k} is {type(config[k]).__name__}, not {t.__name__}"
        for k, t in _FIELDS.items()
        if not isinstance(config[k], t)
    ]
    return "; ".join(wrong)


def _made_by(recorded: Any) -> str:
    version = recorded.get("steersman") if isinstance(recorded, dict) else None
    return f" (steersman {version})" if isinstance(version, str) else ""


def _numbers(version: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3]) if isinstance(version, str) else ()


def _compare_versions(recorded: Mapping[str, Any], path: Path) -> str:
    now = versions()
    then, mine = recorded.get("steersman"), now["steersman"]
    if _numbers(then) and _numbers(mine) and _numbers(then) > _numbers(mine):
        raise UsageError(
            f"{path} was made by steersman {then}; this is {mine}, which may not understand it. "
            "Upgrade it: git pull, in steersman's folder."
        )
    changed = [f"{k} {recorded[k]} (now {v})" for k, v in now.items() if recorded.get(k, v) != v]
    if not changed:
        return ""
    return f"{path} was made with {', '.join(changed)}: it opens, but numbers may differ in the last bits."


def versions(devices: bool = False) -> dict[str, Any]:
    """Versions of Python, of steersman and of what it stands on, and the platform.

    ``devices=True`` adds the names of the devices, which starts JAX.
    """
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["platform"] = f"{platform.system()}-{platform.machine()}"
    if devices:
        import jax

        found["devices"] = [f"{d.platform}:{d.device_kind}" for d in jax.devices()]
    return found


def write_summary(run: Run | Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``: steps, wall_seconds, compile_seconds, steps_per_second, evaluation."""
    write_json((run.path if isinstance(run, Run) else run) / "summary.json", plain(summary))


def read_summary(run: Run | Path) -> dict[str, Any] | None:
    """Read ``summary.json``; None if the run has not ended yet."""
    path = (run.path if isinstance(run, Run) else run) / "summary.json"
    return read_json(path) if path.exists() else None
