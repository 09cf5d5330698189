"""What a training on texts or pairs is asked on the way: how likely rows are that are held out, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steersman.agents.language.common import Learner, Method
from steersman.run.language.answering import answers
from steersman.run.language.batches import Batches
from steersman.run.language.data import Encoded, Pair
from steersman.run.language.models import LanguageModel
from steersman.run.language.programs import Programs
from steersman.run.language.settings import AlignConfig


def evaluating(
    programs: Programs, held: Sequence[Any], config: Any, model: LanguageModel, method: Method
) -> Callable[[Learner], dict[str, float]]:
    """The function that says what a learner makes of rows that it does not learn from, as ``held_out_...``."""
    if not held:
        return lambda learner: {}
    batches = Batches(held, config.batch_size, model.tokenizer.pad, shuffled=False)

    def evaluate(learner: Learner) -> dict[str, float]:
        found = means([programs.evaluate(learner, batches(i)) for i in range(batches.per_epoch)])
        if method.learns_from == "texts":
            found["perplexity"] = float(np.exp(found["loss"]))
        return {f"held_out_{name}": value for name, value in found.items() if name != "count"}

    return evaluate


def means(each: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over batches, each weighed by its ``count``; and their count.

    >>> means([{"loss": 1.0, "count": 3.0}, {"loss": 5.0, "count": 1.0}])
    {'loss': 2.0, 'count': 4.0}
    """
    count = sum(float(one["count"]) for one in each)
    names = [name for name in each[0] if name != "count"]
    return {name: sum(float(one[name]) * float(one["count"]) for one in each) / count for name in names} | {
        "count": count
    }


def prompts_of(rows: Sequence[Any], count: int) -> list[list[int]]:
    """The beginnings of some rows, up to what is learned; of texts, of which all is, their first sixteenth or so."""
    found = []
    for row in rows[:count]:
        one: Encoded = row.chosen if isinstance(row, Pair) else row
        before = int(np.argmax(one.learned)) or min(16, len(one.tokens) // 2)
        found.append(one.tokens[:before].tolist())
    return found


def sampling(
    programs: Programs, prompts: Sequence[list[int]], model: LanguageModel, run: AlignConfig
) -> Callable[[Learner], list[dict[str, Any]]]:
    """The function that lets a learner answer some prompts, greedily; of a reward model none are."""
    decoder, tokenizer = model
    new = min(run.max_new, decoder.config.context - max(map(len, prompts), default=0))
    if not prompts or new < 1:
        return lambda learner: []

    def sample(learner: Learner) -> list[dict[str, Any]]:
        said = answers(programs.model(learner), tokenizer, prompts, max_new=new)
        texts = [tokenizer.decode(prompt) for prompt in prompts]
        return [{"prompt": p, "text": s.text, "ended": s.ended} for p, s in zip(texts, said, strict=True)]

    return sample
