"""Policies that remember solve what no other can: real budgets, every seed."""

import numpy as np
import pytest

import steersman

pytestmark = pytest.mark.learning
SETTINGS = {
    "num_envs": 32,
    "unroll_length": 64,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 1e-3,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64,),
    "normalize_observations": False,
    "scale_rewards": False,
    "evaluate_every": 0,
}


def returns(memory, **settings):
    """Of three seeds on a delay of 20 steps, where chance is 0 and all is 1."""
    run = {"steps": 150_000, "seeds": 3, "memory": memory, "evaluation_episodes": 200}
    result = steersman.train("ppo", "memory/chain-20", preset=False, **{**SETTINGS, **run, **settings})
    return np.array([e["mean"] for e in result.summary["evaluations"]])


@pytest.mark.parametrize(("memory", "length"), [("gru", None), ("lru", 16)])
def test_a_delay_of_twenty_steps(memory, length):
    """Sequences of 16 too: shorter than the delay, each with the carry that acting had there."""
    found = returns(memory, sequence_length=length)
    assert (found >= 0.95).all(), found


def test_a_window_of_four_cannot():
    found = returns("window", steps=60_000)
    assert (np.abs(found) <= 0.2).all(), found
