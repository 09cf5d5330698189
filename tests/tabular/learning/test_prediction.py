"""Prediction: each method by hand or against another, and all of them against the exact values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.tabular.learning import prediction as pr
from steersman.tabular.learning.episodes import Episodes, sample_episodes
from steersman.tabular.planning.dynamic_programming import evaluate
from steersman.tabular.problems import classics

GAMMA = 0.9


@pytest.fixture(scope="module")
def mdp():
    return classics.random_mdp(6, 2, 3, gamma=GAMMA, seed=2, terminals=1)


@pytest.fixture(scope="module")
def policy():
    return np.random.default_rng(0).dirichlet(np.ones(2), 6)


@pytest.fixture(scope="module")
def episodes(mdp, policy):
    return sample_episodes(mdp, policy, jax.random.key(3), 12, max_steps=40)


def walk(states, rewards):
    t = len(rewards)
    ended = jnp.arange(t) == t - 1
    return Episodes(
        jnp.array([states], jnp.int32), jnp.zeros((1, t), jnp.int32), jnp.array([rewards], jnp.float32), ended[None],
        jnp.ones((1, t), bool),
    )  # fmt: skip


def test_episodes_follow_the_policy_and_the_table(mdp, policy):
    e = sample_episodes(mdp, policy, jax.random.key(0), 1000, max_steps=30)
    s, a, after = (np.asarray(x)[np.asarray(e.valid)] for x in (e.state[:, :-1], e.action, e.state[:, 1:]))
    at = s == 1
    assert abs(a[at].mean() - policy[1, 1]) < 4 * 0.5 / np.sqrt(at.sum())
    chosen = at & (a == 0)
    seen = np.bincount(after[chosen], minlength=6) / chosen.sum()
    assert np.abs(seen - mdp.dense()[1, 0]).max() < 4 * 0.5 / np.sqrt(chosen.sum())
    assert (np.asarray(e.terminated).sum(-1) <= 1).all()


def test_n_step_by_hand():
    e = walk([0, 1, 0, 2], [1.0, 2.0, 4.0])  # 2 is terminal; alpha 1/2, gamma 1/2, V = (0, 8, 0) at first
    v0 = jnp.array([0.0, 8.0, 0.0])
    # n = 2: t=0: 1 + 2/2 + V(0)/4 = 2 -> V(0) = 1.  t=1: 2 + 4/2 = 4 -> V(1) = 6.  t=2: 4 -> V(0) = 2.5.
    assert pr.n_step_td(e, v0, 0.5, 0.5, n=2)[0] == pytest.approx([2.5, 6.0, 0.0])
    # n = 1: t=0: 1 + 8/2 = 5 -> 2.5.  t=1: 2 + 2.5/2 = 3.25 -> 5.625.  t=2: 4 -> 3.25.
    assert pr.td0(e, v0, 0.5, 0.5)[0] == pytest.approx([3.25, 5.625, 0.0])


def test_a_cut_episode_bootstraps():
    e = walk([0, 1], [1.0])._replace(terminated=jnp.zeros((1, 1), bool))
    v0 = jnp.array([0.0, 10.0])
    for f in (
        partial(pr.td0),
        partial(pr.n_step_td, n=5),
        partial(pr.lambda_return, lambda_=1.0),
        partial(pr.td_lambda, lambda_=1.0),
    ):
        assert f(e, v0, 1.0, 0.5)[0][0] == pytest.approx(6.0)


def test_first_and_every_visit_by_hand():
    e = walk([0, 0, 1], [1.0, 1.0])  # returns 2 and 1 (gamma 1)
    zeros = jnp.zeros(2)
    assert pr.monte_carlo(e, zeros, None, 1.0)[0][0] == pytest.approx(2.0)
    assert pr.monte_carlo(e, zeros, None, 1.0, first_visit=False)[0][0] == pytest.approx(1.5)


def test_reductions(episodes):
    v0 = jnp.linspace(0.0, 1.0, 6).at[5].set(0.0)
    td = pr.td0(episodes, v0, 0.1, GAMMA)
    assert np.allclose(pr.td_lambda(episodes, v0, 0.1, GAMMA, 0.0), td, atol=1e-6)
    assert np.allclose(pr.true_online_td_lambda(episodes, v0, 0.1, GAMMA, 0.0), td, atol=1e-6)
    ended = Episodes(*(x[np.asarray(episodes.terminated).any(-1)] for x in episodes))
    mc = pr.monte_carlo(ended, v0, 0.1, GAMMA, first_visit=False)
    assert np.allclose(pr.lambda_return(ended, v0, 0.1, GAMMA, 1.0), mc, atol=1e-6)
    assert np.allclose(pr.n_step_td(ended, v0, 0.1, GAMMA, n=1000), mc, atol=1e-6)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.9, 1.0])
def test_forward_view_is_backward_view_offline(episodes, lambda_):
    v0 = jnp.linspace(0.0, 1.0, 6).at[5].set(0.0)
    forward = pr.lambda_return(episodes, v0, 0.05, GAMMA, lambda_, batch=True)
    backward = pr.td_lambda(episodes, v0, 0.05, GAMMA, lambda_, offline=True)
    assert np.allclose(forward, backward, atol=2e-6)
    assert not np.allclose(forward, np.broadcast_to(v0, forward.shape), atol=1e-2)


def test_true_online_is_the_online_lambda_return(episodes):
    """Its definition, by brute force: after step t, redo the episode with lambda-returns cut at t + 1."""
    alpha, lam = 0.3, 0.8
    e = Episodes(*(np.asarray(x)[0] for x in episodes))
    v0 = np.linspace(0.0, 1.0, 6)
    v0[5] = 0.0
    heads = [v0.copy()]  # heads[t][s]: the weights after horizon t
    for h in range(1, int(e.valid.sum()) + 1):
        w = v0.copy()
        for t in range(h):
            g, total, weight = 0.0, 0.0, 1.0
            for n in range(1, h - t + 1):
                g += GAMMA ** (n - 1) * e.reward[t + n - 1]
                boot = 0.0 if e.terminated[t + n - 1] else GAMMA**n * heads[t + n - 1][e.state[t + n]]
                share = weight if n == h - t else weight * (1 - lam)
                total, weight = total + share * (g + boot), weight * lam
            w[e.state[t]] += alpha * (total - w[e.state[t]])
        heads.append(w)
    found = pr.true_online_td_lambda(Episodes(*(x[:1] for x in episodes)), v0, alpha, GAMMA, lam)[0]
    assert found == pytest.approx(heads[-1], abs=1e-5)


def test_traces_differ_on_a_revisit_only():
    again, once = walk([0, 0, 1, 2], [1.0, 1.0, 1.0]), walk([0, 1, 2], [1.0, 1.0])
    run = lambda e, trace: np.asarray(pr.td_lambda(e, jnp.zeros(3), 0.5, 1.0, 0.9, trace=trace)[0])
    assert np.allclose(run(once, "accumulating"), run(once, "replacing"))
    # State 0: deltas 1 + 0 - 0, 1 + 0 - 0.5, 1, and its trace 1, then 1 | 1.9 | 0.9 + 1 - 0.45, then 0.9 of that.
    assert run(again, "replacing")[0] == pytest.approx(0.5 + 0.25 + 0.5 * 0.9)
    assert run(again, "accumulating")[0] == pytest.approx(0.5 + 0.25 * 1.9 + 0.5 * 1.71)
    assert run(again, "dutch")[0] == pytest.approx(0.5 + 0.25 * 1.45 + 0.5 * 1.305)
    with pytest.raises(UsageError, match="No trace is called 'replace'"):
        run(once, "replace")


def test_all_converge_to_the_exact_value(mdp, policy):
    e = sample_episodes(mdp, policy, jax.random.key(5), 1500, max_steps=100)
    truth = evaluate(mdp, policy).value
    zeros = jnp.zeros(6)
    late = slice(500, None)
    methods = {
        "mc": lambda: pr.monte_carlo(e, zeros, None, GAMMA)[-1],
        "td": lambda: pr.td0(e, zeros, 0.02, GAMMA)[late].mean(0),
        "n-step": lambda: pr.n_step_td(e, zeros, 0.02, GAMMA, n=4)[late].mean(0),
        "true online": lambda: pr.true_online_td_lambda(e, zeros, 0.02, GAMMA, 0.8)[late].mean(0),
        "replacing": lambda: pr.td_lambda(e, zeros, 0.01, GAMMA, 0.8, trace="replacing")[late].mean(0),
    }
    for name, f in methods.items():
        assert np.abs(np.asarray(jax.jit(f)()) - truth).max() < 0.15, name


def test_importance_sampling_by_hand_and_on_a_bandit():
    # Behaviour 1/2 each, target always action 0. Returns 3 (actions 0, 0: rho 4, then 2) and 5 (action 1: rho 0).
    e = Episodes(
        jnp.array([[0, 1, 2], [0, 2, 2]], jnp.int32), jnp.array([[0, 0], [1, 0]], jnp.int32),
        jnp.array([[1.0, 2.0], [5.0, 0.0]]), jnp.array([[False, True], [True, False]]),
        jnp.array([[True, True], [True, False]]),
    )  # fmt: skip
    target, behaviour = np.tile([1.0, 0.0], (3, 1)), np.full((3, 2), 0.5)
    weighted = pr.importance_sampling(e, target, behaviour, 1.0)
    ordinary = pr.importance_sampling(e, target, behaviour, 1.0, weighted=False)
    assert weighted[1] == pytest.approx([3.0, 2.0, 0.0])
    assert ordinary[1] == pytest.approx([4 * 3 / 2, 2 * 2, 0.0])
    bandit = classics.from_arrays(
        [[[0, 1.0]] * 2, [[0, 1.0]] * 2], [[1.0, 0.0], [0.0, 0.0]], gamma=1.0, start=0, terminal=[1]
    )
    likes_first = np.tile([0.9, 0.1], (2, 1))
    many = sample_episodes(bandit, np.full((2, 2), 0.5), jax.random.key(1), 2000, max_steps=1)
    for kind in (True, False):
        found = pr.importance_sampling(many, likes_first, np.full((2, 2), 0.5), 1.0, weighted=kind)[-1]
        assert found[0] == pytest.approx(0.9, abs=4 * 0.9 / np.sqrt(2000))


def test_vmaps_over_step_sizes(episodes):
    alphas = jnp.array([0.05, 0.4])
    both = jax.vmap(lambda a: pr.td_lambda(episodes, jnp.zeros(6), a, GAMMA, 0.5))(alphas)
    assert np.allclose(both[1], pr.td_lambda(episodes, jnp.zeros(6), 0.4, GAMMA, 0.5), atol=1e-6)
