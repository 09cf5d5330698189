"""Planners against each other, against their own bounds, and against textbook values."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.errors import UsageError
from steersman.tabular.planning import sweeps
from steersman.tabular.planning.asynchronous import gauss_seidel, prioritized_sweeping
from steersman.tabular.planning.criteria import average_reward, finite_horizon, linear_program, restarting
from steersman.tabular.planning.dynamic_programming import (
    evaluate,
    modified_policy_iteration,
    policy_iteration,
    value_iteration,
)
from steersman.tabular.problems import classics
from steersman.tabular.problems.builders import from_arrays, from_gymnasium, from_text

PLANNERS = [
    value_iteration,
    modified_policy_iteration,
    policy_iteration,
    gauss_seidel,
    prioritized_sweeping,
    linear_program,
]


def uniform(mdp):
    return np.full((mdp.num_states, mdp.num_actions), 1 / mdp.num_actions)


@pytest.mark.parametrize("plan", PLANNERS)
@pytest.mark.parametrize("width", [None, 3])
@pytest.mark.parametrize("terminals", [0, 2])
def test_planners_agree(plan, width, terminals):
    mdp = classics.random_mdp(30, 3, width, gamma=0.9, seed=terminals, terminals=terminals)
    exact = policy_iteration(mdp)
    found = plan(mdp, tol=1e-9)
    assert found.converged
    assert np.abs(found.value - exact.value).max() < 1e-8
    lost = exact.value - evaluate(mdp, found.policy).value
    assert lost.max() <= found.loss + exact.bound


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gamma=st.floats(0.0, 0.97),
    sweeps=st.integers(0, 6),
    tol=st.sampled_from([1.0, 1e-2, 1e-6]),
)
def test_the_bound_holds(seed, gamma, sweeps, tol):
    mdp = classics.random_mdp(12, 2, 2, gamma=gamma, seed=seed, terminals=seed % 2)
    truth = policy_iteration(mdp)
    found = modified_policy_iteration(mdp, tol=tol, sweeps=sweeps)
    assert np.abs(found.value - truth.value).max() <= found.bound + truth.bound
    assert found.bound <= tol


def test_a_tolerance_below_rounding_ends_and_says_so():
    found = value_iteration(classics.random_mdp(20, 2, 3, gamma=0.999), tol=1e-16)
    assert not found.converged
    assert 1e-16 < found.bound < 1e-8


@pytest.mark.parametrize("method", ["direct", "iterative"])
def test_evaluation_matches_example_4_1(method):
    mdp = classics.gridworld_4x4()
    answer = evaluate(mdp, uniform(mdp), method=method)
    table = [
        [0, -14, -20, -22],
        [-14, -18, -20, -20],
        [-20, -20, -18, -14],
        [-22, -20, -14, 0],
    ]  # figure 4.1, k = infinity
    assert np.abs(answer.value.reshape(4, 4) - table).max() <= answer.bound + 1e-12 < 1e-9


def test_gridworld_of_example_3_5_and_3_8():
    mdp = classics.gridworld_5x5()
    random = evaluate(mdp, uniform(mdp)).value.reshape(5, 5)
    best = value_iteration(mdp).value.reshape(5, 5)
    assert random[0].round(1).tolist() == [3.3, 8.8, 4.4, 5.3, 1.5]  # figure 3.2
    assert best[0].round(1).tolist() == [22.0, 24.4, 22.0, 19.4, 17.5]  # figure 3.5
    assert best[4].round(1).tolist() == [14.4, 16.0, 14.4, 13.0, 11.7]


def test_random_walk_values_are_linear():
    assert np.allclose(
        evaluate(classics.random_walk(5, left_reward=0), np.zeros(7, int)).value[1:6], np.arange(1, 6) / 6
    )
    assert np.allclose(evaluate(classics.random_walk(), np.zeros(21, int)).value[1:20], np.arange(-9, 10) / 10)


def test_gambler_keeps_to_the_known_values():
    value = value_iteration(classics.gamblers_problem()).value
    assert value[[25, 50, 75]] == pytest.approx([0.16, 0.4, 0.64], abs=1e-8)  # 0.4^2, 0.4, 0.4 + 0.6 * 0.4


def test_russell_and_norvigs_world():
    value = value_iteration(classics.russell_norvig()).value
    book = [
        0.812,
        0.868,
        0.918,
        0.762,
        0.660,
        0.705,
        0.655,
        0.611,
        0.388,
    ]  # third edition, figure 17.3, by row from the top
    # The book counts the reward of the state one leaves and of the end itself; entering an end here pays it without
    # the step.
    shown = value[[0, 1, 2, 4, 5, 7, 8, 9, 10]] - 0.04
    assert np.abs(shown - book).max() < 6e-4


def test_windy_gridworld_takes_15_steps_and_the_dyna_maze_14():
    assert value_iteration(classics.windy_gridworld()).value[30] == pytest.approx(-15)
    maze = classics.dyna_maze()
    assert maze.start @ value_iteration(maze).value == pytest.approx(0.95**13)


def test_car_rental_policy_is_the_books():
    mdp = classics.car_rental()
    policy = policy_iteration(mdp).policy.reshape(21, 21) - 5
    assert policy.min() == -4
    assert policy.max() == 5
    assert policy[20, 0] == 5  # a full first lot sends as many as may go
    assert policy[0, 0] == 0
    assert (np.diff(policy, axis=0) >= 0).all()  # more cars here, never fewer sent


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"])
def test_gymnasium_tables_give_their_values(name):
    mdp = from_gymnasium(name, gamma=0.99)
    value = float(mdp.start @ value_iteration(mdp).value)
    if name == "FrozenLake-v1":
        assert value == pytest.approx(0.5420, abs=1e-4)  # 4 x 4, slippery, gamma 0.99
    elif name == "CliffWalking-v1":
        assert value == pytest.approx(-(1 - 0.99**13) / 0.01)  # 13 steps of -1
    else:
        assert evaluate(mdp, policy_iteration(mdp).policy).value @ mdp.start == pytest.approx(value)


@pytest.mark.parametrize("terminals", [0, 40])
def test_blocks_and_threads_do_not_change_the_answer(monkeypatch, terminals):
    mdp = classics.random_mdp(3_001, 4, 5, gamma=0.95, seed=3, terminals=terminals)
    whole = value_iteration(mdp, tol=1e-10)
    monkeypatch.setattr(sweeps, "BLOCK", 7_000)
    monkeypatch.setattr(sweeps, "NARROW_BLOCK", 2_000)
    pool = ThreadPoolExecutor(3)
    monkeypatch.setattr(sweeps, "_threads", lambda: (3, pool))
    found = value_iteration(mdp, tol=1e-10)
    again = modified_policy_iteration(mdp, tol=1e-10)
    assert (found.value == whole.value).all()
    assert again.value.dtype == np.float64  # float32 is for corrections only
    assert np.abs(found.value - again.value).max() <= 1e-9
    assert again.converged
    assert again.iterations < found.iterations / 2
    q = mdp.lookahead(found.value)
    assert np.abs(q.max(-1) - found.value).max() < 1e-10
    assert (q.max(-1) - q[np.arange(3_001), again.policy]).max() < 1e-9


def test_modified_policy_iteration_on_a_maze():
    """A chain that mixes slowly, ends, and has walls: corrections travel far."""
    rng = np.random.default_rng(1)
    rows = ["".join("#" if rng.random() < 0.2 else "." for _ in range(40)) for _ in range(40)]
    rows[0], rows[-1] = "S" + "." * 39, "." * 39 + "G"
    maze = from_text("\n".join(rows), gamma=0.99, slip=0.2, step_reward=-0.01)
    found = modified_policy_iteration(maze, tol=1e-9)
    assert found.converged
    assert np.abs(found.value - policy_iteration(maze).value).max() < 1e-8
    assert found.iterations < value_iteration(maze, tol=1e-9).iterations / 3


def test_finite_horizon_is_value_iteration_stopped():
    mdp = classics.random_mdp(15, 3, 4, gamma=0.9)
    plan = finite_horizon(mdp, 400)
    assert np.abs(plan.value[0] - value_iteration(mdp).value).max() < 1e-8
    assert np.allclose(plan.value[399], mdp.reward.max(-1))
    undiscounted = finite_horizon(mdp, 2, gamma=1.0, final=np.ones(15))
    assert np.allclose(undiscounted.value[1], mdp.reward.max(-1) + 1)


def test_average_reward_brackets_the_gain():
    # Two states; staying in 0 pays 1, moving to 1 pays 0, and 1 pays 5 on its way back: the loop earns 2.5 a step.
    p = np.array([[[1.0, 0], [0, 1.0]], [[1.0, 0], [1.0, 0]]])
    plan = average_reward(from_arrays(p, [[1.0, 0.0], [5.0, 5.0]], gamma=0.9))
    assert plan.converged
    assert abs(plan.gain - 2.5) <= plan.bound
    assert plan.policy[0] == 1
    walk = average_reward(restarting(classics.dyna_maze()))
    assert walk.gain == pytest.approx(1 / 14, abs=1e-7)


def test_improper_policies_and_endless_tasks_are_refused():
    mdp = classics.gridworld_4x4()
    with pytest.raises(UsageError, match="never reaches an end from state"):
        evaluate(mdp, np.zeros(16, int))
    with pytest.raises(UsageError, match="average reward is 0"):
        average_reward(mdp)


def test_no_bound_is_claimed_where_none_can_be_shown():
    lake = from_gymnasium("FrozenLake-v1", gamma=1.0)  # walking into the wall for ever costs nothing
    found = value_iteration(lake)
    assert np.isinf(found.bound)
    assert not found.converged
    assert lake.start @ found.value == pytest.approx(14 / 17)  # solved by hand: Delta. 0.8235
    assert lake.start @ evaluate(lake, found.policy).value == pytest.approx(14 / 17)


def test_text_map_slips_to_the_sides():
    mdp = from_text("S.G", slip=0.5)
    assert mdp.num_states == 3
    assert mdp.dense()[0, 1] == pytest.approx(
        [0.5, 0.5, 0]
    )  # right: half forward, a quarter up and down into the walls


def with_gaps(width, terminals, gamma=0.9):
    """(an MDP in which some actions are not available, its twin where those do what another one there does)."""
    full = classics.random_mdp(12, 3, width, gamma=gamma, seed=5, terminals=terminals)
    gaps = np.random.default_rng(0).random((12, 3)) < 0.5
    gaps[np.arange(12), np.arange(12) % 3] = False
    gaps[full.terminal] = False
    stand_in = np.where(gaps, np.arange(12)[:, None] % 3, np.arange(3))
    rows, p = np.arange(12)[:, None], full.dense()
    ends = np.flatnonzero(full.terminal)
    twin = from_arrays(p[rows, stand_in], full.reward[rows, stand_in], gamma=gamma, terminal=ends)
    p[gaps] = 0.0  # what the table says of them does not matter
    return from_arrays(p, np.where(gaps, -np.inf, full.reward), gamma=gamma, terminal=ends), twin, gaps


@pytest.mark.parametrize("width", [None, 3])
@pytest.mark.parametrize("terminals", [0, 2])
def test_actions_that_are_not_available_are_never_taken(width, terminals):
    mdp, twin, gaps = with_gaps(width, terminals)
    assert gaps.any()
    assert (mdp.available == ~gaps).all()
    assert mdp.is_dense == (width is None and not terminals)
    for plan in PLANNERS:
        found, exact = plan(mdp, tol=1e-9), plan(twin, tol=1e-9)
        assert found.converged, found.method
        assert not gaps[np.arange(12), found.policy].any(), found.method
        assert np.abs(found.value - exact.value).max() < 1e-8, found.method
        q = evaluate(mdp, found.policy).q
        assert (np.isneginf(q) == gaps).all()
    horizon = finite_horizon(mdp, 4)
    assert np.allclose(horizon.value, finite_horizon(twin, 4).value)
    assert horizon.bound < 1e-9
    mixed = mdp.available / mdp.available.sum(-1, keepdims=True)
    assert np.isfinite(evaluate(mdp, mixed).value).all()
    with pytest.raises(UsageError, match=r"action \d in state \d+, which is not available"):
        evaluate(mdp, uniform(mdp))
    if not terminals:
        gain = average_reward(mdp)
        assert abs(gain.gain - average_reward(twin).gain) <= gain.bound + 1e-8


def test_with_gamma_1_an_action_that_is_not_available_shows_no_way_out():
    p = np.zeros((3, 2, 3))
    p[0, 0, 1] = p[1, 0, 0] = p[1, 1, 2] = p[0, 1, 2] = 1.0
    ends = {"gamma": 1.0, "terminal": [2]}
    found = value_iteration(from_arrays(p, [[-1.0, -np.inf], [-1.0, -1.0], [0.0, 0.0]], **ends))
    assert found.value == pytest.approx([-2, -1, 0])
    assert found.converged
    with pytest.raises(UsageError, match="no terminal state can be reached from the start state 0"):
        from_arrays(p, [[-1.0, -np.inf], [-1.0, -np.inf], [0.0, 0.0]], start=0, **ends)


LOOPS = {
    "staying is free": ([[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1]]], [[0, -1], [0, -3]], [-1, -3]),
    "a round trip is free": ([[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]], [[0, -1], [0, -3]], [-1, -1]),
    "all is free": ([[[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]]], [[0, 0], [0, 0]], [0, 0]),
    "a round trip costs and pays": ([[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]], [[2, -1], [-2, -9]], [-1, -3]),
}


@pytest.mark.parametrize("name", LOOPS)
def test_with_gamma_1_and_loops_that_pay_nothing_planners_agree(name):
    """For ever in the loop is worth 0, and is no policy that ends: the answer is the best of those that do."""
    transitions, rewards, value = LOOPS[name]
    mdp = from_arrays([*transitions, [[0, 0, 1]] * 2], [*rewards, [0, 0]], gamma=1.0, terminal=[2])
    for plan in PLANNERS:
        found = plan(mdp)
        assert found.value == pytest.approx([*value, 0]), found.method
        assert evaluate(mdp, found.policy).value == pytest.approx([*value, 0]), found.method


def test_a_value_iteration_that_was_cut_short_is_left_as_it_is():
    cut = value_iteration(classics.gridworld_4x4(), max_sweeps=1)
    assert cut.value.min() == -1
    assert cut.iterations == 1


def test_the_average_reward_of_parts_that_cannot_reach_each_other_is_refused():
    two_loops, trap = np.eye(2)[:, None], np.zeros((3, 2, 3))
    trap[0, 0, 0] = trap[0, 1, 1] = trap[2, 0, 0] = trap[2, 1, 1] = trap[1, :, 1] = 1
    for p, r in [(two_loops, [[1.0], [0.0]]), (trap, [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])]:
        with pytest.raises(UsageError, match="about 1 a step from state 0, 0 from state 1"):
            average_reward(from_arrays(p, np.array(r), gamma=0.9))
    same = average_reward(from_arrays(two_loops, [[1.0], [1.0]], gamma=0.9))  # apart, but as good as each other
    assert (same.gain, same.converged) == (1.0, True)
    rare = from_arrays([[[1 - 1e-6, 1e-6]], [[1e-6, 1 - 1e-6]]], [[1.0], [0.0]], gamma=0.9)
    slow = average_reward(rare, max_sweeps=2500)  # it mixes, in a million steps
    assert not slow.converged
    assert abs(slow.gain - 0.5) <= slow.bound
    passing = np.array([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])  # state 0 is left for good
    assert average_reward(from_arrays(passing, [[9.0], [1.0], [0.0]], gamma=0.9)).gain == pytest.approx(0.5)
