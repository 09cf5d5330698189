"""Named arrays in one file, in the safetensors format, with a digest of each and of the header.

The format: 8 bytes (length of the header, little endian), a JSON header of names, dtypes, shapes and offsets, the bytes
of the arrays. Any safetensors reader opens these files. Ours trusts nothing in them: sizes and offsets are checked
before an array is allocated, nothing in a file can name code, and SHA-256 tells damage from a file that does not fit.
The metadata holds the digest of every array (``arrays_sha256``, in the order of the names) and that of the header
(``sha256``), so a part of a file is checked without reading the rest. Files without the first are of before: there
``sha256`` is over all of the file, and any part of it costs the whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.run.disk.files import explained, replacing

DTYPES = {
    **{"BOOL": np.dtype(bool), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64)},
    **{f"{k.upper()}{8 * n}": np.dtype(f"{k}{n}") for k in "iu" for n in (1, 2, 4, 8)},
    **{"BF16": np.dtype(jnp.bfloat16), "C64": np.dtype(np.complex64)},
    **{"F8_E4M3": np.dtype(jnp.float8_e4m3fn), "F8_E5M2": np.dtype(jnp.float8_e5m2)},
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_BLANK = b"0" * 64  # stands for the digest while the digest is computed
_LARGEST_HEADER = 100_000_000  # the format's own limit
_CHUNK = 1 << 23


class DamagedFile(UsageError):
    """A file that is cut short, has changed since it was written, or never was what its name says. ``what``: which."""

    def __init__(self, path: Path, what: str):
        self.what = what
        super().__init__(
            f"{path} is damaged or not a checkpoint: {what}. Use an earlier one: steersman train --resume DIR finds "
            "the newest that is whole."
        )


class Entry(NamedTuple):
    """Where one array lies: its dtype, its shape, and its bytes counted from the end of the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays, in the order given, under their names; atomic, and on the disk when it returns.

    Raises:
        UsageError: the disk is full or not writable; what was at ``path`` stays.
        TypeError: a dtype that the format does not have.
    """
    for name, array in arrays.items():
        if array.dtype.newbyteorder("=") not in _CODES:
            raise TypeError(f"{name} has dtype {array.dtype}, which a checkpoint cannot hold")
    placed = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # widest first: every array is aligned
    offsets = dict(zip(placed, np.cumsum([0, *(arrays[name].nbytes for name in placed)]).tolist(), strict=False))
    blank = _BLANK.decode()
    header: dict[str, Any] = {
        "__metadata__": {"sha256": blank, "arrays_sha256": blank * len(arrays), **metadata},
    }
    for name, a in arrays.items():
        span = [offsets[name], offsets[name] + a.nbytes]
        header[name] = {"dtype": _CODES[a.dtype.newbyteorder("=")], "shape": list(a.shape), "data_offsets": span}
    raw = _packed(header)
    if len(raw) > _LARGEST_HEADER:
        raise ValueError(f"the header of {path} would be {len(raw)} bytes; the format allows {_LARGEST_HEADER}")
    size = sum(a.nbytes for a in arrays.values())
    with replacing(path) as temporary, _digesting(size) as digests, open(temporary, "wb", buffering=1 << 20) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name in placed:
            a = arrays[name]
            native = a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
            digests.begin(name)
            for chunk in _chunks(np.asarray(native, order="C")):
                digests.update(chunk)
                file.write(chunk)
        found = digests.done()
        header["__metadata__"]["arrays_sha256"] = "".join(found[name] for name in arrays)
        raw = _packed(header)
        file.seek(8)
        file.write(raw.replace(_BLANK, hashlib.sha256(raw).hexdigest().encode(), 1))


def _packed(header: dict[str, Any]) -> bytes:
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return raw + b" " * (-len(raw) % 8)


class TensorFile(NamedTuple):
    """An open file whose header has been checked; read the arrays with ``read``."""

    path: Path
    file: io.BufferedReader
    metadata: dict[str, str]
    entries: dict[str, Entry]  # in the order they were written
    raw: bytes
    digests: dict[str, str] | None  # SHA-256 of each array's bytes; None: of before, with one digest over all

    def read(self, chosen: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """The chosen arrays (all, if None) in the order they were written, every byte of them checked.

        Raises:
            DamagedFile: a byte of them (in a file with one digest: any byte) has changed since it was written.
        """
        entries = {n: e for n, e in self.entries.items() if chosen is None or n in chosen}
        arrays = {name: np.empty(e.shape, e.dtype) for name, e in entries.items()}
        self._pass_over(self.entries if self.digests is None else arrays, arrays)
        return arrays

    def verify(self) -> None:
        """Check every byte without keeping any. Raises DamagedFile."""
        self._pass_over(self.entries, {})

    def _pass_over(self, names: Collection[str], arrays: Mapping[str, np.ndarray]) -> None:
        """Read and check what is named, into ``arrays`` where they have it."""
        start = 8 + len(self.raw)
        wanted = {"": self.metadata["sha256"]} if self.digests is None else {n: self.digests[n] for n in names}
        with _digesting(sum(self.entries[n].end - self.entries[n].begin for n in names)) as digests:
            if self.digests is None:
                digests.begin("", _without_digest(self.raw, self.metadata))
            for name in _by_place({n: self.entries[n] for n in names}):
                if self.digests is not None:
                    digests.begin(name)
                self.file.seek(start + self.entries[name].begin)
                for chunk in _chunks(arrays[name]) if name in arrays else self._scratch(name):
                    with explained("reading", self.path):
                        if self.file.readinto(chunk) != len(chunk):
                            raise DamagedFile(self.path, "it ended while it was read")
                    digests.update(chunk)
            if digests.done() != wanted:
                raise DamagedFile(self.path, "its content does not match its checksum")

    def _scratch(self, name: str) -> Iterator[memoryview]:
        left = self.entries[name].end - self.entries[name].begin
        while left:
            chunk = memoryview(bytearray(min(left, _CHUNK)))
            left -= len(chunk)
            yield chunk


@contextmanager
def opened(path: str | Path) -> Iterator[TensorFile]:
    """Open a file and check its header: sizes, offsets, dtypes, JSON.

    Raises:
        UsageError: it cannot be read. DamagedFile: it is cut short, not safetensors, or its header contradicts itself.
    """
    path = Path(path)
    with explained("reading", path):
        file = open(path, "rb")  # noqa: SIM115
    with file:
        with explained("reading", path):
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size >= 8 and length > _LARGEST_HEADER:
                raise DamagedFile(path, "it does not begin as a safetensors file does")
            if size < 8 or length > size - 8:
                raise DamagedFile(path, f"it is cut short: {size:,} bytes do not hold its header")
            raw = file.read(length)
        metadata, entries = _parse(path, raw)
        _check_layout(path, entries, size - 8 - length)
        yield TensorFile(path, file, metadata, entries, raw, _digests_of(path, raw, metadata, entries))


def _digests_of(path: Path, raw: bytes, metadata: dict[str, str], entries: Collection[str]) -> dict[str, str] | None:
    if "arrays_sha256" not in metadata:
        return None
    if hashlib.sha256(_without_digest(raw, metadata)).hexdigest() != metadata["sha256"]:
        raise DamagedFile(path, "its header does not match its checksum")
    joined, size = metadata["arrays_sha256"], len(_BLANK)
    if len(joined) != size * len(entries):
        raise DamagedFile(path, f"it has {len(entries)} arrays and checksums for {len(joined) / size:g}")
    return {name: joined[size * i : size * (i + 1)] for i, name in enumerate(entries)}


def _without_digest(raw: bytes, metadata: Mapping[str, str]) -> bytes:
    return raw.replace(metadata["sha256"].encode(), _BLANK, 1)


def _parse(path: Path, raw: bytes) -> tuple[dict[str, str], dict[str, Entry]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise DamagedFile(path, "its header is not JSON, or holds a name twice") from None
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedFile(path, "its header is not an object with metadata of strings")
    if len(metadata.get("sha256", "")) != len(_BLANK):
        raise UsageError(f"{path} is a safetensors file without a steersman header. Give a checkpoint of a run.")
    return metadata, {name: _entry(path, name, fields) for name, fields in header.items()}


def _entry(path: Path, name: str, fields: Any) -> Entry:
    match fields:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            numbers = [*shape, begin, end]
            sound = code in DTYPES and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
            if sound and end - begin == math.prod(shape) * DTYPES[code].itemsize:
                return Entry(DTYPES[code], tuple(shape), begin, end)
    raise DamagedFile(path, f"its entry for {name[:80]!r} is malformed")


def _check_layout(path: Path, entries: Mapping[str, Entry], size: int) -> None:
    """The arrays must cover the data exactly: no gap, no overlap, nothing after."""
    at = 0
    for name in _by_place(entries):
        if entries[name].begin != at:
            raise DamagedFile(path, f"the bytes of {name[:80]!r} overlap another array or leave a gap")
        at = entries[name].end
    if at != size:
        raise DamagedFile(path, f"its arrays should take {at:,} bytes, the file has {size:,} for them")


def _by_place(entries: Mapping[str, Entry]) -> list[str]:
    return sorted(entries, key=lambda name: (entries[name].begin, entries[name].end))


def _chunks(array: np.ndarray) -> Iterator[memoryview]:
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].data


class _Digests:
    """SHA-256 of one array after another, beside the disk: with a pool of one thread it is done there, in order."""

    def __init__(self, pool: ThreadPoolExecutor | None):
        self._pool, self._shas = pool, {}
        self._pending: deque[Future[None]] = deque()

    def begin(self, name: str, first: bytes = b"") -> None:
        self._now = self._shas[name] = hashlib.sha256(first)

    def update(self, chunk: memoryview) -> None:
        if self._pool is None:
            self._now.update(chunk)
        else:
            self._pending.append(self._pool.submit(self._now.update, chunk))
            if len(self._pending) > 4:  # never far behind the disk, so that few chunks are held
                self._pending.popleft().result()

    def done(self) -> dict[str, str]:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        return {name: sha.hexdigest() for name, sha in self._shas.items()}


@contextmanager
def _digesting(size: int) -> Iterator[_Digests]:
    if size < 2 * _CHUNK:
        yield _Digests(None)
    else:
        with ThreadPoolExecutor(1) as pool:
            yield _Digests(pool)
