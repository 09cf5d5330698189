"""Networks of action values: the dueling sum, noise and its absence, spaces."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.nets.value import NoisyLinear, QNetwork
from steersman.types import EnvSpec

BOX = spaces.Box(-1, 1, (3,))
KEY = jax.random.key(0)


def q_network(observation=BOX, actions=4, **settings):
    action = spaces.Discrete(actions)
    return QNetwork(EnvSpec("test", observation, action, action), key=KEY, **settings)


@pytest.mark.parametrize("outputs", [0, 7])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_shapes_and_leaves(outputs, dueling, hidden):
    make = lambda: q_network(outputs=outputs, dueling=dueling, hidden_sizes=hidden, noisy=bool(outputs))
    network = eqx.filter_eval_shape(make)
    assert jax.eval_shape(lambda: make()(jnp.ones(3))).shape == ((4, 7) if outputs else (4,))
    assert all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(network))
    assert hash(jax.tree.structure(network)) is not None


def test_plain_is_a_perceptron_by_hand():
    network = q_network(hidden_sizes=(8,))
    x = np.array([0.5, -1.0, 2.0], np.float32)
    stream = network.advantage
    hidden = np.maximum(np.asarray(stream.hidden.weight) @ x + np.asarray(stream.hidden.bias), 0)
    right = np.asarray(stream.output.weight) @ hidden + np.asarray(stream.output.bias)
    np.testing.assert_allclose(network(jnp.asarray(x)), right, rtol=1e-5)


@pytest.mark.parametrize("outputs", [0, 5])
def test_dueling_advantages_have_mean_zero(outputs):
    network = q_network(dueling=True, outputs=outputs, hidden_sizes=(8,))
    value, advantage = network.parts(jnp.ones(3))
    np.testing.assert_allclose(advantage.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(network(jnp.ones(3)).mean(0), value[0], rtol=1e-5)
    assert q_network().parts(jnp.ones(3))[0] is None


@pytest.mark.parametrize("settings", [{}, {"dueling": True}, {"outputs": 5}, {"dueling": True, "outputs": 5}], ids=str)
def test_streams_are_two_parts_of_the_action_values(settings):
    network = q_network(hidden_sizes=(8,), layer_norm=True, **settings)
    q = network(jnp.ones(3))
    q = q.mean(-1) if "outputs" in settings else q
    value, advantage = network.streams(jnp.ones(3))
    assert value.shape == ()
    np.testing.assert_allclose(value + advantage, q, rtol=1e-5)
    np.testing.assert_allclose(advantage.mean(), 0, atol=1e-6)


def test_noisy_linear_is_its_weights_with_noise():
    """The same numbers as W + S f(e_out) f(e_in)^T, formed."""
    layer = NoisyLinear(3, 2, key=KEY)
    np.testing.assert_allclose(layer.scale.weight, 0.5 / np.sqrt(3), rtol=1e-6)
    x, key = jnp.array([1.0, -2.0, 0.5]), jax.random.key(5)
    f = lambda e: np.sign(e) * np.sqrt(np.abs(e))
    in_key, out_key = jax.random.split(key)
    e_in, e_out = f(np.asarray(jax.random.normal(in_key, (3,)))), f(np.asarray(jax.random.normal(out_key, (2,))))
    weight = np.asarray(layer.mean.weight) + np.asarray(layer.scale.weight) * np.outer(e_out, e_in)
    bias = np.asarray(layer.mean.bias) + np.asarray(layer.scale.bias) * e_out
    np.testing.assert_allclose(layer(x, key), weight @ np.asarray(x) + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x), layer.mean(x))


def test_noise_is_centred_and_reaches_both_streams():
    network = q_network(noisy=True, dueling=True, hidden_sizes=(8,))
    keys = jax.random.split(jax.random.key(1), 500)
    value, advantage = jax.vmap(network.parts, in_axes=(None, 0))(jnp.ones(3), keys)
    assert float(value.std(0).min()) > 0.05
    assert float(advantage.std(0).min()) > 0.05
    layer = NoisyLinear(3, 2, key=KEY)
    drawn = jax.vmap(layer, in_axes=(None, 0))(jnp.ones(3), keys)
    np.testing.assert_allclose(drawn.mean(0), layer(jnp.ones(3)), atol=0.15)


def test_masks():
    masked = q_network(spaces.Dict(observation=BOX, action_mask=spaces.Box(0, 1, (4,))))
    a, b = (masked({"observation": jnp.ones(3), "action_mask": jnp.full((4,), m)}) for m in (0.0, 1.0))
    np.testing.assert_array_equal(a, b)  # the mask is not an input
