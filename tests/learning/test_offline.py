"""From recordings of SAC on Pendulum: imitation is as good as who acted, IQL far better than poor data."""

import dataclasses

import jax
import numpy as np
import pytest

import steersman
from steersman.run.disk import dataset

pytestmark = pytest.mark.learning
PLACE = "Pendulum-v1"


def recorded(folder, steps, count=20_000):
    """Transitions of a policy that SAC learned in so many steps."""
    warm_up = {"learning_starts": 500}  # also where that is nearly all of the steps
    steersman.train("sac", PLACE, seed=0, steps=steps, **warm_up, evaluation_episodes=0, out=folder / "run")
    return steersman.collect(folder / "run", folder / "data", steps=count, explore=True)


def test_imitation_is_as_good_as_who_acted(tmp_path):
    data = recorded(tmp_path, 20_000)
    assert data.origin["mean_return"] >= -180.0
    result = steersman.train("bc", PLACE, from_data=tmp_path / "data", evaluation_episodes=200)
    assert result.evaluation.mean >= -190.0


def test_iql_does_far_better_than_poor_data(tmp_path):
    """One episode in eleven is a good one; imitation would be as poor as the rest."""
    poor, good = recorded(tmp_path / "poor", 600, 20_000), recorded(tmp_path / "good", 20_000, 2_000)
    transitions = jax.tree.map(lambda *x: np.concatenate(x), poor.transitions, good.transitions)
    with dataset.creating(tmp_path / "data") as folder:
        dataset.write(folder, dataclasses.replace(poor, transitions=transitions))
    teacher = np.average([d.origin["mean_return"] for d in (poor, good)], weights=[len(poor), len(good)])
    assert teacher <= -1000.0
    better = steersman.train("iql", PLACE, from_data=tmp_path / "data")
    assert better.evaluation.mean >= -400.0
