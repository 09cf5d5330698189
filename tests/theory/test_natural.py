"""Fisher products are the Fisher matrix times a vector; conjugate gradient solves; the line search keeps its limit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.theory import natural
from steersman.theory.distributions import Bernoulli, Categorical, DiagGaussian, MultiCategorical, TanhGaussian

FEATURES = jax.random.normal(jax.random.key(0), (5, 3))  # of five states
SAMPLES = 20_000


def linear(out):
    return lambda vector: jnp.tanh(FEATURES) @ vector[: 3 * out].reshape(3, out)


def gaussian(kind):
    def policy(vector):
        loc = linear(2)(vector)
        return kind(loc, jnp.broadcast_to(vector[6:8] - 1, loc.shape))  # narrow: log_prob is exact inside the tanh

    return policy


POLICIES = {
    "categorical": (lambda v: Categorical(linear(4)(v)), 12),
    "multi": (lambda v: MultiCategorical(linear(5)(v), (2, 3)), 15),
    "bernoulli": (lambda v: Bernoulli(linear(3)(v)), 9),
    "gaussian": (gaussian(DiagGaussian), 8),
    "tanh": (gaussian(TanhGaussian), 8),
}


@pytest.mark.parametrize("name", POLICIES)
def test_it_is_the_explicit_fisher_matrix_times_the_vector(name):
    policy, size = POLICIES[name]
    params = 0.5 * jax.random.normal(jax.random.key(1), (size,))
    product = natural.fisher_product(policy, params)
    matrix = np.asarray(jax.jit(jax.vmap(product))(jnp.eye(size)))
    old = policy(params)
    hessian = np.asarray(jax.jit(jax.hessian(lambda v: old.kl(policy(v)).mean()))(params))
    np.testing.assert_allclose(matrix, hessian, atol=2e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    # and by its definition, E[s s^T] with s the score
    score_of = lambda key: jax.jacobian(lambda v: policy(v).log_prob(old.sample(key)))(params)
    score = jax.jit(jax.vmap(score_of))(jax.random.split(jax.random.key(2), SAMPLES))  # [N, 5, P]
    sampled = np.einsum("nsp,nsq->pq", np.asarray(score), np.asarray(score)) / (SAMPLES * 5)
    np.testing.assert_allclose(matrix, sampled, atol=0.03 * np.abs(matrix).max())


def test_categorical_by_hand():
    """One state, two actions: F = diag(p) - p p^T in the logits."""
    p = np.array([0.25, 0.75])
    product = natural.fisher_product(lambda v: Categorical(v[None]), jnp.log(jnp.asarray(p, jnp.float32)))
    np.testing.assert_allclose(product(jnp.array([1.0, 0.0])), [0.1875, -0.1875], atol=1e-6)


def test_conjugate_gradient_solves():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(12, 12))
    a = (half @ half.T + np.eye(12)).astype(np.float32)
    b = rng.normal(size=12).astype(np.float32)
    solved = natural.conjugate_gradient(lambda v: a @ v, jnp.asarray(b), 30)
    np.testing.assert_allclose(solved.x, np.linalg.solve(a, b), rtol=2e-3, atol=1e-4)
    assert float(solved.residual) < 1e-4
    rough = natural.conjugate_gradient(lambda v: a @ v, jnp.asarray(b), 2)
    assert float(rough.residual) == pytest.approx(np.linalg.norm(b - a @ rough.x) / np.linalg.norm(b), rel=1e-3)
    assert float(rough.residual) > 1e-2
    zero = natural.conjugate_gradient(lambda v: a @ v, jnp.zeros(12), 5)
    assert not np.isnan(zero.x).any()
    assert not zero.x.any()


def quadratic(params):
    """Gains up to 1, then loses; the KL is the square of the distance."""
    x = params[0]
    return x - 0.5 * x * x, x * x


@pytest.mark.parametrize(
    ("step", "max_kl", "backtracks", "accepted", "shrinks"),
    [
        (1.0, 2.0, 4, True, 0),
        (1.0, 0.3, 4, True, 1),  # 0.5^2 = 0.25
        (1.0, 0.01, 4, True, 4),  # 0.0625^2 = 0.0039
        (1.0, 0.001, 4, False, 4),
        (-1.0, 2.0, 4, False, 4),  # no gain in that direction
        (8.0, 100.0, 4, True, 3),  # within the KL at once, but a gain only at 1
        (float("nan"), 1.0, 3, False, 3),
        (1.0, 2.0, 0, True, 0),
    ],
)
def test_line_search(step, max_kl, backtracks, accepted, shrinks):
    start = jnp.zeros(1)
    found = natural.line_search(quadratic, start, jnp.array([step]), max_kl, backtracks=backtracks, shrink=0.5)
    assert bool(found.accepted) is accepted
    assert int(found.backtracks) == shrinks
    if accepted:
        assert float(found.params[0]) == step * 0.5**shrinks
        assert 0 < float(found.kl) <= max_kl
        assert float(found.gain) > 0
    else:
        np.testing.assert_array_equal(found.params, start)
        assert float(found.kl) == 0
