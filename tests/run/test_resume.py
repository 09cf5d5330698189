"""A run that is stopped at any moment and resumed ends bit for bit where the uninterrupted one ends."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import steersman
from steersman.errors import UsageError
from steersman.run import events
from steersman.run.disk import checkpoint, logs, run_folder, tensors
from steersman.run.disk.run_folder import RunWarning
from steersman.run.events import Trained
from steersman.run.signals import stop_on_signals

STEPS = 1312  # a first rollout and 40 updates of 32 steps; a checkpoint every 3, a row every 2, an evaluation every 5
PLACES = ["CartPole-v1", "gymnasium/CartPole-v1"]


@pytest.fixture(scope="module")
def settings(small):
    often = {"checkpoint_every": 96, "evaluate_every": 160, "evaluate_episodes": 2}
    return {**small, "steps": STEPS, "scale_rewards": True, **often}


@pytest.fixture(scope="module", autouse=True)
def rows_of_two_updates():
    """Rows that do not end where checkpoints are: a row in progress has to survive."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("steersman.run.parts.setup.Setup.log_updates", 2)
        yield


@pytest.fixture(scope="module", params=PLACES)
def whole(request, tmp_path_factory, settings):
    """The uninterrupted run, and the environment."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return steersman.train("ppo", request.param, out=out, **settings), request.param


def final(run):
    return checkpoint.stored_sha256(checkpoint.latest(run / "checkpoints")[0])


def carried(run):
    """What the newest checkpoint says of the row in progress and of the last episodes."""
    header = checkpoint.read_header(checkpoint.latest(run / "checkpoints")[0])
    return header["row"], header["newest"]


def best(run):
    """Where the best policy was, how good, and its bits."""
    path, _, header = checkpoint.latest(run / "best", checkpoint.read_header)
    return header["best"], checkpoint.stored_sha256(path)


def assert_same_run(run, whole):
    assert final(run) == final(whole)
    (row, newest), (right, last) = carried(run), carried(whole)
    assert newest == last
    assert min(newest["counts"]) > 5
    assert row.get("updates") == right.get("updates")
    assert best(run) == best(whole)
    rows, wanted = (logs.read_metrics(path / "metrics.jsonl") for path in (run, whole))
    assert [row["steps"] for row in rows] == [row["steps"] for row in wanted]
    for row, right in zip(rows, wanted, strict=True):
        assert row.keys() == right.keys()
        for name in row.keys() - {"seconds"}:
            np.testing.assert_allclose(row[name], right[name], rtol=1e-5, atol=1e-7, err_msg=name)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    a, b = (json.loads((path / "summary.json").read_text()) for path in (run, whole))
    assert a["status"] == "done"
    assert all(a[name] == b[name] for name in ("evaluation", "steps", "seeds", "best"))


class Stopping:
    """A callback that sends this process a signal once a training has come so far."""

    def __init__(self, number, at, times=1):
        self.number, self.at, self.times, self.seen = number, at, times, []

    def __call__(self, event):
        self.seen.append(type(event))
        if isinstance(event, Trained) and event.steps >= self.at and self.times:
            self.times -= 1
            signal.raise_signal(self.number)


def test_stopped_twice_and_resumed(whole, tmp_path, settings):
    reference, place = whole
    out = tmp_path / "run"
    stop = Stopping(signal.SIGINT, 400)
    stopped = steersman.train("ppo", place, out=out, callbacks=[stop], **settings)
    assert stopped.interrupted
    assert stopped.evaluation is None
    assert [kind for kind in stop.seen if kind is not events.Saved][-2:] == [events.Stopping, events.Done]
    at = stopped.summary["steps"]
    assert 400 <= at < 400 + STEPS // 2
    kept = checkpoint.saved(out / "checkpoints")[-1][0]
    if place == "CartPole-v1":
        assert kept == at  # saved at once
    else:
        assert kept <= at  # the newest scheduled one: an off-schedule cut would change the run
        assert (kept - 32) % 96 == 0
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    assert steersman.resume(out, callbacks=[Stopping(signal.SIGTERM, at + 300)]).interrupted
    result = steersman.resume(out)
    assert not result.interrupted
    assert_same_run(out, reference.run)
    np.testing.assert_equal(result.history, logs.read_metrics(out / "metrics.jsonl"))


@pytest.mark.exact
def test_killed_and_resumed(whole, tmp_path, settings):
    reference, place = whole
    out = tmp_path / "run"
    code = f"""
import os, signal, steersman
from steersman.run.events import Trained
from steersman.run.parts.setup import Setup
Setup.log_updates = 2
def kill(event):
    if isinstance(event, Trained) and event.steps >= 700:
        os.kill(os.getpid(), signal.SIGKILL)
steersman.train("ppo", {place!r}, out={str(out)!r}, callbacks=[kill], **{settings!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "summary.json").exists()
    steersman.resume(out)
    assert_same_run(out, reference.run)


REPLAY = {"unroll_length": 8, "update_ratio": 0.125, "batch_size": 8, "replay_capacity": 1000, "learning_starts": 64}
NOT_SACS = ("num_minibatches", "num_epochs", "unroll_length")


@pytest.mark.exact
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_under_a_limit(algorithm, tmp_path, settings):
    """Multipliers, what moves them and episodes in progress go on too."""
    settings = {**settings, "steps": 640, "cost_limit": 1.0}
    if algorithm == "sac":
        settings = {k: v for k, v in settings.items() if k not in NOT_SACS} | REPLAY
    place, out = "safe/cartpole,limit=0.02", tmp_path / "run"
    reference = steersman.train(algorithm, place, out=tmp_path / "whole", **settings)
    stop = Stopping(signal.SIGINT, 320)
    stopped = steersman.train(algorithm, place, out=out, callbacks=[stop], **settings)
    assert stopped.interrupted
    assert stopped.history[-1]["multiplier"] > 0
    steersman.resume(out)
    assert_same_run(out, reference.run)


def test_overlapping_stopped_and_resumed(tmp_path, settings):
    place, settings = "gymnasium/CartPole-v1", {**settings, "steps": 320, "overlap": True}
    reference = steersman.train("ppo", place, out=tmp_path / "whole", **settings)
    out = tmp_path / "run"
    assert steersman.train("ppo", place, out=out, callbacks=[Stopping(signal.SIGINT, 200)], **settings).interrupted
    steersman.resume(out)
    assert_same_run(out, reference.run)


def test_seeds_on_a_host_stopped_and_resumed(tmp_path, settings):
    place, settings = "gymnasium/CartPole-v1", {**settings, "steps": 320, "seeds": 2}
    reference = steersman.train("ppo", place, out=tmp_path / "whole", **settings)
    out = tmp_path / "run"
    assert steersman.train("ppo", place, out=out, callbacks=[Stopping(signal.SIGINT, 200)], **settings).interrupted
    steersman.resume(out)
    assert_same_run(out, reference.run)
    with checkpoint.opened(checkpoint.latest(out / "checkpoints")[0]) as file:
        assert {entry.shape[0] for entry in file.entries.values()} == {2}


@pytest.mark.exact
@pytest.mark.parametrize(
    "place",
    [
        f"{PLACES[0]},randomize=pole_mass:0.5:2,push=0.2",
        PLACES[1],
        "InvertedDoublePendulum-v5,randomize=mass/each:0.5:2+damping:0.5:2,push=0.2",
    ],
)
def test_for_transfer(place, tmp_path, settings):
    """What waits, was drawn and is remembered goes on too."""
    place = f"{place},action_delay=0:2,observation_noise=0.01,observation_bias=0.01,observation_history=2"
    settings, out = {**settings, "steps": 640}, tmp_path / "run"
    reference = steersman.train("ppo", place, out=tmp_path / "whole", **settings)
    assert steersman.train("ppo", place, out=out, callbacks=[Stopping(signal.SIGINT, 300)], **settings).interrupted
    steersman.resume(out)
    assert_same_run(out, reference.run)


def test_a_new_budget_below_what_is_done_is_refused(tmp_path, settings):
    out = tmp_path / "run"
    settings = {**settings, "steps": 320}
    stopped = steersman.train("ppo", "CartPole-v1", out=out, callbacks=[Stopping(signal.SIGINT, 100)], **settings)
    done = stopped.summary["steps"]
    before = (out / "config.json").read_bytes()
    with pytest.raises(UsageError, match=rf"steps = {done - 32}: .* has trained for {done} already.*go on to 320"):
        steersman.resume(out, steps=done - 32)
    assert (out / "config.json").read_bytes() == before
    assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    ended = steersman.resume(out, steps=done)  # to end it where it is
    assert (ended.summary["status"], ended.summary["steps"]) == ("done", done)
    assert run_folder.open_run(out).config["run"]["steps"] == done


def test_a_second_signal_stops_at_once():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for at_once in (False, True):
        with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:  # noqa: PT012
            stop.at_once = at_once
            if not at_once:
                signal.raise_signal(signal.SIGINT)
                assert stop.requested
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it went on")
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_stopped_before_the_first_checkpoint(whole, tmp_path, settings):
    reference, place = whole
    out = tmp_path / "run"
    stopped = steersman.train("ppo", place, out=out, callbacks=[Stopping(signal.SIGINT, 1)], **settings)
    assert stopped.interrupted
    assert [s for s, _ in checkpoint.saved(out / "checkpoints")] == ([64] if place == "CartPole-v1" else [])
    steersman.resume(out)
    assert_same_run(out, reference.run)


# What the disk does is the same for both loops: from here on the compiled one alone.
compiled = pytest.mark.parametrize("whole", PLACES[:1], indirect=True)


@compiled
def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(whole, tmp_path, settings):
    reference, place = whole
    out = tmp_path / "run"
    stopped = steersman.train("ppo", place, out=out, callbacks=[Stopping(signal.SIGINT, 600)], **settings)
    assert stopped.interrupted
    (before, _), (at, newest) = checkpoint.saved(out / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(RunWarning, match=f"Going on from step_{before:012d}.*newer checkpoints cannot be used"):
        steersman.resume(out)
    assert_same_run(out, reference.run)
    assert at > before


@compiled
def test_a_full_disk_keeps_the_last_checkpoint(whole, tmp_path, settings, monkeypatch):
    reference, place = whole
    out, write = tmp_path / "run", tensors._chunks

    def fills_up(*args):
        if len(checkpoint.saved(out / "checkpoints")) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(tensors, "_chunks", fills_up)
        with pytest.raises(UsageError, match=r"disk is full.*untouched.*--resume"):
            steersman.train("ppo", place, out=out, **settings)
    assert [s for s, _ in checkpoint.saved(out / "checkpoints")] == [32 + 96, 32 + 2 * 96]
    assert not list((out / "checkpoints").glob(".*"))
    steersman.resume(out)
    assert_same_run(out, reference.run)


# Runs that have nothing to do, and runs that go on for longer


def contents(run):
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(("whole", "steps"), list(zip(PLACES, [None, STEPS], strict=True)), indirect=["whole"])
def test_a_run_that_is_done_is_left_as_it_is(whole, steps):
    reference, _ = whole
    before, seen = contents(reference.run), []
    again = steersman.resume(reference.run, steps=steps, callbacks=[seen.append])
    assert [type(event) for event in seen] == [events.AlreadyDone]
    assert contents(reference.run) == before
    assert again.summary == json.loads((reference.run / "summary.json").read_text())
    assert again.evaluation.mean == reference.evaluation.mean
    np.testing.assert_equal(again.history, reference.history)
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 4))
    np.testing.assert_array_equal(again.policy(obs), reference.policy(obs))
    assert not again.interrupted


def test_a_new_budget(whole, tmp_path, monkeypatch):
    """A finished run goes on; nothing is played to learn what a state looks like."""
    out = shutil.copytree(whole[0].run, tmp_path / "run")
    first = logs.read_metrics(out / "metrics.jsonl")
    for loop in ("compiled.CompiledLoop", "host_loop.HostLoop"):
        monkeypatch.delattr(f"steersman.run.loops.{loop}.start")
    longer = steersman.resume(out, steps=1.6e3)
    assert longer.summary["steps"] == 1600
    assert run_folder.open_run(out).config["run"]["steps"] == 1600
    np.testing.assert_equal(longer.history[: len(first)], first)
    assert longer.history[-1]["steps"] == longer.summary["steps"]
    assert longer.summary["wall_seconds"] > first[-1]["seconds"]


def test_an_evaluation_that_was_interrupted_is_done_later(tmp_path, settings):
    class Interrupts(gymnasium.Wrapper):
        """Ctrl-C in the first step of the evaluation."""

        lives = 0

        def __init__(self):
            super().__init__(gymnasium.make("CartPole-v1").unwrapped)

        def reset(self, **options):
            return self.env.reset(**options)

        def step(self, action):
            type(self).lives += 1
            if type(self).lives == 320 + 1:
                signal.raise_signal(signal.SIGINT)
            return self.env.step(action)

    out = tmp_path / "run"
    settings = settings | {"steps": 320, "schedule_steps": 1000, "evaluate_every": 0}
    stopped = steersman.train("ppo", Interrupts, out=out, **settings)
    assert stopped.interrupted
    assert (stopped.summary["steps"], stopped.summary["status"]) == (320, "interrupted")
    later = steersman.resume(out, environment=Interrupts)
    assert later.summary["status"] == "done"
    assert later.evaluation.episodes == 4


@compiled
def test_what_resume_refuses(whole, tmp_path):
    reference, _ = whole
    with pytest.raises(UsageError, match="steps = 0"):
        steersman.resume(reference.run, steps=0)
    with pytest.raises(UsageError, match=r"trained on .*CartPole-v1, whose .*Acrobot-v1 has"):
        steersman.resume(reference.run, environment="Acrobot-v1")
    with pytest.raises(UsageError, match="There is no run folder"):
        steersman.resume(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"format": ')
    with pytest.raises(UsageError, match="truncated"):
        steersman.resume(tmp_path)
