"""The compiled twins against Gymnasium's originals, from the same states.

The originals compute in float64 and the twins in float32, so a step agrees to about 1e-5 relative; flags agree exactly.
"""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from steersman.envs import classic
from steersman.envs.wrappers import Clocked
from steersman.errors import UsageError
from steersman.vector import vectorize

IDS = list(classic.TWINS)
F = np.float32


def push_along(obs, rng):
    """Pushes the way the car already goes: reaches the goal."""
    return 2 * int(obs[1] >= 0)


def balance(obs, rng):
    return int(obs[2] + 0.5 * obs[3] > 0)


def pump(obs, rng):
    return 2 * int(obs[4] < 0)


POLICIES = {
    "Acrobot-v1": [lambda obs, rng: int(rng.integers(3)), pump],
    "CartPole-v1": [lambda obs, rng: int(rng.integers(2)), balance],
    "MountainCar-v0": [lambda obs, rng: int(rng.integers(3)), push_along],
    "MountainCarContinuous-v0": [
        lambda obs, rng: rng.uniform(-1, 1, 1).astype(F),
        lambda obs, rng: np.array([push_along(obs, rng) - 1], F),
    ],
    "Pendulum-v1": [lambda obs, rng: rng.uniform(-2, 2, 1).astype(F)],
}
ENDS = {  # of the episodes played below: the twins have to agree with the original in both kinds of end
    "Acrobot-v1": {"terminated", "truncated"},
    "CartPole-v1": {"terminated", "truncated"},
    "MountainCar-v0": {"terminated", "truncated"},
    "MountainCarContinuous-v0": {"terminated", "truncated"},
    "Pendulum-v1": {"truncated"},
}


def play(env, policies, episodes=2):
    """Whole episodes of the original: states before each step, their number in the episode, actions, what came."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(episodes):
        for policy in policies:
            obs, _ = env.reset(seed=int(rng.integers(2**31)))
            ended, t = False, 0
            while not ended:
                state = np.array(env.unwrapped.state, np.float64)
                action = policy(obs, rng)
                obs, reward, terminated, truncated, _ = env.step(action)
                rows.append((state, t, action, obs, reward, terminated, truncated))
                ended, t = terminated or truncated, t + 1
    return [np.array(column) for column in zip(*rows, strict=True)]


def twin_steps(env_id, states, steps, actions, **kwargs):
    env = classic.make(env_id, **kwargs)
    inner = type(env.reset(jax.random.key(0))[0].env)(*states.astype(F).T)
    clocked = Clocked(inner, jnp.asarray(steps, jnp.int32))
    scale = 2 if env_id == "Pendulum-v1" else 1
    actions = jnp.asarray(actions / F(scale) if actions.dtype == F else actions.astype(np.int32))
    return jax.jit(jax.vmap(env.step, in_axes=(0, 0, None)))(clocked, actions, jax.random.key(0))[1]


def assert_agree(seen, obs, reward, terminated, truncated, tolerance=2e-5):
    np.testing.assert_allclose(seen.final_obs, obs, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(seen.reward, reward, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(seen.terminated, terminated)
    np.testing.assert_array_equal(seen.truncated, truncated)


@pytest.mark.parametrize("env_id", IDS)
def test_whole_episodes_step_by_step(env_id):
    with gymnasium.make(env_id) as env:
        states, steps, actions, *came = play(env, POLICIES[env_id])
    seen = twin_steps(env_id, states, steps, actions)
    assert_agree(seen, *came)
    ends = {name for name in ("terminated", "truncated") if np.any(getattr(seen, name))}
    assert ends == ENDS[env_id]


STATES = {  # wider than episodes reach: walls, both sides of every threshold, the largest speeds
    "Acrobot-v1": ([-3.1, -3.1, -12.6, -28.3], [3.1, 3.1, 12.6, 28.3]),
    "CartPole-v1": ([-2.5, -4, -0.25, -4], [2.5, 4, 0.25, 4]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "Pendulum-v1": ([-20, -8], [20, 8]),
}
ARGUMENTS = {
    "CartPole-v1": {"sutton_barto_reward": True},
    "MountainCar-v0": {"goal_velocity": 0.03},
    "MountainCarContinuous-v0": {"goal_velocity": 0.03},
    "Pendulum-v1": {"g": 9.81},
}
PHYSICS = {
    "Acrobot-v1": {"mass_1": 1.5, "mass_2": 0.7, "length": 1.2, "center_1": 0.4, "center_2": 0.6, "torque": 0.8},
    "CartPole-v1": {"gravity": 9.0, "cart_mass": 2.0, "pole_mass": 0.3, "length": 0.4, "force": 8.0, "dt": 0.01},
    "MountainCar-v0": {"force": 0.0013, "gravity": 0.002},
    "MountainCarContinuous-v0": {"power": 0.002},
    "Pendulum-v1": {"mass": 2.0, "length": 0.7, "dt": 0.02},
}


@pytest.mark.parametrize("env_id", IDS)
def test_random_states_with_the_originals_arguments(env_id):
    rng = np.random.default_rng(1)
    states = rng.uniform(*STATES[env_id], size=(400, len(STATES[env_id][0]))).astype(F).astype(np.float64)
    own, physics = ARGUMENTS.get(env_id, {}), PHYSICS[env_id]
    arguments = {**own, **physics}
    rows = []
    with gymnasium.make(env_id, **own) as env:
        raw = env.unwrapped
        classic.set_parameters(env, env_id, **arguments)
        raw.reset(seed=0)
        for state in states:
            raw.state = state.copy()
            if env_id == "CartPole-v1":
                raw.steps_beyond_terminated = None
            action = POLICIES[env_id][0](None, rng)
            rows.append((action, *raw.step(action)[:4]))
    actions, *came = [np.array(column) for column in zip(*rows, strict=True)]
    tolerance = 1e-3 if env_id == "Acrobot-v1" else 2e-5  # there the Runge-Kutta step at top speed amplifies rounding
    assert_agree(twin_steps(env_id, states, np.zeros(len(states)), actions, **arguments), *came, tolerance=tolerance)


@pytest.mark.parametrize("env_id", IDS)
def test_first_observations_have_the_same_distribution(env_id):
    envs = vectorize(classic.make(env_id), 2000)
    ours = np.asarray(envs.reset(jax.random.key(3))[1])
    with gymnasium.make(env_id) as env:
        env.reset(seed=4)
        theirs = np.stack([env.reset()[0] for _ in range(1000)])
    for column in range(ours.shape[1]):
        if np.ptp(theirs[:, column]) == 0:
            np.testing.assert_array_equal(ours[:, column], theirs[0, column])
        else:
            assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    correlation = np.corrcoef(ours[:, np.ptp(ours, 0) > 0].T)  # drawn independently, not one number for all
    if env_id == "CartPole-v1":
        assert np.abs(correlation - np.eye(4)).max() < 0.1


@pytest.mark.parametrize("env_id", IDS)
def test_the_spec_is_the_originals(env_id):
    spec = classic.make(env_id).spec
    with gymnasium.make(env_id) as env:
        assert spec.observation_space == env.observation_space
        assert spec.native_action_space == env.action_space
        assert env.spec is not None
        assert (spec.id, spec.max_episode_steps) == (env.spec.id, env.spec.max_episode_steps)


@pytest.mark.parametrize("env_id", IDS)
def test_the_original_follows_the_twin_for_rendering(env_id):
    twin = classic.make(env_id)
    state, _ = twin.reset(jax.random.key(5))
    discrete = twin.spec.native_action_space.shape == ()
    canonical = jnp.int32(1) if discrete else jnp.array([0.25], jnp.float32)
    _, seen = twin.step(state, canonical, jax.random.key(6))
    native = 1 if discrete else np.array([0.5 if env_id == "Pendulum-v1" else 0.25], F)
    with gymnasium.make(classic.native(env_id).id) as original:
        original.reset(seed=0)
        classic.set_state(original, env_id, state)
        obs = original.step(native)[0]
    np.testing.assert_allclose(seen.obs, obs, rtol=1e-5, atol=1e-5)


def test_unknown_arguments_and_ids_are_refused():
    with pytest.raises(UsageError, match=r"takes g, mass, length, gain, dt; got gravity"):
        classic.make("Pendulum-v1", gravity=9.8)
    with pytest.raises(UsageError, match=r"got action_dely\. Did you mean action_delay"):
        classic.make("Pendulum-v1", action_dely=2)
    with pytest.raises(UsageError, match=r"Pendulum-v1: mass = abc; it must be a number"):
        classic.make("Pendulum-v1", mass="abc")
    for mass in (-1, 0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"Pendulum-v1: mass = {mass}; it must be above 0"):
            classic.make("Pendulum-v1", mass=mass)
    with pytest.raises(UsageError, match="CartPole-v1: gravity = -9.8; it must be 0 or more"):
        classic.make("CartPole-v1", gravity=-9.8)
    assert classic.make("Pendulum-v1", g=0).spec.id == "Pendulum-v1"
    with pytest.raises(UsageError, match="takes mass_1, .*; got g"):
        classic.make("Acrobot-v1", g=9.8)
    with pytest.raises(UsageError, match=r"no compiled twin.*CartPole-v1"):
        classic.make("CartPole-v0")
