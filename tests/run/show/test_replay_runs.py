"""Runs whose state holds a replay memory: exact resume, bytes said and refused, one device a seed."""

import signal

import jax
import pytest

import steersman
from steersman.errors import UsageError
from steersman.run.disk import checkpoint
from steersman.run.events import Trained
from steersman.run.loops import devices
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.devices import in_units, memory_limit
from steersman.run.plan import planned
from steersman.run.prepare import prepare

SETTINGS = {
    "num_envs": 2,
    "unroll_length": 4,
    "update_ratio": 0.25,
    "batch_size": 8,
    "replay_capacity": 200,  # turns during the run
    "learning_starts": 64,
    "hidden_sizes": (8,),
    "prioritized": True,
    "n_step": 2,
    "target_period": 7,
    "schedule_steps": 1000,
    "steps": 640,
    "checkpoint_every": 96,
    "evaluation_episodes": 2,
}


def final(run):
    return checkpoint.stored_sha256(checkpoint.latest(run / "checkpoints")[0])


def test_resume_is_exact(tmp_path):
    """On the host; on compiled environments: tests/run/disk/test_dataset.py."""
    place = "gymnasium/CartPole-v1"
    whole = steersman.train("dqn", place, preset=False, out=tmp_path / "whole", **SETTINGS)

    def stop(event):
        if isinstance(event, Trained) and event.steps >= 300 and not stop.done:
            stop.done = True
            signal.raise_signal(signal.SIGINT)

    stop.done = False
    stopped = steersman.train("dqn", place, out=tmp_path / "run", preset=False, callbacks=[stop], **SETTINGS)
    assert stopped.interrupted
    resumed = steersman.resume(tmp_path / "run")
    assert not resumed.interrupted
    assert final(tmp_path / "run") == final(tmp_path / "whole")
    assert resumed.evaluation.mean == whole.evaluation.mean
    policy = steersman.load(tmp_path / "run")
    assert policy([0.0, 0.0, 0.0, 0.0]) in (0, 1)


def made(environment="CartPole-v1", **settings):
    return prepare(planned("dqn", environment, SETTINGS | settings, preset=False))


def test_bytes_are_said_and_what_does_not_fit_is_refused(monkeypatch):
    setup = made(replay_capacity=10**7)
    assert setup.state_bytes > 10**8
    assert f"{in_units(setup.state_bytes)} of state" in setup.describe()
    assert "of state" not in made().describe()
    monkeypatch.setattr(devices, "memory_limit", lambda: 10**8)
    with pytest.raises(UsageError, match=r"1 training\(s\) of dqn .*; there are 100.0 MB .*replay_capacity"):
        made(replay_capacity=10**7)
    made(replay_capacity=10**5)
    with pytest.raises(UsageError, match=r"30 training\(s\)"):
        made(replay_capacity=10**5, seeds=30)


def test_the_memory_of_this_machine_is_known():
    limit = memory_limit()
    assert limit is None or 10**8 < limit < 10**14
    assert [in_units(n) for n in (5, 2_000, 1_500_000_000)] == ["5 bytes", "2.0 kB", "1.5 GB"]


def test_one_seed_trains_on_one_device_and_several_go_round():
    assert len(jax.devices()) > 1
    loops = [made().loop, made(seeds=2).loop]
    assert [loop.mesh.size for loop in loops if isinstance(loop, CompiledLoop)] == [1, 2]


def test_a_rollout_beyond_the_memory_is_refused_before_anything_is_made():
    with pytest.raises(UsageError, match=r"replay_capacity = 100 .* less than one rollout .* = 128"):
        made(replay_capacity=100, unroll_length=64)
    with pytest.raises(UsageError, match=r"replay_capacity = 2,000,000,000 .* below 1,073,741,824"):
        made(replay_capacity=2 * 10**9)
    with pytest.raises(UsageError, match="Set update_ratio to 0.125"):
        made(update_ratio=0.1)
