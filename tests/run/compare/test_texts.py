"""Ways to align compared: which runs are made and kept, and what is said of them. What trains is a stand-in."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from steersman.cli.compare import show
from steersman.cli.main import run as cli
from steersman.errors import TrainingFault, UsageError
from steersman.run.compare import texts as module
from steersman.run.compare.texts import compare_texts
from steersman.run.disk import logs, run_folder
from steersman.run.language.align import planned
from steersman.run.show import plots

SECONDS = {"wall_seconds": 3.0, "compile_seconds": 1.0, "training_seconds": 2.0}


def recorded(out, plan, curve):
    """A run folder whose held-out reward went so."""
    content = {"algorithm": plan.method.name, "environment": plan.model, "config": asdict(plan.config)}
    content |= {"run": asdict(plan.run) | {"steps": 20}, "spec": {"language": {"data": plan.data}}}
    run = run_folder.create(out, content)
    sink = logs.JsonLines(run.metrics)
    for i, reward in enumerate(curve):
        sink.write(10 * i, {"held_out_reward": reward, "reward": 0.0})
    sink.close()
    summary = {"status": "done", "steps": 20} | SECONDS
    run_folder.write_summary(run, summary)
    return SimpleNamespace(summary=summary, interrupted=False)


@pytest.fixture
def began(monkeypatch):
    """The trainings that began: rloo ends at 0.5 and a hundredth of the seed, ppo 0.2 above it."""
    found = []

    def align(method, model, data, *, out, callbacks=(), within=None, **settings):
        found.append((method, settings["seed"], within.entry_number, within.run_number))
        if settings.get("beta") == 9:
            raise TrainingFault("loss is nan")
        end = 0.5 + 0.01 * settings["seed"] + 0.2 * (method == "ppo")
        return recorded(out, planned(method, model, data, settings), [0.1, 0.5 * end, end])

    monkeypatch.setattr(module, "align", align)
    return found


HOW = {"seeds": 2, "seed": 3, "reward": "length:4,0.5*json", "updates": 20}


def test_entries_are_trained_over_the_same_seeds_and_kept(began, tmp_path, capsys):
    out = tmp_path / "two"
    result = compare_texts(["rloo", "p=ppo:num_epochs=2"], "tiny", "asked.jsonl", out=out, threshold=0.6, **HOW)
    assert began == [("rloo", 3, 0, 0), ("rloo", 4, 0, 1), ("ppo", 3, 1, 0), ("ppo", 4, 1, 1)]
    np.testing.assert_allclose(result.outcomes["p"].scores, [0.73, 0.74])
    np.testing.assert_array_equal(result.outcomes["p"].threshold_steps, [20, 20])
    assert result.outcomes["rloo"].reached == 0
    assert result.outcomes["rloo"].over_training.value == pytest.approx((0.1 + 2 * 0.5 * 0.535 + 0.535) / 4, abs=0.02)
    assert result.improvement["p", "rloo"].value == 1
    settings = json.loads((out / "rloo" / "seed-3" / "config.json").read_text())["config"]
    assert settings["reward"] == ["length:4", "0.5*json"]
    assert (out / "comparison.png").is_file()
    show(result)
    said = capsys.readouterr().out
    assert "final evaluation, held out reward" in said
    assert "updates to 0.6" in said
    assert "return" not in said
    again = compare_texts(["rloo", "p=ppo:num_epochs=2"], "tiny", "asked.jsonl", out=out, threshold=0.6, **HOW)
    assert len(began) == 4
    np.testing.assert_array_equal(again.outcomes["p"].scores, result.outcomes["p"].scores)
    picture = plots.learning_curve([out], tmp_path / "curve.png")  # its entries by their labels, the reward by default
    assert picture.is_file()
    with pytest.raises(UsageError, match="seed-3 holds a run of other settings: beta is 0.05, not 0.1"):
        compare_texts(["rloo=rloo:beta=0.1"], "tiny", "asked.jsonl", out=out, **HOW)


def test_one_that_cannot_go_on_stops_no_other(began, tmp_path):
    result = compare_texts(["bad=rloo:beta=9", "ppo"], "tiny", "asked.jsonl", out=tmp_path / "two", **HOW)
    assert result.failures == {"bad": "loss is nan"}
    assert [*result.outcomes] == ["ppo"]


@pytest.mark.parametrize(
    ("entries", "settings", "says"),
    [
        (["sft"], {}, "sft learns from texts, and has no score"),
        (["rloo", "dpo"], {}, "learn from different data"),
        (["rloo", "rloo"], {}, "'rloo' cannot name a folder beside the others"),
        (["a2c"], {}, "'a2c': of a language model these are compared: sft"),
        (["rloo:seed=3"], {}, "give it once, as --seed"),
        (["rloo:gruop=3"], {}, "Did you mean group"),
        (["rloo"], {"held_out": 0.0}, "held_out = 0"),
        ([], {}, "at least one method"),
    ],
)
def test_what_is_no_comparison(entries, settings, says, tmp_path, began):
    with pytest.raises(UsageError, match=says):
        compare_texts(entries, "tiny", "asked.jsonl", out=tmp_path / "none", **settings)
    assert not began
    assert not (tmp_path / "none").exists()


def test_from_the_terminal(began, tmp_path, capsys):
    line = ["compare", "rloo", "--model", "tiny", "--data", "asked.jsonl", "--out", str(tmp_path / "one")]
    assert cli([*line, "--set", "reward=json", "updates=20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["seeds"] == [0, 1, 2]
    assert told["results"]["rloo"]["scores"] == [0.5, 0.51, 0.52]
    assert cli([*line[:4], "--env", "CartPole-v1"]) == 2
    assert "Name both --model and --data" in capsys.readouterr().err
    assert cli([*line, "--steps", "5"]) == 2
    assert "--set updates=200" in capsys.readouterr().err
