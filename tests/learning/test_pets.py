"""PETS learns to swing a pendulum up within 1,500 steps."""

import numpy as np
import pytest

import steersman

pytestmark = pytest.mark.learning


def test_pets_swings_a_pendulum_up():
    """Seeds 5 and 6; the settings were chosen on others. A random policy gets -1200, the best possible about -145."""
    result = steersman.train("pets", "Pendulum-v1", seed=5, seeds=2, evaluation_episodes=10)
    assert all(evaluation["mean"] > -250 for evaluation in result.summary["evaluations"])
    last = result.history[-1]
    assert (last["model/nrmse"] < 0.1).all()
    np.testing.assert_allclose(last["plan/predicted_return"], last["plan/realised_return"], atol=10)
