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


def test_a_delay_of_twenty_steps():
    """Where chance is 0 and all is 1; in sequences of 16, shorter than the delay, with the carry that acting had."""
    run = {"steps": 150_000, "seeds": 3, "memory": "lru", "sequence_length": 16, "evaluation_episodes": 200}
    result = steersman.train("ppo", "memory/chain-20", preset=False, **SETTINGS, **run)
    found = np.array([e["mean"] for e in result.summary["evaluations"]])
    assert (found >= 0.95).all(), found


def test_a_window_of_four_cannot():
    """Unless it sees what it did: free actions on the way can hand the cue on."""
    run = {"steps": 60_000, "seeds": 3, "memory": "window", "previous_action": False, "evaluation_episodes": 200}
    result = steersman.train("ppo", "memory/chain-20", preset=False, **SETTINGS, **run)
    found = np.array([e["mean"] for e in result.summary["evaluations"]])
    assert (np.abs(found) <= 0.2).all(), found
