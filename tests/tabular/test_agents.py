"""An MDP and what is seen of a POMDP are environments: an agent trains on them, the exact answer is its oracle."""

import numpy as np
import pytest

import steersman
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.pomdp import BeliefEnv, ObservedEnv
from steersman.tabular.problems import classics
from steersman.tabular.problems.pomdp_classics import hallway

SMALL = {"num_envs": 8, "unroll_length": 32, "num_minibatches": 4, "num_epochs": 4, "evaluation_episodes": 8}


def test_an_agent_finds_the_exact_value():
    walk = classics.from_text("S.G\n...", gamma=0.9, step_reward=-0.1, max_episode_steps=50)
    result = steersman.train("ppo", walk, steps=12_000, learning_rate=3e-3, **SMALL)
    best = value_iteration(classics.from_text("S.G\n...", gamma=1.0, step_reward=-0.1))
    assert result.evaluation.mean == pytest.approx(float(best.value[0]))  # 0.8: two steps


@pytest.mark.parametrize("seen", [ObservedEnv, BeliefEnv])
def test_an_agent_runs_on_what_is_seen(seen):
    pomdp = hallway()
    object.__setattr__(pomdp.mdp, "max_episode_steps", 20)
    result = steersman.train("ppo", seen(pomdp), steps=512, **SMALL)
    assert np.isfinite(result.evaluation.mean)
