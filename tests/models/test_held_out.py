"""The prequential error against hand arithmetic, of two members that are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from steersman.models import held_out
from steersman.models.model import Model, Prediction
from steersman.types import Rollout

SCALE = np.array([2.0, 0.0, 4.0], np.float32)  # the second entry never varied


def say(state, x, action, key):
    """Member ``state`` is off by that much in the first entry and the reward."""
    mean = jnp.array([x[0] + state, x[1] + 0.5, state])
    return x, Prediction(mean[:2], mean[2], jnp.float32(0), mean, jnp.array([1.0, 0.0, 2.0]))


MODEL = Model(
    lambda *_: None,
    lambda *_: None,
    lambda state, obs, key: obs,
    say,
    members=lambda state: state,
    scale=lambda state: SCALE,
)
told = jax.jit(partial(held_out.tested, MODEL))


def rollout(length=3, envs=2, reward=0.0):
    obs, no = np.random.default_rng(0).normal(size=(length, envs, 2)).astype(np.float32), np.zeros((length, envs), bool)
    paid = np.full((length, envs), reward, np.float32)
    return Rollout(obs, obs[..., :1], paid, no, no, obs, no, np.zeros((length, envs, 0), np.float32), {})


def test_errors_of_a_mixture_by_hand(key):
    # Means 1 and 3 beside 0: the mixture's error is 2, its variance 1^2 (or 2^2) of noise and 1 of the means' spread.
    found = told(jnp.array([1.0, 3.0]), rollout(), key)
    np.testing.assert_allclose(found["model/nrmse_0"], 2 / 2, rtol=1e-5)
    np.testing.assert_allclose(found["model/nrmse_1"], 0.5, rtol=1e-5)  # in its own units
    np.testing.assert_allclose(found["model/nrmse_reward"], 2 / 4, rtol=1e-5)
    np.testing.assert_allclose(found["model/nrmse"], (1 + 0.5) / 2, rtol=1e-5)  # of those that vary
    np.testing.assert_allclose(found["model/reward_r2"], 0.75, rtol=1e-5)
    variances = np.array([(1 + 1) / 4, (4 + 1) / 16])
    nll = 0.5 * (np.array([1.0, 0.25]) / variances + np.log(2 * np.pi * variances))
    np.testing.assert_allclose(found["model/nll"], nll.mean(), rtol=1e-5)
    assert found["model/coverage90"] == 1  # 2 < 1.645 sqrt 2 and 2 < 1.645 sqrt 5


def test_what_lies_beyond_is_not_covered(key):
    found = told(jnp.array([2.5, 2.5]), rollout(), key)  # 2.5 > 1.645, but 2.5 < 1.645 * 2
    assert found["model/coverage90"] == 0.5


def test_a_single_row_and_a_certain_model_leave_all_finite(key):
    certain = MODEL._replace(step=lambda *args: jax.tree.map(jnp.zeros_like, say(*args)))
    found = jax.jit(partial(held_out.tested, certain))(jnp.zeros(1), rollout(1, 1, reward=3.0), key)
    assert all(np.isfinite(x) for x in found.values())
    np.testing.assert_allclose(found["model/nrmse_reward"], 3 / 4)


def test_a_prediction_that_is_not_finite_is_named(key):
    found = told(jnp.array([jnp.inf, 0.0]), rollout(), key)
    assert not np.isfinite(found["model/nrmse_0"])
    assert np.isfinite(found["model/nrmse_1"])
