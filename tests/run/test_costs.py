"""Costs on their way from an environment to the log, the evaluation, the pictures and back from disk; both loops."""

import json
import shutil

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman.agents import ALGORITHMS
from steersman.cli.display import evaluation_rows, limit_rows
from steersman.episodes import NEWEST, Episodes, Newest
from steersman.errors import TrainingFault, UsageError
from steersman.run.compare.entries import Entry
from steersman.run.compare.results import outcome_of
from steersman.run.disk import checkpoint, logs
from steersman.run.evaluate import evaluate_run
from steersman.run.loops.loop import Totals
from steersman.run.policies.limits import Limits
from steersman.run.progress import Row
from steersman.run.show import plots
from steersman.types import EnvSpec, TimeStep, cost_names

SPACE, CHOICE = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)
LIFE = 5  # steps of an episode, of reward 1; the step before t costs t and 0.5 t, as many of the two as there are


class Toll:
    """Compiled."""

    def __init__(self, count, last=4.0):
        self.spec, self.last = EnvSpec("Toll", SPACE, CHOICE, CHOICE, cost_names=cost_names(count)), last

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jax.random.uniform(key, (1,))

    def step(self, t, action, key):
        obs, over = jax.random.uniform(key, (1,)), t + 1 == LIFE
        first = jnp.where(over, jnp.float32(self.last), t.astype(jnp.float32))
        costs = jnp.stack([first, 0.5 * first])[: self.spec.num_costs]
        return t + 1, TimeStep(obs, jnp.float32(1), over, jnp.zeros((), bool), obs, costs, {})


class HostToll(gymnasium.Env):
    observation_space, action_space = SPACE, CHOICE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.random(1, np.float32), {}

    def step(self, action):
        cost, self.t = float(self.t), self.t + 1
        return self.np_random.random(1, np.float32), 1.0, self.t == LIFE, False, {"cost": cost}


PLACES = {
    "one": lambda: Toll(1),
    "two": lambda: Toll(2),
    "host, one": HostToll,
}


@pytest.fixture(scope="module", params=["two", "host, one"])
def run(request, small, tmp_path_factory):
    """Each loop once, and each number of costs. -> (the costs' names, the result)"""
    out = tmp_path_factory.mktemp("costs") / "run"
    limits = {"cost_limit": (20.0, 4.0)} if request.param == "two" else {}
    result = steersman.train("ppo", PLACES[request.param], out=out, steps=320, tensorboard=True, **small, **limits)
    names = ["episode_cost"] if request.param.endswith("one") else ["episode_cost_0", "episode_cost_1"]
    return names, result


def test_rows_have_the_mean_cost_of_the_episodes_that_ended(run):
    names, result = run
    rows = logs.read_metrics(result.run / "metrics.jsonl")
    rolling = [f"{name.removeprefix('episode_')}_100" for name in names]
    assert [name for name in rows[0] if "cost" in name] == names + rolling
    for row in (*rows, *result.history):
        costs = [row[name] for name in names]
        # All members begin together, but after a checkpoint on the host, which cuts an episode, anew.
        if row["episodes"]:
            assert costs[0] == row["episode_length"] * (row["episode_length"] - 1) / 2
            assert costs == [costs[0], 0.5 * costs[0]][: len(names)]
        else:
            assert np.isnan(costs).all()
    assert {row["episode_cost" if len(names) == 1 else names[0]] for row in rows if row["episodes"]} == {10.0}


def test_the_evaluation_has_each_costs_mean_and_interval(run):
    names, result = run
    played, summary = result.evaluation, result.summary["evaluation"]
    assert played.mean_cost == (10.0, 5.0)[: len(names)]
    assert played.cost_ci95 == ((10.0, 10.0), (5.0, 5.0))[: len(names)]
    assert played.costs == ((10.0, 5.0)[: len(names)],) * 4
    assert (summary["mean_cost"], summary["cost_ci95"][0]) == ([10.0, 5.0][: len(names)], [10.0, 10.0])
    assert json.loads((result.run / "summary.json").read_text())["evaluation"] == summary
    labels = ["mean cost"] if len(names) == 1 else ["mean cost 0", "mean cost 1"]
    rows = evaluation_rows(summary)
    assert [label for label, _ in rows if label.startswith("mean cost")] == labels
    assert dict(rows)[labels[0]].startswith("10.00   (95% interval 10.00 to 10.00")


def test_a_run_under_limits_says_whether_they_hold(run):
    _, result = run
    if "limits" not in result.summary:
        assert not [name for row in result.history for name in row if name.startswith("over_limit")]
        return
    holds, exceeded = result.summary["limits"]  # costs of 10 and 5 an episode, limits of 20 and 4
    for said, entry, over in (("holds", holds, 0.0), ("is exceeded", exceeded, 1.0)):
        assert (entry["evaluation"]["said"], entry["evaluation"]["over"]) == (said, over)
        assert (entry["training"]["said"], entry["training"]["over"]) == (said, over)
    assert "least" not in holds
    assert exceeded["least"]["cost"] == 5.0
    assert 0.0 == holds["multiplier"] < exceeded["multiplier"]
    row = result.history[-1]
    assert (row["over_limit_0_100"], row["over_limit_1_100"]) == (0.0, 1.0)
    table = dict([*evaluation_rows(result.summary["evaluation"]), *limit_rows(result.summary["limits"])])
    assert table["limit on cost 1"].startswith("4: is exceeded")
    assert table["least cost 1"].endswith("the limit of 4 was never met")
    assert result.evaluation.limits[1].said == "is exceeded"
    assert result.evaluate(episodes=3).limits[0].said == "holds"


def test_resumed_and_evaluated_again(run):
    _, result = run
    place = PLACES["two" if "limits" in result.summary else "one"]  # limits belong to as many costs
    again = steersman.resume(result.run, environment=place)  # done: only read
    assert again.evaluation.summary() == result.evaluation.summary()
    assert again.evaluation.mean_cost == result.evaluation.mean_cost


def test_the_curve_has_a_panel_for_each_cost(run, tmp_path, monkeypatch):
    names, result = run
    assert (result.run / "curve.png").stat().st_size > 5000
    figures, real = [], plots._draw
    monkeypatch.setattr(plots, "_draw", lambda *args: figures.append(real(*args)) or figures[-1])
    steersman.plot(result.run, tmp_path / "x.png")
    steersman.plot(result.run, tmp_path / "x.png", y=names[-1])
    labels = [[axes.get_ylabel() for axes in figure.axes] for figure in figures]
    rolling = [f"{name.removeprefix('episode_').replace('_', ' ')}, mean of the last 100" for name in names]
    assert labels == [
        ["episode return, mean of the last 100", *rolling],
        [names[-1].replace("_", " ")],
    ]
    assert [axes.get_xlabel() for axes in figures[0].axes] == [*[""] * len(names), "environment steps"]
    np.testing.assert_array_equal(figures[0].axes[1].lines[0].get_ydata(), 10.0)


def test_a_comparison_has_them_over_seeds(run):
    names, result = run
    outcome = outcome_of(
        Entry("ppo", ALGORITHMS["ppo"], {}, config=ALGORITHMS["ppo"].config()),
        [(result.summary, result.history)] * 2,
        None,
        [],
    )
    assert [cost["value"] for cost in outcome.summary()["mean_cost"]] == [10.0, 5.0][: len(names)]


def test_a_resumed_run_counts_what_the_uninterrupted_one_counts(small, tmp_path):
    settings = {**small, "steps": 320, "seeds": 2, "checkpoint_every": 64}
    whole = steersman.train("ppo", PLACES["two"], out=tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for _, path in checkpoint.saved(tmp_path / "cut" / "checkpoints")[2:]:  # in the middle of episodes and of a row
        path.unlink()
    (tmp_path / "cut" / "summary.json").unlink()
    resumed = steersman.resume(tmp_path / "cut", environment=PLACES["two"])
    for name in ("episode_cost_0", "episode_cost_1"):
        assert all(row[name].shape == (2,) for row in whole.history)
        np.testing.assert_array_equal([r[name] for r in resumed.history], [r[name] for r in whole.history])
    assert resumed.evaluation.cost_ci95 == whole.evaluation.cost_ci95 == ((10.0, 10.0), (5.0, 5.0))


def test_a_cost_that_is_not_a_number_stops_a_compiled_run(small):
    with pytest.raises(TrainingFault, match="episode_cost is nan"):
        steersman.train("ppo", lambda: Toll(1, last=jnp.nan), steps=640, **small)


def test_a_run_without_costs_says_nothing_of_them(trained):
    assert not [name for row in trained.history for name in row if "cost" in name]
    assert not [name for name in trained.summary["evaluation"] if "cost" in name]
    assert trained.evaluation.mean_cost == ()
    assert not [label for label, _ in evaluation_rows(trained.summary["evaluation"]) if "cost" in label]


# --- rows in progress ---

LIMITS = [Limits(cost_names(count)) for count in range(3)]


def totals(costs, count=(2,)):
    many = np.asarray(count, np.int32)
    newest = Newest(np.full((len(many), NEWEST), -1), {"return": np.full((len(many), NEWEST), np.nan)})
    episodes = Episodes(many, many * 3.0, many * 5, np.asarray(costs, np.float64), {}, newest)
    return Totals(episodes, {"loss": many * 0.0}, 1)


@pytest.mark.parametrize("costs", [np.zeros((1, 0)), [[3.0]], [[3.0, 8.0]]])
def test_a_row_in_progress_can_be_kept_as_json(costs):
    row = Row(1, LIMITS[np.shape(costs)[1]])
    row.add(totals(costs))
    again = Row.from_json(1, row.limits, json.loads(json.dumps(row.to_json())), row.newest_json())
    for one in (row, again):
        one.add(totals(costs))
    np.testing.assert_equal(again.means(), row.means())
    assert [v for k, v in row.means().items() if "cost" in k] == list(np.ravel(costs) / 2)


@pytest.mark.parametrize("costs", [np.zeros((2, 0)), [[3.0], [4.0]], [[3.0, 8.0], [3.0, 8.0]]])
def test_a_row_of_before_costs_were_counted_does_not_know_them(costs):
    old = Row(2, LIMITS[np.shape(costs)[1]])
    old.add(totals(costs, (2, 2)))
    content = old.to_json()
    del content["totals"]["costs"]
    row = Row.from_json(2, old.limits, content, {})
    row.add(totals(costs, (2, 2)))
    means = row.means()
    np.testing.assert_array_equal(means["episode_return"], [3.0, 3.0])
    found = {name: value for name, value in means.items() if "cost" in name}
    assert list(found) == [f"episode_cost{suffix}" for suffix in old.limits.suffixes]
    assert all(np.isnan(value).all() for value in found.values())


def test_where_one_seed_ended_no_episode():
    row = Row(2, LIMITS[1])
    row.add(totals([[3.0], [0.0]], (2, 0)))
    np.testing.assert_array_equal(row.means()["episode_cost"], [1.5, np.nan])


def test_costs_that_are_asked_for_belong_to_the_run(small, tmp_path):
    """Training, its evaluations, a resumed one, evaluate and collect see the same environment."""
    costs = ["every = obs[0] > -9", "abs(obs[2]) > 1"]
    settings = small | {"steps": 64, "costs": costs, "evaluate_every": 32}
    result = steersman.train("ppo", "gymnasium/CartPole-v1", out=tmp_path / "run", **settings)
    assert json.loads((result.run / "config.json").read_text())["spec"]["cost_names"] == ["every", "abs(obs[2]) > 1"]
    again = steersman.resume(result.run, steps=96)
    for played in (result.evaluation, again.evaluation, evaluate_run(result.run, episodes=3)):
        assert played.mean_cost == (played.mean_length, 0.0)
    data = steersman.collect(result.run, tmp_path / "data", steps=8)
    assert data.transitions.costs.tolist() == [[1, 0]] * 8
    with pytest.raises(UsageError, match="'x >' is no comparison"):
        steersman.train("ppo", "CartPole-v1", costs="x >")
