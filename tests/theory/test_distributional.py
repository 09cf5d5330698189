"""Distributions of returns: hand arithmetic, and what each loss reduces to or has its least at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.theory import distributional as d

Z = jnp.array([-1.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("p", "r", "discount", "right"),
    [
        ([0, 1, 0, 0], 0.25, 1.0, [0, 0.75, 0.25, 0]),  # between two atoms: shared by nearness
        ([0, 1, 0, 0], 1.0, 1.0, [0, 0, 1, 0]),  # on an atom
        ([0.5, 0, 0, 0.5], 0.0, 0.5, [0.25, 0.25, 0.5, 0]),  # -1/2 and 1
        ([0, 0, 0.5, 0.5], 10.0, 1.0, [0, 0, 0, 1]),  # beyond the support: its edge
        ([0.1, 0.2, 0.3, 0.4], 0.5, 0.0, [0, 0.5, 0.5, 0]),  # terminal: all mass at the reward
    ],
)
def test_projection_by_hand(p, r, discount, right):
    out = d.categorical_projection(Z, jnp.array(p, jnp.float32), jnp.float32(r), jnp.float32(discount))
    np.testing.assert_allclose(out, right, atol=1e-6)


def test_projection_keeps_mass_and_mean_and_is_batched():
    key = jax.random.key(0)
    z = d.atoms(-10.0, 10.0, 51)
    p = jax.nn.softmax(jax.random.normal(key, (3, 5, 51)))
    r, discount = jax.random.uniform(key, (3, 5)), jnp.full((3, 5), 0.5)
    out = d.categorical_projection(z, p, r, discount)
    np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(out) @ np.asarray(z), r + discount * (np.asarray(p) @ np.asarray(z)), atol=1e-4
    )
    one = d.categorical_projection(z, p[1, 2], r[1, 2], discount[1, 2])
    np.testing.assert_allclose(out[1, 2], one, rtol=1e-6)


def test_cross_entropy_is_least_and_the_entropy_where_they_agree():
    p = jnp.array([0.2, 0.8, 0.0])
    logits = jnp.log(jnp.array([0.2, 0.8, 1e-30]))
    np.testing.assert_allclose(d.cross_entropy(p, logits), d.entropy(p), rtol=1e-6)
    np.testing.assert_allclose(d.entropy(p), -(0.2 * np.log(0.2) + 0.8 * np.log(0.8)), rtol=1e-6)
    assert float(d.cross_entropy(p, jnp.zeros(3))) > float(d.entropy(p))


def test_huber_is_the_squared_error_inside_and_its_gradient_clipped_outside():
    x = jnp.array([-3.0, -0.5, 0.0, 0.2, 4.0])
    np.testing.assert_allclose(d.huber(x, 10.0), 0.5 * x**2, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(d.huber))(x), np.clip(x, -1, 1), atol=1e-6)
    np.testing.assert_allclose(d.huber(jnp.float32(3.0), 2.0), 2 * (3 - 1))


def test_quantile_huber_by_hand():
    """Two quantiles (tau 1/4, 3/4) at 0 and 1, targets 0.5 and 3."""
    u = np.array([[0.5, 3.0], [-0.5, 2.0]])
    tau = np.array([[0.25], [0.75]])
    rho = np.abs(tau - (u < 0)) * np.where(np.abs(u) <= 1, u**2 / 2, np.abs(u) - 0.5)
    loss = d.quantile_huber_loss(jnp.array([0.0, 1.0]), jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(loss, rho.mean(1).sum(), rtol=1e-6)
    weighted = d.quantile_huber_loss(jnp.array([0.0, 1.0]), jnp.array([0.5, 3.0]), jnp.array([0.1, 0.9]))
    np.testing.assert_allclose(weighted, (rho @ np.array([0.1, 0.9])).sum(), rtol=1e-6)
    np.testing.assert_allclose(d.quantile_fractions(2), [0.25, 0.75])


def test_quantile_regression_finds_the_quantiles():
    """With a small kappa it is quantile regression: gradient descent ends at the sample's quantiles."""
    targets = jnp.asarray(np.random.default_rng(0).normal(size=999).astype(np.float32))
    gradient = jax.jit(jax.grad(lambda theta: d.quantile_huber_loss(theta, targets, kappa=1e-3)))
    theta = jnp.zeros(5)
    for _ in range(400):
        theta = theta - 0.05 * gradient(theta)
    np.testing.assert_allclose(theta, np.quantile(targets, d.quantile_fractions(5)), atol=0.05)


@pytest.mark.parametrize(("kappa", "mean"), [(0.01, 0.020), (0.1, 0.025), (1.0, 0.061)])
def test_what_a_rare_reward_is_valued(kappa, mean):
    """1 with probability 0.02: the mean of 51 fitted quantiles, each of them the root of its gradient, by halving."""
    targets, chance, tau = jnp.array([0.0, 1.0]), jnp.array([0.98, 0.02]), d.quantile_fractions(51)
    gradient = jax.grad(lambda theta: d.quantile_huber_loss(theta, targets, chance, kappa=kappa))

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        rising = gradient(middle) < 0
        return jnp.where(rising, middle, low), jnp.where(rising, high, middle)

    low, high = jax.jit(lambda ends: jax.lax.fori_loop(0, 40, halve, ends))((0.0 * tau - 0.1, 0.0 * tau + 1.1))
    np.testing.assert_allclose((0.5 * (low + high)).mean(), mean, atol=1e-3)


@pytest.mark.parametrize("kappa", [1.0, 0.25])
def test_one_quantile_is_half_the_huber_loss(kappa):
    """Of any error, to the bit; kappa divides it."""
    error = jnp.asarray(np.random.default_rng(0).normal(scale=2.0, size=(64, 1)).astype(np.float32))
    loss = d.quantile_huber_loss(jnp.zeros_like(error), error, kappa=kappa)
    np.testing.assert_array_equal(2 * kappa * loss, d.huber(error[:, 0], kappa))


def test_projection_behind_an_end_needs_no_distribution():
    z, p = jnp.array([0.0, 1.0, 2.0]), jnp.array([[jnp.nan] * 3, [0.0, 1.0, 0.0]])
    got = d.categorical_projection(z, p, jnp.full(2, 0.25), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(got, [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25]], atol=1e-6)
