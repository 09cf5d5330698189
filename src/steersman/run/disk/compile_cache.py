"""Compiled programs kept on disk between runs, so that the second start is fast.

This is JAX's persistent cache in a folder of ours, with every program in it (ours are many and small) and a limit to
its size. A program is found by its text, the version of the compiler, its flags and the devices: what is found is what
would have been compiled. Nothing here is ever an error: where the folder cannot be made, read or written, or an entry
is damaged, the program is compiled as if there were no cache.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

SWITCH = "STEERSMAN_CACHE"  # the variable: 0 for no cache, or the folder for it
LIMIT = 10**9  # bytes; a training leaves half a million or a few
_ENTRY = re.compile(r".+-[0-9a-f]{64}-cache")
_OFF, _ON = ("0", "off", "no", "false"), ("", "1", "on", "yes", "true")
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_enable_xla_caches": "none",  # they fail where they cannot write, and their path is in the key
}
_ours: str | None = None  # what JAX was told here; anything else is the user's


def folder() -> Path | None:
    """Where the cache is, as the variable says or in the user's cache; None where it is switched off."""
    said = os.environ.get(SWITCH, "").strip()
    if said.lower() in _OFF:
        return None
    with suppress(RuntimeError):  # a user without a home
        if said.lower() not in _ON:
            return Path(said).expanduser().absolute()
        mac = Path.home() / "Library" / "Caches"
        root = mac if sys.platform == "darwin" else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return root / "steersman" / "xla"
    return None


def users_own() -> str | None:
    """The folder that the user has given to JAX (JAX_COMPILATION_CACHE_DIR, jax.config), which is left as it is."""
    now = jax.config.values["jax_compilation_cache_dir"]
    return None if now == _ours else now


def enable(limit: int = LIMIT) -> Path | None:
    """Keep what JAX compiles from now on in ``folder()``; -> that, or None where there is none to use.

    Holds for the whole process; does nothing where the user has set up a cache. limit: bytes; at the start of a process
    what was used longest ago goes.
    """
    global _ours
    if users_own() is not None:
        return None
    place = folder()
    if place is not None:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is run: nobody else may write there
            next(place.iterdir(), None)
        except OSError:
            place = None
    if place is not None:
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    wanted = None if place is None else str(place)
    if wanted != _ours:
        if place is not None:
            _trim(place, limit)
            for name, value in _SETTINGS.items():
                jax.config.update(name, value)
        jax.config.update("jax_compilation_cache_dir", wanted)
        reset_cache()  # it may be open elsewhere
        _ours = wanted
    return place


def size(place: Path) -> int:
    """Bytes of the programs in a cache's folder; 0 where there is none."""
    return sum(size for _, size, _ in _entries(place))


def _entries(place: Path) -> list[tuple[float, int, Path]]:
    """(last used, bytes, path) of every program; the day of use is as exact as the file system notes it."""
    found = []
    with suppress(OSError):
        for path in place.iterdir():
            if _ENTRY.fullmatch(path.name):
                with suppress(OSError):  # another process has just removed it
                    status = path.stat()
                    found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    return found


def _trim(place: Path, limit: int) -> None:
    entries = sorted(_entries(place))
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
