"""The examples run, as they stand, on small budgets; and they do what their text says."""

import ast
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"steps": 512, "num_envs": 4, "unroll_length": 32, "evaluation_episodes": 4, "num_epochs": 1}


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 60
    assert f"python examples/{path.name}" in ast.get_docstring(ast.parse(source))
    assert 'if __name__ == "__main__":\n    main()\n' in source


def test_every_example_is_tested():
    here = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'load("{path.stem}")' not in here] == []


def test_by_hand(capsys):
    mean = load("by_hand").main(updates=50, episodes=4)
    assert 50 < mean <= 500  # a random policy gets 22
    assert "update 50: mean return" in capsys.readouterr().out


def test_sweep(capsys):
    returns = load("sweep").main(updates=5, seeds=2, learning_rates=(0.0, 1e-2))
    assert returns.shape == (2, 2)
    assert np.isfinite(returns).all()
    assert returns[0, 0] != returns[0, 1]  # seeds differ
    assert returns[0, 0] != returns[1, 0]  # learning rates differ
    assert capsys.readouterr().out.count("learning rate") == 2


def test_own_environment(capsys):
    mean = load("own_environment").main(**SMALL)
    assert 0 < mean < 200
    assert "degrees" in capsys.readouterr().out


def test_own_compiled_environment():
    assert 0 < load("own_compiled_environment").main(**SMALL) < 200


def test_the_two_boats_are_one():
    host = load("own_environment").Boat(wind=0.0)
    compiled = load("own_compiled_environment").boat(wind=0.0)
    state, obs = compiled.reset(jax.random.key(0))
    host.reset(seed=0)
    host.offset, host.heading = map(float, obs)
    for rudder in (0.0, 1.0, -0.5, 2.0):  # canonical; the last is clipped
        state, seen = compiled.step(state, jnp.full((1,), rudder), jax.random.key(1))
        there, reward, terminated, _, _ = host.step(np.full(1, 30.0 * np.clip(rudder, -1, 1)))
        np.testing.assert_allclose(seen.obs, there, rtol=1e-5)
        np.testing.assert_allclose(seen.reward, reward, rtol=1e-5)
        assert bool(seen.terminated) == terminated


@pytest.mark.parametrize("name", ["own_environment:boat", "own_compiled_environment:boat"])
def test_an_environment_by_its_name_from_its_folder(name, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    made = envs.make(name, 2)
    assert made.spec.id == name
    assert made.spec.max_episode_steps == 200
    assert float(made.spec.action_space.high[0]) == 1.0
    assert float(made.spec.native_action_space.high[0]) == 30.0


def test_own_network():
    assert 5 < load("own_network").main(**SMALL) <= 500
