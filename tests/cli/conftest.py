"""A small run made by the command line, and a module of a user's own environments."""

import contextlib
import io
import sys

import pytest

from steersman.cli.main import run as cli

FLAGS = "--no-preset --num-envs 4 --unroll-length 8 --num-minibatches 2 --num-epochs 1 --hidden-sizes 8"
FLAGS = f"{FLAGS} --evaluation-episodes 4 --evaluate-every 0 --devices 1 --schedule-steps 1000"
FLAGS = f"{FLAGS} --no-normalize-observations --no-scale-rewards --anneal-learning-rate".split()

OWN = '''
import signal

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.nets.actor_critic import ActorCritic
from steersman.types import EnvSpec, TimeStep


def network(key, spec):
    return ActorCritic(spec, hidden_sizes=(3,), key=key)


class Dots(gymnasium.Env):
    """Five steps of reward 1; at a step of all members together something may happen."""

    observation_space = spaces.Dict(here=spaces.Box(-1.0, 1.0, (2,)), kind=spaces.Discrete(3))
    action_space = spaces.Box(0.0, 10.0, (1,))
    life, at, what = 0, None, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action):
        self.t += 1
        Dots.life += 1
        if Dots.life == self.at:
            return self.what()
        return self.see(), 1.0, self.t == 5, False, {}

    def see(self):
        return {"here": self.np_random.uniform(-1, 1, 2).astype(np.float32), "kind": 1}


def dots():
    Dots.life, Dots.at, Dots.what = 0, None, None
    return Dots()


class Interrupted(Dots):
    at = 200

    def what(self):
        signal.raise_signal(signal.SIGTERM)
        return self.see(), 1.0, self.t == 5, False, {}


def interrupted():
    Dots.life = 0
    return Interrupted()


class Dying(Dots):
    at = 200

    def what(self):
        raise RuntimeError("motor on fire")


class Decaying:
    """Compiled: a task without end, whose reward is NaN after 60 steps."""

    def __init__(self):
        space = spaces.Box(-1.0, 1.0, (1,))
        self.spec = EnvSpec("Decaying", space, spaces.Discrete(2), spaces.Discrete(2))

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jax.random.uniform(key, (1,))

    def step(self, t, action, key):
        obs = jax.random.uniform(key, (1,))
        reward = jnp.where(t < 60, 1.0, jnp.nan).astype(jnp.float32)
        never = jnp.zeros((), bool)
        return t + 1, TimeStep(obs, reward, never, never, obs, jnp.zeros((0,)), {})
'''


@pytest.fixture(scope="session", autouse=True)
def programs(shared_programs):
    """Small trainings are many, and of a few settings."""


@pytest.fixture(scope="session")
def flags():
    """Settings of a training that takes a blink once it is compiled."""
    return FLAGS


@pytest.fixture(scope="session")
def own(tmp_path_factory):
    """The name of an importable module with environments of a user's own."""
    place = tmp_path_factory.mktemp("own")
    (place / "own_places.py").write_text(OWN)
    sys.path.insert(0, str(place))
    yield "own_places"
    sys.path.remove(str(place))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """-> (exit code, standard output, the folder) of a run on a compiled environment."""
    out = tmp_path_factory.mktemp("trained") / "run"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli(["train", "ppo", "CartPole-v1", "--steps", "320", "--out", str(out), "--json", *FLAGS])
    return code, said.getvalue(), out
