"""What a decoder is built of: one configuration for GPT-2, Llama, SmolLM2, Qwen2.5 and Qwen3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steersman.errors import UsageError


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019), in what its families differ in.

    There is no dropout: GPT-2's own training had some, what is trained here has none. Raises UsageError for sizes that
    do not fit each other.
    """

    vocab_size: int
    """V: rows of the embedding, at least as many as the tokenizer has tokens."""
    width: int
    """D: size of a token's vector between layers."""
    layers: int
    """L."""
    heads: int
    """H: heads of the queries."""
    kv_heads: int
    """K: heads of keys and values, each shared by H / K of the queries' (Ainslie et al. 2023)."""
    head_size: int
    """Size of one head; width / heads in most."""
    hidden_size: int
    """Size inside a layer's perceptron."""
    context: int
    """The most tokens of a text, prompt and answer together."""
    positions: Literal["rotary", "learned"] = "rotary"
    """Rotated queries and keys (Su et al. 2021), or vectors added to the embedding (GPT-2)."""
    rotary_base: float = 10_000.0
    """Base of the rotations' frequencies."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm (Zhang and Sennrich 2019), or LayerNorm (GPT-2)."""
    epsilon: float = 1e-5
    """Of the norm."""
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    """down(silu(gate x) * up x) (Shazeer 2020), or down(gelu(up x)) (GPT-2)."""
    qkv_bias: bool = False
    """Biases of queries, keys and values: Qwen2.5, GPT-2."""
    bias: bool = False
    """Biases of the layers' other products: GPT-2."""
    qk_norm: bool = False
    """RMSNorm of each head's query and key: Qwen3."""
    tied: bool = True
    """The head is the embedding: one array, with gradients from both ends."""

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.width, self.layers, self.heads, self.kv_heads, self.head_size)
        if min(*sizes, self.hidden_size, self.context) < 1:
            raise UsageError(f"A decoder's sizes are 1 or more: {self}.")
        if self.heads % self.kv_heads:
            raise UsageError(f"{self.heads} heads cannot share {self.kv_heads} of keys and values alike.")
        if self.positions == "rotary" and self.head_size % 2:
            raise UsageError(f"Rotary positions turn pairs of numbers: a head of {self.head_size} has one left over.")
