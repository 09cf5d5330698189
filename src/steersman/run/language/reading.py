"""Where rows of texts come from: JSON lines, or parquet where pyarrow is, and what makes prompts as they are asked for:
tasks of reasoning-gym, and environments of texts, of which a row is the seed of an episode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from steersman.envs import text
from steersman.errors import UsageError
from steersman.run.disk.files import explained
from steersman.run.language.answers import procedural

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
SEEDS = 1000  # of an environment: so many episodes are its rows


class Row(NamedTuple):
    """One example as it was written."""

    where: str  # file and line, for messages
    line: int
    content: Mapping[str, Any]


def is_task(source: str | Path) -> bool:
    """Whether this names a task of reasoning-gym."""
    return str(source).partition(":")[0] == procedural.PREFIX and not _is_file(source)


def is_environment(source: str | Path) -> bool:
    """Whether this names an environment of texts."""
    return text.is_name(str(source)) and not _is_file(source) and not is_task(source)


def _is_file(source: str | Path) -> bool:
    return Path(source).suffix in SUFFIXES


def read_rows(source: str | Path, first: int = 0, seeds: int = SEEDS) -> list[Row]:
    """The rows of a file: one JSON object on each line; empty lines are passed over. Of a task of reasoning-gym, its
    prompts; of an environment of texts, the episodes of so many seeds from the first.

    Raises UsageError, with the line, for what is no JSON object or not UTF-8; for a file that is missing, empty, or of
    another kind; for a task or an environment that is none.
    """
    if is_task(source):
        return [Row(f"{source}, item {i}", i, row) for i, row in enumerate(procedural.rows(str(source)))]
    if is_environment(source):
        name, env = str(source), text.factory(str(source))()
        begun = ((seed, text.begin(env, seed, name)) for seed in range(first, first + seeds))
        return [Row(f"{name}, seed {i}", i, {"prompt": prompt, "seed": i}) for i, prompt in begun]
    path = Path(source).expanduser()
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{path}: texts are read from {', '.join(SUFFIXES)}; of JSON lines each is one object. Prompts may also "
            f"come from {procedural.PREFIX}:NAME, or an environment, {', '.join(text.NAMES)} or package.module:make."
        )
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Give JSON lines: one object on each line.")
    rows = list(_parquet(path) if path.suffix == ".parquet" else _lines(path))
    if not rows:
        raise UsageError(f"{path} is empty. Give one JSON object on each line.")
    return rows


def data_sha256(source: str | Path) -> str:
    """Of a file's bytes; of prompts that are made, of these."""
    if _is_file(source):
        with explained("reading", source), open(source, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    rows = json.dumps([row.content for row in read_rows(source)], default=str)
    return hashlib.sha256(rows.encode()).hexdigest()


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
