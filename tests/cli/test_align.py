"""``steersman align``: trained, asked, measured and merged from the terminal."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from steersman import errors
from steersman.cli.main import run
from steersman.language.config import DecoderConfig
from steersman.run.language import models
from steersman.run.language.models import load_model
from steersman.run.language.runs import open_model

DATA = Path(__file__).parents[1] / "data" / "language"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pairs, prompts and texts; ``tiny`` is one layer of eight numbers here."""
    folder = tmp_path_factory.mktemp("align")
    rows = {
        "pairs": [{"prompt": f"{i} is", "chosen": "big", "rejected": f"no {i}"} for i in range(8)],
        "prompts": [{"prompt": "1 is"}, {"prompt": "2 is"}],
        "texts": [{"text": "the cat"}] * 4,
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    config = DecoderConfig(
        vocab_size=97, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=8, context=32
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "TINY", config)
        yield folder


@pytest.fixture(scope="module")
def trained(files):
    arguments = ["align", "dpo", "tiny", f"{files}/pairs.jsonl", "--lora", "1", "--batch-size", "4", "--samples", "0"]
    assert run([*arguments, "--learning-rate", "0.1", "--held-out", "0", "--out", f"{files}/dpo", "--quiet"]) == 0
    return f"{files}/dpo"


def printed(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_measured(trained, files, capsys):
    pairs = printed(capsys, "align", "evaluate", trained, f"{files}/pairs.jsonl")
    assert pairs["rows"] == 8
    assert 0 <= pairs["accuracy_low"] < pairs["accuracy_high"] <= 1
    assert pairs["accuracy_since_start"] > 0.5
    texts = printed(capsys, "align", "evaluate", "tiny", f"{files}/texts.jsonl")
    assert texts["tokens"] == 4 * 7  # the first has none before it, the end has
    assert texts["perplexity"] == pytest.approx(np.exp(texts["loss"]))
    asked = printed(capsys, "align", "evaluate", trained, f"{files}/prompts.jsonl", "--max-new", "4")
    assert [row["prompt"] for row in asked["answers"]] == ["1 is", "2 is"]


def test_a_run_is_asked(trained, capsys):
    said = printed(capsys, "align", "generate", trained, "1 is", "--max-new", "4", "--samples", "2")
    assert said["answers"][0] == said["answers"][1]
    drawn = printed(
        capsys, "align", "generate", trained, "1 is", "--max-new", "4", "--samples", "2", "--temperature", "2"
    )
    assert drawn["answers"][0] != drawn["answers"][1]


def test_a_run_that_is_done_says_so(trained, capsys):
    assert run(["align", "--resume", trained]) == 0
    told = capsys.readouterr()
    assert "This run is done already." in told.err
    assert "dpo of tiny: done" in told.out


def test_answers_of_its_own_are_learned_from_and_judged(files, capsys, monkeypatch):
    monkeypatch.setattr(errors, "_told", {"answers cut off"})  # they are, and that was said
    flags = "--reward length:1 0.5*regex:[a-z] --updates 2 --batch-size 2 --group 2 --max-new 4 --lora 1 --held-out 0"
    arguments = [
        "align",
        "rloo",
        "tiny",
        f"{files}/prompts.jsonl",
        *flags.split(),
        "--out",
        f"{files}/rloo",
        "--replace",
    ]
    assert run(arguments) == 0
    told = capsys.readouterr()
    assert "2 answers each, which earn length:1 + 0.5*regex:[a-z] - 0.05 KL" in told.err
    assert "reward" in told.out + told.err
    judged = "--reward length:1 --samples 2 --temperature 1 --max-new 4"
    found = printed(capsys, "align", "evaluate", f"{files}/rloo", f"{files}/prompts.jsonl", *judged.split())
    assert found["reward_low"] <= found["reward"] <= found["reward_high"]
    assert found["best_of_2_kl"] == pytest.approx(np.log(2) - 0.5)
    assert len(found["answers"]) == 4


def test_a_merged_run_is_a_model(files, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    shutil.copytree(DATA / "llama", tmp_path / "m")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DATA / "tokenizer" / file, tmp_path / "m")
    arrays = load_file(tmp_path / "m" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = np.tile(arrays[name], (7, 1))[:300]
    save_file(arrays, tmp_path / "m" / "model.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    one = ["--samples", "0", "--held-out", "0", "--last-layers", "1", "--out", f"{tmp_path}/run", "--quiet"]
    assert run(["align", "sft", f"{tmp_path}/m", f"{files}/texts.jsonl", *one]) == 0
    assert run(["align", "merge", f"{tmp_path}/run", "--to", f"{tmp_path}/merged"]) == 0
    assert "transformers opens it" in capsys.readouterr().out
    merged, start = load_model(tmp_path / "merged"), load_model(tmp_path / "m")
    jax.tree.map(np.testing.assert_array_equal, merged.decoder, open_model(tmp_path / "run").decoder)
    assert np.abs(merged.decoder.norm.weight - start.decoder.norm.weight).max() > 0
    assert merged.tokenizer.template == start.tokenizer.template


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["align", "dop", "tiny", "x"], "Did you mean dpo"),
        (["align", "grpo", "tiny", "PROMPTS"], "Give --reward: exact, number"),
        (["align", "evaluate", "tiny", "TEXTS", "--reward", "number"], "A reward is for answers to prompts"),
        (["align", "sft", "tinny", "x.jsonl"], "There is no model 'tinny'"),
        (["align", "sft", "tiny", "x.jsonl"], "There is no file"),
        (["align", "merge", "tiny", "--to", "x"], "tokenizer is one of steersman's own"),
        (["align", "generate", "tiny", "hi", "--samples", "0"], "samples = 0"),
        (["align", "evaluate", "tiny", "TEXTS", "--batch-size", "0"], "batch_size = 0 is out of range"),
        (["align", "evaluate", "tiny", "TEXTS", "--unusable", "dorp"], "Did you mean drop"),
        (
            ["align", "evaluate", "tiny", "TEXTS", "--max-length", "99"],
            "max_length = 99; the model's context is",
        ),
        (["align", "evaluate", "tiny", "TEXTS", "--to", "x"], "Nothing would be written to x"),
        (["align", "evaluate", "tiny", "PROMPTS", "--max-new", "99"], "max_new = 99; the model's context is"),
        (["train", "dpo", "CartPole-v1"], "dpo is of language models: steersman align dpo"),
    ],
)
def test_mistakes_are_told(files, arguments, match, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    places = {"PROMPTS": f"{files}/prompts.jsonl", "TEXTS": f"{files}/texts.jsonl"}
    assert run([places.get(argument, argument) for argument in arguments]) == 2
    assert match in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_commands_have_help(capsys):
    for arguments in (["align", "--help"], ["align", "dpo", "--help"], ["align", "merge", "--help"]):
        assert run(arguments) == 0
        assert capsys.readouterr().out
