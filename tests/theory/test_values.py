"""TD errors by hand and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.theory import values
from steersman.theory.distributions import masked
from steersman.theory.exploration import greedy

Q_TM1 = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
Q_T = jnp.array([[10.0, 40.0, 20.0], [1.0, 2.0, 3.0]])
A_TM1, A_T = jnp.array([0, 2]), jnp.array([2, 0])
R_T, DISCOUNT_T = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.0])  # the second transition terminates


def test_td_error_by_hand():
    got = values.td_error(jnp.array([1.0, 1.0]), R_T, DISCOUNT_T, jnp.array([8.0, 8.0]))
    np.testing.assert_array_equal(got, [4.0, 1.0])


def test_by_hand():
    np.testing.assert_array_equal(values.sarsa(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, A_T), [10.0, -4.0])
    np.testing.assert_array_equal(values.q_learning(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T), [20.0, -4.0])
    p = jnp.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(values.expected_sarsa(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, p), [10.0, -4.0])
    selector = jnp.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])  # picks 2, worth 20
    np.testing.assert_array_equal(values.double_q_learning(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, selector), [10.0, -4.0])


def test_relations():
    q_learning = values.q_learning(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T)
    np.testing.assert_array_equal(values.double_q_learning(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, Q_T), q_learning)
    best = greedy(Q_T).probabilities()
    np.testing.assert_allclose(values.expected_sarsa(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, best), q_learning)
    sure = jax.nn.one_hot(A_T, 3)
    np.testing.assert_array_equal(
        values.expected_sarsa(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, sure),
        values.sarsa(Q_TM1, A_TM1, R_T, DISCOUNT_T, Q_T, A_T),
    )


def test_masked_actions_are_not_chosen_and_gradients_stay_finite():
    mask = jnp.array([[True, False, True], [True, True, True]])
    got = values.q_learning(Q_TM1, A_TM1, R_T, DISCOUNT_T, masked(Q_T, mask))
    np.testing.assert_array_equal(got, [10.0, -4.0])
    infinite = jnp.where(mask, Q_T, -jnp.inf)
    p = greedy(infinite).probabilities()
    error = lambda q: jnp.sum(values.expected_sarsa(q, A_TM1, R_T, DISCOUNT_T, infinite, p))
    np.testing.assert_array_equal(error(Q_TM1), 6.0)
    np.testing.assert_array_equal(jax.grad(error)(Q_TM1), [[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


@pytest.mark.parametrize("shape", [(), (3, 2)])
def test_any_leading_axes(shape):
    q = jnp.broadcast_to(Q_TM1[0], (*shape, 3))
    zero = jnp.zeros(shape)
    got = values.q_learning(q, jnp.zeros(shape, jnp.int32), zero, zero + 1.0, q)
    np.testing.assert_array_equal(got, jnp.full(shape, 2.0))


def test_the_soft_value_is_largest_for_the_boltzmann_policy():
    q, alpha = jnp.array([1.0, 2.0, 4.0]), 0.5
    best = jax.nn.log_softmax(q / alpha)
    value = values.expected_soft_value(q, best, alpha)
    np.testing.assert_allclose(value, alpha * jax.nn.logsumexp(q / alpha), rtol=1e-6)
    for other in (jnp.zeros(3), jnp.array([0.0, 1.0, 1.5])):
        assert values.expected_soft_value(q, jax.nn.log_softmax(other), alpha) < value
    sampled = values.soft_value(q, best, alpha)  # at the optimum, the same for every action
    np.testing.assert_allclose(sampled, np.full(3, value), rtol=1e-5)
    np.testing.assert_array_equal(values.soft_value(q, best, 0.0), q)


def test_truncated_atoms():
    z = jnp.array([[[3.0, 1.0]], [[2.0, 9.0]]])  # K = 2, one transition, M = 2
    np.testing.assert_array_equal(values.truncated_atoms(z, 0), [[1, 2, 3, 9]])
    np.testing.assert_array_equal(values.truncated_atoms(z, 1), [[1, 2]])
    assert values.truncated_atoms(z, 1).mean() < values.truncated_atoms(z, 0).mean()


def test_expectile_loss_by_hand():
    """|tau - 1(u < 0)| u^2: 0.9 * 4, 0.1 * 9, 0; half the square at one half."""
    np.testing.assert_allclose(values.expectile_loss(jnp.array([2.0, -3.0, 0.0]), 0.9), [3.6, 0.9, 0.0], rtol=1e-6)
    np.testing.assert_allclose(values.expectile_loss(jnp.array([2.0, -3.0]), 0.5), [2.0, 4.5], rtol=1e-6)


def test_its_minimum_is_the_expectile():
    """Of 0 and 1 in equal shares it is tau itself: tau (1 - m) = (1 - tau) m."""
    target = jnp.array([0.0, 1.0])
    for tau in (0.1, 0.5, 0.8, 0.99):
        slope = jax.grad(lambda m, tau=tau: values.expectile_loss(target - m, tau).mean())(jnp.float32(tau))
        assert slope == pytest.approx(0.0, abs=1e-6)


def test_what_stands_behind_an_end_does_not_count():
    nothing = jnp.array([0.0, 0.5])
    for bad in (jnp.nan, jnp.inf):
        v_t = jnp.array([bad, 4.0])
        np.testing.assert_array_equal(values.td_error(jnp.ones(2), jnp.full(2, 3.0), nothing, v_t), [2.0, 4.0])
        q_t = jnp.array([[bad, bad], [4.0, 1.0]])
        q = values.q_learning(jnp.ones((2, 2)), jnp.array([0, 1]), jnp.full(2, 3.0), nothing, q_t)
        np.testing.assert_array_equal(q, [2.0, 4.0])


def test_shapes_that_would_broadcast_are_refused():
    """The critic's [N, 1] beside the rewards' [N]."""
    with pytest.raises(UsageError, match=r"v_tm1 \[3, 1\], r_t \[3\]"):
        values.td_error(jnp.zeros((3, 1)), jnp.zeros(3), 0.9, jnp.zeros((3, 1)))


def test_truncated_atoms_of_an_empty_batch():
    assert values.truncated_atoms(jnp.zeros((2, 0, 5)), 1).shape == (0, 8)


def test_rescaling_has_an_inverse():
    x = jnp.concatenate([-jnp.logspace(-4, 5, 40), jnp.zeros(1), jnp.logspace(-4, 5, 40)]).astype(jnp.float32)
    for epsilon in (1e-3, 1e-2):
        y = values.rescaled(x, epsilon)
        assert (np.diff(y[x >= 0]) > 0).all()
        assert (np.sign(y) == np.sign(x)).all()
        np.testing.assert_allclose(values.unscaled(y, epsilon), x, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(values.rescaled(jnp.array([15.0, -3.0]), 0.01), [3.15, -1.03], rtol=1e-6)
