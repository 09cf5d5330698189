"""The examples in the docstrings of theory/ are true, and its modules import only what they may."""

import ast
import doctest
import importlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

NAMES = ["returns", "values", "surrogates", "distributions", "distributional", "exploration", "statistics"]
NAMES += ["comparison", "constraints", "estimators", "natural", "trees", "beliefs.filters", "beliefs.particles"]
NAMES += ["alignment.preferences", "alignment.groups", "alignment.best_of"]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_examples(name):
    module = importlib.import_module(f"steersman.theory.{name}")
    result = doctest.testmod(module, extraglobs={"jnp": jnp, "np": np})
    assert result.failed == 0


def test_every_part_but_none_more_is_listed():
    package = importlib.import_module("steersman.theory")
    assert package.__file__ is not None
    files = (p.relative_to(Path(package.__file__).parent) for p in Path(package.__file__).parent.rglob("*.py"))
    assert sorted(".".join(f.with_suffix("").parts) for f in files if f.stem != "__init__") == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_public_function_has_a_docstring(name):
    module = importlib.import_module(f"steersman.theory.{name}")
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    defined = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert defined
    assert [n.name for n in defined if not ast.get_docstring(n)] == []
