import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs import classic
from steersman.envs.partial.velocities import NO_VELOCITY
from steersman.errors import UsageError
from steersman.run.show.video import renderable
from steersman.spaces import abstract

MASKS = {  # rl-baselines3-zoo's MaskVelocityWrapper multiplies by these; Acrobot's is ours
    "CartPoleNoVel-v1": [1, 0, 1, 0],
    "MountainCarNoVel-v0": [1, 0],
    "MountainCarContinuousNoVel-v0": [1, 0],
    "PendulumNoVel-v1": [1, 1, 0],
    "AcrobotNoVel-v1": [1, 1, 1, 1, 0, 0],
}


def test_every_twin_has_one():
    assert {original for original, _ in NO_VELOCITY.values()} == set(classic.TWINS)
    assert set(NO_VELOCITY) == set(MASKS)


@pytest.mark.parametrize("name", MASKS)
def test_velocities_are_zero_and_the_rest_is_the_originals(name):
    masked, original, mask = envs.make_env(name), envs.make_env(NO_VELOCITY[name].original), np.float32(MASKS[name])
    assert masked.spec.id == name
    assert masked.spec.max_episode_steps == original.spec.max_episode_steps
    (ours, obs), (theirs, whole) = masked.reset(jax.random.key(0)), original.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs, whole * mask)
    action = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract(original.spec.action_space))
    _, seen = masked.step(ours, action, jax.random.key(1))
    _, all_of_it = original.step(theirs, action, jax.random.key(1))
    np.testing.assert_array_equal(seen.final_obs, all_of_it.final_obs * mask)
    assert seen.reward == all_of_it.reward
    assert all_of_it.final_obs[mask == 0].all()  # there was something to mask


def test_arguments_are_the_originals():
    assert envs.make_env("PendulumNoVel-v1,g=9.81").spec.id == "PendulumNoVel-v1"
    with pytest.raises(UsageError, match="Pendulum-v1 takes g, mass, length, gain, dt; got h"):
        envs.make("PendulumNoVel-v1,h=3", 2)
    with pytest.raises(UsageError, match="Did you mean CartPoleNoVel-v1"):
        envs.make("CartPoleNoVel", 2)


def test_a_film_shows_the_original_and_the_policy_sees_what_it_knows():
    pytest.importorskip("pygame")
    with renderable("CartPoleNoVel-v1") as env:
        assert isinstance(env.unwrapped, type(gymnasium.make("CartPole-v1").unwrapped))
        assert env.observation_space == envs.make_env("CartPoleNoVel-v1").spec.observation_space
        assert (env.reset(seed=0)[0] != 0).tolist() == [True, False, True, False]
        assert env.render().shape[-1] == 3
