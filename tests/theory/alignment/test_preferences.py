"""Preferences against hand arithmetic, and where each objective comes to rest, on enumerated sets of answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize as opt

from steersman.errors import UsageError
from steersman.theory.alignment import preferences
from steersman.theory.alignment.preferences import k1, k2, k3

BETA = 0.25
REF = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
REWARD = np.array([0.0, 1.0, 0.3, 1.4, 2.0], np.float32)


def test_losses_by_hand():
    log_sigmoid = lambda x: -math.log1p(math.exp(-x))
    chosen, rejected = jnp.array([1.0, -0.5]), jnp.array([0.2, 0.5])
    bt = preferences.bradley_terry_loss(chosen, rejected, jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(bt, [-log_sigmoid(0.8), -log_sigmoid(-1.5)], rtol=1e-6)
    dpo = preferences.dpo_loss(chosen, rejected, 0.5, 0.1)
    by_hand = [-0.9 * log_sigmoid(h) - 0.1 * log_sigmoid(-h) for h in (0.4, -0.5)]
    np.testing.assert_allclose(dpo, by_hand, rtol=1e-6)
    np.testing.assert_allclose(preferences.ipo_loss(chosen, rejected, 0.1), [(0.8 - 5) ** 2, 36.0], rtol=1e-6)
    np.testing.assert_allclose(preferences.implicit_reward(chosen, 0.1), [0.1, -0.05], rtol=1e-6)


def test_losses_are_finite_and_push_however_far_away():
    far = jnp.array([-1e4])
    assert preferences.dpo_loss(far, -far, 0.1) == pytest.approx(2000.0)
    slope = jax.grad(lambda c: preferences.dpo_loss(c, -far, 0.1).sum())(far)
    np.testing.assert_allclose(slope, [-0.1])


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(UsageError, match="do not belong together"):
        preferences.dpo_loss(jnp.zeros(3), jnp.zeros((3, 1)), 0.1)
    with pytest.raises(UsageError, match="do not belong together"):
        preferences.bradley_terry_loss(jnp.zeros(3), jnp.zeros((3, 1)))


def test_the_divergence_from_samples():
    d = jnp.array([0.5, -1.0, 0.0])
    np.testing.assert_allclose(k1(d), d)
    np.testing.assert_allclose(k2(d), [0.125, 0.5, 0.0])
    np.testing.assert_allclose(k3(d), [math.exp(-0.5) - 0.5, math.e - 2.0, 0.0], rtol=1e-5)
    p = jax.nn.softmax(jnp.asarray(REWARD))
    ratio = jnp.log(p) - REF
    kl = jnp.sum(p * ratio)
    np.testing.assert_allclose([jnp.sum(p * k1(ratio)), jnp.sum(p * k3(ratio))], [kl, kl], rtol=1e-5)  # unbiased


def test_the_optimum_is_gibbs_and_its_value_the_log_partition():
    best = np.asarray(preferences.gibbs(REF, REWARD, BETA))
    np.testing.assert_allclose(best, log_softmax(REF + REWARD / BETA), rtol=1e-5)
    value = jax.jit(jax.value_and_grad(lambda z: preferences.value_near(jax.nn.log_softmax(z), REF, REWARD, BETA)))
    height, slope = value(best)
    assert height == pytest.approx(BETA * math.log(np.sum(np.exp(REF + REWARD / BETA))), rel=1e-5)
    np.testing.assert_allclose(slope, np.zeros(5), atol=1e-6)
    assert height > value(REF)[0] == pytest.approx(np.exp(REF) @ REWARD)


def log_softmax(z):
    return z - np.log(np.exp(z).sum())


def variation(log_p, log_q):
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum()


def gradient(kl):
    """The expected gradient of rewards and a KL term as a loss, of samples of the policy itself, in the logits."""

    def at(z):
        fixed = jax.lax.stop_gradient(jax.nn.softmax(z))
        loss = lambda z: jnp.sum(fixed * (-REWARD * jax.nn.log_softmax(z) + BETA * kl(jax.nn.log_softmax(z) - REF)))
        return jax.grad(loss)(z)

    return jax.jit(at)


def at_rest(kl):
    """Where it vanishes, as log-probabilities."""
    at = gradient(kl)
    return np.asarray(jax.nn.log_softmax(jax.lax.fori_loop(0, 5000, lambda _, z: z - 2.0 * at(z), jnp.asarray(REF))))


def test_each_kl_term_as_a_loss_ends_at_its_own_optimum():
    best = preferences.gibbs(REF, REWARD, BETA)
    assert variation(at_rest(k2), best) < 1e-4
    other = at_rest(k3)
    assert variation(other, best) > 0.1
    # max E[r] - beta KL(ref || pi): pi = beta ref / (c - r), c > max r such that it sums to one
    c = opt.brentq(lambda c: np.sum(BETA * np.exp(REF) / (c - REWARD)) - 1, REWARD.max() + 1e-3, 10.0)
    assert variation(other, np.log(BETA * np.exp(REF) / (c - REWARD))) < 1e-4
    np.testing.assert_allclose(
        gradient(k1)(REF), -np.exp(REF) * (REWARD - np.exp(REF) @ REWARD), atol=1e-6
    )  # no effect


def pairs(loss, smoothing=0.0):
    """The minimum over all pairs of answers of the reference, labelled as Bradley and Terry say of REWARD."""
    wins = jax.nn.sigmoid(REWARD[:, None] - REWARD[None])
    weight = np.exp(REF)[:, None] * np.exp(REF)[None] * wins

    def total(z):
        d = jax.nn.log_softmax(z) - REF
        first, second = jnp.broadcast_to(d[:, None], (5, 5)), jnp.broadcast_to(d[None], (5, 5))
        return jnp.sum(weight * loss(first, second))

    both = jax.jit(jax.value_and_grad(lambda z: 1e3 * total(z)))
    found = opt.minimize(lambda z: [np.asarray(x, float) for x in both(z.astype(np.float32))], REF, jac=True, tol=1e-12)
    return log_softmax(found.x)


def test_dpo_on_exact_labels_is_gibbs():
    best = preferences.gibbs(REF, REWARD, BETA)
    assert variation(pairs(lambda c, r: preferences.dpo_loss(c, r, BETA)), best) < 1e-3
    smoothed = pairs(lambda c, r: preferences.dpo_loss(c, r, BETA, 0.1))
    assert variation(smoothed, best) > 0.1  # what smoothing costs where labels are right
    assert variation(smoothed, REF) < variation(best, REF)


def test_smoothing_bounds_what_a_certain_preference_asks_for():
    """Of one pair with one label, h = log((1 - e) / e) / beta."""
    h = math.log(0.9 / 0.1) / BETA
    slope = jax.grad(lambda c: preferences.dpo_loss(c, jnp.zeros(1), BETA, 0.1).sum())
    np.testing.assert_allclose(slope(jnp.array([h])), [0.0], atol=1e-7)
    assert slope(jnp.array([0.9 * h])) < 0 < slope(jnp.array([1.1 * h]))


def test_ipo_regresses_the_probability_of_being_preferred():
    """log pi / ref = (2 P(y beats ref) - 1) / (2 tau) + c: least squares over all pairs, in closed form."""
    tau = 0.25
    beats = np.asarray(jax.nn.sigmoid(REWARD[:, None] - REWARD[None])) @ np.exp(REF)
    closed = log_softmax(REF + (2 * beats - 1) / (2 * tau))
    assert variation(pairs(lambda c, r: preferences.ipo_loss(c, r, tau)), closed) < 1e-3


def test_gradients_of_kl_terms_over_two_tokens():
    """All four answers of two tokens out of two. logits [3, 2]: the first token's, the second's after 0 and after 1."""
    answers = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    row = np.stack([np.zeros(4, int), 1 + answers[:, 0]], 1)
    of = lambda z: jax.nn.log_softmax(z)[row, answers]  # [4, 2] log-probs of the tokens
    ref = of(jnp.array([[0.0, 0.5], [1.0, 0.0], [-0.5, 0.3]]))
    still = jax.lax.stop_gradient
    togo = lambda d: jnp.cumsum(d[:, ::-1], 1)[:, ::-1]
    terms = {
        "k1 in the reward": lambda lp, d: still(k1(d.sum(1))) * lp.sum(1),
        "k1 in the reward, to go": lambda lp, d: (still(togo(k1(d))) * lp).sum(1),
        "k2": lambda lp, d: k2(d.sum(1)),
        "k1 per token": lambda lp, d: k1(d).sum(1),
        "k2 per token": lambda lp, d: k2(d).sum(1),
        "k3 ratio": lambda lp, d: (jnp.exp(lp - still(lp)) * k3(d)).sum(1),
        "k3 per token": lambda lp, d: k3(d).sum(1),
        "exact": lambda lp, d: jnp.exp(lp.sum(1) - still(lp.sum(1))) * d.sum(1),
    }

    @jax.jit
    def gradients(z):
        mean = lambda z: jnp.stack(
            [jnp.sum(still(jnp.exp(of(z).sum(1))) * f(of(z), of(z) - ref)) for f in terms.values()]
        )
        return dict(zip(terms, jax.jacrev(mean)(z), strict=True))

    g = gradients(jnp.array([[0.7, -0.2], [0.0, 0.9], [0.4, -1.0]]))
    exact = g["exact"]
    for right in ("k1 in the reward", "k1 in the reward, to go", "k2"):
        np.testing.assert_allclose(g[right], exact, atol=1e-6, err_msg=right)
    np.testing.assert_allclose(g["k1 per token"], np.zeros((3, 2)), atol=1e-6)
    np.testing.assert_allclose(g["k3 ratio"], g["k2 per token"], atol=1e-6)
    for wrong in ("k2 per token", "k3 per token"):
        assert np.abs(g[wrong] - exact).max() > 0.01, wrong
    np.testing.assert_allclose(g["k2 per token"][1:], exact[1:], atol=1e-6)  # the last token has none after it


def test_the_controller_by_hand():
    step = preferences.proportional_kl_coefficient
    np.testing.assert_allclose(step(0.2, 6.6, 6.0, 0.5), 0.2 * 1.05, rtol=1e-6)
    np.testing.assert_allclose(step(0.2, 0.0, 6.0, 0.5), 0.2 * 0.9, rtol=1e-6)
    np.testing.assert_allclose(step(0.2, 99.0, 6.0, 0.5), 0.2 * 1.1, rtol=1e-6)
