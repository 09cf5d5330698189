"""Conversations with an environment of texts: answered, replied to, answered again, and each as one row of tokens.

What the model said stands there as the tokens that it drew, never encoded again: a text has several encodings, and the
log-probabilities are of the one that was drawn. Each turn begins with the whole conversation so far, in one pass: that
costs little beside the drawing of an answer, token by token, and no cache has to be kept across what the host does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from steersman.envs import text
from steersman.errors import EnvironmentFault, UsageError
from steersman.language.completions import Completions
from steersman.language.tokenizer import left_padded
from steersman.run.language.answers.asking import Answer, Judged, keys_of
from steersman.run.language.batches import padded_length
from steersman.run.language.data import Prompt, Reader
from steersman.types import Key


@dataclass
class Talk:
    """One conversation, as far as it has come."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)  # behind the prompt
    own: list[bool] = field(default_factory=list)  # of each: drawn by the model
    log_prob: list[float] = field(default_factory=list)
    earned: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # answers and replies in turn
    turns: int = 0
    ended: bool = True  # every answer, by itself
    over: bool = False  # the environment's episode
    room: bool = True  # for another answer

    def add(self, tokens: Sequence[int], log_prob: Sequence[float] | None = None) -> None:
        """Tokens of the model's own, or of a reply."""
        self.tokens += tokens
        self.own += [log_prob is not None] * len(tokens)
        self.log_prob += [0.0] * len(tokens) if log_prob is None else log_prob
        self.earned += [0.0] * len(tokens)


class Conversations:
    """As ``Asking``; a prompt is the seed of an episode, whose rewards are the environment's."""

    def __init__(self, name: str, reader: Reader, rows: Sequence[Prompt], max_new: int, turns: int, longest: int):
        """rows: all that will ever be begun. longest: tokens of a whole conversation. Raises UsageError."""
        self.name, self.reader, self.max_new, self.turns, self.longest = name, reader, max_new, turns, longest
        self.length = max(len(row.tokens) for row in rows)
        self.size = longest - self.length
        self._make, self._envs = text.factory(name), []
        if self.size < max_new:
            raise UsageError(
                f"The longest prompt of {name} has {self.length} tokens, and max_new = {max_new} more are "
                f"{self.length + max_new}; a conversation has at most {longest}. Lower --max-new, or raise "
                "--max-length where the model's context is longer."
            )

    def __call__(self, answer: Answer, asked: Sequence[Prompt], key: Key, group: int = 1) -> Judged:
        """Conversations that begin with these prompts, ``group`` with each; the same to the same key."""
        asked = [row for row in asked for _ in range(group)]
        self._envs += [self._make() for _ in range(len(asked) - len(self._envs))]
        talks = [Talk(list(row.tokens)) for row in asked]
        for env, row in zip(self._envs, asked, strict=False):
            prompt = text.begin(env, seed := row.row["seed"], self.name)
            if prompt != row.content:
                raise EnvironmentFault(
                    f"{self.name}: reset(seed={seed}) gave {prompt!r:.200}, and {row.content!r:.200} before. All that "
                    "an episode draws has to come from its seed: its answers are compared, and runs resumed."
                )
        keys, answering, replying = keys_of(key, len(asked)), 0.0, 0.0
        for turn in range(self.turns):
            live = [i for i, talk in enumerate(talks) if talk.room and not talk.over]
            if not live:
                break
            begun = time.perf_counter()
            self._answer(answer, talks, live, jax.vmap(jax.random.fold_in, (0, None))(keys, turn))
            said = time.perf_counter()
            for i in live:
                self._reply(talks[i], self._envs[i], last=turn + 1 == self.turns)
            answering, replying = answering + said - begun, replying + time.perf_counter() - said
        earned = self._wide([talk.earned for talk in talks], np.float32)
        texts = ["\n".join(("> " if i % 2 else "") + one for i, one in enumerate(talk.said)) for talk in talks]
        turns = np.asarray([talk.turns for talk in talks])
        return Judged(self._completions(talks), texts, earned.sum(1), {}, (answering, replying), earned, turns)

    def _answer(self, answer: Answer, talks: list[Talk], live: Sequence[int], keys: jax.Array) -> None:
        """Draw the next answer of those that go on; the others' rows are filled up with one of them."""
        pad = self.reader.tokenizer.pad
        texts = [(talk if talk.room and not talk.over else talks[live[0]]) for talk in talks]
        asked = [talk.prompt + talk.tokens for talk in texts]
        length = padded_length(max(map(len, asked)), self.longest - self.max_new)
        c = answer(*left_padded(asked, pad, length), keys)
        for i in live:
            there, talk = c.mask[i], talks[i]
            drawn = c.tokens[i][there].tolist()
            talk.add(drawn, c.log_prob[i][there].tolist())
            talk.said.append(self.reader.tokenizer.decode(drawn))
            talk.turns += 1
            if not c.ended[i]:
                talk.ended = False

    def _reply(self, talk: Talk, env: text.TextEnv, last: bool) -> None:
        reply = text.answer(env, talk.said[-1], self.name)
        talk.earned[-1], talk.over = reply.reward, reply.over
        if last or talk.over:
            return
        stop = self.reader.tokenizer.stop
        opened = ([] if talk.tokens[-1] in stop else [stop[0]]) + self.reader.reply(reply.text)
        talk.room = len(talk.tokens) + len(opened) + self.max_new <= self.size
        if talk.room:
            talk.add(opened)
            talk.said.append(reply.text)

    def _completions(self, talks: Sequence[Talk]) -> Completions:
        prompt, prompt_mask = left_padded([talk.prompt for talk in talks], self.reader.tokenizer.pad, self.length)
        own = self._wide([talk.own for talk in talks], bool)
        there = np.arange(self.size) < np.asarray([len(talk.tokens) for talk in talks])[:, None]
        tokens = np.where(there, self._wide([talk.tokens for talk in talks], np.int32), self.reader.tokenizer.pad)
        return Completions(
            prompt,
            prompt_mask,
            tokens.astype(np.int32),
            own,
            self._wide([talk.log_prob for talk in talks], np.float32),
            np.asarray([talk.over and talk.ended for talk in talks]),
            reply=there & ~own,
        )

    def _wide(self, rows: Sequence[Sequence[float]], dtype: type) -> np.ndarray:
        """[B, C], zeros behind the end of each row."""
        found = np.zeros((len(rows), self.size), dtype)
        for i, row in enumerate(rows):
            found[i, : len(row)] = row
        return found
