"""Small trainings, shared."""

import pytest

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
def programs(shared_programs):
    """Small trainings are many, and of a few settings."""


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
