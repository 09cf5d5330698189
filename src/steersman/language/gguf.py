"""GGUF, the file format of llama.cpp: metadata and named arrays, some quantised in blocks. Pure: bytes in, arrays out.

The format (github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3, little endian: "GGUF", version, counts, metadata
(key, type, value), of each array name, sizes (fastest first), type and offset, then the arrays, aligned.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BLOCKS = {  # type -> name, elements and bytes of a block
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    30: ("BF16", 1, 2),
}
_NAMES = {
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"},
}


class Entry(NamedTuple):
    """Where one array lies in the file: ``size`` bytes from ``begin`` on."""

    type: int
    shape: tuple[int, ...]  # slowest axis first, as numpy has it
    begin: int
    size: int


class Header(NamedTuple):
    """What a file says of itself."""

    metadata: dict[str, Any]
    entries: dict[str, Entry]


class _Reader:
    def __init__(self, data: Any):
        self.data, self.at = memoryview(data), 0

    def take(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.take("Q")
        if length > len(self.data) - self.at:
            raise struct.error("a text longer than the file")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_SCALARS[kind])
        kind, count = self.take("I"), self.take("Q")
        if kind not in _SCALARS:
            return [self.value(kind) for _ in range(count)]
        array = np.frombuffer(self.data, "<" + _SCALARS[kind], count, self.at)
        self.at += array.nbytes
        return array.tolist()


def header(data: Any, size: int, name: str) -> Header:
    """What stands before the arrays. data: the file's bytes, or a map of them; size: how many the file has.

    Raises UsageError, with the file's ``name``, for one that is no GGUF, cut short, or has arrays of a type that is not
    read.
    """
    read = _Reader(data)
    if bytes(read.data[:4]) != b"GGUF":
        raise UsageError(f"{name} is not a GGUF file: it does not begin with GGUF.")
    read.at = 4
    try:
        version = read.take("I")
        if version not in (2, 3):
            raise UsageError(f"{name} is GGUF of version {version}; versions 2 and 3 are read.")
        arrays, keys = read.take("Q"), read.take("Q")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = read.text()
            metadata[key] = read.value(read.take("I"))
        found = [_info(read) for _ in range(arrays)]
    except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name} is cut short or damaged: its header does not end. Fetch it again.") from None
    alignment = metadata.get("general.alignment", 32)
    start = -(-read.at // alignment) * alignment
    entries = {}
    for array, shape, kind, offset in found:
        if kind not in _BLOCKS:
            known = ", ".join(n for n, _, _ in _BLOCKS.values())
            raise UsageError(f"{name}: {array} is of type {_NAMES.get(kind, kind)}; read are {known}.")
        _, elements, size_of_block = _BLOCKS[kind]
        if math.prod(shape) % elements or (elements > 1 and shape[-1] % elements):
            raise UsageError(f"{name}: {array} {list(shape)} does not divide into blocks of {elements}.")
        entry = Entry(kind, shape, start + offset, math.prod(shape) // elements * size_of_block)
        if entry.begin + entry.size > size:
            raise UsageError(
                f"{name} is cut short: {array} ends at byte {entry.begin + entry.size:,} of {size:,}. Fetch it again."
            )
        entries[array] = entry
    return Header(metadata, entries)


def _info(read: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name, axes = read.text(), read.take("I")
    if axes > 8:
        raise struct.error("no array has so many axes")
    shape = tuple(read.take("Q") for _ in range(axes))[::-1]
    return name, shape, read.take("I"), read.take("Q")


def dequantised(raw: Any, entry: Entry) -> np.ndarray:
    """The bytes of an array as float32 of its shape.

    Blocks of 32 share a scale d (float16) and, of Q4_1, a lowest value m: Q8_0 d q; Q4_0 d (q - 8); Q4_1 d q + m. Of
    four-bit numbers the low halves of the 16 bytes come first.
    """
    name, elements, size = _BLOCKS[entry.type]
    data = np.frombuffer(raw, np.uint8)
    if name == "F32":
        return data.view("<f4").reshape(entry.shape).astype(np.float32)
    if name == "F16":
        return data.view("<f2").reshape(entry.shape).astype(np.float32)
    if name == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
    out = np.empty((math.prod(entry.shape) // elements, elements), np.float32)
    blocks = data.reshape(-1, size)
    for at in range(0, len(blocks), 1 << 14):  # a part at a time: what is made on the way stays small
        some, to = blocks[at : at + (1 << 14)], out[at : at + (1 << 14)]
        scale = some[:, :2].copy().view("<f2").astype(np.float32)
        if name == "Q8_0":
            np.multiply(some[:, 2:].view(np.int8), scale, out=to)
            continue
        packed = some[:, size - 16 :]
        to[:, :16], to[:, 16:] = packed & 15, packed >> 4
        if name == "Q4_0":
            to -= 8
        to *= scale
        if name == "Q4_1":
            to += some[:, 2:4].copy().view("<f2").astype(np.float32)
    return out.reshape(entry.shape)
