"""Tokenizers of published models: from a tokenizer.json, or from a GGUF's metadata. The one file for ``tokenizers``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steersman.errors import UsageError, to_install
from steersman.language.tokenizer import Tokenizer, utf8

# Special tokens that end an answer, whichever of them a model's files name: generation stops at any.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>")
# How llama.cpp calls the ways that text is cut before the merges.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = (3,)  # token types of GGUF: control
_USER_DEFINED = 4


def _package() -> Any:
    try:
        import tokenizers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(f"A model's tokenizer needs the package tokenizers: {to_install('lm')}.") from error
    return tokenizers


def from_json(text: str, *, ends: Iterable[int | str] = (), template: str | None = None) -> Tokenizer:
    """Of the content of a tokenizer.json. ends: the tokens, by name or id, that a model's other files say end a text.

    Raises UsageError for content that is none, a special token that swallows spaces, or a tokenizer without an end.
    """
    package = _package()
    try:
        made = package.Tokenizer.from_str(text)
    except Exception as error:  # the package raises a bare Exception
        raise UsageError(f"This tokenizer.json is damaged, or newer than the package tokenizers: {error}") from error
    return _wrapped(made, ends, template)


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Of a GGUF's metadata, tokenizer.ggml.*: byte-level BPE as GPT-2, SmolLM2 and Qwen have it.

    Raises UsageError, by name, for another kind.
    """
    package = _package()

    def has(name: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}")

    if has("model") != "gpt2" or not has("tokens") or not has("merges"):
        raise UsageError(f"The GGUF's tokenizer is of the kind {has('model')!r}; read is gpt2, byte-level BPE.")
    tokens, types = has("tokens"), has("token_type") or [1] * len(has("tokens"))
    pre = package.pre_tokenizers
    bytes_of = lambda regex: pre.ByteLevel(add_prefix_space=False, use_regex=regex)
    split = {
        "smollm": lambda: pre.Sequence([pre.Digits(individual_digits=True), bytes_of(True)]),
        "gpt-2": lambda: bytes_of(True),
        "qwen2": lambda: pre.Sequence([pre.Split(package.Regex(_QWEN), "isolated"), bytes_of(False)]),
    }
    if has("pre") not in split:
        raise UsageError(f"The GGUF's tokenizer cuts text as {has('pre')!r} does; read are {', '.join(split)}.")
    merges = [tuple(merge.split(" ", 1)) for merge in has("merges")]
    try:
        made = package.Tokenizer(package.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    except Exception as error:  # the package raises a bare Exception
        raise UsageError(f"The GGUF's tokenizer is damaged: {error}. Fetch the file again.") from error
    made.pre_tokenizer, made.decoder = split[has("pre")](), package.decoders.ByteLevel()
    if has("pre") == "qwen2":
        made.normalizer = package.normalizers.NFC()
    added = lambda i: package.AddedToken(tokens[i], special=types[i] in _SPECIAL, normalized=False)
    made.add_special_tokens([added(i) for i, kind in enumerate(types) if kind in _SPECIAL])
    made.add_tokens([added(i) for i, kind in enumerate(types) if kind == _USER_DEFINED])
    ends = [i for i in map(has, ("eos_token_id", "eot_token_id")) if i is not None]
    found = _wrapped(made, ends, metadata.get("tokenizer.chat_template"))
    opening = (has("bos_token_id"),) if has("add_bos_token") and has("bos_token_id") is not None else ()
    return found._replace(opening=opening)


def _wrapped(made: Any, ends: Iterable[int | str], template: str | None) -> Tokenizer:
    added = {i: token for i, token in made.get_added_tokens_decoder().items() if token.special}
    for token in added.values():
        if token.lstrip or token.rstrip:
            raise UsageError(f"The special token {token.content} swallows the spaces around it, which is not read.")
    specials = {token.content: i for i, token in added.items()}
    stop = [end if isinstance(end, int) else made.token_to_id(end) for end in ends]
    stop += [specials[name] for name in _ENDS if name in specials]
    if not stop:
        raise UsageError(
            "The tokenizer names no token that ends a text: its answers would never stop. Say which one it is, as "
            '"eos_token" in tokenizer_config.json.'
        )
    if None in stop:
        raise UsageError(f"The tokenizer has no token {[e for e in ends if made.token_to_id(str(e)) is None]}.")
    ids, bare = (made.encode("a", add_special_tokens=around).ids for around in (True, False))
    before = next((i for i in range(len(ids)) if ids[i : i + len(bare)] == bare), 0)
    source = made.to_str()
    made.encode_special_tokens = True  # those that are typed are text

    def decode(tokens: Sequence[int]) -> str:
        return made.decode([int(i) for i in tokens], skip_special_tokens=True)

    return Tokenizer(
        encode=lambda text: made.encode(utf8(text).decode(), add_special_tokens=False).ids,
        decode=decode,
        size=made.get_vocab_size(with_added_tokens=True),
        specials=specials,
        stop=tuple(dict.fromkeys(stop)),
        opening=tuple(ids[:before]),
        template=template,
        source=source,
    )


def written(tokenizer: Tokenizer) -> dict[str, str]:
    """The files of a folder from which others make the same tokenizer, name -> content; none of an own one."""
    if tokenizer.source is None:
        return {}
    names = {i: name for name, i in tokenizer.specials.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if (end := names.get(tokenizer.stop[0])) is not None:
        config |= {"eos_token": end, "pad_token": end}
    if tokenizer.template is not None:
        config["chat_template"] = tokenizer.template
    return {"tokenizer.json": tokenizer.source, "tokenizer_config.json": json.dumps(config, indent=2) + "\n"}
