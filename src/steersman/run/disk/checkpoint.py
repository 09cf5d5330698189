"""Checkpoints: the whole state of a run, named by tree path, in one safetensors file that is whole or absent.

A state is any tree of JAX or numpy arrays, typed PRNG keys and plain numbers; ``header`` is a JSON object for what is
not an array (steps, times). Never pickle: a checkpoint can hold arrays and text, and nothing that runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman.errors import UsageError
from steersman.run.disk import migrate
from steersman.run.disk.files import clean, explained
from steersman.run.disk.leaves import IMPLS, impl_of, is_key, kind, kind_in_file, named, restore, shape_of, to_numpy
from steersman.run.disk.tensors import DamagedFile, Entry, TensorFile, opened, write
from steersman.types import PyTree

VERSION = 2  # of what the metadata means; files of version 1 are read by migrate.py
_STEP = re.compile(r"step_(\d{12,})\.safetensors")
_SHOWN = 8


def save(path: str | Path, state: PyTree, header: dict[str, Any]) -> None:
    """Write ``state`` and ``header`` (JSON: numbers, strings, lists, objects) to ``path``, atomically and bit for bit.

    When it returns the file is on the disk. A failure or a kill at any moment leaves what was at ``path`` before.

    Raises:
        UsageError: the disk is full or not writable.
        TypeError, ValueError: a leaf that is not an array or a number; two leaves with one name.

    >>> save("state.safetensors", {"w": np.ones(3, np.float32)}, {"steps": 10})  # doctest: +SKIP
    >>> load("state.safetensors", {"w": np.zeros(3, np.float32)})  # doctest: +SKIP
    ({'w': array([1., 1., 1.], dtype=float32)}, {'steps': 10})
    """
    leaves = named(state)
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and not is_key(leaf):
            leaf.copy_to_host_async()
    keys = {name: impl_of(name, leaf) for name, leaf in leaves.items() if is_key(leaf)}
    content = json.dumps({"version": VERSION, "header": header, "keys": keys})
    path = Path(path)
    with explained("writing", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: to_numpy(name, leaf) for name, leaf in leaves.items()}
    write(path, arrays, {"format": "steersman-checkpoint", "content": content})


def load(path: str | Path, like: PyTree, *, partial: bool = False) -> tuple[PyTree, dict[str, Any]]:
    """Read a checkpoint into the structure of ``like``; -> (state, header).

    ``like`` gives names, shapes, dtypes and kinds: a leaf that is a JAX array (or ``jax.ShapeDtypeStruct``) comes back
    as one, with the sharding of ``like`` where that spans several devices; numpy comes back as numpy, a number as a
    number. ``partial`` reads a part of the state: what the file holds besides is left out.

    Raises:
        UsageError: the file cannot be read, is damaged or crafted (tensors.DamagedFile), or does not fit ``like``: the
            message lists the missing, the extra and the mis-shaped names.
    """
    saved = read(path, like)
    return saved.state(like, partial=partial), saved.header


class Saved(NamedTuple):
    """A checkpoint in memory, or a part of it: every byte that was read has been compared with its checksum."""

    path: Path
    version: int
    header: dict[str, Any]
    keys: dict[str, str]  # PRNG implementation by name
    names: tuple[str, ...]  # all that the file holds
    arrays: dict[str, np.ndarray]  # what was read of it

    def state(self, like: PyTree, *, partial: bool = False) -> PyTree:
        """The state in the structure of ``like``, as ``load`` gives it. Once: the arrays go over into the state."""
        wanted = named(like)
        saved = self._renewed(wanted)
        problem = _differences(saved, wanted, partial)
        if problem:
            raise UsageError(
                f"{self.path} does not fit this state: {problem}. It was saved with other settings, another network or "
                "another environment: open it with the config.json of its run."
            )
        leaves = [restore(saved.arrays.pop(name), leaf, saved.keys.get(name)) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _renewed(self, wanted: dict[str, Any]) -> Saved:
        shapes = {name: shape_of(leaf) for name, leaf in wanted.items()}
        arrays, keys, names = self.arrays, self.keys, self.names
        if self.version == 1:
            arrays, keys = migrate.renewed(arrays, keys, shapes, self.header)
            names = tuple(wanted)
        migrate.fill(arrays, shapes)
        return self._replace(arrays=arrays, keys=keys, names=names)


def read(path: str | Path, like: PyTree | None = None) -> Saved:
    """Read a checkpoint into memory, or of it what ``like`` names: each byte once, and none that is not checked.

    Raises:
        UsageError: the file cannot be read, is damaged or crafted (tensors.DamagedFile).
    """
    with opened(path) as file:
        version, header, keys = _content(file)
        chosen = None if like is None else set(named(like))
        if chosen is not None and version == 1:
            chosen = migrate.needed(chosen, file.entries)
        return Saved(Path(path), version, header, keys, tuple(file.entries), file.read(chosen))


def read_header(path: str | Path) -> dict[str, Any]:
    """The ``header`` of a checkpoint, without reading its arrays. Raises UsageError as ``load`` does."""
    with opened(path) as file:
        return _content(file)[1]


def check(path: str | Path) -> None:
    """Read every byte of a checkpoint and compare the checksum; raises UsageError if it is not whole."""
    with opened(path) as file:
        _content(file)
        file.verify()


def parameters_sha256(state: PyTree) -> str:
    """SHA-256 over all leaves in tree order: dtype, shape and SHA-256 of the bytes of each (of a key, of its data)."""
    arrays = (to_numpy(name, leaf) for name, leaf in named(state).items())
    return _sha256((a, _digest(a)) for a in arrays)


def stored_sha256(path: str | Path, under: str = "") -> str:
    """``parameters_sha256`` of the saved state, or of its part named ``under`` (as in ``"agent/params"``).

    Every byte of the file is read and checked, once. Raises UsageError as ``load`` does.
    """
    with opened(path) as file:
        _content(file)
        chosen = [n for n in file.entries if not under or n == under or n.startswith(f"{under}/")]
        if not chosen:
            raise UsageError(f"{path} holds nothing named {under!r}. It holds {_some(file.entries)}.")
        if file.digests is None:
            return _sha256((a, _digest(a)) for a in file.read(chosen).values())
        file.verify()
        return _sha256((file.entries[name], file.digests[name]) for name in chosen)


def _sha256(pairs: Iterable[tuple[np.ndarray | Entry, str]]) -> str:
    whole = hashlib.sha256()
    for a, digest in pairs:
        whole.update(f"{a.dtype.name}{list(a.shape)}{digest};".encode())
    return whole.hexdigest()


def _digest(a: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(a, order="C").reshape(-1).view(np.uint8).data).hexdigest()


# The folder of checkpoints


def step_path(folder: str | Path, steps: int) -> Path:
    """``folder/step_000001000000.safetensors``: names sort as the steps they were taken at."""
    return Path(folder) / f"step_{steps:012d}.safetensors"


def saved(folder: str | Path) -> list[tuple[int, Path]]:
    """(steps, path) of every checkpoint in a folder, oldest first; [] if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    with explained("reading", folder):
        found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


class Latest(NamedTuple):
    """The newest checkpoint of a folder that is whole; all empty if nothing was saved yet."""

    path: Path | None = None
    note: str = ""  # which newer ones were passed over as damaged; empty if none was
    content: Any = None  # what was read of it


def latest(folder: str | Path, use: Callable[[Path], Any] = check) -> Latest:
    """The newest checkpoint that ``use`` does not refuse: ``check`` it, ``read`` it, or a part of it.

    What ``use`` returns is the content, so a file is verified by the very read that loads it.

    Raises:
        UsageError: there are checkpoints and none can be read.
    """
    passed: list[str] = []
    for _, path in reversed(saved(folder)):
        try:
            content = use(path)
        except UsageError as error:
            passed.append(f"{path.name} is damaged: {error.what}." if isinstance(error, DamagedFile) else str(error))
            continue
        note = f"Going on from {path.name}: newer checkpoints cannot be used. {' '.join(passed)}" if passed else ""
        return Latest(path, note, content)
    if passed:
        raise UsageError(f"No checkpoint in {folder} can be used. {' '.join(passed)} Start a new run.")
    return Latest()


def set_aside(folder: str | Path, after: int) -> list[Path]:
    """Rename the checkpoints newer than ``after`` steps to ``*.damaged``: a resumed run must not meet them again."""
    newer = [path for steps, path in saved(folder) if steps > after]
    for path in newer:
        with explained("renaming", path):
            path.rename(path.with_name(f"{path.name}.damaged"))
    return newer


def prune(folder: str | Path, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints, and what a kill left half-written; -> the checkpoints removed."""
    if keep < 1:
        raise UsageError(f"keep is {keep}: at least 1 checkpoint must stay, or the run cannot be resumed.")
    clean(folder)
    old = [path for _, path in saved(folder)[:-keep]]
    for path in old:
        with explained("removing", path):
            path.unlink(missing_ok=True)
    return old


def _differences(saved: Saved, wanted: dict[str, Any], partial: bool) -> str:
    missing = [name for name in wanted if name not in saved.arrays]
    extra = [] if partial else [name for name in saved.names if name not in wanted]
    other = []
    for name, leaf in wanted.items():
        if name in saved.arrays:
            has, wants = kind_in_file(saved.arrays[name], saved.keys.get(name)), kind(leaf)
            if has != wants:
                other.append(f"{name} ({has} in the file, {wants} wanted)")
    parts = [("missing from the file", missing), ("extra in the file", extra), ("of another shape or dtype", other)]
    return "; ".join(f"{what}: {_some(names)}" for what, names in parts if names)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:200] for name in names[:_SHOWN]) + more


def _content(file: TensorFile) -> tuple[int, dict[str, Any], dict[str, str]]:
    """-> (version, header, PRNG implementation by name), from the metadata."""
    try:
        content = json.loads(file.metadata.get("content", ""))
    except (ValueError, RecursionError):
        content = None
    match content:
        case {"version": int(version)} if version > VERSION:
            raise UsageError(
                f"{file.path} has checkpoint version {version}; this steersman reads {VERSION}. "
                "Upgrade it: git pull, in steersman's folder."
            )
        case {"header": dict(header), "keys": dict(keys), "version": int(version)} if version > 0:
            if all(impl in IMPLS and name in file.entries for name, impl in keys.items()):
                return version, header, keys
    file.verify()  # so that damage is not taken for another kind of file
    raise UsageError(
        f"{file.path} is a safetensors file, but its metadata is not a checkpoint's. Give a run's checkpoint."
    )
