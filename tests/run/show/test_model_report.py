"""``steersman model``: numbers, pictures and a film of a model in a run, and of one that is fitted to recorded data."""

import json
import re
import sys
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman.cli.main import run
from steersman.errors import UsageError
from steersman.models.ensemble import EnsembleConfig
from steersman.run.collect import collect
from steersman.run.disk.run_folder import RunWarning
from steersman.run.show import model_report
from steersman.run.show.model_film import drawer
from steersman.run.show.model_report import entry_names, model_run

SMALL = {
    "members": 2,
    "model_hidden_sizes": (8,),
    "model_steps": 20,
    "plan_horizon": 3,
    "plan_population": 4,
    "plan_iterations": 1,
    "plan_elites": 2,
    "unroll_length": 20,
    "learning_starts": 20,
    "evaluation_episodes": 0,
    "evaluate_every": 0,
    "preset": False,
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A short run of PETS."""
    out = tmp_path_factory.mktemp("planned") / "run"
    return steersman.train("pets", "Pendulum-v1", out=out, steps=60, num_envs=1, **SMALL).run


def test_a_run_with_a_model_is_told_and_drawn(planned, capsys):
    with pytest.warns(RunWarning, match="Pendulum-v1: the model explains"):
        assert run(["model", str(planned), "--episodes", "2", "--windows", "5", "--horizon", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    folder = planned / "model"
    assert json.loads((folder / "report.json").read_text())["one_step"] == told["one_step"]
    assert told["one_step"]["reward_r2"] < 0.5
    assert len(told["warnings"]) == 1
    assert told["members"] == 2
    assert told["transitions"] == 400  # two stretches of the task's 200 steps
    assert len(told["over_horizon"]["model"]["median"]) == told["horizon"] == 4
    assert set(told["one_step"]["nrmse_each"]) == {"observation 0", "observation 1", "observation 2", "reward"}
    names = ("rollouts", "horizon", "calibration", "disagreement", "promises")
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(names)
    for name in names:
        picture = iio.imread(folder / f"{name}.png")
        assert picture.shape[0] > 300
        assert picture.std() > 5
    assert (folder / told["film"]).stat().st_size > 1000


def test_without_a_renderer_the_report_is_whole_and_says_why(planned, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    line = [
        "model",
        str(planned),
        "--episodes",
        "2",
        "--windows",
        "5",
        "--horizon",
        "4",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.warns(RunWarning):
        assert run(line) == 0
    assert re.search(r"no film .*needs to draw is not installed", " ".join(capsys.readouterr().out.split()))
    assert "not installed" in json.loads((tmp_path / "out" / "report.json").read_text())["film"]


def test_what_is_no_place_and_no_horizon(planned, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; out is the folder"):
        model_run(planned, tmp_path / "file")
    with pytest.raises(UsageError, match="horizon = 0; it must be 1 or more"):
        model_run(planned, horizon=0)


def test_a_run_without_one_says_what_to_do(trained):
    with pytest.raises(UsageError, match=r"ppo, which learns no model.*steersman collect"):
        model_run(trained.run)
    with pytest.raises(UsageError, match="There is no model"):
        model_run()


def test_a_model_of_recorded_data_is_tried_on_what_was_held_out(trained, tmp_path, monkeypatch):
    quick = EnsembleConfig(members=2, model_hidden_sizes=(8,), model_steps=20)
    monkeypatch.setattr(model_report, "FIT", quick)
    collect(trained.run, tmp_path / "data", steps=400, num_envs=10)
    made = model_run(data=tmp_path / "data", horizon=3, windows=5, film=False)
    assert made.folder == tmp_path / "data-model"
    assert made.numbers["one_step"]["reward_r2"] is None  # CartPole always pays 1
    assert not made.warnings
    assert made.film is None
    assert made.numbers["transitions"] < 200
    monkeypatch.setattr(model_report, "FIT", EnsembleConfig(held_out_share=0.001))
    with pytest.raises(UsageError, match="is held out"):
        model_run(data=tmp_path / "data")


def test_what_never_varied_and_what_does_not_tell_the_reward_are_named():
    spec = SimpleNamespace(id="Here")
    worries = lambda r2, *constant: model_report._worries(SimpleNamespace(reward_r2=r2), spec, list(constant))
    assert not worries(0.6)
    assert not worries(float("nan"))
    both = worries(0.3, "height", "place 1")
    assert both[0].startswith("Here: height, place 1 never varied")
    assert "explains 30% of the reward's variance" in both[1]


def test_entries_are_called_by_their_place():
    place = spaces.Box(-1, 1, (2,))
    assert entry_names(place) == ["observation 0", "observation 1", "reward"]
    assert entry_names(spaces.Dict({"b": place, "a": spaces.Box(-1, 1, (1,))})) == ["a", "b 0", "b 1", "reward"]


def test_what_is_observed_is_drawn_as_the_state_it_is_of():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("pygame")
    for name in ("Pendulum-v1", "CartPole-v1", "Acrobot-v1"):
        env = gymnasium.make(name, render_mode="rgb_array")
        obs, _ = env.reset(seed=3)
        env.unwrapped.last_u = None
        picture = env.render()
        draw = drawer(env, name)
        away = lambda seen, picture=picture, draw=draw: np.abs(draw(seen).astype(int) - picture).mean()
        assert away(np.asarray(obs)) < 0.1 < away(np.asarray(obs)[::-1].copy())
        env.close()
