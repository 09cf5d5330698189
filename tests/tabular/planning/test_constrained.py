"""The LP over occupancy measures and the Lagrangian against each other and against hand arithmetic."""

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.tabular.planning.constrained import ConstrainedMDP, lagrangian, solve_constrained
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.planning.objectives import start_value
from steersman.tabular.problems import classics
from steersman.tabular.problems.builders import from_arrays, from_text


def gridworld(limit):
    """A short way through mud (a cost of 1 a cell), a long way round."""
    mdp = from_text("S...G\n.....\n.....", gamma=0.95, slip=0.1, step_reward=-0.02)
    mud = np.zeros((1, mdp.num_states, mdp.num_actions))
    mud[0, 1:4] = 1.0
    return ConstrainedMDP(mdp, mud, np.array([limit]))


def test_one_state_by_hand():
    """Reward 1 and cost 1, or neither: with limit 0.3 / (1 - gamma), mix 30 to 70."""
    mdp = from_arrays(np.ones((1, 2, 1)), [[0.0, 1.0]], gamma=0.9)
    found = solve_constrained(ConstrainedMDP(mdp, np.array([[[0.0, 1.0]]]), np.array([3.0])))
    assert found.policy[0] == pytest.approx([0.7, 0.3])
    assert found.value == pytest.approx(3)
    assert found.multipliers == pytest.approx([1.0])
    assert found.gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("limit", [0.2, 0.5, 100.0])
def test_lagrangian_meets_the_linear_program(limit):
    problem = gridworld(limit)
    exact, dual = solve_constrained(problem), lagrangian(problem)
    assert abs(dual.value - exact.value) < 1e-3
    assert dual.violation < 1e-6
    assert dual.gap < 1e-4
    assert dual.dual >= exact.value - 1e-8
    assert exact.costs[0] <= limit + 1e-8
    # The policy is worth what its occupancy says.
    assert start_value(problem.mdp, dual.policy) == pytest.approx(dual.value, abs=1e-8)
    assert start_value(problem.mdp, exact.policy) == pytest.approx(exact.value, abs=1e-8)
    if limit == 100:
        assert exact.value == pytest.approx(problem.mdp.start @ value_iteration(problem.mdp).value)
        assert exact.multipliers[0] == pytest.approx(0)
    else:
        assert exact.costs[0] == pytest.approx(limit)
        assert exact.multipliers[0] > 0


def test_two_constraints():
    mdp = classics.random_mdp(8, 3, 3, gamma=0.9, seed=5)
    costs = np.random.default_rng(0).random((2, 8, 3))
    problem = ConstrainedMDP(mdp, costs, np.array([4.0, 4.5]))
    exact, dual = solve_constrained(problem), lagrangian(problem)
    assert exact.gap == pytest.approx(0, abs=1e-8)
    assert abs(dual.value - exact.value) < 1e-5
    assert dual.violation < 1e-6


def test_infeasible_says_the_least_cost():
    mdp = from_arrays(np.ones((1, 2, 1)), [[0.0, 1.0]], gamma=0.9)
    problem = ConstrainedMDP(mdp, np.array([[[0.5, 1.0]]]), np.array([3.0]))
    with pytest.raises(
        UsageError, match="Infeasible: cost 0 must stay below 3, but the least that any policy can have is 5"
    ):
        solve_constrained(problem)
    with pytest.raises(UsageError, match="Infeasible"):
        lagrangian(problem)


def test_shapes_are_checked():
    mdp = classics.gridworld_4x4(gamma=0.9)
    with pytest.raises(UsageError, match=r"costs must be \[C, S, A\]"):
        ConstrainedMDP(mdp, np.zeros((16, 4)), np.zeros(1))
    with pytest.raises(UsageError, match="terminal state has a cost"):
        ConstrainedMDP(mdp, np.ones((1, 16, 4)), np.ones(1))


def test_actions_that_are_not_available_are_left_out():
    """A third action, free and better than the two, would be taken if it were there."""
    mdp = from_arrays(np.ones((1, 3, 1)), [[0.0, 1.0, -np.inf]], gamma=0.9)
    problem = ConstrainedMDP(mdp, np.array([[[0.0, 1.0, 0.0]]]), np.array([3.0]))
    for solve in (solve_constrained, lagrangian):
        found = solve(problem)
        assert found.policy[0] == pytest.approx([0.7, 0.3, 0.0])
        assert found.value == pytest.approx(3)
