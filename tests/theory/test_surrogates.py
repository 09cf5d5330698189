"""Surrogate objectives: by hand, by gradient, and against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.theory import surrogates
from steersman.theory.distributions import Categorical

RATIO = jnp.array([0.5, 0.9, 1.0, 1.1, 1.5])


@pytest.mark.parametrize(
    ("advantage", "loss", "slope"),
    [
        (2.0, [-1.0, -1.8, -2.0, -2.2, -2.4], [1, 1, 1, 1, 0]),  # gain is capped at 1.2 A above, not below
        (-2.0, [1.6, 1.8, 2.0, 2.2, 3.0], [0, 1, 1, 1, 1]),  # min over the ratios would cap the 3.0 at 2.4
    ],
)
def test_ppo_clip_by_hand(advantage, loss, slope):
    a = jnp.full(5, advantage)
    f = lambda log_ratio: surrogates.ppo_clip_loss(log_ratio, a, 0.2)
    np.testing.assert_allclose(f(jnp.log(RATIO)), loss, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(f(x)))(jnp.log(RATIO))
    np.testing.assert_allclose(gradient, -advantage * RATIO * jnp.array(slope, jnp.float32), rtol=1e-5, atol=1e-6)


def test_a_clip_that_is_wider_upwards():
    a = jnp.array([1.0, 1.0, -1.0, -1.0])
    log_ratio = jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5]))
    np.testing.assert_allclose(surrogates.ppo_clip_loss(log_ratio, a, 0.2, 0.4), [-1.4, -0.5, 1.5, 0.8], rtol=1e-6)
    outside = surrogates.clip_fraction(jnp.log(jnp.array([1.3, 1.5, 0.9, 0.7])), 0.2, 0.4)
    np.testing.assert_array_equal(outside, [0, 1, 0, 1])


def test_ppo_clip_takes_a_traced_clip_and_is_the_simplified_form():
    advantage = jax.random.normal(jax.random.key(1), (64,))
    log_ratio = jax.random.normal(jax.random.key(2), (64,))
    got = jax.jit(surrogates.ppo_clip_loss)(log_ratio, advantage, jnp.float32(0.3))
    bound = np.where(advantage >= 0, 1.3 * np.asarray(advantage), 0.7 * np.asarray(advantage))
    expected = -np.minimum(np.exp(np.asarray(log_ratio)) * np.asarray(advantage), bound)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_at_equal_policies_all_surrogates_have_the_policy_gradient():
    logits, a, advantage = jnp.array([[0.1, 0.7, -0.3]] * 4), jnp.array([0, 1, 2, 1]), jnp.array([1.0, -2.0, 3.0, 0.5])
    old = Categorical(logits).log_prob(a)
    log_prob = lambda x: Categorical(x).log_prob(a)
    losses = [
        lambda x: surrogates.policy_gradient_loss(log_prob(x), advantage),
        lambda x: surrogates.ppo_clip_loss(log_prob(x) - old, advantage, 0.2),
        lambda x: surrogates.ppo_penalty_loss(
            log_prob(x) - old, advantage, Categorical(logits).kl(Categorical(x)), 0.5
        ),
    ]
    first, *others = (jax.grad(lambda x, f=f: jnp.mean(f(x)))(logits) for f in losses)
    assert np.abs(first).max() > 0.05
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_penalty_by_hand_and_its_coefficient():
    loss = surrogates.ppo_penalty_loss(jnp.log(jnp.array([2.0])), jnp.array([3.0]), jnp.array([0.1]), 4.0)
    np.testing.assert_allclose(loss, [-5.6], rtol=1e-6)
    kl = jnp.array([0.0066, 0.0067, 0.01, 0.0149, 0.0151])
    np.testing.assert_array_equal(surrogates.adapt_kl_coefficient(1.0, kl, 0.01), [0.5, 1, 1, 1, 2])


def test_value_losses_by_hand():
    v, v_old, target = jnp.array([3.0, 3.0, 1.1]), jnp.array([1.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 2.0])
    np.testing.assert_allclose(surrogates.value_loss(v, target), [0.0, 4.5, 0.405], rtol=1e-5)
    # clipped to 1.2: (1.2 - 3)^2 / 2 punishes the far step; where the plain loss is larger it counts; inside, no clip
    np.testing.assert_allclose(surrogates.clipped_value_loss(v, v_old, target, 0.2), [1.62, 4.5, 0.405], rtol=1e-5)


def test_approximate_kl_is_unbiased_and_never_negative():
    old, new = Categorical(jnp.array([0.0, 1.0, -1.0])), Categorical(jnp.array([0.5, 0.5, -0.5]))
    log_ratio = new.log_probabilities() - old.log_probabilities()
    k3 = surrogates.approximate_kl(log_ratio)
    assert np.all(k3 >= 0)
    np.testing.assert_allclose(jnp.sum(old.probabilities() * k3), old.kl(new), rtol=1e-5)  # its exact expectation
    tiny = surrogates.approximate_kl(jnp.float32(1e-3))
    assert tiny == pytest.approx(5.0017e-7, rel=0.1)  # exp(x) - 1 - x in float32 gives 4.7e-7 or 5.9e-7


def test_clip_fraction():
    np.testing.assert_array_equal(surrogates.clip_fraction(jnp.log(RATIO), 0.2), [1, 0, 0, 0, 1])


def test_the_temperature_rises_while_the_policy_is_too_certain():
    slope = jax.grad(lambda log_alpha, log_prob: surrogates.temperature_loss(log_alpha, log_prob, -1.0))
    assert slope(0.3, 2.0) == pytest.approx(-1.0)  # entropy -2, below the target of -1: log alpha goes up
    assert slope(0.3, -1.0) == pytest.approx(2.0)
    assert slope(0.3, 1.0) == 0


def test_advantage_weights_by_hand():
    """exp(2 A), cut at 5; beta = 0 weighs all alike."""
    advantage = jnp.array([-0.5, 0.0, 0.5, 3.0])
    weight = surrogates.advantage_weight(advantage, 2.0, 5.0)
    np.testing.assert_allclose(weight, [np.exp(-1), 1.0, np.e, 5.0], rtol=1e-6)
    np.testing.assert_array_equal(surrogates.advantage_weight(advantage, 0.0, 5.0), np.ones(4))


def test_imitation_weighted_so_reweighs_the_policy_of_the_data():
    """Where the data takes actions in shares p, the policy that minimises the mean of -w log pi is w p, normalised."""
    p, advantage = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.0, 1.0, -1.0])
    weight = surrogates.advantage_weight(advantage, 1.5, 100.0)
    best = p * weight / (p * weight).sum()

    def loss(logits):
        return (p * surrogates.policy_gradient_loss(jax.nn.log_softmax(logits), weight)).sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.log(best)), np.zeros(3), atol=1e-6)


def test_a_ratio_that_overflows_gives_no_nan():
    """log-ratios past 88, as a policy that has collapsed has them, and an advantage of exactly 0."""
    log_ratio, advantage = jnp.array([100.0, 100.0, 100.0, -200.0]), jnp.array([1.0, -1.0, 0.0, 1.0])
    losses = {
        "clip": lambda x: surrogates.ppo_clip_loss(x, advantage, 0.2),
        "penalty": lambda x: surrogates.ppo_penalty_loss(x, advantage, surrogates.approximate_kl(x), 0.5),
        "ratio": lambda x: surrogates.ratios(x) * advantage,
    }
    for name, loss in losses.items():
        value, gradient = loss(log_ratio), jax.grad(lambda x, loss=loss: loss(x).sum())(log_ratio)
        assert np.isfinite(value).all(), name
        assert np.isfinite(gradient).all(), name
    np.testing.assert_allclose(losses["clip"](log_ratio)[jnp.array([0, 2, 3])], [-1.2, 0.0, 0.0], atol=1e-6)
    assert surrogates.ratios(jnp.float32(19.0)) == jnp.exp(jnp.float32(19.0))


def test_shapes_that_would_broadcast_are_refused():
    a, b = jnp.zeros(3), jnp.zeros((3, 1))
    for call in (
        lambda: surrogates.policy_gradient_loss(a, b),
        lambda: surrogates.ppo_clip_loss(a, b, 0.2),
        lambda: surrogates.ppo_penalty_loss(a, a, b, 1.0),
        lambda: surrogates.value_loss(a, b),
        lambda: surrogates.clipped_value_loss(a, b, a, 0.2),
    ):
        with pytest.raises(UsageError, match=r"\[3, 1\]"):
            call()


def test_clip_fraction_has_the_dtype_of_what_it_is_given():
    with jax.enable_x64(True):
        assert surrogates.clip_fraction(jnp.zeros(2, jnp.float64), 0.2).dtype == jnp.float64
    assert surrogates.clip_fraction(jnp.zeros(2, jnp.float32), 0.2).dtype == jnp.float32
