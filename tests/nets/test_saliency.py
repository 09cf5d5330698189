"""Jacobian saliency on networks whose Jacobian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.nets.saliency import HasStreams, saliency, smooth_saliency
from steersman.nets.value import QNetwork
from steersman.types import EnvSpec


def test_of_a_linear_network_it_is_the_absolute_weights():
    v = jax.random.normal(jax.random.key(0), (4, 5, 2))
    a = jax.random.normal(jax.random.key(1), (3, 4, 5, 2))
    streams = lambda s: (jnp.vdot(v, s), jnp.tensordot(a, s, 3))
    obs = jax.random.normal(jax.random.key(2), (4, 5, 2))
    best = int(jnp.argmax(streams(obs)[1]))
    value, advantage = saliency(streams, obs)
    np.testing.assert_allclose(value, jnp.abs(v), rtol=1e-6)
    np.testing.assert_allclose(advantage, jnp.abs(a[best]), rtol=1e-6)


def test_entries_that_are_no_numbers_are_held():
    obs = {"image": np.full((2, 2), 200, np.uint8), "kind": np.int32(2), "x": np.float32(3.0)}
    streams = lambda s: (
        s["image"].astype(jnp.float32).sum() * s["kind"].astype(jnp.float32),
        jnp.stack([s["x"] ** 2, jnp.float32(-1)]),
    )
    value, advantage = saliency(streams, obs)
    np.testing.assert_allclose(value["image"], 2.0)
    assert (float(value["kind"]), float(value["x"])) == (0.0, 0.0)
    assert (float(advantage["x"]), float(advantage["image"].sum())) == (6.0, 0.0)


def test_smoothing_averages_the_gradient_over_a_neighbourhood():
    """Of f(s) = s^2 / 2 it is |s|, whatever the noise; of |s| near its kink 2 Phi(s / sd) - 1 in place of 1."""
    key, obs = jax.random.key(0), {"wide": jnp.array([-10.0, 10.0]), "x": jnp.array([0.5, -0.5])}
    square = lambda s: (jnp.sum(s["wide"] ** 2) / 2, jnp.stack([jnp.abs(s["x"]).sum(), jnp.float32(-1)]))
    value, advantage = smooth_saliency(square, obs, key, samples=4096, noise=0.5)
    np.testing.assert_allclose(value["wide"], [10, 10], atol=1.0)  # sd 10 / sqrt(4096), and 6 of them
    assert (np.asarray(value["x"]) == 0).all()
    np.testing.assert_allclose(advantage["x"], 0.683, atol=0.05)  # one sd from the kink: the range of x alone counts
    plain = saliency(square, obs)
    for bare in (smooth_saliency(square, obs, key, samples=1, noise=0.0), plain):
        np.testing.assert_array_equal(bare[1]["x"], [1, 1])


def test_the_action_is_that_of_the_clean_observation():
    streams = lambda s: (s[0], jnp.stack([2 * s[0] + 1e-3, 3 * s[1]]))  # a copy in two would prefer the other action
    _, advantage = smooth_saliency(streams, jnp.zeros(2).at[1].set(-1e-4), jax.random.key(1), samples=64, noise=5.0)
    np.testing.assert_allclose(advantage, [2, 0], rtol=1e-6)


def spec(action):
    return EnvSpec("test", spaces.Box(0, 255, (12, 12, 3), np.uint8), action, action)


def test_streams_of_the_librarys_networks():
    obs = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)

    @jax.jit
    def seen(key, obs):
        networks = [kind(spec(spaces.Discrete(4)), key=key) for kind in (QNetwork, ActorCritic)]
        assert all(isinstance(network, HasStreams) for network in networks)
        return [(network.streams(obs), network(obs), saliency(network.streams, obs)) for network in networks]

    (streams, q, of_q), ((value, advantage), (policy, v), of_critic) = seen(jax.random.key(1), obs)
    np.testing.assert_allclose(streams[0] + streams[1], q, rtol=1e-5)
    np.testing.assert_allclose(streams[1].sum(), 0, atol=1e-5)
    np.testing.assert_allclose(value, v, rtol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(advantage), policy.probabilities(), rtol=1e-5)
    assert all(np.isfinite(m).all() and float(m.max()) > 0 for m in (*of_q, *of_critic))
    with pytest.raises(UsageError, match="Streams are of actions one can count"):
        jax.eval_shape(lambda key: ActorCritic(spec(spaces.Box(-1, 1, (2,))), key=key).streams(obs), jax.random.key(1))
