"""Advantages of groups by hand, and which of them has the policy gradient as its mean."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import shards
from steersman.errors import UsageError
from steersman.theory import estimators
from steersman.theory.alignment import groups

REWARD = jnp.array([1.0, 2.0, 6.0, 0.5, 0.5, 0.5])


def test_by_hand():
    np.testing.assert_allclose(groups.centred(REWARD, 3), [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(groups.leave_one_out(REWARD, 3), [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0])
    std = np.std([1.0, 2.0, 6.0], ddof=1)
    np.testing.assert_allclose(
        groups.standardised(REWARD, 3)[:3], np.array([-2.0, -1.0, 3.0]) / (std + 1e-4), rtol=1e-6
    )
    whole = np.sqrt(14.0 / 6)
    np.testing.assert_allclose(
        groups.batch_standardised(REWARD, 3)[:3], np.array([-2, -1, 3]) / (whole + 1e-4), rtol=1e-6
    )


@pytest.mark.parametrize(
    "advantage", [groups.centred, groups.leave_one_out, groups.standardised, groups.batch_standardised]
)
def test_a_group_of_equal_rewards_has_exactly_none(advantage):
    third = jnp.full(3, 0.1, jnp.float32) + 0.2  # sums of these round
    np.testing.assert_array_equal(advantage(jnp.concatenate([third, REWARD[:3]]), 3)[:3], np.zeros(3))


def test_the_baseline_is_that_of_the_others():
    np.testing.assert_allclose(
        groups.leave_one_out(REWARD[:3], 3), REWARD[:3] - estimators.leave_one_out(REWARD[:3]), rtol=1e-6
    )


def test_leave_one_out_is_unbiased_and_the_mean_of_all_shrinks():
    """All groups of three answers out of three, with their probabilities: the expected gradient, exactly."""
    p, r = np.array([0.2, 0.5, 0.3], np.float32), np.array([0.0, 1.0, 3.0], np.float32)
    exact = p * (r - p @ r)  # the gradient of E[r] in the logits
    drawn = np.array([*itertools.product(range(3), repeat=3)])
    weight, score = np.prod(p[drawn], 1), np.eye(3)[drawn] - p

    def mean(advantage):
        a = np.asarray(advantage(r[drawn].reshape(-1), 3)).reshape(-1, 3)
        return np.einsum("g,gk,gkz->z", weight, a, score) / 3

    np.testing.assert_allclose(mean(groups.leave_one_out), exact, atol=1e-6)
    np.testing.assert_allclose(mean(groups.centred), exact * 2 / 3, atol=1e-6)


def test_the_batch_is_that_of_all_shards():
    def one(reward):
        with shards.sharded_over("s"):
            return groups.batch_standardised(reward, 3)

    cut = jax.vmap(one, axis_name="s")(REWARD.reshape(2, 3)).reshape(-1)
    np.testing.assert_allclose(cut, groups.batch_standardised(REWARD, 3), rtol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((6,), 1), ((6,), 4), ((2, 3), 3)])
def test_groups_that_are_none_are_refused(shape, size):
    with pytest.raises(UsageError, match="2 or more answers"):
        groups.centred(jnp.zeros(shape), size)
