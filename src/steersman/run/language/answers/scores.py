"""Rewards by name: those a program can tell, a trained reward model, a function of the user's own, VADER; and sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from steersman.envs.importing import load_object, offer
from steersman.errors import UsageError, nearest, to_install
from steersman.language.rewards import PLAIN, WITH_ARGUMENT, Part, Row, Score, own_score, scored, weighted_name
from steersman.language.tokenizer import Tokenizer
from steersman.run.language.answering import RewardModel
from steersman.run.language.answers import procedural
from steersman.run.language.runs import is_run, load

HELP = (
    f"{', '.join([*PLAIN, *(f'{name}:{what}' for name, (_, what) in WITH_ARGUMENT.items()), 'vader'])}, the run folder "
    "of a reward model, or a function of yours, package.module:function"
)


def score_of(name: str) -> Score:
    """The score of a name; raises UsageError for one that none has."""
    base, colon, _ = name.partition(":")
    if base in PLAIN or base in WITH_ARGUMENT:
        return own_score(name)
    if name == "vader":
        return vader()
    if name == procedural.PREFIX:
        return procedural.score()
    if is_run(name):
        model = load(name)
        if not isinstance(model, RewardModel):
            raise UsageError(f"{name} is no run of a reward model: make one with steersman align reward.")
        return Judge(name, model)
    if not colon:
        if Path(name).is_dir():
            raise UsageError(f"{name} is a folder and no run of a reward model.")
        near = offer(name) or nearest(name, [*PLAIN, *WITH_ARGUMENT, "vader"])
        raise UsageError(f"There is no reward {name!r}. {near} Give {HELP}.".replace("  ", " "))
    try:
        found = load_object(name, "the reward")
    except UsageError:
        if nearest(base, [*PLAIN, *WITH_ARGUMENT]):
            return own_score(name)  # a slip of the pen, rather
        raise
    if not callable(found):
        raise UsageError(
            f"The reward {name} is a {type(found).__name__}; it is to be a function (prompts, answers, rows) -> "
            "numbers."
        )
    return cast(Score, found)


def is_own(name: str) -> bool:
    """Whether a reward is a function of the user's own, which is imported."""
    base, colon, _ = name.partition(":")
    return bool(colon) and base not in PLAIN and base not in WITH_ARGUMENT and not is_run(name)


def vader() -> Score:
    """The compound sentiment of an answer, from -1 to 1 (Hutto and Gilbert 2014)."""
    try:
        from vaderSentiment.vaderSentiment import (  # pyright: ignore[reportMissingImports]
            SentimentIntensityAnalyzer,
        )
    except ImportError as error:
        raise UsageError(f"The reward vader needs the package vaderSentiment: {to_install('vader')}.") from error
    analyser = SentimentIntensityAnalyzer()
    return lambda prompts, answers, rows: [analyser.polarity_scores(answer)["compound"] for answer in answers]


class Judge:
    """A reward model as a score. It reads texts, so its tokenizer may be another than that of who answers."""

    def __init__(self, name: str, model: RewardModel):
        self.name, self.model = name, model

    def __call__(self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> Sequence[float]:
        try:
            return self.model.many([row["prompt"] for row in rows], answers).tolist()
        except UsageError as error:
            raise UsageError(f"The reward model {self.name} cannot read this: {error}") from None

    def check(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> None:
        """Raise UsageError where it cannot read these prompts, or all that a model with this tokenizer can say."""
        try:
            self.model.read([row["prompt"] for row in rows], [""] * len(rows))
        except UsageError as error:
            raise UsageError(f"The reward model {self.name} cannot read the prompts: {error}") from None
        characters = {c for i in range(tokenizer.size) for c in tokenizer.decode([i])}
        try:
            self.model.tokenizer.encode("".join(sorted(characters)))
        except UsageError as error:
            raise UsageError(
                f"The reward model {self.name} has another tokenizer than the model that answers, and cannot read all "
                f"that this one can say. Train one that begins with this model. {error}"
            ) from None


class Reward:
    """What answers earn: a sum of terms, each logged apart where there are several."""

    def __init__(self, specs: Sequence[str]):
        """specs: ``number``, ``0.1*length:40``. Raises UsageError for a name that is none, for none at all, and for
        one that is there twice."""
        if not specs:
            raise UsageError(f"Nothing says what an answer earns. Give --reward: {HELP}.")
        named = [weighted_name(spec) for spec in specs]
        names = [name for _, name in named]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise UsageError(f"The reward {twice[0]} is there twice. Give it once, with a weight: 2*{twice[0]}.")
        self.parts = [Part(name, weight, score_of(name)) for weight, name in named]

    def check(self, tokenizer: Tokenizer, rows: Sequence[Row]) -> None:
        """Raise UsageError where a reward model cannot read the prompts, or what may be answered with a tokenizer."""
        for part in self.parts:
            if isinstance(part.score, Judge):
                part.score.check(tokenizer, rows)

    def __call__(
        self, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """-> (float32 [B], each term by its name). Raises UsageError where a term is no number, with the answer."""
        return scored(self.parts, prompts, answers, rows)


def prompt_text(content: Any) -> str:
    """A prompt as a score sees it: the text, or of messages the last one's."""
    return content if isinstance(content, str) else str(content[-1].get("content", ""))
