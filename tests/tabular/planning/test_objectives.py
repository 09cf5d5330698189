"""Exact objectives and gradients against finite differences, sampling-free identities and hand arithmetic."""

import numpy as np
import pytest

from steersman.tabular.planning import objectives as ob
from steersman.tabular.planning.dynamic_programming import evaluate
from steersman.tabular.problems import classics
from steersman.tabular.problems.builders import from_arrays


@pytest.fixture
def mdp():
    return classics.random_mdp(6, 3, 4, gamma=0.9, seed=4, terminals=1)


@pytest.fixture
def theta():
    return np.random.default_rng(1).normal(size=(6, 3))


def test_the_policy_gradient_is_the_derivative(mdp, theta):
    gradient = ob.policy_gradient(mdp, theta)
    for s, a in [(0, 0), (2, 1), (4, 2), (5, 0)]:
        step = np.zeros_like(theta)
        step[s, a] = 1e-5
        up, down = (ob.start_value(mdp, ob.softmax_policy(theta + sign * step)) for sign in (1, -1))
        assert gradient[s, a] == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_advantages_have_mean_zero_and_sum_to_the_difference(mdp, theta):
    pi, other = ob.softmax_policy(theta), ob.softmax_policy(-theta)
    advantage = ob.advantages(mdp, pi)
    assert np.abs((pi * advantage).sum(-1)).max() < 1e-12
    # Performance difference (Kakade & Langford 2002): J(pi') - J(pi) = sum over the visits of pi' of A_pi.
    gap = (ob.visitation(mdp, other, normalise=False)[:, None] * other * advantage).sum()
    assert gap == pytest.approx(ob.start_value(mdp, other) - ob.start_value(mdp, pi), abs=1e-12)


def test_visits_weigh_rewards_into_the_start_value(mdp, theta):
    pi = ob.softmax_policy(theta)
    visits = ob.visitation(mdp, pi, normalise=False)
    assert (visits[:, None] * pi * mdp.reward).sum() == pytest.approx(ob.start_value(mdp, pi))
    assert ob.visitation(mdp, pi).sum() == pytest.approx(1)
    assert visits[5] == 0


def test_average_objectives_by_hand():
    chain = from_arrays(np.array([[[0.0, 1.0]], [[0.5, 0.5]]]), [3.0, 0.0], gamma=0.5, start=0)  # d = (1/3, 2/3)
    policy = np.zeros(2, int)
    assert ob.stationary(chain, policy) == pytest.approx([1 / 3, 2 / 3])
    assert ob.average_reward_of(chain, policy) == pytest.approx(1.0)
    flip = from_arrays(np.array([[[0.0, 1.0]], [[1.0, 0.0]]]), [3.0, 0.0], gamma=0.5)  # periodic: still half and half
    assert ob.average_reward_of(flip, policy) == pytest.approx(1.5)
    value = evaluate(flip, policy).value
    assert value == pytest.approx([4, 2])
    assert ob.average_value(flip, policy) == pytest.approx(3.0)


def test_rare_states_have_their_share_to_the_last_digit():
    """A ladder that is climbed once in 100,000 tries: shares up to 1e-20, by detailed balance."""
    up, p = 1e-5, np.diag(np.full(4, 1e-5), 1) + np.diag(np.full(4, 0.5), -1)
    p += np.diag(1 - p.sum(-1))
    shares = (up / 0.5) ** np.arange(5)
    found = ob.stationary(from_arrays(p[:, None], np.zeros(5), gamma=0.5), np.zeros(5, int))
    np.testing.assert_allclose(found, shares / shares.sum(), rtol=1e-9)
    stuck = np.zeros((4, 4))  # 0 goes on to 1 (for good) or to the loop of 2 and 3
    stuck[0, :3] = 0.5, 0.15, 0.35
    stuck[1, 1] = stuck[2, 3] = stuck[3, 2] = 1.0
    apart = from_arrays(stuck[:, None], np.zeros(4), gamma=0.5, start=0)
    assert ob.stationary(apart, np.zeros(4, int)) == pytest.approx([0, 0.3, 0.35, 0.35])


def test_the_policy_gradient_leaves_actions_out_that_are_not_available(mdp, theta):
    reward = mdp.reward.copy()
    reward[0, 1] = -np.inf
    gaps = from_arrays(mdp.dense(), reward, gamma=0.9, terminal=[5])
    gradient = ob.policy_gradient(gaps, theta)
    assert gradient[0, 1] == 0
    step = np.zeros_like(theta)
    step[0, 2] = 1e-5
    masked = lambda t: ob.softmax_policy(np.where(gaps.available, t, -np.inf))
    up, down = (ob.start_value(gaps, masked(theta + sign * step)) for sign in (1, -1))
    assert gradient[0, 2] == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_trajectory_probability_multiplies():
    walk = classics.random_walk(5)
    assert ob.trajectory_log_prob(walk, np.zeros(7, int), [3, 4, 5], [0, 0]) == pytest.approx(np.log(0.25))
    assert ob.trajectory_log_prob(walk, np.zeros(7, int), [3, 5], [0]) == -np.inf
