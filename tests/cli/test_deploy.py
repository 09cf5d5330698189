"""A run's policy exported, loaded and let act on a simulator, by the command line."""

import errno
import json
import re
from functools import partial

import numpy as np
import pytest

import steersman
from steersman.cli.deploy import command
from steersman.cli.main import run as cli
from steersman.deploy import golden
from steersman.deploy.control_loop import ControlLoop
from steersman.run.disk import tensors


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "cartpole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "VECTORS", 48)
        assert cli(["export", str(trained[2]), "--to", str(out), "--hz", "50"]) == 0
    return out


def test_a_run_is_exported(folder, trained, capsys):
    assert {"policy.json", "policy.npz", "policy.c", "policy.h", "golden.npz", "golden.h", "runner.py"} <= {
        x.name for x in folder.iterdir()
    }
    assert cli(["export", str(trained[2]), "--to", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    both = steersman.load(trained[2]), steersman.load(trained[2], backend="numpy"), steersman.load(folder)
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 4))
    actions = [[policy(x) for x in obs] for policy in both]
    assert actions[0] == actions[1] == actions[2]
    assert isinstance(actions[2][0], np.int64)


def test_a_full_disk_leaves_nothing(trained, tmp_path, capsys, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(golden, "VECTORS", 32)
    monkeypatch.setattr("steersman.deploy.c99.sources", full)
    assert cli(["export", str(trained[2]), "--to", str(tmp_path / "out")]) == 2
    assert "The disk is full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_it_acts_on_a_simulator(folder, tmp_path, capsys, monkeypatch):
    """On a clock that only sleeping moves: a test shall not hang on how busy the machine is."""
    now = [0.0]
    clock = {"clock": lambda: now[0], "sleep": lambda seconds: now.__setitem__(0, now[0] + seconds)}
    monkeypatch.setattr(command, "ControlLoop", partial(ControlLoop, **clock))
    line = ["deploy", str(folder), "--env", "CartPole-v1", "--hz", "100", "--seconds", "0.5", "--hold", "1", "--json"]
    assert (
        cli([*line, "--latency", "0.01", "--noise", "0.01", "--drop", "0.1", "--record", str(tmp_path / "seen")]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["turns"] == 50
    assert told["missed"] == 0
    assert told["delay_turns"] == 1
    assert sum(told["late"].values()) == told["turns"]
    assert told["recorded"] == len(steersman.read_dataset(tmp_path / "seen")) > 0


def test_what_the_loop_did_is_told_where_its_recording_is_lost(folder, tmp_path, capsys, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "_chunks", full)
    line = ["deploy", str(folder), "--env", "CartPole-v1", "--seconds", "0.1", "--record", str(tmp_path / "seen")]
    assert cli(line) == 2
    said = capsys.readouterr()
    assert "turns at 50 Hz, done" in said.out
    assert "The disk is full" in said.err


def test_a_watchdog_that_ends_the_loop_says_what_to_do(folder, capsys):
    late = ["--env", "CartPole-v1", "--hz", "100", "--latency", "1", "--hold", "0.02", "--seconds", "2"]
    assert cli(["deploy", str(folder), *late]) == 0
    said = capsys.readouterr()
    assert re.search("no observation of use for .* raise --hold, or lower --latency or --drop", said.out, re.DOTALL)
    assert "0 episodes ended" in said.out
    assert "CartPole-v1 at 100 Hz for 2 s" in said.err
    assert "was exported for 50 Hz, and is to act at 100 Hz" in said.err
    assert cli(["deploy", str(folder), "--env", "CartPole-v1", "--seconds", "0.1", "--json"]) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["hz"], "exported for" in said.err) == (50.0, False)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--env", "Pendulum-v1"], "The policy was trained on CartPole-v1"),
        (["--env", "CartPole-v1", "--latency", "-1"], "latency = -1.0; it must be 0 or more"),
        (["--env", "CartPole-v1", "--max-rate", "1"], "max_rate is for numbers"),
        (["--env", "CartPole-v1", "--hz", "nan"], "hz = nan; it must be finite and above 0"),
        (["--env", "CartPole-v1", "--seconds", "nan"], "seconds = nan; it must be finite and above 0"),
        (["--env", "CartPole-v1", "--seed", "-4"], "--seed -4: it must be a whole number from 0"),
        (["--env", "CartPole-v1", "--seed", "99999999999999999999"], "it must be a whole number from 0"),
        (["--env", "CartPole-v1", "--record", "/"], "/ exists already. Give a new folder"),
    ],
)
def test_what_cannot_be_deployed(folder, capsys, more, says):
    assert cli(["deploy", str(folder), *more]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("robot", "says"),
    [
        ({"joint_name": ["a"]}, "has 'joint_name'; a robot block has joint_names, .* Did you mean joint_names"),
        ({"joint_names": ["a", "b"], "joint_damping": [1.0]}, "joint_damping has 1 entries, joint_names 2"),
        ({"joint_names": ["a"], "action_scale": "much"}, "action_scale .* a number, or one for each joint"),
        ({"joint_names": "hip"}, "joint_names is 'hip'; it is a list of names"),
        ({"command_names": [1]}, "command_names is .* a list of names"),
        ({"physics_period": "fast"}, "physics_period is 'fast'; it is the simulator's step in seconds"),
        (["hip"], "holds a JSON list, not an object. A robot block is an object with some of joint_names"),
    ],
)
def test_a_robot_block_is_checked(trained, tmp_path, capsys, robot, says):
    path = tmp_path / "robot.json"
    path.write_text(json.dumps(robot))
    assert cli(["export", str(trained[2]), "--to", str(tmp_path / "out"), "--robot", str(path)]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
