"""What a GGUF's metadata and names mean: a configuration, and arrays under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from steersman.errors import UsageError
from steersman.language.config import DecoderConfig
from steersman.language.gguf import Header

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}


def config_of(file: Header) -> DecoderConfig:
    """The configuration that the metadata says. Raises UsageError, by name, for what the decoder does not compute."""
    kind = file.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise UsageError(f"The GGUF is of the architecture {kind!r}; read are {', '.join(ARCHITECTURES)}.")
    has = lambda name, default=None: _value(file.metadata, f"{kind}.{name}", default)
    for name, harmless in (
        ("rope.scaling.type", ("none",)),
        ("expert_count", (0,)),
        ("attention.sliding_window", (0,)),
    ):
        if (found := file.metadata.get(f"{kind}.{name}")) is not None and found not in harmless:
            raise UsageError(f"The GGUF says {kind}.{name} = {found!r}, which the decoder does not compute.")
    heads, width = has("attention.head_count"), has("embedding_length")
    return DecoderConfig(
        vocab_size=file.entries["token_embd.weight"].shape[0],
        width=width,
        layers=has("block_count"),
        heads=heads,
        kv_heads=has("attention.head_count_kv", heads),
        head_size=has("attention.key_length", width // heads),
        hidden_size=has("feed_forward_length"),
        context=has("context_length"),
        rotary_base=float(has("rope.freq_base", 10_000.0)),
        epsilon=float(has("attention.layer_norm_rms_epsilon")),
        qkv_bias="blk.0.attn_q.bias" in file.entries,
        qk_norm="blk.0.attn_q_norm.weight" in file.entries,
        tied="output.weight" not in file.entries,
    )


def _value(metadata: Mapping[str, Any], name: str, default: Any) -> Any:
    if (found := metadata.get(name, default)) is None:
        raise UsageError(f"The GGUF's metadata has no {name}.")
    return found


def plain(name: str) -> str:
    """The name that ``huggingface`` knows an array by; its own where that has none for it.

    >>> plain("blk.3.attn_q.weight"), plain("token_embd.weight"), plain("rope_freqs.weight")
    ('layers.3.self_attn.q_proj.weight', 'embed_tokens.weight', 'rope_freqs.weight')
    """
    first, *rest = name.split(".")
    if first == "blk" and len(rest) == 3 and rest[1] in _LAYER:
        return f"layers.{rest[0]}.{_LAYER[rest[1]]}.{rest[2]}"
    return _TOP.get(name, name)


def in_order(name: str, array: np.ndarray, config: DecoderConfig, architecture: str) -> np.ndarray:
    """An array with its rows as Hugging Face has them: llama.cpp keeps those of a llama's q and k interleaved.

    Its rotary embedding turns neighbouring pairs, (0, 1), (2, 3) ..., ours (0, E/2), (1, E/2 + 1) ... Nothing but the
    logits tells where this is left out.
    """
    part = name.split(".")[2] if name.startswith("blk.") else ""
    if architecture != "llama" or part not in ("attn_q", "attn_k"):
        return array
    heads = config.heads if part == "attn_q" else config.kv_heads
    return array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
