"""What is said of limits on costs: the verdict's rule, several seeds, the end of a run, the best policy under them."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from steersman.episodes import NEWEST, Newest, cost_suffixes
from steersman.errors import EnvironmentWarning
from steersman.run.callbacks import Costless
from steersman.run.evaluate import Evaluation, pooled, summarise
from steersman.run.events import Done
from steersman.run.policies.best import Best
from steersman.run.policies.limits import Limits, limits_of, outcome, verdicts
from steersman.run.show import plots
from steersman.run.show.groups import Drawn

ONE = Limits(("speed",), (25.0,))
SETTINGS = {"cost_limit": [25], "cost_criterion": "episode", "cost_gamma": 0.9, "multiplier_cap": 10.0}


def episodes(*costs):
    return np.asarray(costs, float)[:, None]


@pytest.mark.parametrize(
    ("costs", "said", "over"),
    [
        (episodes(*[20, 22] * 20), "holds", 0.0),
        (episodes(*[18, 28] * 50), "holds", 0.5),  # the mean is limited, not each episode
        (episodes(*[25] * 4), "holds", 0.0),  # at the limit
        (episodes(*[30, 32] * 20), "is exceeded", 1.0),
        (episodes(*[10, 40] * 4), "not certain", 0.5),
        (episodes(3), "not certain", 0.0),  # one number has no spread to show
    ],
)
def test_where_the_interval_lies_says_how_surely_a_limit_holds(costs, said, over):
    (verdict,) = verdicts(ONE, [costs])
    assert (verdict.said, verdict.over, verdict.seeds) == (said, over, None)
    assert verdict.mean == costs.mean()
    low, high = verdict.ci95
    assert {"holds": high <= 25, "is exceeded": low > 25, "not certain": len(costs) == 1 or low <= 25 < high}[said]


def test_of_several_seeds_the_interval_is_over_their_means():
    each = [episodes(*[10, 12] * 50), episodes(*[29, 31] * 50), episodes(*[20, 22] * 50)]
    (verdict,) = verdicts(ONE, each)
    assert verdict.said == "not certain"  # of all episodes together the mean, 20.7, is sure to be under 25
    assert verdict.seeds == pytest.approx(2 / 3)
    assert verdicts(ONE, [np.concatenate(each)])[0].said == "holds"


def test_there_is_a_verdict_on_each_cost_and_none_without_limits_or_episodes():
    both = Limits(("a", "b"), (1.0, 5.0))
    costs = np.tile([[2.0, 2.0]], (4, 1))
    assert [(v.cost, v.said) for v in verdicts(both, [costs])] == [("a", "is exceeded"), ("b", "holds")]
    assert verdicts(Limits(("a", "b")), [costs]) == verdicts(both, [costs[:0]]) == ()


def test_limits_are_read_from_the_settings_of_an_agent():
    assert limits_of(SETTINGS, ("speed",)) == Limits(("speed",), (25.0,), 1.0, 10.0)
    assert limits_of(SETTINGS | {"cost_criterion": "discounted"}, ("speed",)).discount == 0.9
    assert limits_of(SETTINGS, ("a", "b")) == Limits(("a", "b"))  # another environment
    assert limits_of({"learning_rate": 1.0}, ("speed",)) == Limits(("speed",))


def test_costs_without_a_limit_are_said():
    assert ONE.notes == Limits().notes == ()
    (said,) = Limits(("speed", "heat")).notes
    assert said == "There is no limit on speed, heat: they are counted, and not learned from (--cost-limit)."
    (said,) = limits_of(SETTINGS | {"scale_rewards": False}, ("speed",)).notes
    assert "--scale-rewards" in said
    assert not limits_of({"cost_limit": (25.0,), "scale_rewards": False}, ("speed",)).notes  # CPO has no gains


def test_an_evaluation_knows_its_limits_on_disk_too():
    costs = np.array([[20.0, 3.0], [22.0, 3.0]])
    limits = Limits(("speed", "falls"), (25.0, 1.0))
    one, two = (summarise(np.ones(2), np.ones(2), costs=costs + x, limits=limits) for x in (0.0, 10.0))
    assert [v.said for v in one.limits] == ["holds", "is exceeded"]
    both = pooled([one, two])
    assert [(v.said, v.seeds) for v in both.limits] == [("not certain", 0.5), ("is exceeded", 0.0)]
    again = Evaluation.from_summary(json.loads(json.dumps(both.summary())))
    assert (again.limits, again.cost_names) == (both.limits, ("speed", "falls"))
    assert "limits" not in summarise(np.ones(2), np.ones(2), costs=costs).summary()


def newest(costs):
    numbers = np.full((1, NEWEST, 1), np.nan)
    numbers[0, -len(costs) :, 0] = costs
    return Newest(np.where(np.isfinite(numbers[..., 0]), 0, -1), {"cost": numbers})


def test_a_limit_that_was_never_met_is_said_with_the_least_cost_seen():
    rows = [
        {"steps": s, "cost_100": c, "multiplier": m}
        for s, c, m in ((10, np.nan, 0.0), (20, 40.0, 1.0), (30, 31.0, 9.9999))
    ]
    (said,) = outcome(ONE._replace(cap=10.0), (), newest([40, 42] * 10), rows)
    assert said["least"] == {"cost": 31.0, "steps": 30}
    assert said["at_cap"]
    assert said["training"]["said"] == "is exceeded"
    met = outcome(ONE, (), None, [*rows, {"steps": 40, "cost_100": 50.0, "evaluation_cost": 24.0, "multiplier": 3.0}])
    assert met == [{"cost": "speed", "limit": 25.0, "multiplier": 3.0, "at_cap": False}]
    at_the_end = verdicts(ONE, [np.full((4, 1), 24.0)])
    assert "least" not in outcome(ONE, at_the_end, newest([40, 42] * 10), rows)[0]


def test_where_costs_are_discounted_training_counts_them_otherwise_and_is_not_asked():
    rows = [{"steps": 10, "cost_100": 3.0, "evaluation_cost": 26.0}]
    (said,) = outcome(ONE._replace(discount=0.9), (), newest([3, 4]), rows)
    assert "training" not in said
    assert said["least"] == {"cost": 26.0, "steps": 10}


def test_the_best_policy_holds_the_limits_if_any_has():
    best, agent = Best(1), lambda x: [{"x": np.float32(x)}]
    keep = lambda x, mean, excess: best.keep(agent(x), np.array([mean]), np.array([excess]), x)
    found = []
    for at, (mean, excess) in enumerate(
        [(900.0, 2.0), (500.0, 1.0), (800.0, 1.5), (300.0, 0.0), (900.0, 0.1), (310.0, 0.0)]
    ):
        keep(at, mean, excess)
        found.append(int(best.steps[0]))
    assert found == [0, 1, 1, 3, 3, 5]
    np.testing.assert_array_equal(
        Limits(("a", "b"), (2.0, 0.0)).excess(np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]])), [0, 0.5, 1]
    )
    np.testing.assert_array_equal(Limits(("a",)).excess(np.array([[9.0]])), [0.0])


def test_a_cost_that_no_episode_paid_is_warned_about():
    rows = [{"episode_cost_a": np.array([0.0, np.nan]), "episode_cost_b": np.array([0.0, 1.0])}] * 2
    done = Done(SimpleNamespace(environment="Nowhere"), {}, rows)
    with pytest.warns(EnvironmentWarning, match="cost 'a' of Nowhere was 0 in every episode: its limit") as told:
        Costless(Limits(("a", "b"), (1.0, 1.0)))(done)
    assert len(told) == 1
    Costless(Limits(("c",)))(Done(SimpleNamespace(environment="Nowhere"), {}, [{"episode_cost": np.nan}]))  # none ended


def test_limits_are_lines_in_the_panels_of_their_costs(monkeypatch):
    saved = {"spec": {"cost_names": ["x > 1", "cost_1"]}, "config": SETTINGS | {"cost_limit": [3, 4]}}
    monkeypatch.setattr(plots, "read_config", lambda path: saved)
    names, limits = plots._of_costs({"ppo": [Drawn(Path("run"), [0])]})
    assert names["cost_x_above_1_100"] == "x > 1"
    assert limits["cost_1_100"] == limits["evaluation_cost_1"] == {"ppo": 4.0}
    axes = plots.blank(4, 3).subplots()
    (end,) = plots._draw_limits(axes, {"ppo": 4.0, "cpo": 4.0}, ["ppo", "cpo"])
    assert end[0] == "limit 4"
    assert [line.get_ydata()[0] for line in axes.lines] == [4.0]
    apart = plots._draw_limits(axes, {"ppo": 4.0, "cpo": 2.0}, ["ppo", "cpo"])
    assert [(label, colour == plots.style(i)[0]) for i, (label, *_, colour) in enumerate(apart)] == [
        ("limit 4", True),
        ("limit 2", True),
    ]


def test_names_of_costs_in_metrics_tell_them_apart():
    assert cost_suffixes(["x > 1", "x < 1"]) == ["_x_above_1", "_x_below_1"]
    assert cost_suffixes(["a b", "a_b"]) == ["_0", "_1"]
    assert cost_suffixes([]) == []
    assert math.isinf(Limits().cap)
