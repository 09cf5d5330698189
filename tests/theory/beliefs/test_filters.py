"""Filters against an independent recursion in float64, a Riccati equation, and sums over all hidden paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

from steersman.errors import UsageError
from steersman.tabular.problems.pomdp_classics import hallway, tiger
from steersman.theory.beliefs import filters

KEY = jax.random.key(0)
T, D, M, O = 200, 4, 2, 2


def linear_system(seed=0):
    """A stable one, its noises correlated, as arguments of ``kalman``."""
    rng = np.random.default_rng(seed)
    square = lambda n: (lambda x: x @ x.T / n + 0.1 * np.eye(n))(rng.normal(size=(n, n)))
    A = rng.normal(size=(D, D))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    return {
        **{"A": A, "B": rng.normal(size=(D, M)), "Q": square(D), "C": rng.normal(size=(O, D)), "R": square(O)},
        **{"mean": rng.normal(size=D), "covariance": square(D)},
    }


def played(A, B, Q, C, R, mean, covariance, seed=1):
    """A path of the system: actions [T, M], observations [T + 1, O]."""
    rng = np.random.default_rng(seed)
    state, actions, seen = rng.multivariate_normal(mean, covariance), rng.normal(size=(T, M)), []
    for a in [*actions, None]:
        seen.append(C @ state + rng.multivariate_normal(np.zeros(O), R))
        state = state if a is None else A @ state + B @ a + rng.multivariate_normal(np.zeros(D), Q)
    return actions.astype(np.float32), np.array(seen, np.float32)


def textbook(A, B, Q, C, R, mean, covariance, actions, seen):
    """Thrun, Burgard and Fox (2005), table 3.1, in float64, with an inverse and without Joseph's form."""
    m, P, rows = mean, covariance, []
    for t, o in enumerate(seen.astype(np.float64)):
        if t:
            m, P = A @ m + B @ actions[t - 1].astype(np.float64), A @ P @ A.T + Q
        S = C @ P @ C.T + R
        K, v = P @ C.T @ np.linalg.inv(S), o - C @ m
        log_p = -0.5 * (v @ np.linalg.inv(S) @ v + np.log(np.linalg.det(2 * np.pi * S)))
        m, P = m + K @ v, (np.eye(D) - K @ C) @ P
        rows.append((m, P, log_p))
    return [np.array(x) for x in zip(*rows, strict=True)]


def run(filter, actions, seen):
    """Every belief along a path, stacked."""

    def path(actions, seen):
        first = filter.begin(seen[0], KEY)

        def step(belief, x):
            belief = filter.step(belief, *x, KEY)
            return belief, belief

        rest = jax.lax.scan(step, first, (actions, seen[1:]))[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    return jax.tree.map(np.asarray, jax.jit(path)(actions, seen))


@pytest.mark.parametrize("seed", [0, 1])
def test_kalman_is_the_textbooks_recursion(seed):
    system = linear_system(seed)
    path = played(**system)
    got, wanted = run(filters.kalman(**system), *path), textbook(**system, actions=path[0], seen=path[1])
    for x, y in zip(got, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_the_steady_state_solves_riccatis_equation():
    system = linear_system()
    A, C, Q, R = (system[name] for name in "ACQR")
    before = solve_discrete_are(A.T, C.T, Q, R)
    after = before - before @ C.T @ np.linalg.solve(C @ before @ C.T + R, C @ before)
    P = run(filters.kalman(**system), *played(**system)).covariance[-1]
    np.testing.assert_allclose(P, after, rtol=1e-5, atol=1e-5 * np.abs(after).max())


def test_covariances_stay_positive_over_ten_thousand_steps():
    """A point that hardly drifts under a sensor that is nearly exact: the short form of the update does not survive."""
    A, C = np.array([[1, 0.01], [0, 1]], np.float32), np.array([[1.0, 0.0]], np.float32)
    Q, R = np.diag([0, 1e-9]).astype(np.float32), np.array([[1e-6]], np.float32)

    def short(P):
        P = filters.gaussian_predict(P, A, Q)
        return P - P @ C.T @ jnp.linalg.inv(C @ P @ C.T + R) @ C @ P

    def joseph(P):
        return filters.gaussian_update(np.zeros(2), filters.gaussian_predict(P, A, Q), np.zeros(1), C, R).covariance

    def least(update):
        """The lowest eigenvalue on the way by the highest of its time, and whether all stay symmetric."""
        step = lambda P, _: (lambda P: (P, P))(update(P))
        P = jax.jit(lambda P: jax.lax.scan(step, P, None, length=10_000)[1])(1e4 * jnp.eye(2))
        eigenvalues = np.linalg.eigvalsh(np.asarray(P, np.float64))
        return (eigenvalues[:, 0] / eigenvalues[:, 1]).min(), np.array_equal(P, np.swapaxes(P, 1, 2))

    worst, symmetric = least(joseph)
    assert worst >= 0
    assert symmetric
    assert not least(short)[0] >= 0  # or NaN


def test_the_extended_filter_on_lines_is_kalmans():
    system = linear_system()
    A, B, C = (jnp.asarray(system[name], jnp.float32) for name in "ABC")
    rest = [system[name] for name in ("Q", "R", "mean", "covariance")]
    curved = filters.extended_kalman(lambda s, a: A @ s + B @ a, lambda s: C @ s, *rest)
    path = played(**system)
    for x, y in zip(run(curved, *path), run(filters.kalman(**system), *path), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_the_extended_filter_by_hand():
    """f = s^2 + a, h = s^3 / 3: F = 2 m = 2 and H = m^2, at the mean that it is at."""
    found = filters.extended_kalman(
        lambda s, a: s**2 + a, lambda s: s**3 / 3, [[0.5]], [[4.0]], mean=[1.0], covariance=[[1.0]]
    )
    first = found.begin(jnp.array([1 / 3 + 5], jnp.float32), KEY)  # S = 1 + 4, K = 1/5
    assert np.ravel(first.mean) == pytest.approx(2.0)
    assert np.ravel(first.covariance) == pytest.approx(0.8)
    then = found.step(first, jnp.array([-1.0]), jnp.array([9.0]), KEY)  # m = 3, P = 16 0.8 + 0.5, H = 9, o = h(m)
    P = 13.3
    assert np.ravel(then.mean) == pytest.approx(3.0)
    assert np.ravel(then.covariance) == pytest.approx(P - 81 * P**2 / (81 * P + 4), rel=1e-4)
    assert float(then.log_likelihood) == pytest.approx(-0.5 * np.log(2 * np.pi * (81 * P + 4)), rel=1e-5)


def test_angles_wrap_by_the_difference_given():
    wrap = lambda a, b: jnp.mod(a - b + np.pi, 2 * np.pi) - np.pi
    arguments = (lambda s, a: s, lambda s: s, [[0.0]], [[1.0]], [3.0], [[1.0]])
    seen = jnp.array([-3.0])
    wrapped, flat = (filters.extended_kalman(*arguments, **x).begin(seen, KEY) for x in ({"difference": wrap}, {}))
    assert float(wrapped.mean[0]) == pytest.approx(np.pi, abs=1e-6)  # half way round, over pi
    assert float(flat.mean[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, 3e38])
def test_what_was_not_seen_leaves_the_prediction(nothing):
    system = linear_system()
    found = filters.kalman(**system)
    first = found.begin(jnp.zeros(O), KEY)
    got = found.step(first, jnp.ones(M), jnp.array([nothing, 0.0], jnp.float32), KEY)
    wanted = filters.gaussian_predict(first.covariance, *(np.float32(system[name]) for name in "AQ"))
    np.testing.assert_allclose(got.covariance, wanted, rtol=1e-5)
    np.testing.assert_allclose(got.mean, system["A"] @ first.mean + system["B"].sum(-1), rtol=1e-4, atol=1e-5)
    assert float(got.log_likelihood) == -np.inf


def test_features_are_mean_and_upper_triangle():
    found = filters.kalman(**linear_system())
    belief = found.begin(jnp.zeros(O), KEY)
    features = np.asarray(found.features(belief))
    assert features.shape == (found.size,) == (D + D * (D + 1) // 2,)
    np.testing.assert_array_equal(features[:D], belief.mean)
    P = np.asarray(belief.covariance)
    np.testing.assert_array_equal(features[[D, D + 1, D + 4, -1]], P[[0, 0, 1, 3], [0, 1, 1, 3]])


GOOD = linear_system()
TILTED = np.array([[1.0, 0.5], [0.4, 1.0]])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"A": np.eye(3)}, r"A \(3, 3\)"),
        ({"B": np.ones(D)}, r"B \(4,\)"),
        ({"B": np.ones((3, M))}, r"B \(3, 2\)"),
        ({"C": np.ones((O, 3))}, r"C \(2, 3\)"),
        ({"C": np.ones((3, D))}, r"C \(3, 4\)"),
        ({"A": np.full((D, D), np.nan)}, "finite A"),
        ({"Q": np.eye(3)}, r"Q \[D, D\]; got \(4,\) and \(3, 3\)"),
        ({"R": np.ones(O)}, r"R is a square matrix; got the shape \(2,\)"),
        ({"R": TILTED}, r"R is not symmetric: \[0, 1\] is 0.5 and \[1, 0\] is 0.4"),
        ({"R": np.diag([1.0, 0.0])}, "R has the eigenvalue 0; it is to be positive definite; a sensor without"),
        ({"Q": np.diag([1.0, 1.0, 1.0, -1.0])}, "Q has the eigenvalue -1; it is to be positive semi-definite"),
        ({"covariance": np.diag([1, 1, np.inf, 1])}, "covariance has entries that are not finite"),
        ({"covariance": np.eye(3)}, r"covariance \[D, D\]; got"),
        ({"mean": np.array([0, 0, 0, np.nan])}, "mean has entries"),
    ],
)
def test_bad_systems_are_refused(change, match):
    with pytest.raises(UsageError, match=match):
        filters.kalman(**{**GOOD, **change})


def test_functions_of_other_shapes_are_refused():
    rest = [GOOD[name] for name in ("Q", "R", "mean", "covariance")]
    with pytest.raises(UsageError, match=r"observation is to give \(2,\).*it gives \(4,\)"):
        filters.extended_kalman(lambda s, a: s, lambda s: s, *rest)
    found = filters.extended_kalman(lambda s, a: s[:3], lambda s: s[:2], *rest)
    with pytest.raises(UsageError, match=r"dynamics is to give \(4,\).*it gives \(3,\)"):
        found.step(found.begin(jnp.zeros(O), KEY), None, jnp.zeros(O), KEY)


# --- finite problems ---


def tiny(seed=0, s=3, a=2, o=2):
    rng = np.random.default_rng(seed)
    rows = lambda *shape: rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return rows(s), rows(s, a, s), rows(a, s, o), rows(s, o)


def test_bayes_is_the_sum_over_all_hidden_paths():
    start, P, see, first = tiny()
    actions, seen = [0, 1, 1, 0], [1, 0, 1, 1, 0]
    joint = np.zeros(3)
    for path in itertools.product(range(3), repeat=5):
        p = start[path[0]] * first[path[0], seen[0]]
        for t, a in enumerate(actions):
            p *= P[path[t], a, path[t + 1]] * see[a, path[t + 1], seen[t + 1]]
        joint[path[-1]] += p
    got = run(filters.bayes(start, P, see, first=first), np.array(actions), np.array(seen))
    np.testing.assert_allclose(got.probabilities[-1], joint / joint.sum(), rtol=1e-5)
    assert got.log_likelihood.sum() == pytest.approx(np.log(joint.sum()), rel=1e-5)


@pytest.mark.parametrize("make", [tiger, hallway])
def test_bayes_is_the_tabular_filter(make):
    p, rng = make(), np.random.default_rng(0)
    s, actions, seen = rng.choice(p.mdp.num_states, p=p.mdp.start), [], []
    for _ in range(30):
        actions.append(rng.integers(p.mdp.num_actions))
        s = rng.choice(p.mdp.num_states, p=p.mdp.dense()[s, actions[-1]])
        seen.append(rng.choice(p.num_observations, p=p.observation[actions[-1], s]))
    wanted = p.filter(p.mdp.start, actions, seen)
    dense = filters.bayes(p.mdp.start, p.mdp.dense(), p.observation)
    for found in (p.online_filter(), dense):
        got = run(found, np.array(actions), np.array([0, *seen])).probabilities
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_an_impossible_observation_leaves_the_prediction_and_says_so():
    swap, see = np.array([[[0, 1]], [[1, 0]]]), np.eye(2)[None]
    found = filters.bayes([1, 0], swap, see)
    belief = found.step(found.begin(0, KEY), 0, 0, KEY)  # it must be in 1, and that shows 1
    np.testing.assert_array_equal(belief.probabilities, [0, 1])
    assert float(belief.log_likelihood) == -np.inf
    belief = found.step(belief, 0, 0, KEY)
    assert float(belief.log_likelihood) == 0
    posterior, chance = filters.bayes_update(np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    assert (posterior.tolist(), float(chance)) == ([0, 1], 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"transition": np.ones((3, 2))}, r"observation \[A, S, O\]; got \(3,\), \(3, 2\)"),
        ({"observation": np.ones((3, 2, 2))}, r"and \(3, 2, 2\)"),
        ({"successors": np.zeros((3, 2, 2), int)}, r"\(3, 2, 3\) is of the successors \(3, 2, 2\)"),
        ({"successors": np.full((3, 2, 3), 3)}, "outside 0..2: 3 to 3"),
        ({"first": np.ones((2, 3))}, r"\[S, O\] = \(3, 2\); got \(2, 3\)"),
        ({"start": np.array([0.5, 0.5, 0.5])}, "start has a row"),
        ({"start": np.array([1.5, -0.5, 0.0])}, "start has a row"),
        ({"observation": np.ones((2, 3, 2))}, "observation has a row"),
    ],
)
def test_bad_tables_are_refused(change, match):
    start, transition, observation, _ = tiny()
    with pytest.raises(UsageError, match=match):
        filters.bayes(**{"start": start, "transition": transition, "observation": observation, **change})
