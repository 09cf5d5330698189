"""Prompts that are answered, and what the answers earn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman.errors import UsageError
from steersman.language.completions import Completions
from steersman.language.tokenizer import left_padded
from steersman.run.language.answers.scores import Reward, prompt_text
from steersman.run.language.data import Prompt
from steersman.run.language.models import LanguageModel
from steersman.types import Array, Key

# (prompts [N, P], their mask, keys [B], as many to each prompt) -> answers [B], of numpy arrays
Answer = Callable[[Array, Array, Array], Completions]


class Judged(NamedTuple):
    """Answers, or conversations, as texts, and what they earned."""

    completions: Completions  # of numpy arrays
    texts: Any  # B
    reward: np.ndarray  # [B]
    terms: dict[str, np.ndarray]  # by name, of a reward that is a sum
    seconds: tuple[float, ...]  # of answering, of judging
    earned: np.ndarray | None = None  # [B, C], at the last token of each answer of a conversation
    turns: np.ndarray | None = None  # [B], how many those are

    @property
    def told(self) -> dict[str, float]:
        """Numbers for the log that only texts have."""
        parts = self.terms if len(self.terms) > 1 else {}
        found = {f"reward_{name}": float(term.mean()) for name, term in parts.items()}
        return found if self.turns is None else found | {"turns": float(self.turns.mean())}


def keys_of(key: Key, count: int) -> jax.Array:
    """A key for each row: what it draws depends on its place alone."""
    return jax.vmap(partial(jax.random.fold_in, key))(np.arange(count))


class Asking:
    """Prompts of one shape in, answers and what they earn out."""

    def __init__(self, reward: Sequence[str], model: LanguageModel, rows: Sequence[Prompt], max_new: int):
        """rows: all prompts that will ever be asked; their longest says the shape. Raises UsageError."""
        self.reward, self.model = Reward(reward), model
        self.reward.check(model.tokenizer, [row.row for row in rows])
        self.length = max(len(row.tokens) for row in rows)
        self.longest = self.length + max_new  # tokens of prompt and answer
        context = model.decoder.config.context
        if self.longest > context:
            shorter = f", or leave out longer prompts: --max-length {context - max_new} --unusable drop"
            raise UsageError(
                f"The longest prompt has {self.length} tokens, and max_new = {max_new} more are {self.longest}; the "
                f"model's context is {context}. Lower --max-new{shorter if max_new < context else ''}."
            )

    def __call__(self, answer: Answer, asked: Sequence[Prompt], key: Key, group: int = 1) -> Judged:
        """Judged answers to prompts, ``group`` side by side to each; the same to the same key."""
        tokenizer = self.model.tokenizer
        tokens, mask = left_padded([row.tokens for row in asked], tokenizer.pad, self.length)
        asked = [row for row in asked for _ in range(group)]
        begun = time.perf_counter()
        c = answer(tokens, mask, keys_of(key, len(asked)))
        said = time.perf_counter()
        texts = [tokenizer.decode(row[there]) for row, there in zip(c.tokens, c.mask, strict=True)]
        prompts = [prompt_text(row.content) for row in asked]
        reward, terms = self.reward(prompts, texts, [row.row for row in asked])
        return Judged(c, texts, reward, terms, (said - begun, time.perf_counter() - said))
