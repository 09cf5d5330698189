"""What an MDP refuses, how it is built, and that it is an environment with the right dynamics."""

import gymnasium
import jax
import numpy as np
import pytest
import scipy.sparse as sp

from steersman.errors import UsageError
from steersman.tabular.mdp import check_policy
from steersman.tabular.problems import classics
from steersman.tabular.problems.builders import from_arrays, from_gymnasium, from_successors, from_table, from_text
from steersman.tabular.problems.pairs import from_pairs


def good():
    return np.array([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]])


def test_bad_input_is_named():
    off = good()
    off[1, 0, 0] = 0.9
    with pytest.raises(
        UsageError, match=r"1 row does not sum to one; the worst, at s=1, a=0, sums to 0.9 \(off by -0.1\)"
    ):
        from_arrays(off, np.zeros(2), gamma=0.9)
    negative = good()
    negative[0, 1] = [-0.5, 1.5]
    with pytest.raises(UsageError, match=r"negative entries; the lowest, -0.5, is at s=0, a=1"):
        from_arrays(negative, np.zeros(2), gamma=0.9)
    nan = good()
    nan[1, 1, 0] = np.nan
    with pytest.raises(UsageError, match="NaN or infinite entries, first at s=1, a=1"):
        from_arrays(nan, np.zeros(2), gamma=0.9)
    with pytest.raises(UsageError, match=r"gamma must lie in \[0, 1\]; got 1.5"):
        from_arrays(good(), np.zeros(2), gamma=1.5)
    with pytest.raises(UsageError, match=r"gamma = 1 needs a terminal"):
        from_arrays(good(), np.zeros(2), gamma=1)
    stuck = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    with pytest.raises(UsageError, match="no terminal state can be reached from the start state 0"):
        from_arrays(stuck, np.zeros(2), gamma=1, terminal=[1])
    with pytest.raises(UsageError, match=r"reward at s=1, a=0 is inf"):
        from_arrays(good(), np.array([0.0, np.inf]), gamma=0.9)
    with pytest.raises(UsageError, match="State 1 is terminal but has reward 3"):
        from_arrays(good(), np.array([0.0, 3.0]), gamma=0.9, terminal=[1])
    with pytest.raises(UsageError, match=r"start \(rho_0\).*sums to 0.7"):
        from_arrays(good(), np.zeros(2), gamma=0.9, start=np.array([0.3, 0.4]))
    with pytest.raises(UsageError, match="lies on terminal states only"):
        from_arrays(good(), np.zeros(2), gamma=0.9, start=1, terminal=[1])
    with pytest.raises(UsageError, match=r"looks like \[A, S, S\]"):
        from_arrays(np.zeros((3, 2, 2)), np.zeros(2), gamma=0.9)
    with pytest.raises(UsageError, match=r"outside 0..1"):
        from_successors(np.full((2, 1, 1), 7), np.ones((2, 1, 1)), np.zeros(2), gamma=0.9)


def test_maps_are_checked():
    with pytest.raises(UsageError, match="line 1, column 2: unknown sign 'q'"):
        from_text("Sq")
    with pytest.raises(UsageError, match="no start"):
        from_text("..G")
    with pytest.raises(UsageError, match="line 2, column 1: no goal can be reached"):
        from_text(".#G\nS#.")
    with pytest.raises(UsageError, match="keeps no transition table"):
        from_gymnasium(gymnasium.make("Blackjack-v1"))
    with pytest.raises(UsageError, match="Did you mean random-walk"):
        classics.problem("randomwalk")


def test_dense_and_sparse_inputs_agree():
    rng = np.random.default_rng(0)
    p = rng.random((6, 2, 6)) * (rng.random((6, 2, 6)) < 0.5) + 1e-3 * np.eye(6)[:, None]
    p /= p.sum(-1, keepdims=True)
    r = rng.normal(size=(6, 2, 6))
    dense = from_arrays(p, r, gamma=0.9)
    sparse = from_arrays(sp.csr_matrix(p.reshape(12, 6)), sp.csr_matrix(r.reshape(12, 6)), gamma=0.9)
    per_action = [sp.csr_matrix(p[:, a]) for a in range(2)]
    listed = from_arrays(per_action, [sp.csr_matrix(r[:, a]) for a in range(2)], gamma=0.9)
    expected = (p * r).sum(-1)
    for mdp in (dense, sparse, listed):
        assert np.allclose(mdp.dense(), p)
        assert np.allclose(mdp.reward, expected)
    v = rng.normal(size=6)
    assert np.allclose(dense.lookahead(v), expected + 0.9 * p @ v)


def test_the_arrays_cannot_be_changed_behind_its_back():
    p = good()
    mdp = from_arrays(p, np.zeros(2), gamma=0.9)
    p[0] = 7.0
    assert mdp.probabilities.max() <= 1
    with pytest.raises(ValueError, match="read-only"):
        mdp.reward[0] = 1


def test_a_table_with_ends_on_transitions_gets_an_absorbing_state():
    table = {0: {0: [(0.5, 0, 1.0, True), (0.5, 0, 2.0, False)]}}
    mdp = from_table(table, gamma=0.5, start=np.array([1.0]))
    assert mdp.num_states == 2
    assert mdp.terminal.tolist() == [False, True]
    assert mdp.dense()[0, 0] == pytest.approx([0.5, 0.5])


def test_it_is_an_environment_with_the_tables_dynamics():
    mdp = classics.random_mdp(5, 2, 3, gamma=0.9, seed=1, terminals=1)
    keys = jax.random.split(jax.random.key(0), 20_000)
    step = jax.jit(jax.vmap(mdp.step, in_axes=(None, None, 0)))
    _, ts = step((np.int32(2), np.int32(0)), np.int32(1), keys)
    seen = np.bincount(ts.obs, minlength=5) / 20_000
    assert np.abs(seen - mdp.dense()[2, 1]).max() < 4 * 0.5 / np.sqrt(20_000)
    assert np.allclose(ts.reward, mdp.reward[2, 1])
    assert (np.asarray(ts.terminated) == (np.asarray(ts.obs) == 4)).all()
    assert ts.obs.dtype == np.int32
    assert ts.reward.dtype == np.float32
    _, first = jax.vmap(mdp.reset)(keys)
    assert set(np.unique(first)) == {0, 1, 2, 3}
    assert mdp.spec.action_space.n == 2


def test_the_clock_truncates_but_an_end_is_an_end():
    mdp = from_text("S.G", max_episode_steps=2)
    state, _ = mdp.reset(jax.random.key(0))
    state, ts = mdp.step(state, np.int32(3), jax.random.key(1))  # left: stays
    assert not ts.truncated
    _, late = mdp.step(state, np.int32(3), jax.random.key(1))
    assert late.truncated
    assert not late.terminated
    _, goal = mdp.step((np.int32(1), np.int32(1)), np.int32(1), jax.random.key(1))
    assert goal.terminated
    assert not goal.truncated
    assert goal.reward == 1


def test_float32_tables_are_scaled_to_one():
    logits = np.random.default_rng(0).normal(size=(6, 2, 6)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.abs(p.astype(np.float64).sum(-1) - 1).max() > 1e-8
    flat = sp.csr_matrix(p.reshape(12, 6))
    for mdp in (from_arrays(p, np.zeros(6), gamma=0.9), from_arrays(flat, np.zeros(6), gamma=0.9, start=p[0, 0])):
        assert mdp.probabilities.dtype == np.float64
        assert np.abs(mdp.probabilities.sum(-1) - 1).max() < 1e-15
        assert mdp.start.sum() == pytest.approx(1, abs=1e-15)
    assert np.abs(check_policy(mdp, p[:, 0, :2] / p[:, 0, :2].sum(-1, keepdims=True)).sum(-1) - 1).max() < 1e-15
    with pytest.raises(UsageError, match=r"do not sum to one.*float32\? Give them as that"):
        from_arrays(p.astype(np.float64), np.zeros(6), gamma=0.9)
    off = p.copy()
    off[2, 1] *= 1.001
    with pytest.raises(UsageError, match=r"at s=2, a=1, sums to 1.001"):
        from_arrays(off, np.zeros(6), gamma=0.9)


def test_pairs_that_are_not_listed_are_not_available():
    p = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    pairs = from_pairs([1, 0, 0], [0, 0, 1], p, [1.0, 2.0, 3.0], gamma=0.9, terminal=[2])
    assert pairs.available.tolist() == [[True, True], [True, False], [True, True]]
    assert pairs.dense()[:2].tolist() == [[p[1].tolist(), p[2].tolist()], [p[0].tolist(), [0, 1, 0]]]
    table = {0: {0: [(1.0, 2, 2.0, True)], 1: [(1.0, 0, 3.0, False)]}, 2: {0: [(1.0, 2, 0.0, True)]}}
    table[1] = {0: [(0.5, 0, 1.0, False), (0.5, 1, 1.0, False)], 1: []}
    listed = from_table(table, gamma=0.9, start=np.array([0.5, 0.5, 0.0]))
    assert (listed.available == pairs.available).all()
    assert np.allclose(listed.dense(), pairs.dense())
    assert np.allclose(listed.paid, pairs.paid)
    for where, said in [
        (([0, 0], [1, 1]), "state 0 and action 1 is listed 2 times"),
        (([0, 3], [1, 1]), r"states are 0..2"),
        (([0], [1, 1]), r"got \(1,\), \(2,\)"),
    ]:
        with pytest.raises(UsageError, match=said):
            from_pairs(*where, p[:2], [0.0, 0.0], gamma=0.9)


def test_rewards_that_are_no_numbers_and_states_without_an_action():
    loops = np.repeat(np.eye(2)[:, None], 2, 1)
    with pytest.raises(UsageError, match=r"State 1 has no action: all its rewards are -inf.*terminal=\[1\]"):
        from_arrays(loops, [[0.0, 0.0], [-np.inf, -np.inf]], gamma=0.9)
    ended = from_arrays(loops, [[0.0, 0.0], [-np.inf, -np.inf]], gamma=0.9, terminal=[1])
    assert ended.reward[1].tolist() == [0, 0]
    for bad in (np.nan, np.inf):
        with pytest.raises(UsageError, match=f"s=0, a=1 is {bad}"):
            from_arrays(loops, [[0.0, bad], [0.0, 0.0]], gamma=0.9)
    with pytest.raises(UsageError, match=r"not available there\? Then give it the reward -inf"):
        from_arrays(loops * [[[1], [0]]], np.zeros(2), gamma=0.9)
    with pytest.raises(UsageError, match=r"State 1 is terminal but has reward 7"):
        from_arrays(loops, [[0.0, 0.0], [0.0, 7.0]], gamma=0.9, terminal=[1])
    by_outcome = np.where(np.arange(2)[:, None] == 1, -np.inf, 1.0) * np.ones((2, 2, 2))
    assert from_arrays(loops, by_outcome, gamma=0.9).available.tolist() == [[True, False]] * 2
