"""Rows of the log: rolling means, what info says at the ends of episodes, and when they are written; both loops."""

import json
import shutil

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman import envs
from steersman.cli import info
from steersman.cli.display import evaluation_rows
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, files, logs
from steersman.run.evaluate import evaluate_run, summarise
from steersman.run.loops.cadence import Cadence
from steersman.types import EnvSpec, TimeStep

SPACE, CHOICE = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)


class Walk:
    """Compiled: an episode lasts 1 to 6 steps, of reward 1; it is a success where that is an even number."""

    spec = EnvSpec("Walk", SPACE, CHOICE, CHOICE)

    def reset(self, key):
        obs = jax.random.uniform(key, (1,))
        return (jnp.int32(0), 1 + (obs[0] * 6).astype(jnp.int32)), obs

    def step(self, state, action, key):
        (t, last), obs = state, jax.random.uniform(key, (1,))
        over = t + 1 == last
        said = {"is_success": over & (last % 2 == 0), "distance": jnp.where(over, last, -1), "where": obs}
        return (t + 1, last), TimeStep(obs, jnp.float32(1), over, jnp.bool_(False), obs, jnp.zeros((0,)), said)


def host_walk():
    """A class of no module: workers cannot import tests."""

    class HostWalk(gymnasium.Env):
        """The same; the infos of resets and of other steps say something else."""

        observation_space, action_space = SPACE, CHOICE

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t, self.last = 0, int(self.np_random.integers(1, 7))
            return self.np_random.random(1, np.float32), {"is_success": True, "distance": -2.0}

        def step(self, action):
            self.t += 1
            over = self.t == self.last
            said = {"is_success": over and self.last % 2 == 0, "distance": self.last if over else -1, "word": "walk"}
            return self.np_random.random(1, np.float32), 1.0, over, False, said

    return HostWalk


HostWalk = host_walk()


PLACES = {"compiled": Walk, "host": lambda: HostWalk}  # -> what is given to train


@pytest.fixture(scope="module")
def settings(small):
    return {**small, "steps": 1604, "log_info": ("distance",), "evaluation_episodes": 20}


@pytest.fixture(scope="module", params=PLACES)
def run(request, settings, tmp_path_factory):
    """A run that kept all episodes that its rows are of."""
    from steersman.run import progress

    kept, add = [], progress.Row.add

    def keep(self, totals):
        newest = totals.episodes.newest
        kept.append({name: x[0][newest.when[0] >= 0] for name, x in newest.numbers.items()})
        add(self, totals)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress.Row, "add", keep)  # of the 32 steps of an update no more than 32 can end
        patched.setattr("steersman.run.train.CHUNK_SECONDS", 0.0)  # an update at a time
        result = steersman.train(
            "ppo", PLACES[request.param](), out=tmp_path_factory.mktemp("rows") / "run", **settings
        )
    return result, kept


def test_rolling_means_are_of_the_last_hundred_episodes(run):
    result, kept = run
    rows = result.history
    assert len(rows) == len(kept) == 50
    lengths, numbers = np.concatenate([some["length"] for some in kept]), []
    assert len(lengths) > 300
    assert set(lengths) == {1, 2, 3, 4, 5, 6}
    for some, row in zip(kept, rows, strict=True):
        numbers += some["length"].tolist()
        last = np.array(numbers[-100:])
        means = [row[name] for name in ("return_100", "length_100", "distance_100", "success_100")]
        np.testing.assert_allclose(means, [last.mean(), last.mean(), last.mean(), (last % 2 == 0).mean()])
        if len(some["length"]):
            own = some["length"]
            means = [row[f"episode_{name}"] for name in ("return", "length", "distance", "success")]
            np.testing.assert_allclose(means, [own.mean(), own.mean(), own.mean(), (own % 2 == 0).mean()], rtol=1e-6)
        assert row["episodes"] == len(some["length"])
    np.testing.assert_equal(logs.read_metrics(result.run / "metrics.jsonl"), rows)


def test_the_evaluation_has_the_rate_and_its_interval(run):
    result, _ = run
    played = result.evaluation
    lengths = np.array(played.lengths)
    assert played.logged["distance"].values == tuple(lengths)
    assert played.logged["success"].mean == (lengths % 2 == 0).mean()
    rate, low, high = played.logged["success"].mean, *played.logged["success"].ci95
    for end in (low, high):  # Wilson's ends: as far from the rate as 1.96 of their own standard deviations
        assert abs(rate - end) / np.sqrt(end * (1 - end) / 20) == pytest.approx(1.959964, rel=1e-5)
    summary = json.loads((result.run / "summary.json").read_text())["evaluation"]
    assert summary["logged"]["success"] == {"mean": rate, "ci95": [low, high]}
    assert type(played).from_summary(summary).logged["success"][:2] == (rate, (low, high))
    rows = dict(evaluation_rows(summary))
    assert rows["success rate"].startswith(f"{100 * rate:.1f}%   (95% interval {100 * low:.1f}% to")
    assert rows["mean distance"].startswith(f"{lengths.mean():.2f}   (95% interval")
    assert dict(evaluation_rows({**summary, "episodes": 1}))["mean return"].endswith("(one episode: no interval)")


def test_both_can_be_drawn(run, tmp_path):
    result, _ = run
    for name in ("is_success", "distance"):
        steersman.plot(result.run, tmp_path / "x.png", y=name)
    with pytest.raises(UsageError, match="Did you mean distance_100"):
        steersman.plot(result.run, tmp_path / "x.png", y="distanc_100")


def test_a_vector_environment_gives_what_its_final_infos_say():
    """``infos`` at an end are those of the resets."""
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    made = envs.make(gymnasium.vector.SyncVectorEnv([HostWalk] * 4, autoreset_mode=mode), 4, log_info=["distance"])
    made.reset(0)
    ends = 0
    for _ in range(30):
        seen = made.step(np.zeros(4, np.int32))
        for i in np.flatnonzero(seen.over):
            length, ends = seen.info["episode_length"][i], ends + 1
            assert [seen.info[name][i] for name in ("distance", "success")] == [length, length % 2 == 0]
    assert ends > 20
    made.close()
    made = envs.make(gymnasium.vector.SyncVectorEnv([HostWalk], autoreset_mode=mode), 1, log_info=["word"])
    made.reset(0)
    walk = lambda: [made.step(np.zeros(1, np.int32)) for _ in range(7)]
    with pytest.raises(UsageError, match=r"word in the info of SyncVectorEnv \(member 0\) is 'walk'; it must be one"):
        walk()
    made.close()


def test_workers_send_what_infos_say(settings, tmp_path):
    short = {**settings, "steps": 320, "evaluation_episodes": 4}
    runs = [steersman.train("ppo", HostWalk, out=tmp_path / str(n), workers=n, **short) for n in (0, 1)]
    a, b = (logs.read_metrics(run.run / "metrics.jsonl") for run in runs)
    assert a[-1]["success_100"] > 0
    np.testing.assert_equal([{**row, "seconds": 0} for row in a], [{**row, "seconds": 0} for row in b])
    assert runs[0].evaluation.summary() == runs[1].evaluation.summary()


@pytest.mark.parametrize("place", PLACES)
def test_names_that_info_does_not_have(place, settings):
    settings = settings | {"log_info": ("distanse",)}
    with pytest.raises(UsageError, match=r"no 'distanse' where an episode ends; it holds .*Did you mean distance\?"):
        steersman.train("ppo", PLACES[place](), **settings)


def test_entries_that_are_no_numbers(settings):
    with pytest.raises(UsageError, match=r"where in the info of Walk is an array of shape \(1,\), not one number"):
        steersman.train("ppo", Walk(), **settings | {"log_info": ("where",)})
    with pytest.raises(UsageError, match="word in the info of HostWalk.* is 'walk'; it must be one number"):
        steersman.train("ppo", HostWalk, **settings | {"log_info": ("word",)})
    with pytest.raises(UsageError, match="log_info = length; the length of an episode is in every row already"):
        steersman.train("ppo", HostWalk, **settings | {"log_info": "length"})


def test_who_says_nothing_of_success_has_none(trained, trained_on_host):
    for result in (trained, trained_on_host):
        assert not [name for row in result.history for name in row if "success" in name]
        assert result.evaluation.logged == {}
        assert "logged" not in result.summary["evaluation"]


def test_an_episode_of_which_nothing_is_said_was_no_success():
    said = {"success": np.array([1.0, np.nan, 1.0, np.nan]), "speed": np.array([1.0, 3.0, np.nan, np.nan])}
    found = summarise(np.zeros(4), np.ones(4), logged=said).logged
    assert found["success"].mean == 0.5
    assert (found["speed"].mean, found["speed"].ci95) == (2.0, (1.0, 3.0))
    assert summarise(np.zeros(4), np.ones(4), logged={"success": np.full(4, np.nan)}).logged == {}


# When rows come


@pytest.fixture
def changing(monkeypatch):
    """A clock that finds, once 10 updates are done, that a row and a checkpoint are to come sooner."""

    def measured(self, at, updates, seconds):
        if at < 10 or len(self.changes) > 1:
            return False
        self.changes.append([at, 3, 1 if self.by_clock else self.changes[0][2]])
        return True

    monkeypatch.setattr("steersman.run.parts.setup.Setup.log_updates", 12)
    monkeypatch.setattr(Cadence, "measured", measured)


def saved(run):
    return dict(checkpoint.saved(run / "checkpoints"))


def final(run):
    return checkpoint.stored_sha256([*saved(run).values()][-1])


@pytest.mark.parametrize("place", ["CartPole-v1", "gymnasium/CartPole-v1"])
def test_rows_by_the_clock_come_again_in_a_resumed_run(place, small, tmp_path, changing, monkeypatch):
    """A checkpoint from before the change, and one from after it; what is learned is that of a run without one."""
    settings = {**small, "steps": 1312, "keep_checkpoints": 100}
    whole = steersman.train("ppo", place, out=tmp_path / "whole", **settings)
    cadence = files.read_json(tmp_path / "whole" / "config.json")["cadence"]
    [(at, *every)] = cadence["changes"]
    assert at >= 10
    assert every == [3, 1 if place == "CartPole-v1" else 10]
    due = [n for n in range(1, 42) if n % (12 if n <= at else 3) == 0 or n == 41]
    assert [row["steps"] for row in whole.history] == [4 + 32 * n for n in due]
    monkeypatch.setattr(Cadence, "measured", lambda *_: False)
    for left in (1, 4):
        cut = shutil.copytree(tmp_path / "whole", tmp_path / str(left))
        for _, path in checkpoint.saved(cut / "checkpoints")[left:]:
            path.unlink()
        (cut / "summary.json").unlink()
        steersman.resume(cut)
        for name in ("steps", "episodes", "return_100", "length_100"):
            found, wanted = (
                [row[name] for row in logs.read_metrics(run / "metrics.jsonl")] for run in (cut, whole.run)
            )
            np.testing.assert_array_equal(found, wanted)
        kept = [[path.name for _, path in checkpoint.saved(run / "checkpoints")] for run in (cut, whole.run)]
        assert kept[0] == kept[1]
        last = [checkpoint.saved(run / "checkpoints")[-1][1] for run in (cut, whole.run)]
        assert checkpoint.stored_sha256(last[0]) == checkpoint.stored_sha256(last[1])
        headers = [checkpoint.read_header(path) for path in last]
        assert headers[0]["newest"] == headers[1]["newest"]
        assert headers[0]["row"] == headers[1]["row"]
    alone = steersman.train("ppo", place, out=tmp_path / "alone", **settings)
    assert len(alone.history) == 4
    assert checkpoint.stored_sha256(checkpoint.saved(alone.run / "checkpoints")[-1][1]) == checkpoint.stored_sha256(
        last[0]
    )


# Runs that are running


def test_a_run_that_is_running_is_said_to_be(trained, tmp_path):
    run = shutil.copytree(trained.run, tmp_path / "run")
    (run / "summary.json").unlink()
    with files.lock(run):
        found = info.describe(run)
        assert found["status"] == "running"
        assert found["running_in"].startswith("process ")
        with pytest.warns(UserWarning, match=r"still training \(process .*policy of its newest checkpoint"):
            evaluate_run(run, episodes=1)
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(UsageError, match=r"no checkpoint yet: it is running \(process .*Wait for that"):
            steersman.load(run)
    found = info.describe(run)
    assert (found["status"], found["running_in"]) == ("stopped", None)
    assert f"steersman train --resume {run}" in found["note"]
    with pytest.raises(UsageError, match="it was stopped before the first. Go on with it"):
        steersman.load(run)
