"""``steersman compare``: what is printed, the exit codes, how it goes on."""

import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from steersman.cli import compare as module
from steersman.cli import display
from steersman.cli.main import run as cli
from steersman.run.compare.compare import compare
from steersman.run.events import Compiling, Evaluating, Trained, Within

SET = ["num_envs=4", "unroll_length=8", "num_minibatches=2", "num_epochs=1", "hidden_sizes=8"]
SET = [*SET, "schedule_steps=1000"]
LINE = ["compare", "ppo", "half=ppo:steps=320", "--env", "CartPole-v1", "--seeds", "2", "--steps", "640"]
LINE = [
    *LINE,
    "--evaluation-episodes",
    "4",
    "--no-preset",
    "--set",
    *SET,
    "normalize_observations=true",
]  # as in tests/run


def said(capsys, arguments, code=0):
    assert cli([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "two"
    assert cli([*LINE, "--out", str(out), "--quiet"]) == 0
    return out


def test_tables_and_json(capsys, monkeypatch, compared):
    monkeypatch.setenv("COLUMNS", "80")
    out, err = said(capsys, ["compare", "--out", compared])
    assert max(map(len, out.partition("folder  ")[0].splitlines())) <= 80
    assert "CartPole-v1 (compiled): 2 seeds, 320 to 640 steps each; 95% intervals over seeds" in out
    for title in ("final evaluation", "steps to 475", "time of all 2 seeds", "probability of improvement"):
        assert f"\n{title}" in out
    saved = json.loads((compared / "comparison.json").read_text())
    for label, result in saved["results"].items():
        assert re.search(rf"^{label} +{result['mean']['value']:.2f} .* to ", out, re.MULTILINE)
    assert f"picture  {compared / 'comparison.png'}" in out
    assert "ppo: mean return" in err
    found = json.loads(said(capsys, ["compare", "--out", compared, "--json"])[0])
    assert found["out"] == str(compared)
    assert found["results"].keys() == {"ppo", "half"}
    assert said(capsys, ["compare", "--out", compared, "--quiet"]) == ("", "")
    easy, _ = said(capsys, ["compare", "--out", compared, "--threshold", "1"])
    assert "steps to 1\n" in easy
    assert "2 of 2" in easy


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("compare", "Name at least one algorithm to compare"),
        ("compare ppo", "Name an environment to compare on: --env CartPole-v1"),
        ("compare ppo --env CartPole-v9", "CartPole-v1"),
        ("compare pp0 --env CartPole-v1", "no algorithm 'pp0'. Did you mean ppo?"),
        ("compare ppo ppo --env CartPole-v1", "Give each a label of its own"),
        ("compare ppo --env CartPole-v1 --seeds 0", "seeds = 0; it must be 1 or more"),
        ("compare ppo --env CartPole-v1 --set gama=1", "Did you mean gamma"),
        ("compare ppo --env CartPole-v1 --set gamma", "'gamma' is not SETTING=VALUE"),
        ("compare --out nowhere", "Name an environment"),
        ("compare --out .", "is not a comparison"),
        ("compare ppo --environmet CartPole-v1", "--environmet"),
    ],
)
def test_one_message_and_exit_code_2(capsys, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").touch()
    out, err = said(capsys, line.split(), 2)
    assert says in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_unfinished_or_failed_is_said(capsys, monkeypatch, compared):
    """That interrupted and failing trainings end so is tested in tests/run; here, what the command makes of it."""
    whole = compare(out=compared)
    half = replace(whole, unfinished=["half"], outcomes={"ppo": whole.outcomes["ppo"]}, improvement={})
    monkeypatch.setattr(module, "compare", lambda *args, **options: half)
    out, err = said(capsys, ["compare", "--out", compared], 130)
    assert "half" not in out
    assert "probability" not in out
    assert err == f"Interrupted, and saved. Go on with: steersman compare --out {compared}\n"
    assert json.loads(said(capsys, ["compare", "--out", compared, "--json"], 130)[0])["status"] == "interrupted"
    nothing = replace(half, unfinished=[], outcomes={}, failures={"ppo": "Training stopped near step 64: loss is nan."})
    monkeypatch.setattr(module, "compare", lambda *args, **options: nothing)
    out, err = said(capsys, ["compare", "--out", compared], 1)
    assert (out, err) == ("", "steersman: ppo: Training stopped near step 64: loss is nan.\n")


def test_an_environment_of_ones_own_is_named_again(capsys, own, tmp_path):
    line = ["--seeds", "1", "--steps", "64", "--evaluation-episodes", "4", "--no-preset", "--set", *SET, "devices=1"]
    out, _ = said(capsys, ["compare", "ppo", "--env", f"{own}:dots", *line, "--out", tmp_path / "x"])
    assert "(host): 1 seed, " in out
    assert "probability" not in out
    assert "steps to" not in out  # no threshold is known
    assert "name it again" in said(capsys, ["compare", "--out", tmp_path / "x"], 2)[1]
    again, _ = said(capsys, ["compare", "--out", tmp_path / "x", "--env", f"{own}:dots", "--threshold", "4"])
    assert "steps to 4" in again


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (Trained, (123_456_789, 200_000_000, 1_234_567.8, -1234.5, None)),
        (Evaluating, (100,)),
        (Compiling, ("ppo on CartPole-v1 (compiled)", 200_000_000)),
    ],
)
def test_the_bar_fits_80_columns(kind, numbers):
    shown = display.ComparisonDisplay()
    screen = io.StringIO()
    console = shown.bar.console
    console.file, console._width, console._force_terminal = screen, 80, True
    within = Within("ppo objective=penalty", 9, 10, 0, 1)
    shown(kind(SimpleNamespace(folder=None, within=within, algorithm="ppo"), *numbers))
    page = Console(file=io.StringIO(), width=80)
    page.print(shown.bar.progress.get_renderable())
    line = page.file.getvalue().rstrip("\n")
    assert "\n" not in line
    assert "ppo objective" in line
    assert "10/10" in line
