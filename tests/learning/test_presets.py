"""The presets solve their tasks: real budgets, and all seeds but at most one above the threshold."""

import numpy as np
import pytest

import steersman
from steersman.agents import ALGORITHMS
from steersman.run.settings import presets

pytestmark = pytest.mark.learning
OTHERWISE = ("ppo", "pqn", "dqn")  # below, with thresholds of their own
CARTPOLE = [name for name in ALGORITHMS if "CartPole-v1" in presets(name) and name not in OTHERWISE]


@pytest.mark.parametrize(
    ("algorithm", "environment", "seeds", "threshold"),
    [
        ("ppo", "CartPole-v1", 10, 500.0),
        ("ppo", "Acrobot-v1", 3, -90.0),
        ("ppo", "Pendulum-v1", 3, -200.0),
        ("ppo", "MountainCarContinuous-v0", 3, 90.0),
        ("pqn", "CartPole-v1", 5, 500.0),
        ("pqn", "Acrobot-v1", 3, -90.0),
    ],
)
def test_compiled(algorithm, environment, seeds, threshold):
    result = steersman.train(algorithm, environment, seed=0, seeds=seeds, evaluation_episodes=100)
    means = np.array([e["mean"] for e in result.summary["evaluations"]])
    reached = int((means >= threshold).sum())
    assert reached >= seeds - 1, f"{algorithm} {environment}: {means}"


@pytest.mark.parametrize("algorithm", CARTPOLE)
def test_cartpole_with_every_rung(algorithm):
    """Three seeds of each preset; the budgets are theirs, a million steps at most."""
    result = steersman.train(algorithm, "CartPole-v1", seed=0, seeds=3, evaluation_episodes=100)
    means = [e["mean"] for e in result.summary["evaluations"]]
    assert result.summary["steps"] <= 1_010_000
    assert sum(m >= 475.0 for m in means) >= 2, means


def test_host():
    """The same preset on the original environment, through the host loop."""
    result = steersman.train("ppo", "gymnasium/CartPole-v1", seed=0, evaluation_episodes=20)
    assert result.evaluation.mean >= 475.0


def test_cartpole_with_dqn():
    """Five seeds of 50,000 steps."""
    result = steersman.train("dqn", "CartPole-v1", seed=0, seeds=5, evaluation_episodes=100)
    means = [e["mean"] for e in result.summary["evaluations"]]
    assert result.summary["steps"] < 51_000
    assert sum(m >= 500.0 for m in means) >= 4, means


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_pendulum_off_policy(algorithm):
    """Every one of five seeds, within 20,000 steps."""
    result = steersman.train(algorithm, "Pendulum-v1", seed=0, seeds=5, evaluation_episodes=100)
    means = [e["mean"] for e in result.summary["evaluations"]]
    assert result.summary["steps"] <= 20_000
    assert min(means) >= -180.0, means
