"""Weights of five families as transformers writes them: its logits, its names, and what is refused."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from steersman.errors import UsageError
from steersman.language import huggingface
from steersman.language.decoder import hidden, logits

DATA = Path(__file__).parents[1] / "data" / "language"
FAMILIES = ("gpt2", "llama", "smollm2", "qwen2", "qwen3")


def read(name):
    """Arrays of a folder by their plain names."""
    return {huggingface.plain(k): v for k, v in load_file(DATA / name / "model.safetensors").items()}


def config_of(name, **change):
    return {**json.loads((DATA / name / "config.json").read_text()), **change}


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name, golden):
    tokens, mask = golden
    config = huggingface.config_of(config_of(name))
    decoder = huggingface.decoder_of(config, read(name))
    z = jax.jit(lambda m, *text: logits(m, hidden(m, *text)))(decoder, tokens, mask)
    right = np.load(DATA / name / "logits.npy")
    np.testing.assert_allclose(np.asarray(z)[mask], right[mask], atol=5e-6)
    assert np.abs(right[mask]).max() > 2


@pytest.mark.parametrize("name", FAMILIES)
def test_names_and_bits_go_in_and_out(name):
    config, arrays = huggingface.config_of(config_of(name)), read(name)
    out = dict(huggingface.named(huggingface.decoder_of(config, arrays)))
    assert {huggingface.plain(n) for n in out} == set(arrays)
    for key, array in out.items():
        np.testing.assert_array_equal(array, arrays[huggingface.plain(key)], err_msg=key)
    assert huggingface.config_of(json.loads(json.dumps(huggingface.config_json(config)))) == config


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("llama", {"model_type": "mamba"}, "type 'mamba'; read are gpt2, llama"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling 'yarn'"),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None},
            "rope scaling 'linear'",
        ),
        ("qwen2", {"use_sliding_window": True}, "sliding window"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("gpt2", {"activation_function": "relu"}, "activation 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(name, change, match):
    with pytest.raises(UsageError, match=match):
        huggingface.config_of(config_of(name, **change))


def test_a_config_that_lacks_a_size_says_which():
    content = config_of("llama")
    del content["rms_norm_eps"]
    with pytest.raises(UsageError, match="no 'rms_norm_eps'"):
        huggingface.config_of(content)


def test_weights_that_do_not_fit_are_refused_by_name():
    config, arrays = huggingface.config_of(config_of("llama")), read("llama")
    short = {k: v for k, v in arrays.items() if k != "layers.1.mlp.up_proj.weight"}
    with pytest.raises(UsageError, match=r"lacks layers\.1\.mlp\.up_proj\.weight"):
        huggingface.decoder_of(config, short)
    with pytest.raises(UsageError, match=r"layers\.0\.self_attn\.rotor, which the decoder has no place for"):
        huggingface.decoder_of(config, {**arrays, "layers.0.self_attn.rotor": np.zeros(3)})
    with pytest.raises(UsageError, match=r"norm\.weight has shape \[3\]"):
        huggingface.decoder_of(config, {**arrays, "norm.weight": np.zeros(3, np.float32)})
    buffers = {"layers.0.self_attn.rotary_emb.inv_freq": np.zeros(2)}
    huggingface.decoder_of(config, {**arrays, **buffers})


def test_a_mix_that_no_family_has_is_not_written():
    config = huggingface.config_of(config_of("qwen2"))
    with pytest.raises(UsageError, match="No family"):
        huggingface.config_json(dataclasses.replace(config, qk_norm=True))
