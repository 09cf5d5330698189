"""Tiny models of five families, their weights written by transformers, and what it computes with them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial

DATA = Path(__file__).parents[1] / "data" / "language"
SMALL = DecoderConfig(
    vocab_size=11, width=12, layers=2, heads=4, kv_heads=2, head_size=4, hidden_size=16, context=64, qk_norm=True
)


@pytest.fixture(scope="session")
def data():
    return DATA


@pytest.fixture(scope="session")
def golden():
    """Rows int32 [3, 9], padded on the left, and their mask."""
    with np.load(DATA / "tokens.npz") as file:
        return file["tokens"], np.arange(9)[None] >= 9 - file["lengths"][:, None]


@pytest.fixture(scope="session")
def small():
    """A decoder of 2 layers, grouped heads and norms of queries, its weights large enough to tell things apart."""
    wave = lambda x: 0.1 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    made = lambda: jax.tree.map(lambda x: x + wave(x), initial(SMALL, jax.random.key(3), scale=0.5))
    return jax.jit(made)()


@pytest.fixture(scope="session")
def texts():
    """Four texts: tokens and mask, prompts [4, 5] padded on the left, answers [4, 6] on the right."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 11, (4, 11)).astype(np.int32)
    start, end = np.array([0, 2, 4, 1]), np.array([11, 9, 6, 11])
    slots = np.arange(11)[None]
    return tokens, (slots >= start[:, None]) & (slots < end[:, None])
