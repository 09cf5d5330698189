"""Planning by derivatives, against the Riccati equation and optima that are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError
from steersman.planning.gradient import _boxed, gradient_ascent, ilqr
from steersman.types import EnvSpec

A = np.array([[1.0, 0.1], [0.0, 1.0]], np.float32)
B = np.array([[0.0, 0.02], [0.1, 0.03]], np.float32)
Q, R = np.diag([1.0, 0.1]).astype(np.float32), np.diag([0.2, 0.5]).astype(np.float32)
BOX = spaces.Box(-1, 1, (2,))
SPEC = EnvSpec("Linear", spaces.Box(-9, 9, (2,)), BOX, BOX)
HORIZON = 12


class State(NamedTuple):
    x: jax.Array


def linear():
    """x' = A x + B u; the reward -(x' Q x + u' R u)."""

    def step(state, u, key):
        x = A @ state.x + B @ u
        return State(x), outcome(x, -(state.x @ Q @ state.x + u @ R @ u), jnp.zeros((), bool))

    return PureEnv(SPEC, lambda key: (State(jnp.zeros(2)), jnp.zeros(2)), step)


def riccati(horizon, last):
    """The first gain K, u = -K x, and the matrix of the cost, of the finite problem in float64."""
    a, b, q, r = (np.asarray(m, np.float64) for m in (A, B, Q, R))
    p, k = np.asarray(last, np.float64), np.zeros((2, 2))
    for _ in range(horizon):
        k = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ k)
    return k, p


@pytest.fixture(scope="module")
def regulator():
    """Within a clock, whose count is no real number; the last observation costs x' Q x."""
    env = time_limit(linear(), 500)
    planner = ilqr(env, horizon=HORIZON, iterations=5, value=lambda obs: -(obs @ Q @ obs))
    start = env.reset(jax.random.key(0))[0]
    plan = jax.jit(planner.plan)
    at = lambda x: plan(start._replace(env=State(jnp.asarray(x))), planner.begin(), jax.random.key(0))
    return at


def test_the_first_action_is_riccatis(regulator):
    gain, cost = riccati(HORIZON, Q)
    for x in (np.array([0.5, 0.0], np.float32), np.array([-0.3, 0.4], np.float32)):
        plan = regulator(x)
        np.testing.assert_allclose(plan.action, -gain @ x, atol=1e-4)
        np.testing.assert_allclose(plan.value, -x @ cost @ x, rtol=1e-5)


def test_actions_stay_in_the_box(regulator):
    """From far away the bound is reached, and what follows is the best within it: no change of one action is better."""
    far = np.array([6.0, 1.0], np.float32)
    gain, _ = riccati(HORIZON, Q)
    assert np.abs(gain @ far).max() > 1
    plan = regulator(far)
    assert float(jnp.abs(plan.action).max()) == 1
    x, actions = far.astype(np.float64), np.concatenate([plan.action[None], plan.warm[:-1]]).astype(np.float64)

    def worth(actions):
        state, total = x, 0.0
        for u in actions:
            total -= state @ Q @ state + u @ R @ u
            state = A @ state + B @ u
        return total - state @ Q @ state

    np.testing.assert_allclose(worth(actions), plan.value, rtol=1e-5)
    for t in range(HORIZON):
        for i, change in ((0, 0.05), (0, -0.05), (1, 0.05), (1, -0.05)):
            other = actions.copy()
            other[t, i] = np.clip(other[t, i] + change, -1, 1)
            assert worth(other) <= worth(actions) + 1e-3


def test_the_boxed_quadratic_problem():
    """Against a grid: one entry at its bound, and the other moved by that."""
    curvature, slope = np.array([[2.0, 1.2], [1.2, 1.0]], np.float32), np.array([-3.0, -0.5], np.float32)
    low, high = np.array([-0.5, -0.4], np.float32), np.array([0.7, 1.5], np.float32)
    d, free = _boxed(*map(jnp.asarray, (curvature, slope, low, high)))
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 401) for a, b in zip(low, high, strict=True))), -1).reshape(-1, 2)
    worth = grid @ slope + 0.5 * np.einsum("ni,ij,nj->n", grid, curvature, grid)
    np.testing.assert_allclose(d, grid[worth.argmin()], atol=5e-3)
    assert free.tolist() == [False, True]


def test_ascent_finds_the_optimum_and_keeps_to_the_box():
    goal = jnp.array([0.3, 2.0])
    score = lambda sequences, key: -jnp.square(sequences - goal[None, None]).sum((1, 2))
    planner = gradient_ascent(BOX, horizon=3, population=4, iterations=60)
    plan = planner.plan(score, planner.begin(), jax.random.key(0))
    np.testing.assert_allclose(plan.action, [0.3, 1.0], atol=0.02)
    np.testing.assert_allclose(plan.value, -3.0, atol=0.01)  # the second can come no nearer than 1
    np.testing.assert_allclose(plan.warm[:2], [[0.3, 1.0]] * 2, atol=0.02)


def test_ascent_survives_a_gradient_that_is_lost():
    score = lambda sequences, key: -jnp.sqrt(sequences[:, :, 0] - sequences[:, :, 0]).sum(1)  # 0, of slope NaN
    planner = gradient_ascent(BOX, horizon=2, population=2, iterations=2)
    plan = planner.plan(score, planner.begin(), jax.random.key(0))
    assert np.isfinite(plan.warm).all()


def test_what_has_no_derivatives():
    discrete = EnvSpec("Choices", spaces.Box(-9, 9, (2,)), spaces.Discrete(2), spaces.Discrete(2))
    with pytest.raises(UsageError, match="iLQR moves actions by small amounts"):
        ilqr(PureEnv(discrete, linear().reset, linear().step), horizon=3, iterations=1)
    with pytest.raises(UsageError, match="Gradient planning moves actions"):
        gradient_ascent(spaces.Discrete(2), horizon=3, population=2, iterations=1)
    counting = PureEnv(SPEC, lambda key: (State(jnp.zeros(2, jnp.int32)), jnp.zeros(2)), linear().step)
    with pytest.raises(UsageError, match="Linear cannot be differentiated: its state holds no real numbers"):
        ilqr(counting, horizon=3, iterations=1)
    with pytest.raises(UsageError, match="horizon = 0"):
        ilqr(linear(), horizon=0, iterations=1)
