"""Checkpoints: the whole state of a run, named by tree path, in one safetensors file that is whole or absent.

A state is any tree of JAX or numpy arrays, typed PRNG keys and plain numbers; ``header`` is a JSON object for what is
not an array (steps, times). Never pickle: a checkpoint can hold arrays and text, and nothing that runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from steersman.errors import UsageError
from steersman.run.disk.files import clean, explained
from steersman.run.disk.tensors import DamagedFile, TensorFile, opened, write
from steersman.types import PyTree

VERSION = 1  # of what the metadata means
_STEP = re.compile(r"step_(\d{12,})\.safetensors")
_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")
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
    leaves = _named(state)
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and not _is_key(leaf):
            leaf.copy_to_host_async()
    keys = {name: _impl(name, leaf) for name, leaf in leaves.items() if _is_key(leaf)}
    content = json.dumps({"version": VERSION, "header": header, "keys": keys})
    path = Path(path)
    with explained("writing", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: _to_numpy(name, leaf) for name, leaf in leaves.items()}
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
    wanted = _named(like)
    with opened(path) as file:
        header, keys = _content(file)
        problem = _differences(file, keys, wanted, partial)
        if problem:
            file.verify()  # damage can look like another structure: say the one that is true
            raise UsageError(
                f"{path} does not fit this state: {problem}. It was saved with other settings, another network or "
                "another environment: open it with the config.json of its run."
            )
        arrays = file.read(wanted)
    leaves = [_restore(arrays.pop(name), leaf, keys.get(name)) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), header


def read_header(path: str | Path) -> dict[str, Any]:
    """The ``header`` of a checkpoint, without reading its arrays. Raises UsageError as ``load`` does."""
    with opened(path) as file:
        return _content(file)[0]


def check(path: str | Path) -> None:
    """Read every byte of a checkpoint and compare the checksum; raises UsageError if it is not whole."""
    with opened(path) as file:
        _content(file)
        file.verify()


def parameters_sha256(state: PyTree) -> str:
    """SHA-256 over all leaves in tree order: dtype, shape and bytes of each (a PRNG key counts as its data)."""
    return _sha256(_to_numpy(name, leaf) for name, leaf in _named(state).items())


def stored_sha256(path: str | Path, under: str = "") -> str:
    """``parameters_sha256`` of the saved state, or of its part named ``under`` (as in ``"agent/params"``)."""
    with opened(path) as file:
        _content(file)
        chosen = [n for n in file.entries if not under or n == under or n.startswith(f"{under}/")]
        if not chosen:
            raise UsageError(f"{path} holds nothing named {under!r}. It holds {_some(file.entries)}.")
        return _sha256(file.read(chosen).values())


def _sha256(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(f"{a.dtype.name}{list(a.shape)};".encode())
        digest.update(np.asarray(a, order="C").reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


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


def latest(folder: str | Path) -> tuple[Path | None, str]:
    """The newest checkpoint that is whole; -> (path, note). None if nothing was saved yet.

    The note says which newer ones were passed over as damaged, and is empty if none was.

    Raises:
        UsageError: there are checkpoints and none can be read.
    """
    passed: list[str] = []
    for _, path in reversed(saved(folder)):
        try:
            check(path)
        except UsageError as error:
            passed.append(f"{path.name} is damaged: {error.what}." if isinstance(error, DamagedFile) else str(error))
            continue
        note = f"Going on from {path.name}: newer checkpoints cannot be used. {' '.join(passed)}" if passed else ""
        return path, note
    if passed:
        raise UsageError(f"No checkpoint in {folder} can be used. {' '.join(passed)} Start a new run.")
    return None, ""


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


# Leaves and their names


def _named(tree: PyTree) -> dict[str, Any]:
    pairs = [
        (keystr(path, simple=True, separator="/") or "value", leaf) for path, leaf in tree_flatten_with_path(tree)[0]
    ]
    named = dict(pairs)
    if len(named) != len(pairs) or "__metadata__" in named:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1 or name == "__metadata__"})
        raise ValueError(f"leaves of the state share a name, or have a reserved one: {', '.join(twice[:_SHOWN])}")
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _impl(name: str, key: jax.Array) -> str:
    impl = jax.random.key_impl(key)
    if impl not in _IMPLS:
        raise TypeError(f"{name} is a PRNG key of kind {impl}; a checkpoint holds {', '.join(_IMPLS)}")
    return str(impl)


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    if _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    match leaf:
        case jax.Array() | np.ndarray() | np.generic():
            return np.asarray(leaf)
        case bool() | int() | float():
            return np.asarray(leaf, _number(leaf))
    raise TypeError(f"{name} is a {type(leaf).__name__}; a state holds arrays, PRNG keys and numbers")


def _number(leaf: bool | int | float) -> type:
    return np.bool_ if isinstance(leaf, bool) else np.int64 if isinstance(leaf, int) else np.float64


def _differences(file: TensorFile, keys: dict[str, str], wanted: dict[str, Any], partial: bool) -> str:
    missing = [name for name in wanted if name not in file.entries]
    extra = [] if partial else [name for name in file.entries if name not in wanted]
    other = []
    for name, leaf in wanted.items():
        if name in file.entries:
            has, wants = _kind_in_file(file, name, keys.get(name)), _kind(leaf)
            if has != wants:
                other.append(f"{name} ({has} in the file, {wants} wanted)")
    parts = [("missing from the file", missing), ("extra in the file", extra), ("of another shape or dtype", other)]
    return "; ".join(f"{what}: {_some(names)}" for what, names in parts if names)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:200] for name in names[:_SHOWN]) + more


def _kind(leaf: Any) -> str:
    match leaf:
        case jax.Array() | jax.ShapeDtypeStruct() | np.ndarray() | np.generic():
            return _describe(leaf.dtype, leaf.shape)
        case bool() | int() | float():
            return _describe(np.dtype(_number(leaf)), ())
    raise TypeError(f"a {type(leaf).__name__} cannot be loaded; a state holds arrays, PRNG keys and numbers")


def _kind_in_file(file: TensorFile, name: str, impl: str | None) -> str:
    entry = file.entries[name]
    if impl is not None:
        key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
        if entry.dtype == data.dtype and entry.shape[-1:] == data.shape:
            return _describe(key.dtype, entry.shape[:-1])
    return _describe(entry.dtype, entry.shape)


def _describe(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def _restore(array: np.ndarray, leaf: Any, impl: str | None) -> Any:
    match leaf:
        case jax.Array() | jax.ShapeDtypeStruct():
            value = jnp.asarray(array) if impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
            spread = leaf.sharding is not None and len(leaf.sharding.device_set) > 1
            return jax.device_put(value, leaf.sharding) if spread else value
        case np.ndarray():
            return array
        case np.generic():
            return array[()]
    return array.item()


def _content(file: TensorFile) -> tuple[dict[str, Any], dict[str, str]]:
    """-> (header, PRNG implementation by name), from the metadata."""
    try:
        content = json.loads(file.metadata.get("content", ""))
    except (ValueError, RecursionError):
        content = None
    match content:
        case {"version": int(version)} if version > VERSION:
            raise UsageError(
                f"{file.path} has checkpoint version {version}; this steersman reads {VERSION}. "
                "Upgrade: pip install -U steersman"
            )
        case {"header": dict(header), "keys": dict(keys), "version": 1}:
            if all(impl in _IMPLS and name in file.entries for name, impl in keys.items()):
                return header, keys
    file.verify()  # so that damage is not taken for another kind of file
    raise UsageError(
        f"{file.path} is a safetensors file, but its metadata is not a checkpoint's. Give a run's checkpoint."
    )
