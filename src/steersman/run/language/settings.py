"""Settings of a training on texts that are none of the method's: how long, on what of the data, what is looked at."""

from __future__ import annotations

from dataclasses import dataclass

from steersman.config import Config, Rules


@dataclass(frozen=True)
class AlignConfig(Config):
    """How long it trains, on what of the data, and what is looked at on the way."""

    epochs: float = 1.0
    """How often the data is gone through."""
    updates: int | None = None
    """Steps of the optimiser, in place of epochs."""
    seed: int = 0
    """Of the order of the data, of what is held out, of the adapters' start, of samples."""
    max_length: int | None = None
    """The most tokens of a text, prompt and answer together, or of a conversation; none: what the model holds, at most
    1024."""
    plain: bool = False
    """Take a prompt as it stands, also where the model has a template of chats."""
    unusable: str = "refuse"
    """What becomes of rows that cannot be learned from, as too long ones: refuse, or drop, which is said."""
    held_out: float = 0.05
    """Share of the file's rows, at most 256 of them, that is not learned from and tells how good the model is."""
    evaluations: int = 5
    """How often that is asked on the way, besides before and after."""
    samples: int = 4
    """Prompts that are answered then, for samples.jsonl."""
    max_new: int = 64
    """The most tokens of such an answer, and of one that is learned from."""
    turns: int = 8
    """The most answers in one conversation with an environment of texts."""
    devices: int = 1
    """Devices that share a batch."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""

    rules = Rules(
        positive=("epochs",),
        at_least_one=("updates", "max_length", "max_new", "turns", "devices", "keep_checkpoints"),
        non_negative=("seed", "evaluations", "samples"),
        fraction=("held_out",),
        choices={"unusable": ("refuse", "drop")},
    )


LONGEST = 1024  # of texts, where a model holds more and none is said
MOST_HELD_OUT = 256  # rows
