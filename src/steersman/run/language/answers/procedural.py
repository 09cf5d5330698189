"""Tasks that are made as they are asked for, with what judges an answer: reasoning-gym's, by name.

``reasoning_gym:chain_sum,max_terms=2,size=1000``. The one file for ``reasoning_gym``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from steersman.envs.families import split_name
from steersman.errors import UsageError, nearest, to_install
from steersman.language.rewards import Row, Score

PREFIX = "reasoning_gym"


@lru_cache(maxsize=8)
def dataset(name: str) -> Any:
    """The data set of a name, of seed 0 unless it says another. Raises UsageError."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"{name} needs the package reasoning-gym: {to_install('reasoning')}.") from error
    head, settings = split_name(name)
    task = head.partition(":")[2]
    if task not in DATASETS:
        near = nearest(task, DATASETS) or f"There are {len(DATASETS)}, such as chain_sum."
        raise UsageError(f"reasoning_gym has no task {task!r}. {near}")
    try:
        return create_dataset(task, **{"seed": 0} | settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{name}: reasoning_gym takes no such settings: {error}.") from error


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Prompts with their answers, and what the judge wants to know."""
    for entry in dataset(name):
        more = {"metadata": entry["metadata"], "source": name}
        yield {"prompt": entry["question"], "answer": entry["answer"]} | more


def score() -> Score:
    """What the row's task makes of an answer, from 0 to 1: of what stands between <answer> and </answer> where it does,
    as that library asks for it, else of all of it."""

    def one(answer: str, row: Row) -> float:
        if "source" not in row:
            raise UsageError(
                "The reward reasoning_gym judges its own prompts alone: give reasoning_gym:NAME as the data."
            )
        from reasoning_gym.utils import extract_answer  # pyright: ignore[reportMissingImports]

        entry = {"question": row["prompt"], "answer": row["answer"], "metadata": row["metadata"]}
        said = extract_answer(answer)
        earned = float(dataset(row["source"]).score_answer(answer.strip() if said is None else said, entry))
        return earned if math.isfinite(earned) else 0.0

    def each(prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> list[float]:
        return [one(*pair) for pair in zip(answers, rows, strict=True)]

    return each
