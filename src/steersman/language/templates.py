"""Chats as text: the template that a model was trained with, in a sandbox, and which of its tokens are the assistant's.

A template is a Jinja program out of a file of someone else's: it runs in Jinja's sandbox, without a clock, files or
attributes of Python's. The one file for ``jinja2``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, to_install
from steersman.language.tokenizer import Tokenizer, encode_rendered, guarded

Message = Mapping[str, str]  # role and content


class Conversation(NamedTuple):
    """A chat as tokens, [T]."""

    tokens: np.ndarray  # int32
    learned: np.ndarray  # bool: what the assistant said, the token that ends it included


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UsageError(f"Templates of chats need the package jinja2: {to_install('lm')}.") from error

    def raise_exception(message: str) -> None:
        raise UsageError(f"The model's template of chats refuses these messages: {message}")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda x, **options: json.dumps(x, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise UsageError(f"The model's template of chats is not one: {error}") from error


def rendered(messages: Sequence[Message], tokenizer: Tokenizer, *, prompt: bool = False) -> str:
    """The messages as the model's template writes them, typed special tokens marked (``tokenizer.guarded``).

    prompt: the assistant's turn is opened. Raises UsageError where there is no template, or it takes no such messages.
    """
    if tokenizer.template is None:
        raise UsageError(
            "This model has no template of chats, so messages cannot be given to it. Give plain text (prompt, text), "
            "or take a model that was trained on chats."
        )
    for i, message in enumerate(messages):
        if not {"role", "content"} <= set(message) or not all(isinstance(v, str) for v in message.values()):
            raise UsageError(f"Message {i + 1} is {dict(message)!r}; each has a role and a content, both texts.")
    names = {i: name for name, i in tokenizer.specials.items()}
    safe = [{key: guarded(value, tokenizer) for key, value in message.items()} for message in messages]
    template = _compiled(tokenizer.template)
    try:
        return template.render(
            messages=safe,
            add_generation_prompt=prompt,
            eos_token=names.get(tokenizer.stop[0], ""),
            bos_token="".join(names.get(i, "") for i in tokenizer.opening[:1]),
        )
    except UsageError:
        raise
    except Exception as error:  # a program of someone else's: it may raise anything
        raise UsageError(f"The model's template of chats fails on these messages: {error}") from error


def encode_messages(messages: Sequence[Message], tokenizer: Tokenizer, *, prompt: bool = True) -> list[int]:
    """Ids of a chat, by default with the assistant's turn opened."""
    return encode_rendered(rendered(messages, tokenizer, prompt=prompt), tokenizer)


def conversation(messages: Sequence[Message], tokenizer: Tokenizer) -> Conversation:
    """A chat as tokens, with those of the assistant marked: what training on it learns.

    A span is what a turn adds to the chat before it with the turn opened, up to the token that ends it. That needs a
    template that only ever adds to the end. Raises UsageError for one that does not, for a chat that the assistant says
    nothing in, and for a turn without a token that ends it, which would teach never to stop.
    """
    whole = encode_messages(messages, tokenizer, prompt=False)
    learned = np.zeros(len(whole), bool)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if i == 0:
            raise UsageError("The chat begins with a message of the assistant. Give what it answers before it.")
        before = encode_messages(messages[:i], tokenizer, prompt=True)
        after = encode_messages(messages[: i + 1], tokenizer, prompt=False)
        if whole[: len(after)] != after or after[: len(before)] != before:
            raise UsageError(
                f"The model's template of chats writes what comes before message {i + 1} in another way once it is "
                "there, so its tokens cannot be told from the others. Give one message of the assistant, the last."
            )
        ends = [at for at in range(len(before), len(after)) if after[at] in tokenizer.stop]
        if not ends:
            raise UsageError(
                f"Message {i + 1} of the assistant has no token that ends it: the model would learn never to stop."
            )
        learned[len(before) : ends[-1] + 1] = True
    if not learned.any():
        raise UsageError("The assistant says nothing in these messages: there is nothing to learn.")
    return Conversation(np.asarray(whole, np.int32), learned)
