"""``steersman align generate RUN|MODEL PROMPT``: let a language model answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from steersman.cli.display import print_json
from steersman.cli.flags import parsed
from steersman.errors import UsageError


@dataclass(frozen=True)
class Generate:
    """Answer a prompt. It is the user's message where the model has a template of chats, unless --plain."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|MODEL")]
    """A run, or a model by its name."""
    prompt: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")]
    """A text."""
    max_new: int = 128
    """The most tokens of the answer."""
    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens with this share of the likeliest one's probability."""
    samples: int = 1
    """How many answers."""
    seed: int = 0
    """Of the draws."""
    plain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take the prompt as it stands."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Generate, arguments, "steersman align generate")
    from steersman.run.language.runs import assistant

    if chosen.samples < 1:
        raise UsageError(f"samples = {chosen.samples}; ask for 1 answer or more.")
    how = {name: getattr(chosen, name) for name in ("temperature", "top_k", "top_p", "min_p", "max_new", "seed")}
    said = assistant(chosen.model, chosen.plain).many([chosen.prompt] * chosen.samples, **how)
    if chosen.json:
        print_json(
            {
                "prompt": chosen.prompt,
                "answers": [{"text": one.text, "tokens": one.tokens, "ended": one.ended} for one in said],
            }
        )
        return 0
    for one in said:
        print(one.text + ("" if one.ended else " ..."))
    return 0
