import jax
import jax.numpy as jnp
import numpy as np
import pytest

gymnax = pytest.importorskip("gymnax")

from steersman import envs  # noqa: E402
from steersman.envs import gymnax as adapter  # noqa: E402
from steersman.envs.families import _GYMNAX  # noqa: E402
from steersman.errors import UsageError  # noqa: E402


def test_the_names_we_list_are_gymnaxs():
    assert set(_GYMNAX) == set(gymnax.registered_envs)


@pytest.mark.parametrize("name", ["CartPole-v1", "Breakout-MinAtar", "PointRobot-misc"])
def test_a_step_is_gymnaxs_own_without_its_reset(name):
    ours = adapter.make(name)
    theirs, params = gymnax.make(name)
    key = jax.random.key(1)
    state, obs = ours.reset(key)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        their_obs, their_state = theirs.reset_env(key, params)
    np.testing.assert_array_equal(obs, their_obs)
    step = jax.jit(ours.step)
    for t in range(60):
        discrete = ours.spec.native_action_space.shape == ()
        action = jnp.int32(t % 2) if discrete else jnp.array([0.7, -0.2], jnp.float32)
        state, seen = step(state, action, jax.random.key(t))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            native = action if discrete else action * ours.spec.native_action_space.high
            their_obs, their_state, reward, terminated, _ = theirs.step_env(
                jax.random.key(t), their_state, native, params
            )
        np.testing.assert_allclose(seen.final_obs, their_obs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.reward, reward, rtol=1e-4, atol=1e-4)
        assert bool(seen.terminated) == bool(terminated)
        if terminated:
            break


def test_the_time_limit_is_a_truncation_and_is_a_parameter():
    batch = envs.make("gymnax/Pendulum-v1", 2, max_steps_in_episode=7)
    assert batch.spec.max_episode_steps == 7
    state, _ = batch.reset(jax.random.key(0))
    _, seen = jax.lax.scan(batch.step, state, jnp.zeros((15, 2, 1)))
    np.testing.assert_array_equal(np.flatnonzero(seen.truncated[:, 0]), [6, 13])
    assert not seen.terminated.any()
    assert (seen.obs[6] != seen.final_obs[6]).any()


def test_mistakes():
    with pytest.raises(UsageError, match="Did you mean Breakout-MinAtar"):
        envs.make("gymnax/Breakout", 2)
    with pytest.raises(UsageError, match="does not take these arguments"):
        envs.make("gymnax/CartPole-v1", 2, colour="red")
