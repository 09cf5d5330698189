"""Files that are whole or absent: atomic replacement, JSON, a lock, and what to tell the user when the disk says no."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk says
TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")


def failure(doing: str, path: str | Path, error: OSError) -> UsageError:
    """What went wrong with a file, and what the user can do. ``doing`` as in "writing"."""
    if error.errno in FULL:
        return UsageError(
            f"The disk is full: {doing} {path} failed, and what was there before is untouched. Free some space and go "
            "on (steersman train --resume DIR), or give --out a folder on another disk."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            f"Not permitted: {doing} {path} failed ({error.strerror}). Change its permissions, or give a folder you "
            "may write to."
        )
    return UsageError(f"A file failed: {doing} {path}: {error.strerror or error}. Check the path and the disk.")


@contextmanager
def explained(doing: str, path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block into a UsageError."""
    try:
        yield
    except OSError as error:
        raise failure(doing, path, error) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends well it is flushed and takes the place of ``path``.

    When the block fails the temporary is removed and what was at ``path`` stays; an OSError becomes a UsageError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with explained("writing", path):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """fsync a file or a folder; systems that cannot sync a folder are left to themselves."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def clean(folder: str | Path) -> list[Path]:
    """Remove temporaries that a killed process left in ``folder``; -> those removed. Call it while holding the lock."""
    with explained("cleaning", folder):
        stale = [p for p in Path(folder).iterdir() if p.is_file() and TEMPORARY.fullmatch(p.name)]
        for path in stale:
            path.unlink(missing_ok=True)
    return stale


def read_json(path: str | Path, todo: str = "Restore it from a copy, or start a new run.") -> dict[str, Any]:
    """Read a JSON object; raises UsageError if the file is missing, truncated, malformed or not an object.

    todo: what is to be done about such a file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors on Windows write a mark before it
    except OSError as error:
        raise failure("reading", path, error) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is truncated or is not JSON ({error}). {todo}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a JSON {type(content).__name__}, not an object. {todo}")
    return content


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; raises UsageError if the disk is full or not writable.

    NaN and infinities are written as Python reads them back; where others read, put the content through ``plain``.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Numbers, arrays, lists and dicts as plain JSON values; NaN and infinities, which JSON lacks, become null.

    A float32 keeps its short form: 0.1, not 0.10000000149011612.

    >>> plain({"loss": np.float32(0.1), "return": [1, float("nan")]})
    {'loss': 0.1, 'return': [1, None]}
    """
    match value:
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case bool() | int() | str() | None:
            return value
        case float():
            return float(value) if math.isfinite(value) else None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"a {type(value).__name__} cannot be logged or written as JSON; give numbers")
    if array.ndim:
        return [plain(v) for v in array]
    if array.dtype.kind in "biu":
        return array.item()
    return plain(float(str(array[()])))


_held: set[int] = set()  # locks of this process; a forked worker closes its copies, or it would keep them after a kill


def _forget_locks() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)


def holder(path: str | Path) -> str | None:
    """Who trains in a run folder at this moment, as ``lock`` wrote it; None where nobody does or locks do not work."""
    file = Path(path) / ".lock"
    if fcntl is None or not file.is_file():
        return None
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
    except OSError:
        return None
    finally:
        os.close(handle)  # and with it what was taken
    return None


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold a run folder: another process that tries gets a UsageError. However a process ends, so does its lock."""
    file = Path(path) / ".lock"
    with explained("locking", file):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    _held.add(handle)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                raise UsageError(
                    f"{path} is in use by {holder}, which trains there. Wait for it or stop it, or give another --out."
                ) from None
            except OSError:
                pass  # a file system without locks (some network disks): go on without
        with explained("locking", file):
            if not os.path.samestat(os.fstat(handle), os.stat(file)):  # its holder has failed, and taken it away
                raise UsageError(f"{path} was in use until this moment. Start again.")
        with suppress(OSError):  # a full disk: the name of the holder is a courtesy
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        if handle in _held:  # a forked child has let go of it already, and the number may be another file's by now
            _held.discard(handle)
            os.close(handle)
