"""Asking a language model: prompts in, texts out; and a reward model, which gives numbers for answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman.agents.language.reward_model import RewardModelConfig, RewardParams, rewards
from steersman.errors import UsageError
from steersman.language.decoder import Decoder
from steersman.language.generation import Completions, Sampling, generate
from steersman.language.tokenizer import Tokenizer, left_padded
from steersman.run.language.batches import padded_length, texts_of
from steersman.run.language.data import Cannot, Encoded, Reader

GREEDY = Sampling(temperature=0.0)
ROWS = 32  # that are answered side by side


@lru_cache(maxsize=16)
def generating(max_new: int, stop: tuple[int, ...], sampling: Sampling) -> Any:
    """The program that answers: (decoder, prompts, their mask, keys) -> ``Completions``."""
    return jax.jit(partial(generate, max_new=max_new, stop=stop, sampling=sampling))


def completions(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    keys: jax.Array,
    *,
    max_new: int,
    sampling: Sampling = GREEDY,
) -> Completions:
    """Answers to one batch of prompts, numpy arrays; prompts are padded to one of few lengths. keys: one for each
    answer, as many to each prompt.

    Raises UsageError where a prompt leaves no room for ``max_new`` tokens.
    """
    longest = max(map(len, prompts))
    length = padded_length(longest, max(longest, decoder.config.context - max_new))
    tokens, mask = left_padded(prompts, tokenizer.pad, length)
    return jax.tree.map(np.asarray, generating(max_new, tokenizer.stop, sampling)(decoder, tokens, mask, keys))


class Said(NamedTuple):
    """An answer: its text, how many tokens it took, and whether it came to its end by itself."""

    text: str
    tokens: int
    ended: bool
    ids: tuple[int, ...] = ()  # these tokens, the one that ends it included


def answers(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    group: int = 1,
) -> list[Said]:
    """Answers to any number of prompts, ``group`` side by side to each. What one of them is told depends on its own
    place and the seed alone."""
    found: list[Said] = []
    size = max(1, ROWS // group)
    for begin in range(0, len(prompts), size):
        some = list(prompts[begin : begin + size])
        count = len(some) * group
        some += [some[0]] * (min(size, len(prompts)) - len(some))  # the same shape as before
        places = begin * group + np.arange(len(some) * group)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(places)
        done = completions(decoder, tokenizer, some, keys, max_new=max_new, sampling=sampling)
        rows = zip(done.tokens, done.mask, done.ended, strict=True)
        said = [Said(tokenizer.decode(t[m]), int(m.sum()), bool(ended), tuple(t[m].tolist())) for t, m, ended in rows]
        found += said[:count]
    return found


class Assistant:
    """A language model to talk to: ``assistant("prompt")``, or a list of messages, gives its answer."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, *, plain: bool = False):
        self.decoder, self.tokenizer, self.plain = decoder, tokenizer, plain

    def __call__(self, prompt: Any, *, max_new: int = 128, seed: int = 0, **sampling: Any) -> str:
        """One answer. sampling: fields of ``Sampling``; without any it is greedy. Raises UsageError."""
        return self.many([prompt], max_new=max_new, seed=seed, **sampling)[0].text

    def many(self, prompts: Sequence[Any], *, max_new: int = 128, seed: int = 0, **sampling: Any) -> list[Said]:
        """Answers to several prompts, side by side."""
        reader = Reader(self.tokenizer, self.decoder.config.context, self.plain)
        encoded = [reader.prompt(prompt) for prompt in prompts]
        how = Sampling(**sampling) if sampling else GREEDY
        return answers(self.decoder, self.tokenizer, encoded, max_new=max_new, sampling=how, seed=seed)


class RewardModel:
    """A trained reward model: ``reward(prompt, answer)`` gives a number, of which differences mean something."""

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, params: RewardParams, config: RewardModelConfig, *, plain: bool
    ):
        """decoder: the base that it was trained beside."""
        self.decoder, self.tokenizer, self.params, self.config, self.plain = decoder, tokenizer, params, config, plain
        self._score = jax.jit(partial(rewards, config))

    def __call__(self, prompt: Any, answer: Any) -> float:
        return float(self.many([prompt], [answer])[0])

    def read(self, prompts: Sequence[Any], said: Sequence[Any]) -> list[Encoded]:
        """Pairs of a prompt and an answer as it sees them. Raises UsageError for one that it cannot read."""
        if len(prompts) != len(said):
            raise UsageError(f"{len(prompts)} prompts and {len(said)} answers: give one answer to each.")
        context = self.decoder.config.context
        reader = Reader(self.tokenizer, context, self.plain)
        try:
            return [reader.answered(*pair) for pair in zip(prompts, said, strict=True)]
        except Cannot as cannot:
            raise UsageError(
                f"A prompt and its answer are {cannot.said} of its tokenizer, and its context is {context}. Give "
                "shorter prompts, or lower --max-new."
            ) from None

    def many(self, prompts: Sequence[Any], said: Sequence[Any]) -> np.ndarray:
        """Of pairs of a prompt and an answer, float32 [N]. Raises UsageError."""
        rows, context = self.read(prompts, said), self.decoder.config.context
        found = []
        for begin in range(0, len(rows), ROWS):
            some = rows[begin : begin + ROWS]
            length = padded_length(max(len(row.tokens) for row in some), context)
            texts = texts_of(some, min(ROWS, len(rows)), length, self.tokenizer.pad)
            found.append(np.asarray(self._score(self.decoder, self.params, texts.tokens, texts.mask))[: len(some)])
        return np.concatenate(found)
