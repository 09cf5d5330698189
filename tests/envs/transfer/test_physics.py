"""Randomised physics and pushes of compiled environments."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.classic.cartpole import CartPole
from steersman.envs.classic.common import outcome
from steersman.envs.classic.pendulum import Pendulum
from steersman.envs.transfer.around import transferred
from steersman.errors import UsageError
from steersman.types import EnvSpec
from steersman.vector import vectorize

KEY = jax.random.key(0)
PUSH = spaces.Box(-1.0, 1.0, (1,))


def test_a_factor_is_a_parameter_times_it():
    """Doubled for certain, it does as the task that is made twice as heavy."""
    heavy = envs.make_env("Pendulum-v1,mass=3,length=0.5")
    drawn = envs.make_env("Pendulum-v1,mass=1.5,length=1.0", randomize={"mass": (2, 2), "length": (0.5, 0.5)})
    one, two = heavy.reset(KEY), drawn.reset(KEY)
    np.testing.assert_array_equal(one[1], two[1])
    step = lambda env, state: jax.jit(env.step)(state, jnp.ones((1,)), KEY)[1]
    np.testing.assert_allclose(step(heavy, one[0]).obs, step(drawn, two[0]).obs, rtol=1e-6)
    assert step(heavy, one[0]).obs[2] != step(envs.make_env("Pendulum-v1"), one[0]).obs[2]


def test_each_episode_draws_its_own_log_uniform():
    made = envs.make("Pendulum-v1,randomize=mass:0.5:2+length:0.9:1.2,see_physics=true", 500)
    assert made.spec.observation_space["physics"] == spaces.Box(np.float32([0.5, 0.9]), np.float32([2, 1.2]))
    assert made.spec.max_episode_steps == 200

    def run():
        state, obs = made.reset(KEY)
        return obs, jax.lax.scan(made.step, state, jnp.zeros((201, 500, 1)))[1]

    first, seen = jax.jit(run)()
    drawn = np.asarray(first["physics"])
    assert drawn.min(0) == pytest.approx([0.5, 0.9], abs=0.02)
    assert drawn.max(0) == pytest.approx([2, 1.2], abs=0.03)
    assert np.mean(drawn[:, 0] < 1) == pytest.approx(0.5, abs=0.07)  # halved as often as doubled
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(0, abs=0.15)
    physics = np.asarray(seen.obs["physics"])
    np.testing.assert_array_equal(physics[:199], np.broadcast_to(drawn, (199, 500, 2)))
    np.testing.assert_array_equal(seen.final_obs["physics"][199], drawn)
    assert (physics[199] != drawn).any(1).all()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("CartPole-v1", "gravity, cart_mass, pole_mass, length, force, dt"),
        ("Acrobot-v1", "mass_1, mass_2, length, center_1, center_2, torque"),
        ("MountainCar-v0", "force, gravity"),  # a goal velocity of 0 is none
        ("MountainCarContinuous-v0", "power"),
        ("PendulumNoVel-v1", "g, mass, length, gain, dt"),
        ("safe/pendulum", "g, mass, length, gain, dt"),
    ],
)
def test_the_parameters_there_are(name, known):
    with pytest.raises(UsageError, match=f"{name} has no parameter 'x'. It has {known}"):
        envs.make(f"{name},randomize=x:0.5:2", 1)
    first = known.split(", ")[0]
    env = envs.make_env(name, randomize={first: (0.5, 2)})
    assert env.spec == envs.make_env(name).spec
    jax.eval_shape(lambda: env.step(env.reset(KEY)[0], jnp.zeros(env.spec.action_space.shape, jnp.int32), KEY))


@dataclass(frozen=True)
class Slider:
    """Of one's own: a mass that is pushed."""

    mass: float = 2.0
    branches: bool = False

    @property
    def spec(self):
        return EnvSpec("slider", spaces.Box(-9.0, 9.0, (1,)), PUSH, PUSH)

    def reset(self, key):
        return (jnp.zeros((1,)),) * 2

    def step(self, state, action, key):
        if self.branches and self.mass > 1:
            action = -action
        state = state + action / self.mass
        return state, outcome(state, jnp.float32(0), jnp.zeros((), bool))


def factory(mass: float = 2.0, name: str = "x", start: float = 0.0):
    if start:
        raise AssertionError("never")
    return Slider(mass)


def branching(mass: float = 2.0):
    return Slider(mass if mass > 1 else 1.0)


@pytest.mark.parametrize("own", [Slider(), Slider, factory], ids=["object", "class", "function"])
def test_ones_own(own):
    made = envs.make(own, 2, randomize={"mass": (4, 4)})
    _, seen = jax.jit(lambda: made.step(made.reset(KEY)[0], jnp.ones((2, 1))))()
    assert seen.obs.tolist() == [[0.125], [0.125]]
    with pytest.raises(UsageError, match="slider has no parameter 'start'. It has mass"):
        envs.make(own, 2, randomize={"start": (1, 2)})


@pytest.mark.parametrize("own", [Slider(branches=True), branching], ids=["step", "function"])
def test_python_that_decides_by_a_parameter(own):
    env = {"randomize": {"mass": (1, 2)}}
    with pytest.raises(UsageError, match="its Python code decides by their values"):
        envs.make(own, 2, **env)


def test_what_has_no_parameters():
    for name in ("memory/chain-3", "goal/point"):
        with pytest.raises(UsageError, match=f"randomize: {name} has no physical parameters. The classic tasks"):
            envs.make(name, 1, randomize={"mass": (1, 2)})
    env = transferred(Pendulum(), randomize={"mass": (1, 2)}, see_physics=True)
    with pytest.raises(UsageError, match="'physics' already"):
        transferred(Shows(env), randomize={"weight": (1, 2)}, see_physics=True)


@dataclass(frozen=True)
class Shows:
    env: object
    weight: float = 1.0

    @property
    def spec(self):
        return self.env.spec

    def reset(self, key):
        return self.env.reset(key)

    def step(self, state, action, key):
        return self.env.step(state, action, key)


def test_pushes():
    """Of the first velocity alone, one step in four, by up to as much as is said; noise does not reach the factors."""
    env, plain = transferred(CartPole(), push=0.5, push_every=4), CartPole()
    keys = jax.random.split(KEY, 4000)
    state, _ = plain.reset(KEY)
    after, seen = (jax.jit(jax.vmap(e.step, (None, None, 0)))(state, jnp.int32(1), keys) for e in (env, plain))
    pushed = np.asarray(after[0].x_dot - seen[0].x_dot)
    hit = pushed != 0
    assert hit.mean() == pytest.approx(0.25, abs=0.03)
    assert np.abs(pushed).max() == pytest.approx(0.5, abs=0.01)
    assert pushed[hit].mean() == pytest.approx(0, abs=0.04)
    np.testing.assert_array_equal(after[0].theta_dot, seen[0].theta_dot)
    assert env.spec == plain.spec


def test_what_can_be_pushed():
    for name in ("Acrobot-v1,randomize=mass_1:1:2,push=1", "MountainCar-v0,push=0.01", "safe/point-goal,push=1"):
        envs.make_env(name)
    with pytest.raises(UsageError, match="the state of memory/chain-3 has no velocity to push"):
        envs.make_env("memory/chain-3,push=1")


def test_noise_leaves_the_factors_alone():
    env = transferred(Pendulum(), randomize={"mass": (2, 2)}, see_physics=True, observation_noise=1.0)
    obs = jax.jit(lambda: vectorize(env, 5).reset(KEY)[1])()
    assert obs["physics"].tolist() == [[2.0]] * 5
    assert np.ptp(obs["observation"][:, 2]) > 0
