"""A small decoder, and batches of texts and of pairs of them."""

import jax
import numpy as np
import pytest

from steersman.agents.language.common import Pairs, Texts
from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial

TINY = DecoderConfig(
    vocab_size=7, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=12, context=16
)  # fmt: skip


@pytest.fixture(scope="session")
def decoder():
    return jax.jit(lambda: initial(TINY, jax.random.key(0), scale=0.5))()


def drawn(seed, rows=4, length=6):
    """Texts of several lengths, of which the first two tokens are a prompt."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length)[None] < rng.integers(4, length + 1, rows)[:, None]
    weight = mask & (np.arange(length)[None] >= 2)
    return Texts(rng.integers(0, 7, (rows, length)).astype(np.int32), mask, weight.astype(np.float32))


@pytest.fixture(scope="session")
def batches():
    """By what learns from them."""
    return {"texts": drawn(1), "pairs": Pairs(drawn(2), drawn(3))}
