"""Scalers against hand arithmetic; entries that never vary."""

import jax.numpy as jnp
import numpy as np
import pytest

from steersman.models.scaling import scaler, unscaled

X = np.array([[1.0, 5.0, 1e-8], [3.0, 5.0, 3e-8], [np.nan, 9.0, 7.0], [5.0, 5.0, 2e-8]], np.float32)
VALID = np.array([True, True, False, True])


def test_moments_and_range_of_the_valid_rows():
    found = scaler(X, VALID)
    np.testing.assert_allclose(found.mean, [3, 5, 2e-8], rtol=1e-6)
    np.testing.assert_allclose(found.std, [np.sqrt(8 / 3), 0, np.sqrt(2 / 3) * 1e-8], rtol=1e-5)
    np.testing.assert_array_equal(found.low, X[VALID].min(0))
    np.testing.assert_array_equal(found.high, X[VALID].max(0))
    assert found.varies.tolist() == [True, False, True]


def test_a_constant_is_not_divided_by_and_comes_back():
    found = scaler(X, VALID)
    z = found.normalize(jnp.array([[3.0, 5.5, 2e-8]]))
    np.testing.assert_allclose(z, [[0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.restore(jnp.array([1.0, 7.0, 0.0])), [3 + np.sqrt(8 / 3), 5, 2e-8], rtol=1e-6)


def test_far_from_zero_nothing_cancels():
    x = np.array([[1e4 - 0.25], [1e4 + 0.25]], np.float32)
    np.testing.assert_allclose(scaler(x, np.ones(2, bool)).std, [0.25])


@pytest.mark.parametrize("around", [0.1, 123456.7])
def test_what_rounding_leaves_of_a_constant_is_none(around):
    x = np.float32(around) + np.zeros((3, 1), np.float32)
    x[1] = np.nextafter(x[1], np.float32(np.inf))
    assert not scaler(x, np.ones(3, bool)).varies.any()


def test_before_anything_is_seen_numbers_pass():
    x = jnp.array([[1.0, -2.0]])
    np.testing.assert_array_equal(unscaled(2).normalize(x), x)
    np.testing.assert_array_equal(unscaled(2).restore(x), x)
