"""Text to tokens and back: what a tokenizer is, and two of our own, of bytes and of characters.

What someone *types* never becomes a special token: ``Tokenizer.encode`` takes ``<|im_end|>`` for ten characters. Only a
template may mean one, and what it is given is kept apart from it (``encode_rendered``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from steersman.errors import UsageError

END = "<|end|>"
PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))


class Tokenizer(NamedTuple):
    """Pure functions between text and ids, and the ids that mean something."""

    encode: Callable[[str], list[int]]  # what is typed: no special tokens in it, none around it
    decode: Callable[[Sequence[int]], str]  # a whole answer at once: a token may be half a character
    size: int  # ids are below it
    specials: Mapping[str, int]  # the special tokens, as a template writes them
    stop: tuple[int, ...]  # ids that end an answer; the first is also what stands for padding
    opening: tuple[int, ...] = ()  # what stands before every text
    template: str | None = None  # of chats, a Jinja template; None: of plain text only
    source: str | None = None  # content of the tokenizer.json, where it has one

    @property
    def pad(self) -> int:
        """An id to fill rows with. The mask alone says what is padding: this id ends answers too."""
        return self.stop[0]


def utf8(text: str) -> bytes:
    """The bytes of a text; raises UsageError for half of a character, which is left where a text was cut inside it.

    >>> utf8("hé")
    b'h\\xc3\\xa9'
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = repr(text[error.start])
        raise UsageError(
            f"A text has half of a character in it, {half}, as its character {error.start + 1}. Mend it."
        ) from None


def byte_tokenizer(specials: Sequence[str] = (END,)) -> Tokenizer:
    """UTF-8: ids 0 to 255 are bytes, then the special tokens, the last of which ends an answer. Any text goes through.

    >>> byte_tokenizer().encode("hé")
    [104, 195, 169]
    """
    return Tokenizer(
        encode=lambda text: list(utf8(text)),
        decode=lambda ids: bytes(i for i in map(int, ids) if i < 256).decode(errors="replace"),
        size=256 + len(specials),
        specials={name: 256 + i for i, name in enumerate(specials)},
        stop=(255 + len(specials),),
    )


def character_tokenizer(alphabet: str = PRINTABLE, specials: Sequence[str] = (END,)) -> Tokenizer:
    """One token for each character of an alphabet, then the special tokens, the last of which ends an answer.

    Its ``encode`` raises UsageError for a character that is not in the alphabet; so does this for one that is twice.

    >>> tokenizer = character_tokenizer("abc")
    >>> tokenizer.encode("cab"), tokenizer.decode([2, 0, 3]), tokenizer.stop
    ([2, 0, 1], 'ca', (3,))
    """
    ids = {character: i for i, character in enumerate(alphabet)}
    if len(ids) != len(alphabet):
        raise UsageError("The alphabet of a tokenizer of characters has one of them twice.")

    def encode(text: str) -> list[int]:
        if missing := sorted(set(text) - set(ids)):
            raise UsageError(
                f"This tokenizer has {len(ids)} characters, and {', '.join(map(repr, missing[:5]))} is none of them. "
                "Leave it out of the text, or use byte_tokenizer, which takes any."
            )
        return [ids[character] for character in text]

    return Tokenizer(
        encode=encode,
        decode=lambda ids: "".join(alphabet[i] for i in map(int, ids) if i < len(alphabet)),
        size=len(alphabet) + len(specials),
        specials={name: len(alphabet) + i for i, name in enumerate(specials)},
        stop=(len(alphabet) + len(specials) - 1,),
    )


# Unicode keeps these for a program's own use: they are no characters and stand in no text.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


def guarded(text: str, tokenizer: Tokenizer) -> str:
    """A text typed by someone, on its way into a template: what looks like a special token is marked as none.

    Raises UsageError where it holds one of the two non-characters that mark it.
    """
    if _OPEN in text or _CLOSE in text:
        raise UsageError(
            "A text holds U+FDD0 or U+FDD1, which are no characters and are used inside here. Remove them."
        )
    names = sorted(tokenizer.specials, key=len, reverse=True)
    mark = lambda match: f"{_OPEN}{names.index(match[0])}{_CLOSE}"
    return re.sub("|".join(map(re.escape, names)), mark, text) if names else text


def encode_rendered(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of what a template made of ``guarded`` texts: its own special tokens are ids, marked ones are as typed."""
    names = sorted(tokenizer.specials, key=len, reverse=True)
    typed = lambda part: re.sub(f"{_OPEN}(\\d+){_CLOSE}", lambda match: names[int(match[1])], part)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    ids: list[int] = []
    for part in filter(None, parts):
        ids += [tokenizer.specials[part]] if part in tokenizer.specials else tokenizer.encode(typed(part))
    return ids


def left_padded(prompts: Sequence[Sequence[int]], pad: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of B rows -> tokens int32 [B, P] and mask bool [B, P], real tokens on the right. P: ``length``, or the
    longest.

    Raises UsageError for an empty prompt, and for one that is longer: it is not cut.
    """
    longest = max(map(len, prompts), default=0)
    length = longest if length is None else length
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= length:
            what = "is empty" if not len(prompt) else f"has {len(prompt)} tokens, more than {length}"
            raise UsageError(f"Prompt {row + 1} of {len(prompts)} {what}. Leave it out: a prompt is not cut.")
    tokens = np.full((len(prompts), length), pad, np.int32)
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :], mask[row, length - len(prompt) :] = prompt, True
    return tokens, mask
