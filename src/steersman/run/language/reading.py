"""Files of texts: JSON lines, or parquet where pyarrow is, read into rows that know their line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from steersman.errors import UsageError
from steersman.run.disk.files import explained

SUFFIXES = (".jsonl", ".ndjson", ".parquet")


class Row(NamedTuple):
    """One example as it was written."""

    where: str  # file and line, for messages
    line: int
    content: Mapping[str, Any]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file: one JSON object on each line; empty lines are passed over.

    Raises UsageError, with the line, for what is no JSON object or not UTF-8; for a file that is missing, empty, or of
    another kind.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: texts are read from {', '.join(SUFFIXES)}; of JSON lines each is one object.")
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Give JSON lines: one object on each line.")
    rows = list(_parquet(path) if path.suffix == ".parquet" else _lines(path))
    if not rows:
        raise UsageError(f"{path} is empty. Give one JSON object on each line.")
    return rows


def _lines(path: Path) -> Iterator[Row]:
    with explained("reading", path):
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the mark that editors on Windows write
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            content = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise UsageError(f"{where} is not UTF-8 ({error.reason}). Write the file in that encoding.") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON ({error}). Each line is one whole object.") from None
        if not isinstance(content, dict):
            raise UsageError(f"{where} is a JSON {type(content).__name__}, not an object with columns by name.")
        yield Row(where, number, content)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"{path}: parquet needs the package pyarrow: pip install pyarrow. Or give JSON lines."
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these
        raise UsageError(f"{path} is damaged or no parquet ({error}). Write it again.") from error
    for number, content in enumerate(table.to_pylist(), 1):
        # A column that is null is one that the row has not.
        yield Row(f"{path}, row {number}", number, {k: v for k, v in content.items() if v is not None})
