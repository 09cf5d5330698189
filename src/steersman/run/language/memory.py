"""How much memory a training will take, before it takes any: a sum that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax

from steersman.agents.language.common import LanguageConfig, Trainer
from steersman.language.config import DecoderConfig
from steersman.language.decoder import Decoder
from steersman.memory import nbytes
from steersman.run.loops.devices import check_memory, in_units


class Texts(NamedTuple):
    """Rows that are gone through at once."""

    rows: int
    length: int  # tokens of each
    before: int = 0  # tokens that they see and that went through earlier, as the prompt of several answers


def estimate(
    decoder: Decoder, trainer: Trainer, config: LanguageConfig, texts: Sequence[Texts], *, samples: bool = True
) -> dict[str, int]:
    """Bytes by what takes them, of a batch of such texts, of which the last are those that are learned.

    Weights and moments are counted, what the backward pass keeps is estimated: 0.7 to 1.4 times what XLA takes.
    """
    learner = jax.eval_shape(trainer.init, decoder, jax.eval_shape(lambda: jax.random.key(0)))
    trained = nbytes(learner.params)
    c, tokens = decoder.config, texts[-1].rows * texts[-1].length
    chunk = min(config.chunk or tokens, tokens)
    parts = {
        "weights": nbytes(decoder),
        "trained": trained,
        "gradients": (2 if config.accumulate > 1 else 1) * trained,
        "moments": nbytes(learner.moments),
        "activations": 4 * sum(_kept(c, some, config.remat) for some in texts),
        "logits": 3 * 4 * chunk * c.vocab_size,
    }
    return parts | ({"merged, for samples": nbytes(decoder)} if samples else {})


def cache(decoder: Decoder, rows: int, length: int) -> dict[str, int]:
    """Bytes of keys and values, and of logits, while ``rows`` texts of ``length`` tokens are written."""
    c, size = decoder.config, decoder.embedding.dtype.itemsize
    keys = 2 * c.layers * c.kv_heads * c.head_size * length * size
    return {"keys and values": rows * keys, "logits of a step": 2 * 4 * rows * c.vocab_size}


def _kept(config: DecoderConfig, texts: Texts, remat: bool) -> int:
    """Numbers that the backward pass wants."""
    rows, length, before = texts
    seen, wide = before + length, config.heads * config.head_size
    token = 6 * config.width + 3 * wide + 4 * config.hidden_size + 3 * config.heads * seen
    layer = length * token + 4 * seen * config.kv_heads * config.head_size
    return rows * (config.layers * length * config.width + layer if remat else config.layers * layer)


def said(parts: dict[str, int]) -> str:
    """The sum, and what it is of.

    >>> said({"weights": 2_000_000, "moments": 1_500_000})
    'about 3.5 MB: weights 2.0 MB, moments 1.5 MB'
    """
    return f"about {in_units(sum(parts.values()))}: {', '.join(f'{k} {in_units(v)}' for k, v in parts.items())}"


def check(parts: dict[str, int], more: str = "") -> None:
    """Raise UsageError, with the sum, where it cannot fit. more: what else would help."""
    ways = ["train adapters (--lora 8)", "raise --accumulate", more or "lower --max-length"]
    remedy = f"{', '.join(ways).capitalize()}, or compute layers again (--remat)."
    check_memory(sum(parts.values()), f"This training, {said(parts)},", remedy)
