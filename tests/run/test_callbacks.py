"""What callbacks see and may do, on both loops: look, log, save, stop; and what happens when one raises."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import steersman
from steersman import errors
from steersman.errors import UsageError
from steersman.run import events
from steersman.run.callbacks import Curve, StopAtReturn, StopWithoutProgress, Unending
from steersman.run.disk import checkpoint, logs
from steersman.run.disk.run_folder import open_run
from steersman.run.events import Compiling, Done, Saved, Stop, Trained

STEPS = 640


PLACES = ["CartPole-v1", "gymnasium/CartPole-v1"]


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    return request.param


@pytest.fixture(scope="module")
def plain(place, small, tmp_path_factory):
    """The folder of a run without callbacks."""
    out = tmp_path_factory.mktemp("plain") / "run"
    steersman.train("ppo", place, out=out, steps=STEPS, checkpoint_every=320, **small)
    return out


def final(run):
    return checkpoint.stored_sha256(checkpoint.latest(run / "checkpoints")[0])


def rows_of(run):
    return logs.read_metrics(run / "metrics.jsonl")


def test_looking_and_logging_changes_nothing(small, place, plain, tmp_path):
    seen = []

    def look(event):
        if isinstance(event, Trained):
            action = event.policy(np.zeros(4))
            assert action in (0, 1)
            event.log("action", int(action))
            event.log("action", 7.0)  # the newest counts
            seen.append(event)

    settings = {**small, "steps": STEPS, "checkpoint_every": 320}
    result = steersman.train("ppo", place, out=tmp_path / "seen", callbacks=[look], **settings)
    assert final(tmp_path / "seen") == final(plain)
    rows = rows_of(tmp_path / "seen")
    assert [row["steps"] for row in rows] == [row["steps"] for row in rows_of(plain)]
    assert [row.get("action") for row in rows] == [None] + [7.0] * (len(rows) - 1)  # in the row after
    assert [event.row["steps"] for event in seen if event.row is not None] == [row["steps"] for row in rows]
    np.testing.assert_equal(rows, result.history)
    training = seen[0].training
    assert (training.algorithm, training.environment, training.seeds) == ("ppo", place, [0])
    assert training.folder == tmp_path / "seen"
    assert training.within is None


def test_a_number_for_each_seed(small, tmp_path):
    def log(event):
        if isinstance(event, Trained):
            event.log("mine", [1, 2])
            assert event.training.policy(1)(np.zeros(4)) in (0, 1)

    settings = {**small, "steps": STEPS, "seeds": 2, "normalize_observations": True}
    steersman.train("ppo", "CartPole-v1", out=tmp_path / "run", callbacks=[log], **settings)
    assert rows_of(tmp_path / "run")[-1]["mine"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("mine", [1.0, 2.0, 3.0], "mine = .*one number, or one for each"), ("loss", 1.0, "'loss', which every row has")],
)
def test_what_cannot_be_logged(small, name, value, says):
    with pytest.raises(UsageError, match=says):
        steersman.train(
            "ppo",
            "CartPole-v1",
            steps=STEPS,
            callbacks=[lambda e: isinstance(e, Trained) and e.log(name, value)],
            **small,
        )


def test_saving_off_schedule(small, place, tmp_path):
    saved, asked = [], []

    def save(event):
        if isinstance(event, Trained) and event.steps < 300 and event.row is not None:
            asked.append((event.save(), event.steps))
        if isinstance(event, Saved):
            saved.append((event.path, event.steps))

    settings = {**small, "steps": STEPS, "checkpoint_every": 320, "keep_checkpoints": 100}
    steersman.train("ppo", place, out=tmp_path / "run", callbacks=[save], **settings)
    there = checkpoint.saved(tmp_path / "run" / "checkpoints")
    assert [(path, steps) for steps, path in there] == saved
    if place == "CartPole-v1":
        assert asked == saved[: len(asked)]
        assert asked
    else:
        assert {path for path, _ in asked} == {None}  # it would cut episodes that the run without it does not
        assert [steps for _, steps in saved] == [324, 644]


def test_saving_needs_a_folder(small):
    with pytest.raises(UsageError, match="no folder to save in; give it one"):
        steersman.train(
            "ppo", "CartPole-v1", steps=STEPS, callbacks=[lambda e: isinstance(e, Trained) and e.save()], **small
        )


@pytest.mark.parametrize(("place", "how"), list(zip(PLACES, ["returned", "called"], strict=True)), indirect=["place"])
def test_stopped_early_is_done_and_can_be_trained_for_longer(small, place, tmp_path, how):
    out, seen = tmp_path / "run", []

    def enough(event):
        seen.append(type(event))
        if isinstance(event, Trained) and event.steps >= 200:
            return Stop("it is enough") if how == "returned" else event.stop("it is enough")
        return None

    result = steersman.train("ppo", place, out=out, steps=STEPS, callbacks=[enough], **small)
    at = result.summary["steps"]
    assert 200 <= at < STEPS
    assert not result.interrupted
    assert result.evaluation.episodes == 4
    assert Saved in seen
    kinds = [kind for kind in seen if kind is not Saved]
    assert kinds[-4:] == [events.Stopping, events.Evaluating, events.Evaluated, Done]
    saved = json.loads((out / "summary.json").read_text())
    assert saved["status"] == "stopped early"
    assert saved["stopped"]["by"].endswith("enough")
    assert saved["stopped"]["why"] == "it is enough"
    assert checkpoint.saved(out / "checkpoints")[-1][0] == at
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 4))
    np.testing.assert_array_equal(steersman.load(out)(obs), result.policy(obs))
    before = []
    assert steersman.resume(out, callbacks=[before.append]).summary == saved
    assert [type(event) for event in before] == [events.AlreadyDone]
    longer = steersman.resume(out, steps=STEPS)
    assert longer.summary["status"] == "done"
    assert longer.summary["steps"] == 644
    assert "stopped" not in longer.summary


def test_a_callback_that_raises_is_named_and_the_run_is_saved(small, place, plain, tmp_path):
    class Clumsy:
        def __call__(self, event):
            if isinstance(event, Trained) and event.steps >= 400:
                raise KeyError("nothing there")

    out, seen = tmp_path / "run", []
    settings = {**small, "steps": STEPS, "checkpoint_every": 320}
    with pytest.raises(
        UsageError, match=r"callback .*Clumsy ended the run with KeyError: 'nothing there' \(.*line"
    ) as e:
        steersman.train("ppo", place, out=out, callbacks=[Clumsy(), seen.append], **settings)
    assert f"steersman train --resume {out}" in str(e.value)
    at = checkpoint.saved(out / "checkpoints")[-1][0]
    assert at >= 400 if place == "CartPole-v1" else at == 324
    assert f"saved at {at:,} steps" in str(e.value)
    steersman.resume(out)
    assert final(out) == final(plain)
    assert [row["steps"] for row in rows_of(out)] == [row["steps"] for row in rows_of(plain)]


# Ready ones


def fed(callback, *returns):
    """What a callback says to rows of these returns, up to its first word."""
    callback(Compiling(None, "", 100))
    for i, value in enumerate(returns):
        for row in (None, {"return_100": np.asarray(value)}):
            answer = callback(Trained(None, i, 100, 1.0, 0.0, row))
            if answer is not None:
                return i, answer.why
    return None


def test_stop_at_return():
    assert fed(StopAtReturn(10), 3.0, np.nan, 9.9) is None
    assert fed(StopAtReturn(10), 3.0, 12.0, 1.0) == (1, "a mean return of 12 reached 10")
    assert fed(StopAtReturn(10), [12.0, 9.0], [np.nan, 12.0], [10.0, 11.0]) == (2, "a mean return of 10 reached 10")


def test_stop_at_an_evaluation():
    stop, rows = StopAtReturn(10, of="evaluation_return"), [{}, {"evaluation_return": 9.0}, {"evaluation_return": 10.0}]
    said = [stop(Trained(None, 1, 100, 1.0, 0.0, {"episode_return": 99.0, **row})) for row in rows]
    assert said == [None, None, ("a mean return of 10 reached 10",)]


def test_stop_without_progress():
    callback = StopWithoutProgress(2)
    assert fed(callback, 1.0, 2.0, 1.0, 3.0, 2.0) is None
    assert fed(callback, 1.0, 1.0, 1.0, 9.0) == (2, "no return above 1 for 2 rows")  # anew in each run
    assert fed(StopWithoutProgress(2, by=1.0), 1.0, 1.5, 2.1, 2.5, 3.0, 9.0) == (4, "no return above 2.1 for 2 rows")
    assert fed(StopWithoutProgress(2), np.nan, np.nan)[0] == 1
    with pytest.raises(UsageError, match="rows = 0"):
        StopWithoutProgress(0)


def test_a_ready_one_stops_a_run(small):
    result = steersman.train("ppo", "CartPole-v1", steps=STEPS, callbacks=[StopAtReturn(1)], **small)
    assert result.summary["status"] == "stopped early"
    assert result.summary["stopped"]["by"] == "StopAtReturn"


def test_episodes_that_never_end_are_told_once(monkeypatch):
    monkeypatch.setattr(errors, "_told", set())
    training = SimpleNamespace(environment="Endless")
    row = lambda steps, episodes: Trained(training, steps, 9**9, 1.0, np.nan, {"episodes": np.asarray(episodes)})
    listen = Unending(num_envs=4, limit=0)
    for steps, episodes in ((1_000, 0), (30_000, [0, 2]), (69_999, 0)):
        listen(row(steps, episodes))
    listen(Trained(training, 99_999, 9**9, 1.0, np.nan, None))  # no row: nothing is known of it
    with pytest.warns(
        errors.EnvironmentWarning, match="No episode of Endless has ended in the last 10,000 steps of each"
    ):
        listen(row(70_000, [0, 0]))
    listen(row(80_000, 0))
    patient = Unending(num_envs=1, limit=27_000)
    for steps in (0, 26_999):
        patient(row(steps, 0))


def test_the_curve_of_a_run_is_the_rolling_mean(trained, monkeypatch):
    drawn = []
    monkeypatch.setattr("steersman.run.show.plots.learning_curve", lambda runs, out, *, y: drawn.append(y))
    curve = Curve(open_run(trained.run))
    curve(Done(None, {}, trained.history))
    curve(Done(None, {}, [{"return_100": np.nan, "evaluation_return": 1.0}]))
    curve(Done(None, {}, [{"return_100": np.nan}]))
    assert drawn == ["return_100", "evaluation_return"]
