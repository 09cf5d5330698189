"""Multipliers against hand arithmetic, and CPO's step against a numerical solution of its program."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize as opt

from steersman.errors import UsageError
from steersman.theory import constraints
from steersman.theory.constraints import BOTH, FREE, PID, RECOVERY


def test_the_error_is_relative_to_the_limit_and_bounded():
    error = constraints.limit_errors(jnp.array([0.33, 25.0, 900.0, 0.25]), jnp.array([0.3, 50.0, 25.0, 0.0]))
    np.testing.assert_allclose(error, [0.1, -0.5, 1.0, 0.25], rtol=1e-5)


def test_the_dual_step_stays_within_its_bounds():
    after = constraints.dual_step(jnp.array([0.5, 0.02, 9.99]), jnp.array([-0.4, -1.0, 1.0]), 0.05, 10.0)
    np.testing.assert_allclose(after, [0.48, 0.0, 10.0], rtol=1e-6)


def test_pid_by_hand():
    """Gains 2, 0.5, 3. Errors 0.4, 0.6, -1, of two costs; the second's are their negatives."""
    state, seen = PID.init(2), []
    for error in (0.4, 0.6, -1.0):
        multiplier, state = constraints.pid_step(state, jnp.array([error, -error]), (2.0, 0.5, 3.0), 10.0)
        seen.append([*np.asarray(multiplier), *np.asarray(state.integral)])
    by_hand = [
        [0.8 + 0.2, 0.0, 0.2, 0.0],  # nothing has risen yet
        [1.2 + 0.5 + 3 * 0.2, 0.0, 0.5, 0.0],
        [0.0, 2.0 + 0.5 + 3 * 1.6, 0.0, 0.5],  # the integral falls to 0 and no further
    ]
    np.testing.assert_allclose(seen, by_hand, rtol=1e-5, atol=1e-6)


def test_pid_without_proportion_is_the_dual_step_and_its_integral_is_capped():
    state, multiplier = PID.init(1), jnp.zeros(1)
    for error in (0.7, 0.9, -0.2, 1.0):
        price, state = constraints.pid_step(state, jnp.array([error]), (0.0, 0.5, 0.0), 1.0)
        multiplier = constraints.dual_step(multiplier, jnp.array([error]), 0.5, 1.0)
        np.testing.assert_allclose(price, multiplier)
    np.testing.assert_allclose(state.integral, 1.0)
    down, _ = constraints.pid_step(state, jnp.array([-0.2]), (0.0, 0.5, 0.0), 1.0)
    np.testing.assert_allclose(down, 0.9)  # at once: it has not wound up beyond the cap


def test_the_mix_is_the_lagrangians_advantage():
    signals = jnp.array([[1.0, 2.0, -1.0], [0.0, 1.0, 4.0]])
    np.testing.assert_allclose(constraints.mixed(signals, jnp.array([0.5, 0.0])), [0.0, -0.5 / 1.5], atol=1e-7)
    np.testing.assert_allclose(constraints.mixed(signals, jnp.array([0.0, 3.0])), [4.0 / 4, -12.0 / 4])
    with pytest.raises(UsageError, match="multipliers have shape"):
        constraints.mixed(signals, jnp.zeros(1))


def by_optimiser(g, b, c, h, delta):
    """The same step by sequential quadratic programming; None where nothing in the trust region keeps the limit."""
    keep = [
        {"type": "ineq", "fun": lambda x: delta - 0.5 * x @ h @ x, "jac": lambda x: -h @ x},
        {"type": "ineq", "fun": lambda x: -(c + b @ x), "jac": lambda x: -b},
    ]
    along: Any = {"jac": lambda x: -g, "constraints": keep, "method": "SLSQP", "tol": 1e-12}
    found = opt.minimize(lambda x: -g @ x, np.zeros(len(g)), **along)
    return found.x if found.success else None


@pytest.mark.parametrize(
    ("c", "case"), [(-5.0, FREE), (-0.02, BOTH), (0.0, BOTH), (0.1, BOTH), (5.0, RECOVERY)], ids=str
)
def test_the_step_is_the_programs_optimum(c, case):
    rng = np.random.default_rng(3)
    root = rng.normal(size=(4, 4))
    h, g, b, delta = root @ root.T + np.eye(4), rng.normal(size=4), rng.normal(size=4), 0.05
    b = b if g @ np.linalg.solve(h, b) > 0 else -b  # what pays costs
    x, p = np.linalg.solve(h, g), np.linalg.solve(h, b)
    step = constraints.constrained_step(g @ x, g @ p, b @ p, c, delta)
    found = float(step.reward_weight) * x + float(step.cost_weight) * p
    assert int(step.case) == case
    assert 0.5 * found @ h @ found == pytest.approx(delta, rel=1e-4)  # all of the trust region is used
    wanted = by_optimiser(g, b, c, h, delta)
    if case == RECOVERY:
        assert wanted is None
        np.testing.assert_allclose(found, -np.sqrt(2 * delta / (b @ p)) * p, rtol=1e-4)
    else:
        assert wanted is not None
        np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_a_step_without_gradients_is_finite():
    for c in (-1.0, 0.0, 1.0):
        step = constraints.constrained_step(0.0, 0.0, 0.0, c, 0.01)
        assert np.isfinite([float(step.reward_weight), float(step.cost_weight)]).all()
    parallel = constraints.constrained_step(4.0, 4.0, 4.0, 0.0, 0.5)  # g = b on the border: nothing can be gained
    assert float(parallel.reward_weight + parallel.cost_weight) == pytest.approx(0.0, abs=1e-3)
