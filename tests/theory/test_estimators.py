"""Both estimators are unbiased for every distribution, and each tool lowers the variance and keeps the mean."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.theory import estimators as est
from steersman.theory.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    MultiCategorical,
    TanhGaussian,
)

NUM = 4096
LOGITS = jnp.array([0.3, -0.4, 0.8])
GAUSS = (jnp.array([0.3, -0.2]), jnp.array([-0.5, 0.1]))
TARGET = jnp.array([1.0, -0.5])


def distance(x):
    return jnp.square(x - TARGET).sum() + x[0]


def score_of(x):
    return jnp.asarray([2.0, -1.0, 0.5], jnp.float32)[x]


def table(x):
    return (x * jnp.array([1, 2], jnp.int32)).sum().astype(jnp.float32) + jnp.where(x[0] == x[1], 3.0, 0.0)


def enumerated(make, f, events):
    """theta -> E[f], by summing over all events."""

    def expectation(theta):
        p = jax.vmap(lambda x: jnp.exp(make(theta).log_prob(x)))(events)
        return (p * jax.vmap(f)(events)).sum()

    return expectation


def integrated(theta):
    """E[distance(tanh(u))], by quadrature over each coordinate."""
    nodes, weights = (x.astype(np.float32) for x in np.polynomial.hermite_e.hermegauss(64))
    weights = weights / weights.sum()
    x = jnp.tanh(theta[0][:, None] + jnp.exp(theta[1])[:, None] * nodes[None])
    f = jnp.square(x - TARGET[:, None]) + jnp.stack([x[0], jnp.zeros_like(x[0])])
    return (f @ weights).sum()


PAIRS = jnp.array(list(itertools.product((0, 1), (0, 1, 2))), jnp.int32)
COINS = jnp.array(list(itertools.product((0, 1), (0, 1))), jnp.int32)
closed = lambda t: jnp.square(t[0] - TARGET).sum() + jnp.exp(2.0 * t[1]).sum() + t[0][0]
MAKE = {
    "categorical": (Categorical, LOGITS, score_of, enumerated(Categorical, score_of, jnp.arange(3))),
    "multi": (
        lambda t: MultiCategorical(t, (2, 3)),
        jnp.array([0.1, -0.3, 0.5, 0.0, -0.2]),
        table,
        enumerated(lambda t: MultiCategorical(t, (2, 3)), table, PAIRS),
    ),
    "bernoulli": (Bernoulli, jnp.array([0.4, -0.7]), table, enumerated(Bernoulli, table, COINS)),
    "gaussian": (lambda t: DiagGaussian(*t), GAUSS, distance, closed),
    "tanh": (lambda t: TanhGaussian(*t), GAUSS, distance, integrated),
    "deterministic": (Deterministic, jnp.array([0.3, -0.2]), distance, distance),
}
SCORED = [name for name in MAKE if name != "deterministic"]
SMOOTH = ["gaussian", "tanh", "deterministic"]


def flat(tree):
    return np.concatenate([np.asarray(x).reshape(x.shape[0], -1) for x in jax.tree.leaves(tree)], axis=1)


def agrees(gradients, right):
    """Within four standard errors in every entry (exactly, where there is no noise)."""
    rows, right = flat(gradients).astype(np.float64), np.concatenate([np.ravel(x) for x in jax.tree.leaves(right)])
    error = rows.std(0, ddof=1) / np.sqrt(len(rows))
    return bool((np.abs(rows.mean(0) - right) <= 4 * error + 1e-5).all())


def variance(gradients):
    return float(est.summarise(gradients).total_variance)


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("baseline", [0.0, 1.5, est.leave_one_out], ids=["none", "constant", "leave-one-out"])
def test_score_function_is_unbiased(name, baseline):
    make, theta, f, exact = MAKE[name]
    found = est.score_function(make, theta, f, jax.random.key(1), NUM, baseline=baseline)
    assert agrees(found, jax.grad(exact)(theta))
    assert jax.tree.structure(found) == jax.tree.structure(theta)


@pytest.mark.parametrize("name", SMOOTH)
def test_pathwise_is_unbiased(name):
    make, theta, f, exact = MAKE[name]
    assert agrees(est.pathwise(make, theta, f, jax.random.key(2), NUM), jax.grad(exact)(theta))


def test_a_baseline_of_the_sample_itself_would_be_biased():
    """The mean over all shrinks the gradient: by half with two samples."""
    make, theta, f, exact = MAKE["gaussian"]
    keys = jax.random.split(jax.random.key(3), NUM)
    pairs = lambda baseline: jax.vmap(
        lambda k: jax.tree.map(lambda g: g.mean(0), est.score_function(make, theta, f, k, 2, baseline=baseline))
    )(keys)
    right = jax.grad(exact)(theta)
    assert agrees(pairs(est.leave_one_out), right)
    assert not agrees(pairs(jnp.mean), right)
    assert agrees(pairs(jnp.mean), jax.tree.map(lambda g: 0.5 * g, right))


def test_the_baselines_lower_the_variance():
    make, theta, f, _ = MAKE["gaussian"]
    far = lambda x: f(x) + 10.0
    plain = est.score_function(make, theta, far, jax.random.key(4), NUM)
    loo = est.score_function(make, theta, far, jax.random.key(4), NUM, baseline=est.leave_one_out)
    x = jax.vmap(make(theta).sample)(jax.random.split(jax.random.key(5), NUM))
    score = jax.vmap(jax.grad(lambda t, x: make(t).log_prob(x)), in_axes=(None, 0))(theta, x)
    b = est.optimal_baseline(jax.vmap(far)(x), score)
    best = est.score_function(make, theta, far, jax.random.key(4), NUM, baseline=b)
    assert variance(best) < variance(loo) < 0.2 * variance(plain)


def test_pathwise_has_less_variance_than_the_score_where_f_is_smooth():
    for name in ("gaussian", "tanh"):
        make, theta, f, _ = MAKE[name]
        score = est.score_function(make, theta, f, jax.random.key(6), NUM, baseline=est.leave_one_out)
        assert variance(est.pathwise(make, theta, f, jax.random.key(6), NUM)) < 0.7 * variance(score)


def test_control_variates_keep_the_mean_and_lower_the_variance():
    make, theta, f, _ = MAKE["gaussian"]
    wavy = lambda x: f(x) + 0.1 * jnp.sin(3.0 * x).sum()
    mean_sine = lambda t: jnp.sin(3.0 * t[0]) @ jnp.exp(-4.5 * jnp.exp(2.0 * t[1]))
    right = jax.grad(lambda t: closed(t) + 0.1 * mean_sine(t))(theta)
    plain = est.pathwise(make, theta, wavy, jax.random.key(7), NUM)
    controls = est.pathwise(make, theta, f, jax.random.key(7), NUM)  # of the model whose expectation is known
    controlled = est.control_variate(plain, controls, jax.grad(closed)(theta))
    assert agrees(plain, right)
    assert agrees(controlled, right)
    assert variance(controlled) < 0.3 * variance(plain)
    constant = jax.tree.map(jnp.ones_like, plain)
    unchanged = est.control_variate(plain, constant, jax.tree.map(jnp.ones_like, theta))
    np.testing.assert_allclose(flat(unchanged), flat(plain), rtol=1e-6)


def test_the_score_controls_the_score_function_gradient():
    """E[score] = 0: a control variate that is always at hand."""
    make, theta, f, exact = MAKE["categorical"]
    far = lambda x: f(x) + 10.0
    plain = est.score_function(make, theta, far, jax.random.key(8), NUM)
    score = est.score_function(make, theta, lambda x: jnp.ones(()), jax.random.key(8), NUM)
    controlled = est.control_variate(plain, score, jnp.zeros_like(theta))
    assert agrees(controlled, jax.grad(exact)(theta))
    assert variance(controlled) < 0.1 * variance(plain)


def test_by_hand():
    """p = (1/2, 1/2), f = (1, 3), b = 1: event 1 gives (3 - 1) (1{i = 1} - p_i) = (-1, 1)."""
    surrogate = lambda logits: est.score_function_surrogate(
        Categorical(logits).log_prob(jnp.int32(1)), jnp.float32(3.0), 1.0
    )
    np.testing.assert_allclose(jax.grad(surrogate)(jnp.zeros(2)), [-1.0, 1.0])
    found = est.summarise(jnp.array([[1.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(found.mean, [2.0, 0.0])
    np.testing.assert_allclose(found.variance, [2.0, 0.0])
    np.testing.assert_allclose(found.standard_error, [1.0, 0.0])
    assert float(found.total_variance) == 2.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: est.pathwise(Categorical, LOGITS, score_of, jax.random.key(0), 4), "Categorical jump"),
        (lambda: est.score_function(Deterministic, LOGITS, distance, jax.random.key(0), 4), "use pathwise"),
        (lambda: est.leave_one_out(jnp.ones(1)), "two samples or more"),
        (lambda: est.control_variate(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones(1)), "three samples"),
        (lambda: est.summarise(jnp.ones((1, 1))), "there are 1"),
    ],
)
def test_errors(call, says):
    with pytest.raises(UsageError, match=says):
        call()
