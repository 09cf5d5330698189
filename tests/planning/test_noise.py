"""Power-law noise against its definition."""

import jax
import numpy as np
import pytest

from steersman.planning.noise import basis, power_law


@pytest.mark.parametrize(("length", "exponent"), [(1, 2.0), (2, 1.0), (8, 0.0), (9, 1.0), (12, 2.5)])
def test_the_spectrum_falls_as_a_power_of_the_frequency(length, exponent):
    rows = np.asarray(basis(length, exponent), np.float64)
    np.testing.assert_allclose((rows**2).sum(0), 1.0, atol=1e-5)  # the variance at every time
    spectrum = (np.abs(np.fft.rfft(rows, axis=1)) ** 2).sum(0)  # E |sum_t y_t exp(-2 pi i f t)|^2
    frequency = np.maximum(np.arange(len(spectrum)), 1)
    np.testing.assert_allclose(spectrum / spectrum[0], frequency**-exponent, atol=1e-5)


def test_it_is_correlated_in_time_alone():
    drawn = np.asarray(power_law(jax.random.key(0), (4000, 6, 2), 2.0), np.float64)
    flat = drawn.reshape(4000, 12)  # (H, A), A fastest
    covariance = np.asarray(basis(6, 2.0).T @ basis(6, 2.0), np.float64)
    np.testing.assert_allclose(flat.T @ flat / 4000, np.kron(covariance, np.eye(2)), atol=0.08)
