"""Small trainings, shared; compiled programs are kept on disk for the length of the session, for subprocesses too."""

import os

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import steersman

SMALL = {
    "num_envs": 4,
    "unroll_length": 8,
    "num_minibatches": 2,
    "num_epochs": 1,
    "hidden_sizes": (8,),
    "evaluation_episodes": 4,
    "evaluate_every": 0,
    "normalize_observations": False,  # the moments begin with a rollout of random play, which takes time
    "scale_rewards": False,
    "anneal_learning_rate": True,
    "schedule_steps": 1000,  # a constant of the compiled programs: the same for all budgets
    "preset": False,
}


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def small():
    """Settings of a training that takes a blink once it is compiled."""
    return SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run on a compiled environment."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return steersman.train("ppo", "CartPole-v1", out=out, steps=640, tensorboard=True, **SMALL)


@pytest.fixture(scope="session")
def two_seeds(tmp_path_factory):
    """A finished run of two seeds side by side."""
    out = tmp_path_factory.mktemp("two_seeds") / "run"
    return steersman.train(
        "ppo", "CartPole-v1", out=out, steps=640, seeds=2, **SMALL | {"normalize_observations": True}
    )


@pytest.fixture(scope="session")
def trained_on_host(tmp_path_factory):
    """A finished run on a Gymnasium environment."""
    out = tmp_path_factory.mktemp("trained_on_host") / "run"
    return steersman.train("ppo", "gymnasium/CartPole-v1", out=out, steps=640, **SMALL)
