"""GGUF: blocks by hand, a whole file against transformers' logits, damage and types that are not read."""

import struct

import jax
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language import gguf, gguf_models, huggingface
from steersman.language.decoder import hidden, logits


def half(x):
    return np.float16(x).tobytes()


def test_blocks_by_hand():
    nibbles = bytes(range(16)) + b""  # low halves 0 .. 15, high halves 0
    low, high = np.arange(16.0), np.zeros(16)
    q4_0 = gguf.dequantised(half(0.5) + nibbles, gguf.Entry(2, (32,), 0, 18))
    np.testing.assert_array_equal(q4_0, np.concatenate([0.5 * (low - 8), 0.5 * (high - 8)]))
    q4_1 = gguf.dequantised(half(2.0) + half(-3.0) + nibbles, gguf.Entry(3, (32,), 0, 20))
    np.testing.assert_array_equal(q4_1, np.concatenate([2 * low - 3, 2 * high - 3]))
    q = np.arange(-16, 16, dtype=np.int8)
    np.testing.assert_array_equal(
        gguf.dequantised(half(0.25) + q.tobytes(), gguf.Entry(8, (2, 16), 0, 34)), 0.25 * q.reshape(2, 16)
    )
    np.testing.assert_array_equal(gguf.dequantised(b"\x80\x3f\x20\xc0", gguf.Entry(30, (2,), 0, 4)), [1.0, -2.5])
    np.testing.assert_array_equal(gguf.dequantised(half(1.5) + half(-2), gguf.Entry(1, (2,), 0, 4)), [1.5, -2.0])


class Arrays(dict):
    def __init__(self, raw, header, config):
        kind = header.metadata["general.architecture"]
        for name, entry in header.entries.items():
            array = gguf.dequantised(raw[entry.begin : entry.begin + entry.size], entry)
            self[gguf_models.plain(name)] = gguf_models.in_order(name, array, config, kind)


@pytest.fixture(scope="module")
def raw(data):
    return (data / "gguf" / "tiny.gguf").read_bytes()


def test_a_file_of_all_types_has_transformers_logits(raw, golden, data):
    header = gguf.header(raw, len(raw), "tiny.gguf")
    assert {entry.type for entry in header.entries.values()} == {0, 1, 2, 3, 8, 30}
    config = gguf_models.config_of(header)
    tokens, mask = golden
    decoder = huggingface.decoder_of(config, Arrays(raw, header, config))
    right = np.load(data / "gguf" / "logits.npy")
    z = jax.jit(lambda m, *text: logits(m, hidden(m, *text)))(decoder, tokens, mask)
    np.testing.assert_allclose(np.asarray(z)[mask], right[mask], atol=1e-5)
    assert header.metadata["tokenizer.ggml.tokens"][:4] == ["<e>", "t", "1", "t1"]


def test_rows_of_queries_are_put_in_order(raw):
    header = gguf.header(raw, len(raw), "tiny.gguf")
    config = gguf_models.config_of(header)
    rows = np.arange(config.heads * config.head_size).reshape(-1, 1)
    inside = gguf_models.in_order("blk.0.attn_q.weight", rows, config, "llama")[: config.head_size, 0]
    np.testing.assert_array_equal(inside, [0, 2, 4, 6, 1, 3, 5, 7])
    np.testing.assert_array_equal(gguf_models.in_order("blk.0.attn_q.weight", rows, config, "qwen2"), rows)
    np.testing.assert_array_equal(gguf_models.in_order("blk.0.attn_v.weight", rows, config, "llama"), rows)


@pytest.mark.parametrize("cut", [3, 20, 200, 1000, 3000, -1])
def test_a_file_that_is_cut_short_is_refused(raw, cut):
    with pytest.raises(UsageError, match=r"x\.gguf is (not a GGUF|cut short)"):
        gguf.header(raw[:cut], len(raw[:cut]), "x.gguf")


def test_versions_and_types_that_are_not_read_are_named(raw):
    old = raw[:4] + struct.pack("<I", 1) + raw[8:]
    with pytest.raises(UsageError, match="version 1"):
        gguf.header(old, len(old), "x.gguf")
    at = raw.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    k_quant = raw[:at] + struct.pack("<I", 12) + raw[at + 4 :]
    with pytest.raises(UsageError, match=r"attn_q\.weight is of type Q4_K; read are F32, F16, Q4_0, Q4_1, Q8_0, BF16"):
        gguf.header(k_quant, len(k_quant), "x.gguf")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3'; read are llama"),
        ({"llama.rope.scaling.type": "yarn"}, "scaling.type = 'yarn'"),
        ({"llama.expert_count": 8}, "expert_count = 8"),
        ({"llama.block_count": None}, "no llama.block_count"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(raw, change, match):
    header = gguf.header(raw, len(raw), "tiny.gguf")
    with pytest.raises(UsageError, match=match):
        gguf_models.config_of(header._replace(metadata={**header.metadata, **change}))
