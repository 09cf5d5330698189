"""From rows of texts to tokens that are learned: every fault is named with its line, and nothing is cut in silence.

    text                        all of it is learned; one that is longer than fits is cut into pieces, which is said
    messages                    a chat: what the assistant says is learned, the token that ends it included
    prompt, answer              the answer is learned
    prompt, chosen, rejected    two answers, the first preferred
    prompt (answer)             to be answered; the answer is for who judges it
    prompt, seed                the beginning of an episode of an environment of texts

A prompt is a text or a list of messages. A text is the user's message where the model has a template of chats, and
stands as it is where it has none, or with ``plain``. What is typed is text: a special token in it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, nearest
from steersman.language.templates import conversation, encode_messages
from steersman.language.tokenizer import Tokenizer
from steersman.run.language.reading import Row, read_rows

COLUMNS = ("text", "messages", "prompt", "answer", "chosen", "rejected")


class Encoded(NamedTuple):
    """A text as tokens int32 [T], and which of them are learned, bool [T]."""

    tokens: np.ndarray
    learned: np.ndarray


class Pair(NamedTuple):
    """Two answers to one prompt, the first preferred: whole texts."""

    chosen: Encoded
    rejected: Encoded


class Prompt(NamedTuple):
    """What is to be answered."""

    tokens: list[int]
    content: Any  # as it was written: a text, or messages
    answer: Any  # what the file says of it; None
    row: dict[str, Any]  # all columns, for who judges the answer


@dataclass
class Data:
    """What a file holds for a method, and what is to be said of it."""

    rows: list[Any]  # of Encoded, Pair or Prompt
    notes: list[str]
    plain: bool  # prompts stand as they are, with no template around them
    lines: list[int] = field(default_factory=list)  # of each row: pieces of one text have one


@dataclass
class _Unusable:
    """Rows that cannot be learned from, by why."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, why: str, said: str) -> None:
        self.lines.setdefault(why, []).append(said)

    def __str__(self) -> str:
        some = lambda lines: ", ".join(lines[:3]) + (", ..." if len(lines) > 3 else "")
        return "; ".join(f"{len(lines)} {why} ({some(lines)})" for why, lines in self.lines.items())

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))


class Cannot(Exception):
    """A row that cannot be learned from: why, and what to say of it beside its line."""

    def __init__(self, why: str, said: str = ""):
        super().__init__(why)
        self.why, self.said = why, said


@dataclass(frozen=True)
class Reader:
    """How rows become tokens. max_length: the most tokens of one; plain: prompts stand as they are."""

    tokenizer: Tokenizer
    max_length: int
    plain: bool = False

    @property
    def chats(self) -> bool:
        return self.tokenizer.template is not None and not self.plain

    def prompt(self, content: Any) -> list[int]:
        """Ids of a text or of messages, with the assistant's turn opened. Raises UsageError."""
        if isinstance(content, str) and not content:
            raise UsageError("The prompt is empty. Write something in it.")
        messages = self._messages(content)
        if messages is None:
            return [*self.tokenizer.opening, *self.tokenizer.encode(content)]
        return encode_messages(messages, self.tokenizer)

    def reply(self, content: str) -> list[int]:
        """Ids of what is replied to an answer, behind the token that ends it, with the assistant's turn opened again.

        Raises UsageError for a template that writes a chat in another way once it goes on.
        """
        if not self.chats:
            return self.tokenizer.encode(content)
        before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        said = conversation(before, self.tokenizer)
        end = int(np.flatnonzero(said.learned)[-1]) + 1
        whole = encode_messages([*before, {"role": "user", "content": content}], self.tokenizer)
        if whole[:end] != said.tokens[:end].tolist():
            raise UsageError("The model's template of chats writes an answer in another way once it is replied to.")
        return whole[end:]

    def answered(self, prompt: Any, answer: Any) -> Encoded:
        """A prompt with an answer and the token that ends it, of which the answer is learned. Raises UsageError."""
        said = self._answer(answer)
        before, messages = self.prompt(prompt), self._messages(prompt)
        if messages is None:
            tokens = [*before, *self.tokenizer.encode(said), self.tokenizer.stop[0]]
            learned = np.arange(len(tokens)) >= len(before)
        else:
            whole = conversation([*messages, {"role": "assistant", "content": said}], self.tokenizer)
            tokens, learned = whole.tokens, whole.learned & (np.arange(len(whole.tokens)) >= len(before))
        return self._fitting(tokens, learned)

    def chat(self, messages: Any) -> Encoded:
        """What the assistant says in a chat is learned. Raises UsageError."""
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise UsageError("messages is to be a list of objects, each with a role and a content.")
        return self._fitting(*conversation(messages, self.tokenizer))

    def text(self, text: Any) -> list[Encoded]:
        """A text and the token that ends it, in pieces of at most ``max_length`` tokens. Raises UsageError."""
        if not isinstance(text, str):
            raise UsageError(f"text is to be a text; it is a {type(text).__name__}.")
        if not text:
            raise Cannot("with nothing that is learned")
        tokens = np.asarray([*self.tokenizer.opening, *self.tokenizer.encode(text), self.tokenizer.stop[0]], np.int32)
        count = -(-len(tokens) // self.max_length)  # of about equal lengths: none of one token, which teaches nothing
        return [Encoded(piece, np.ones(len(piece), bool)) for piece in np.array_split(tokens, count)]

    def _messages(self, content: Any) -> list[dict[str, str]] | None:
        """A prompt's messages; None where it is plain text."""
        if isinstance(content, list) and content and all(isinstance(message, dict) for message in content):
            if content[-1].get("role") == "assistant":
                raise UsageError("The prompt ends with a message of the assistant: there is nothing to answer.")
            return content
        if not isinstance(content, str):
            raise UsageError("prompt is to be a text, or a list of messages, each with a role and a content.")
        return [{"role": "user", "content": content}] if self.chats else None

    def _answer(self, answer: Any) -> str:
        if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
            answer = answer[0].get("content")  # one message of the assistant
        if not isinstance(answer, str):
            raise UsageError(f"An answer is to be a text, or one message of the assistant; it is {answer!r:.60}.")
        return answer

    def _fitting(self, tokens: Any, learned: np.ndarray) -> Encoded:
        end = int(np.flatnonzero(learned)[-1]) + 1  # what a template writes after it teaches nothing
        if end > self.max_length:
            raise Cannot(f"longer than max_length = {self.max_length}", f"{end} tokens")
        return Encoded(np.asarray(tokens[:end], np.int32), np.asarray(learned[:end], bool))


def read_texts(path: str | Path, reader: Reader, unusable: str = "refuse") -> Data:
    """What supervised fine-tuning learns from; raises UsageError as ``_read`` does."""
    cut: list[int] = []
    kinds: set[str] = set()

    def encode(row: Row) -> list[Encoded]:
        kind = _kind(row, [("text",), ("messages",), ("prompt", "answer")])
        kinds.add(kind)
        if kind == "messages":
            return [reader.chat(row.content["messages"])]
        if kind == "prompt":
            return [reader.answered(row.content["prompt"], row.content["answer"])]
        pieces = reader.text(row.content["text"])
        if len(pieces) > 1:
            cut.append(len(pieces))
        return pieces

    data = _read(path, reader, encode, unusable)
    if cut:
        data.notes.append(
            f"texts longer than max_length = {reader.max_length} tokens are cut: {len(cut)} into {sum(cut)} pieces"
        )
    data.plain = reader.plain or kinds == {"text"}
    return data


def read_pairs(path: str | Path, reader: Reader, unusable: str = "refuse") -> Data:
    """What is learned from preferences; raises UsageError as ``_read`` does."""

    def encode(row: Row) -> list[Pair]:
        _kind(row, [("prompt", "chosen", "rejected")])
        prompt, *answers = (row.content[name] for name in ("prompt", "chosen", "rejected"))
        pair = Pair(*(reader.answered(prompt, answer) for answer in answers))
        if np.array_equal(pair.chosen.tokens, pair.rejected.tokens):  # a text and a message may say the same
            raise Cannot("with equal answers, chosen and rejected")
        return [pair]

    return _read(path, reader, encode, unusable)


def read_prompts(path: str | Path, reader: Reader, unusable: str = "refuse", rows: Sequence[Row] | None = None) -> Data:
    """What is to be answered, in at most ``max_length`` tokens; raises UsageError as ``_read`` does. rows: where they
    have been read."""

    def encode(row: Row) -> list[Prompt]:
        _kind(row, [("prompt",)])
        content = row.content["prompt"]
        tokens = reader.prompt(content)
        if len(tokens) > reader.max_length:
            # The end is where the assistant's turn opens: a prompt is not cut.
            raise Cannot(f"with prompts longer than {reader.max_length} tokens", f"{len(tokens)} tokens")
        return [Prompt(tokens, content, row.content.get("answer"), dict(row.content))]

    return _read(path, reader, encode, unusable, rows)


READERS = {"texts": read_texts, "pairs": read_pairs, "prompts": read_prompts}


def _kind(row: Row, kinds: Sequence[tuple[str, ...]]) -> str:
    """The first column of the kind that a row is of; raises UsageError where it is of none, or of several."""
    has = [kind for kind in kinds if set(kind) <= set(row.content)]
    if len(has) == 1:
        return has[0][0]
    wanted = " or ".join(" with ".join(filter(None, (kind[0], " and ".join(kind[1:])))) for kind in kinds)
    if has:
        both = " and ".join(kind[0] for kind in has)
        raise UsageError(f"it has {both}, and only one of them can be learned. Leave the others out.")
    others = [name for name in row.content if name not in COLUMNS]
    lacks = [name for kind in kinds for name in kind if name not in row.content]
    near = next(filter(None, (nearest(name, lacks, n=1) for name in others)), "")
    raise UsageError(
        f"a row is to have {wanted}, and this one has {', '.join(row.content) or 'nothing'}. {near}".rstrip()
    )


def _read(
    path: str | Path,
    reader: Reader,
    encode: Callable[[Row], list[Any]],
    unusable: str,
    rows: Sequence[Row] | None = None,
) -> Data:
    """The rows of a file, encoded.

    unusable: what becomes of rows that cannot be learned from, as too long ones: refuse, or drop, which is said. Raises
    UsageError for these, for a row that is wrong, with its line, and where nothing is left.
    """
    found: list[Any] = []
    lines: list[int] = []
    bad = _Unusable()
    rows = read_rows(path) if rows is None else rows
    for row in rows:
        try:
            some = encode(row)
            found += some
            lines += [row.line] * len(some)
        except Cannot as cannot:
            bad.add(cannot.why, f"line {row.line}" + (f": {cannot.said}" if cannot.said else ""))
        except UsageError as error:
            raise UsageError(f"{row.where}: {error}") from None
    if bad and unusable == "refuse":
        raise UsageError(
            f"{path}: of {len(rows)} rows these cannot be learned from: {bad}. Mend them, raise --max-length where "
            "they are too long, or leave them out: --unusable drop."
        )
    if not found:
        raise UsageError(
            f"{path}: of {len(rows)} rows these cannot be learned from: {bad}. Nothing is left to learn from."
        )
    notes = [f"left out of {len(rows)} rows: {bad}"] if bad else []
    return Data(found, notes, reader.plain, lines)
