"""Strict numerics everywhere: no silent promotion of dtypes or ranks.

The fast tests compile with few optimisations: most of their time is compilation, and this is a third of it. Those that
learn, and those of equal bits (``-m learning``, ``-m exact``), run what users run, as all do where
JAX_DISABLE_MOST_OPTIMIZATIONS is 0.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("STEERSMAN_CACHE", "0")  # tests leave the user's compiled programs alone

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Before the first program: XLA reads its flags once. The environment carries them to child processes."""
    wanted = "0" if config.option.markexpr in ("learning", "exact") else "1"
    fast = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", wanted) == "1"
    jax.config.update("jax_disable_most_optimizations", fast)
    flags = "--xla_force_host_platform_device_count=2"  # so that sharding is tested too
    if fast and jax.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)


@pytest.fixture
def same_bits():
    """assert(a, b) that arrays are equal: to round-off where programs are compiled with few optimisations, because
    products and sums are then contracted here and not there."""

    def check(a, b):
        if jax.config.read("jax_disable_most_optimizations"):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)

    return check


@pytest.fixture
def key():
    return jax.random.key(0)
