"""``steersman align evaluate RUN|MODEL DATA``: how good a language model, or a reward model, is on texts of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from steersman.cli.display import number, print_json, print_table
from steersman.cli.flags import parsed


@dataclass(frozen=True)
class Evaluate:
    """Measure a run, or a model, on the texts of a file: the loss and perplexity of what is learned of them; of pairs,
    how often the preferred answer is the likelier one, or the one of more reward; prompts alone are answered, and with
    --reward judged: what answers earn, how often one of k passes, the best of k."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run, or a model by its name."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """JSON lines, or parquet; reasoning_gym:NAME; or an environment of texts."""
    batch_size: int = 8
    """Texts side by side."""
    max_length: int | None = None
    """The most tokens of a text; none: what the model holds, at most 1024."""
    max_new: int = 128
    """The most tokens of an answer, of prompts alone."""
    temperature: float = 0.0
    """Of answers; 0: the likeliest token each time."""
    reward: tuple[str, ...] = ()
    """What answers to prompts earn, terms as those of a training: NAME or WEIGHT*NAME."""
    samples: int = 1
    """How many answers to each prompt are judged."""
    passing: float = 1.0
    """An answer passes that earns this or more."""
    turns: int = 8
    """The most answers in one conversation with an environment of texts."""
    seed: int = 0
    """Of their draws."""
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take prompts as they stand."""
    unusable: str = "refuse"
    """What becomes of rows that are too long: refuse, or drop, which is said."""
    to: Path | None = None
    """Write answers here, as JSON lines."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = vars(parsed(Evaluate, arguments, "steersman align evaluate"))
    as_json, model, data = (chosen.pop(name) for name in ("json", "model", "data"))
    from steersman.run.language.measuring import measure

    found = measure(model, data, **chosen)
    if as_json:
        print_json(found)
        return 0
    notes = found.pop("notes")
    ends = {f"{name}_{end}" for name in found for end in ("low", "high")}
    rows = [
        (name.replace("_", " "), _said(found, name))
        for name, value in found.items()
        if not isinstance(value, list) and name not in ends
    ]
    print_table(f"{model} on {data}", rows + [("", note) for note in notes])
    return 0


def _said(found: dict[str, Any], name: str) -> str:
    """A number, and its 95 % interval where it has one."""
    value, low, high = (found.get(of) for of in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(value, int | float):
        return str(value)
    return number(value, 3) + ("" if low is None else f"   ({number(low, 3)} to {number(high, 3)})")
