"""The ceiling of a task: what is played, counted and refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.cli.main import run as cli
from steersman.envs.wrappers import time_limit
from steersman.errors import UsageError
from steersman.planning import planner_in, random_shooting
from steersman.run.policies.ceiling import KNOWN, ceiling, play, tip_height

SMALL = {"horizon": 4, "population": 8, "iterations": 1}


def test_the_command_plays_whole_episodes(capsys):
    arguments = ["plan", "Pendulum-v1", "--episodes", "2", "--horizon", "3", "--population", "4", "--iterations", "1"]
    assert cli([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == {**SMALL, "horizon": 3, "population": 4, "elites": 4, "gamma": 1.0, "particles": 1}
    assert (told["planner"], told["terminal_value"], told["evaluation"]["mean_length"]) == ("icem", None, 200)
    assert -2000 < told["evaluation"]["mean"] < 0
    assert told["milliseconds_per_step"] > 0


def test_an_episode_counts_until_it_ends():
    """45 steps are three calls of a program of 20; a cart that nobody holds falls, and its return is its length."""
    env = time_limit(envs.make_env("CartPole-v1"), 45)
    plans = planner_in(env, random_shooting(env.spec.action_space, horizon=1, population=2))
    evaluation, _, _ = play(env, plans, 3, 0)
    assert evaluation.returns == evaluation.lengths
    assert max(evaluation.lengths) <= 45
    assert min(evaluation.lengths) < 45


def test_the_tip_of_an_acrobot():
    """Hanging straight down it is at -2, straight up at 2, folded back at 0."""
    heights = [tip_height(jnp.array([*obs, 0.0, 0.0])) for obs in ([1.0, 0, 1, 0], [-1.0, 0, 1, 0], [1.0, 0, -1, 0])]
    np.testing.assert_allclose(heights, [-2, 2, 0])
    assert KNOWN["Acrobot-v1"]["terminal_value"] is tip_height


@pytest.mark.parametrize(
    ("environment", "settings", "said"),
    [
        ("gymnasium/CartPole-v1", {}, r"nobody can search in copies of its state.*steersman train pets"),
        ("Pendulum-v1", {"planner": "icme"}, "There is no planner 'icme'.*Did you mean icem"),
        ("Pendulum-v1", {"planner": "ilqr", "population": 3}, "ilqr has no population; it takes horizon, iterations"),
        ("Pendulum-v1", {"planner": "ilqr", "particles": 3}, "one draw of the environment's randomness"),
        ("CartPole-v1", {"planner": "ilqr"}, "iLQR moves actions by small amounts"),
        ("Pendulum-v1", {"terminal_value": "height"}, "give package.module:function"),
        ("Pendulum-v1", {"terminal_value": "math:pi"}, "math:pi is a float"),
        ("Pendulum-v1", {"terminal_value": lambda obs: obs["tip"]}, "fails on an observation of Pendulum-v1: .*line"),
        ("Pendulum-v1", {"terminal_value": lambda obs, more: 0.0}, "fails on an observation"),
        ("Pendulum-v1", {"terminal_value": lambda obs: "high"}, "fails on an observation"),
        ("Pendulum-v1", {"terminal_value": lambda obs: obs}, r"gives .*3.* it must give one number"),
        ("Pendulum-v1", {"gamma": 2.0}, "gamma = 2.0; a discount is from 0 to 1"),
        ("Pendulum-v1", {"gamma": float("nan")}, "gamma = nan; a discount"),
        ("Pendulum-v1", {"particles": 0}, "particles = 0"),
        ("Pendulum-v1", {"noise_exponent": float("nan")}, "noise_exponent = nan; it is 0"),
        ("Pendulum-v1", {"episodes": 0}, "0 evaluation episodes"),
        ("Pendulum-v1", {"elites": 40}, "elites = 40; they are the best of the population of 32"),
    ],
)
def test_what_cannot_be_planned(environment, settings, said):
    with pytest.raises(UsageError, match=said):
        ceiling(environment, **settings)
