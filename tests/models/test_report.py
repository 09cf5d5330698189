"""A report on models whose quality is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.models import report
from steersman.models.data import of_rollout
from steersman.models.model import Model, Prediction
from steersman.types import Rollout

SPACE = spaces.Box(-1, 1, (1,))


def world(noise=0.0, steps=30, episodes=8):
    """s' = s + a + noise in two entries, the second of which stays; reward = s[0]. [steps, episodes], a rollout."""
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (steps, episodes, 1)).astype(np.float32)
    moved = action + noise * rng.normal(size=action.shape).astype(np.float32)
    place = np.cumsum(moved, axis=0)
    after = np.concatenate([place, np.zeros_like(place)], axis=-1)
    obs = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
    no, first = np.zeros((steps, episodes), bool), np.zeros((steps, episodes), bool)
    first[0] = True
    costs = np.zeros((steps, episodes, 0), np.float32)
    return Rollout(obs, action, obs[..., 0], no, no, after, first, costs, {})


def believer(bias, std=0.0):
    """An ensemble: member k believes in s' = s + a + bias_k, with that spread."""

    def step(M, x, action, key):
        mean = jnp.append(x + jnp.array([1.0, 0.0]) * (action + M[0]), x[0])
        spread = jnp.array([std, 0.0, 0.0])
        obs = mean[:2] + spread[:2] * jax.random.normal(key, (2,))
        return obs, Prediction(obs, mean[2], jnp.float32(-9), mean, spread)

    scale = lambda M: np.array([0.5, 0.0, 1.0], np.float32)
    members = lambda M: M[:, None]
    return Model(None, None, lambda M, obs, key: obs, step, members, scale), jnp.array(bias, jnp.float32)


def found(bias, std=0.0, noise=0.0, **how):
    how = {"horizon": 5, "count": 10, "particles": 2} | how
    return report.quality(*believer(bias, std), of_rollout(world(noise)), SPACE, key=jax.random.key(0), **how)


def test_of_the_truth_nothing_is_wrong_and_a_bias_adds_up():
    right, wrong = found([0.0, 0.0]), found([0.1, 0.3])
    np.testing.assert_allclose(right.error, 0, atol=1e-5)
    np.testing.assert_allclose(right.nrmse, 0, atol=1e-5)
    assert right.reward_r2 == pytest.approx(1)
    # the mean is off by 0.2 a step, in one entry of two
    steps = np.arange(1, 6)
    np.testing.assert_allclose(wrong.error[0], 0.2 * steps / wrong.unit[0] / np.sqrt(2), rtol=1e-4)
    assert wrong.nrmse[0] == pytest.approx(0.2 / 0.5, rel=1e-4)
    np.testing.assert_allclose(wrong.disagreement, 0.1 / 0.5 / np.sqrt(2), rtol=1e-4)  # place and reward vary
    assert wrong.drawn.shape == (2, 2, 10, 5, 3)


def test_the_baselines():
    it = found([0.0])
    came, first = it.windows.came[..., 0], it.windows.first[:, :1]
    np.testing.assert_allclose(it.persistence, np.abs(came - first) / it.unit[0] / np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(it.linear, 0, atol=1e-3)  # the world is linear


def test_windows_stay_within_an_episode():
    data = of_rollout(world(steps=7, episodes=3))
    it = report.windows(data.rows, data, 6, 100)
    assert it.row.tolist() == [0, 1, 7, 8, 14, 15]
    np.testing.assert_allclose(it.came[1, :, 0], np.asarray(data.rows.next_obs)[1:7, 0])
    for horizon in (0, 8):
        with pytest.raises(UsageError, match="has 7 steps"):
            report.windows(data.rows, data, horizon, 5)


def test_coverage_is_as_promised_where_the_spread_is_right_and_less_where_it_is_too_small():
    at = lambda it, q: it.coverage[np.argmin(np.abs(report.NOMINAL - q)), 0]
    right, narrow = found([0.0], std=0.3, noise=0.3), found([0.0], std=0.1, noise=0.3)
    assert at(right, 0.5) == pytest.approx(0.5, abs=0.1)
    assert at(right, 0.9) == pytest.approx(0.9, abs=0.06)
    assert at(narrow, 0.9) < 0.55
    assert abs(right.pit[:, 0].mean() - 0.5) < 0.06
    assert np.histogram(narrow.pit[:, 0], bins=4, range=(0, 1))[0][[0, 3]].sum() > 0.6 * len(narrow.pit)


def test_pit_of_a_mixture_by_hand():
    mean, std = np.array([[[-1.0]], [[1.0]]]), np.array([[[1e-12]], [[1e-12]]])
    assert report.pit(mean, std, np.array([[0.0]])).item() == 0.5  # above one member, below the other


def test_ranks_are_correlated_whatever_the_scale_and_ties_share():
    x = np.array([1.0, 5.0, 2.0, 9.0])
    assert report.spearman(x, np.exp(x)) == 1.0
    assert report.spearman(x, -x) == -1.0
    assert report.spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(report.spearman(x, np.ones(4)))
