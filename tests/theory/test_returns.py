"""Returns: golden values by hand, the forward view written out, and how the estimators reduce to each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.errors import UsageError
from steersman.theory import returns, values

T, B = 9, 4
GAMMA, LAMBDA = 0.9, 0.8


def f32(*xs):
    return jnp.array(xs, jnp.float32)


def rollout(seed, p_end=0.25):
    """Numpy arrays [T, B] whose v_t is v_tm1 of the next row inside an episode and something else at its end."""
    rng = np.random.default_rng(seed)
    normal = lambda: rng.normal(size=(T, B)).astype(np.float32)
    terminated, truncated = rng.random((2, T, B)) < p_end / 2
    v_tm1, v_t, final = normal(), normal(), normal()
    v_t[:-1] = np.where(terminated[:-1] | truncated[:-1], final[:-1], v_tm1[1:])
    rho = np.exp(normal())
    return {
        "r": normal(), "terminated": terminated, "truncated": truncated, "v_tm1": v_tm1, "v_t": v_t, "rho": rho
    }  # fmt: skip


@jax.jit
def everything(d, lambda_):
    """Every estimator on one rollout, compiled once."""
    r, v_tm1, v_t, one = d["r"], d["v_tm1"], d["v_t"], jnp.ones((T, B))
    discount_t = returns.discounts(d["terminated"], GAMMA)
    lambda_t, cut = returns.trace_decays(d["truncated"], lambda_), returns.trace_decays(d["truncated"], 1.0)
    off = returns.vtrace(r, discount_t, d["rho"], v_tm1, v_t, lambda_t, clip_rho=1.5, clip_c=1.2, clip_pg_rho=0.9)
    on = returns.vtrace(r, discount_t, one, v_tm1, v_t, lambda_t)
    return {
        "lambda": returns.lambda_returns(r, discount_t, v_t, lambda_t),
        "monte_carlo": returns.discounted_returns(r, discount_t, v_t, cut),
        "gae": returns.gae(r, discount_t, v_tm1, v_t, lambda_t),
        "td_error": values.td_error(v_tm1, r, discount_t, v_t),
        "n1": returns.n_step_returns(r, discount_t, v_t, 1, cut),
        "n3": returns.n_step_returns(r, discount_t, v_t, 3, cut),
        "n_all": returns.n_step_returns(r, discount_t, v_t, T + 5, cut),
        "n_all_lambda": returns.n_step_returns(r, discount_t, v_t, T, lambda_t),
        "vs": off.vs,
        "pg": off.pg_advantage,
        "vs_on": on.vs,
        "pg_on": on.pg_advantage,
        "retrace": returns.retrace(r, discount_t, d["rho"], v_tm1, v_t, lambda_t),
        "retrace_on": returns.retrace(r, discount_t, one, v_tm1, v_t, lambda_t),
        "to_go": returns.finite_horizon_returns(r, returns.discounts(d["terminated"] | d["truncated"], 1.0)),
    }


@functools.cache
def all_of(seed, lambda_=LAMBDA):
    d = rollout(seed)
    return d, {k: np.asarray(v) for k, v in everything(d, jnp.float32(lambda_)).items()}


def episode_end(d, t, b):
    """The index of the last row of the episode that row t of column b is in."""
    ended = d["terminated"][t:, b] | d["truncated"][t:, b]
    return t + int(np.argmax(ended)) if ended.any() else T - 1


def n_step(d, t, b, n):
    """n rewards of the episode and a bootstrap, written out; fewer at the episode's end."""
    end = min(t + n - 1, episode_end(d, t, b))
    g = sum(GAMMA ** (k - t) * d["r"][k, b] for k in range(t, end + 1))
    return g + GAMMA ** (end - t + 1) * (1 - d["terminated"][end, b]) * d["v_t"][end, b]


# By hand: gamma = lambda = 1/2; one episode ends by termination at row 1, the next is cut by the clock at row 2.
HAND = {
    "r_t": f32(1, 2, 3, 4),
    "discount_t": returns.discounts(np.array([False, True, False, False]), 0.5),
    "lambda_t": returns.trace_decays(np.array([False, False, True, False]), 0.5),
    "v_t": f32(10, 99, 20, 30),
}


def test_lambda_returns_by_hand():
    # 4 + 15; 3 + 10; 2; 1 + (10 + 2) / 4
    np.testing.assert_array_equal(returns.lambda_returns(**HAND), [4, 2, 13, 19])


def test_gae_by_hand():
    advantage = returns.gae(v_tm1=f32(1, 10, 5, 6), **HAND)
    np.testing.assert_array_equal(advantage, [3, -8, 8, 13])


def test_discounted_returns_by_hand():
    g = returns.discounted_returns(HAND["r_t"], HAND["discount_t"])
    np.testing.assert_array_equal(g, [2, 2, 5, 4])  # the clock's cut is not marked: row 2 goes on into row 3
    g = returns.discounted_returns(HAND["r_t"], HAND["discount_t"], HAND["v_t"], f32(1, 1, 0, 1))
    np.testing.assert_array_equal(g, [2, 2, 13, 19])


def test_finite_horizon_returns_by_hand():
    np.testing.assert_array_equal(returns.finite_horizon_returns(f32(1, 2, 3, 4), f32(1, 0, 1, 1)), [3, 2, 7, 4])
    np.testing.assert_array_equal(returns.finite_horizon_returns(f32(1, 2, 3, 4)), [10, 9, 7, 4])


def test_n_step_returns_by_hand():
    one, v_t = jnp.ones(5), f32(2, 4, 6, 8, 10)
    cut = f32(1, 1, 1, 0, 1)  # truncated at row 3
    for n, expected in {1: [2, 3, 4, 5, 6], 2: [2.5, 3, 3.5, 5, 6], 3: [2.5, 2.75, 3.5, 5, 6]}.items():
        np.testing.assert_array_equal(returns.n_step_returns(one, 0.5, v_t, n, cut), expected)
    terminated = f32(0.5, 0, 0.5, 0.5, 0.5)
    np.testing.assert_array_equal(returns.n_step_returns(one, terminated, v_t, 2), [1.5, 1, 3.5, 4, 6])


def test_vtrace_by_hand():
    vs, pg = returns.vtrace(jnp.ones(3), 0.5, f32(2, 0.5, 1), f32(1, 2, 3), f32(2, 7, 5), f32(1, 0, 1))
    np.testing.assert_array_equal(vs, [2.625, 3.25, 3.5])  # errors 1.625, 1.25, 0.5
    np.testing.assert_array_equal(pg, [1.625, 1.25, 0.5])


def test_retrace_by_hand():
    g = returns.retrace(jnp.ones(3), 0.5, f32(9, 0.5, 3), f32(1, 2, 3), f32(2, 7, 5), f32(1, 0, 1))
    np.testing.assert_array_equal(g, [2.625, 4.5, 3.5])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mixture_is_retrace_taken_apart(seed):
    """Its weights sum to one, and with numbers for distributions it is retrace, of several columns and both ends."""
    d, rng = rollout(seed), np.random.default_rng(seed)
    policy = np.asarray(jax.nn.softmax(rng.normal(size=(T, B, 3)).astype(np.float32)))
    q, a = rng.normal(size=(T, B, 3)).astype(np.float32), rng.integers(0, 3, (T, B))
    c = np.minimum(np.roll(d["rho"], -1, axis=0), 1)
    discount_t, lambda_t = returns.discounts(d["terminated"], GAMMA), returns.trace_decays(d["truncated"], LAMBDA)
    mixture = returns.multi_step_mixture(d["r"], discount_t, policy, a, c, lambda_t)
    np.testing.assert_allclose(mixture.weight_t.sum((0, 2)), 1, rtol=1e-5)
    pieces = mixture.weight_t * (mixture.r_t[..., None] + mixture.discount_t[..., None] * q)
    behind = np.roll(np.take_along_axis(q, a[..., None], -1)[..., 0], 1, axis=0)
    whole = returns.retrace(d["r"], discount_t, d["rho"], behind, (policy * q).sum(-1), lambda_t)
    np.testing.assert_allclose(pieces.sum((0, 2)), whole[0], rtol=1e-4, atol=1e-4)
    backed_up = np.take_along_axis(policy, a[..., None], -1)[..., 0]  # c of tree backup
    assert (np.asarray(returns.multi_step_mixture(d["r"], discount_t, policy, a, backed_up).weight_t) >= 0).all()


def test_a_mixture_by_hand():
    """Greedy actions 0, 1, 0: two are followed, the third is not."""
    greedy, taken = np.eye(2, dtype=np.float32)[[0, 1, 0]], np.array([0, 0, 0])
    r_t, discount_t, weight_t = returns.multi_step_mixture(f32(1, 2, 4), 0.5, greedy, taken, f32(1, 0, 1))
    np.testing.assert_array_equal(r_t, [1, 2, 3])
    np.testing.assert_array_equal(discount_t, [0.5, 0.25, 0.125])
    np.testing.assert_array_equal(weight_t, [[0, 0], [0, 1], [0, 0]])
    ended = returns.multi_step_mixture(f32(1, 2, 4), f32(0, 0.5, 0.5), greedy, taken, 1.0)
    np.testing.assert_array_equal(ended.weight_t, [[1, 0], [0, 0], [0, 0]])


def test_termination_wins_over_truncation():
    both = np.array([True, False])
    discount_t, lambda_t = returns.discounts(both, 0.9), returns.trace_decays(both, 0.9)
    r, v = f32(7, 0), f32(100, 100)
    for g in (
        returns.lambda_returns(r, discount_t, v, lambda_t),
        returns.n_step_returns(r, discount_t, v, 2, lambda_t),
        returns.vtrace(r, discount_t, f32(1, 1), f32(3, 3), v, lambda_t).vs,
        returns.retrace(r, discount_t, f32(1, 1), f32(3, 3), v, lambda_t),
    ):
        assert g[0] == 7.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), lambda_=st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_lambda_return_is_the_weighted_sum_of_n_step_returns(seed, lambda_):
    """(1 - lambda) sum_n lambda^(n-1) G^n + lambda^(K-1) G^K, K rows to the end: the weights sum to one."""
    d, got = all_of(seed, lambda_)
    for b in range(B):
        for t in range(T):
            k = episode_end(d, t, b) - t + 1
            weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, k)] + [lambda_ ** (k - 1)]
            assert sum(weights) == pytest.approx(1.0)
            expected = sum(w * n_step(d, t, b, n) for n, w in enumerate(weights, 1))
            assert got["lambda"][t, b] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_n_step_written_out(seed):
    d, got = all_of(seed)
    for name, n in {"n1": 1, "n3": 3, "n_all": T + 5}.items():
        expected = [[n_step(d, t, b, n) for b in range(B)] for t in range(T)]
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_vtrace_and_retrace_written_out(seed):
    """The sums of products of the papers, over one episode at a time."""
    d, got = all_of(seed)
    r, v_tm1, v_t, rho, live = d["r"], d["v_tm1"], d["v_t"], d["rho"], GAMMA * (1.0 - d["terminated"])
    delta = r + live * v_t - v_tm1
    for b in range(B):
        for t in range(T):
            vs, q, trace = v_tm1[t, b], v_tm1[t, b], 1.0
            trace_q = 1.0
            for k in range(t, episode_end(d, t, b) + 1):
                vs += trace * min(1.5, rho[k, b]) * delta[k, b]
                trace *= GAMMA * LAMBDA * min(1.2, rho[k, b])
                trace_q *= LAMBDA * GAMMA * min(1.0, rho[k, b]) if k > t else 1.0
                q += trace_q * delta[k, b]
            assert got["vs"][t, b] == pytest.approx(vs, rel=1e-3, abs=1e-4)
            assert got["retrace"][t, b] == pytest.approx(q, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_vtrace_policy_gradient_bootstraps_from_the_next_target(seed):
    d, got = all_of(seed, 1.0)
    cut = d["truncated"] | (np.arange(T) == T - 1)[:, None]
    follow = np.where(cut, d["v_t"], np.roll(got["vs"], -1, axis=0))
    expected = np.minimum(d["rho"], 0.9) * (d["r"] + GAMMA * (1.0 - d["terminated"]) * follow - d["v_tm1"])
    np.testing.assert_allclose(got["pg"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_estimators_reduce_to_each_other(seed):
    d, got = all_of(seed)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    same(got["vs_on"], got["lambda"])  # on-policy V-trace is the lambda-return
    same(got["pg_on"], got["gae"])  # and its policy gradient GAE
    same(got["n_all_lambda"], got["lambda"])
    same(got["n_all"], got["monte_carlo"])
    same(got["retrace_on"], got["lambda"])  # v_t is the q of the action taken next: a deterministic policy
    _, zero = all_of(seed, 0.0)
    same(zero["gae"], zero["td_error"])
    same(zero["lambda"], zero["n1"])
    same(zero["retrace"], zero["n1"])  # expected SARSA
    _, one = all_of(seed, 1.0)
    same(one["lambda"], one["monte_carlo"])
    same(one["gae"], one["monte_carlo"] - d["v_tm1"])  # the Monte-Carlo advantage


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("seed", [3, 4])
def test_nothing_leaks_over_the_end_of_an_episode(seed, flag):
    """What follows an end, and is not its own v_t, changes no bit of what came before it."""
    d = rollout(seed, p_end=0.0)
    end = 4
    d[flag][end] = True
    later = rollout(seed + 100)
    other = {k: np.concatenate([x[: end + 1], later[k][end + 1 :]]) for k, x in d.items()}
    first, second = everything(d, jnp.float32(LAMBDA)), everything(other, jnp.float32(LAMBDA))
    for name in first:
        np.testing.assert_array_equal(first[name][: end + 1], second[name][: end + 1], err_msg=name)
    own = {**d, "v_t": d["v_t"] + (np.arange(T) == end)[:, None].astype(np.float32)}
    moved = everything(own, jnp.float32(LAMBDA))
    for name in ("lambda", "monte_carlo", "gae", "n1", "vs", "pg", "retrace"):
        gap = np.asarray(moved[name][end] - first[name][end])
        assert np.all(gap == 0.0) if flag == "terminated" else np.all(gap > 0.1), name


def test_importance_ratios_may_overflow_and_still_clip():
    rho = returns.importance_ratios(f32(0.0, 100.0, -200.0), f32(np.log(0.5), -100.0, 0.0))
    np.testing.assert_allclose(rho, [2.0, np.inf, 0.0])
    vs, pg = returns.vtrace(jnp.ones(3), 0.9, rho, jnp.zeros(3), jnp.zeros(3))
    assert np.all(np.isfinite(jnp.stack([vs, pg])))


def test_gradients_flow_and_n_may_be_large():
    loss = lambda v: returns.n_step_returns(jnp.ones(5), 0.5, v, 3)[0]
    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(5)), [0, 0, 0.125, 0, 0])
    np.testing.assert_allclose(
        jax.grad(lambda v: returns.lambda_returns(jnp.ones(3), 0.5, v, 1.0)[0])(jnp.ones(3)), [0, 0, 0.125]
    )


def test_integers_and_booleans_are_read_as_numbers():
    g = returns.discounted_returns(np.array([1, 2, 3]), np.array([True, False, True]))
    assert g.dtype == jnp.float32
    np.testing.assert_array_equal(g, [3, 2, 3])


def test_shapes_that_do_not_agree_are_refused():
    r = jnp.ones((3, 3))
    with pytest.raises(
        UsageError, match=r"lambda_t has shape \(3,\); it must be a scalar or have r_t's shape \(3, 3\)"
    ):
        returns.lambda_returns(r, 0.9, r, jnp.ones(3))  # would broadcast along the wrong axis
    with pytest.raises(UsageError, match="v_tm1"):
        returns.gae(r, 0.9, jnp.ones((3, 1)), r, 0.9)
    with pytest.raises(UsageError, match="time axis"):
        returns.lambda_returns(jnp.float32(1.0), 0.9, 0.0, 1.0)
    with pytest.raises(UsageError, match="at least 1"):
        returns.n_step_returns(r, 0.9, r, 0)


def test_at_episode_start_and_episode_discounts_by_hand():
    first = jnp.array([[False, True], [False, False], [True, False], [False, True]])
    x = jnp.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    np.testing.assert_allclose(returns.at_episode_start(x, first), [[1, 10], [1, 10], [3, 10], [3, 40]])
    np.testing.assert_allclose(returns.episode_discounts(first, 0.5), [[1, 1], [0.5, 0.5], [1, 0.25], [0.5, 1]])


BEHIND = {
    "lambda": lambda r, d, v, decay: returns.lambda_returns(r, d, v, decay),
    "gae": lambda r, d, v, decay: returns.gae(r, d, jnp.zeros(4), v, decay),
    "n_step": lambda r, d, v, decay: returns.n_step_returns(r, d, v, 3, decay),
    "vtrace": lambda r, d, v, decay: returns.vtrace(r, d, jnp.ones(4), jnp.zeros(4), v, decay).pg_advantage,
    "retrace": lambda r, d, v, decay: returns.retrace(r, d, jnp.ones(4), jnp.zeros(4), v, decay),
}


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_stands_behind_an_end_does_not_leak(name, bad):
    """Row 1 terminates, row 2 is of an episode whose reward broke: rows 0 and 1 are as if neither had happened."""
    discount_t, lambda_t = f32(0.5, 0.0, 0.5, 0.5), f32(1.0, 1.0, 1.0, 1.0)
    right = BEHIND[name](jnp.ones(4), discount_t, f32(0.0, 0.0, 0.0, 0.0), lambda_t)
    got = BEHIND[name](f32(1.0, 1.0, bad, 1.0), discount_t, f32(0.0, bad, 0.0, 0.0), lambda_t)
    np.testing.assert_array_equal(got[:2], right[:2])
    cut = BEHIND[name](f32(1.0, 1.0, bad, 1.0), f32(0.5, 0.5, 0.5, 0.5), jnp.zeros(4), f32(1.0, 0.0, 1.0, 1.0))
    assert np.isfinite(cut[:2]).all()  # the same behind a truncation


def test_without_a_step_all_say_so():
    none = jnp.zeros((0, 2))
    for call in (
        lambda: returns.at_episode_start(none, none.astype(bool)),
        lambda: returns.episode_discounts(none.astype(bool), 0.9),
        lambda: returns.lambda_returns(none, 0.9, 0.0, 1.0),
    ):
        with pytest.raises(UsageError, match=r"at least one step; \w+ has shape \(0, 2\)"):
            call()


def test_ratios_of_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UsageError, match=r"log_prob \[3\], behaviour_log_prob \[3, 1\]"):
        returns.importance_ratios(jnp.zeros(3), jnp.zeros((3, 1)))


def test_gae_is_the_lambda_return_also_where_values_do_not_chain():
    r, v_tm1, v_t = f32(1.0, 1.0), f32(0.0, 5.0), f32(3.0, 0.0)  # v_t[0] is not v_tm1[1], as with a target critic
    np.testing.assert_allclose(returns.gae(r, 0.5, v_tm1, v_t, 1.0), [1.5, -4.0])
    delta = values.td_error(v_tm1, r, jnp.float32(0.5), v_t)
    np.testing.assert_allclose(returns.vtrace(r, 0.5, jnp.ones(2), v_tm1, v_t).vs - v_tm1, delta + f32(-2.0, 0.0))
