"""Every transition once an epoch; standardised rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.agents.parts.minibatches import epochs, shuffled_minibatches, standardise
from steersman.errors import UsageError


@pytest.mark.parametrize(("length", "num", "minibatches"), [(8, 3, 4), (5, 4, 2), (6, 2, 1)])
def test_minibatches_cover_every_transition_once(length, num, minibatches):
    batch = jnp.arange(length * num).reshape(length, num)
    shuffled = jax.jit(shuffled_minibatches, static_argnums=2)
    cut = shuffled(jax.random.key(0), (batch, batch * 2), minibatches)
    assert cut[0].shape == (minibatches, length * num // minibatches)
    assert sorted(np.asarray(cut[0]).ravel()) == list(range(length * num))
    np.testing.assert_array_equal(cut[1], 2 * cut[0])  # the entries of a transition stay together
    other = shuffled(jax.random.key(1), (batch, batch), minibatches)[0]
    assert (np.asarray(other) != np.asarray(cut[0])).any()


def test_standardise():
    x = jax.random.normal(jax.random.key(0), (3, 1000)) * 5 + 2
    y = standardise(x, axis=-1)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-4)


def test_minibatches_that_do_not_divide_offer_neighbours():
    with pytest.raises(UsageError, match="Set num_minibatches to 5 or 8"):
        shuffled_minibatches(jax.random.key(0), jnp.zeros((10, 4)), 7)


def test_standardise_counts_each_entry_by_its_weight():
    x = jnp.array([[1.0, 3.0], [5.0, 100.0]])
    weight = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    found = np.asarray(standardise(x, weight))
    kept = found.ravel()[:3]
    np.testing.assert_allclose([kept.mean(), kept.std()], [0.0, 1.0], atol=1e-5)
    plain = np.asarray(standardise(x))
    np.testing.assert_allclose([plain.mean(), plain.std()], [0.0, 1.0], atol=1e-5)


def test_epochs_see_every_transition_once_each_and_carry_the_carry():
    """The minibatches of an epoch are made from what the epochs before it have left."""
    whole = jnp.arange(24, dtype=jnp.int32).reshape(8, 3)

    def minibatches(carry, key):
        return shuffled_minibatches(key, (whole, jnp.full_like(whole, carry["steps"])), 4)

    def step(carry, batch):
        seen, began = batch
        carry = {"steps": carry["steps"] + 1, "sum": carry["sum"] + seen.sum()}
        return carry, {"seen": seen, "began": began[0], "steps": carry["steps"]}

    carry, metrics = epochs(step, {"steps": jnp.int32(0), "sum": jnp.int32(0)}, minibatches, jax.random.key(0), 3)
    seen = np.asarray(metrics["seen"])
    assert seen.shape == (3, 4, 6)
    np.testing.assert_array_equal(np.sort(seen.reshape(3, -1)), np.tile(np.arange(24), (3, 1)))
    assert (seen[0] != seen[1]).any()
    assert (seen[1] != seen[2]).any()
    np.testing.assert_array_equal(metrics["steps"], 1 + np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(metrics["began"], np.repeat([[0], [4], [8]], 4, axis=1))
    assert {name: int(value) for name, value in carry.items()} == {"steps": 12, "sum": 3 * 276}
