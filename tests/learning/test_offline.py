"""From recordings of SAC on Pendulum: imitation is as good as who acted, IQL far better than poor data."""

import pytest

import steersman

pytestmark = pytest.mark.learning
PLACE = "Pendulum-v1"


def recorded(folder, steps):
    """Transitions of a policy that SAC learned in so many steps."""
    steersman.train("sac", PLACE, seed=0, steps=steps, evaluation_episodes=0, out=folder / "run")
    data = steersman.collect(folder / "run", folder / "data", steps=20_000, explore=True)
    return folder / "data", data.origin["mean_return"]


def test_imitation_is_as_good_as_who_acted(tmp_path):
    data, teacher = recorded(tmp_path, 20_000)
    assert teacher >= -180.0
    result = steersman.train("bc", PLACE, from_data=data, evaluation_episodes=200)
    assert result.evaluation.mean >= -190.0


def test_iql_does_far_better_than_poor_data(tmp_path):
    data, teacher = recorded(tmp_path, 3_000)  # how far SAC is by then depends on how a machine rounds
    assert teacher <= -600.0
    better = steersman.train("iql", PLACE, from_data=data)
    assert better.evaluation.mean >= max(-400.0, teacher / 2), teacher
