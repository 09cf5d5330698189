"""The examples in the docstrings of planning/ are true."""

import doctest
import importlib

import jax.numpy as jnp
import pytest


@pytest.mark.parametrize("name", ["noise", "scores", "shooting", "gradient"])
def test_docstring_examples(name):
    module = importlib.import_module(f"steersman.planning.{name}")
    assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0
