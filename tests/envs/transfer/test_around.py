"""Delays, filters, penalties, noise, bias, histories: by hand, and the same around compiled and host environments."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.goals import point
from steersman.envs.probe import mask as mask_probe
from steersman.envs.transfer.around import transferred
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.tabular.pomdp import ObservedEnv
from steersman.tabular.problems.pomdp_classics import tiger
from steersman.types import EnvSpec, TimeStep
from steersman.vector import vectorize

LENGTH, B = 4, 2
SEES, ACTS = spaces.Box(-9.0, 9.0, (2,)), spaces.Box(-1.0, 1.0, (1,))
BOTH = spaces.Dict({"done": SEES, "eye": spaces.Box(0.0, 1.0, (1,))})


def echo(space=SEES, acts=ACTS, look=lambda done: done):
    """Shows [the action that was done, steps of this episode], pays the steps, ends after four."""

    def reset(key):
        return jnp.zeros((2,)), look(jnp.zeros((2,)))

    def step(state, action, key):
        state = jnp.stack([action.astype(jnp.float32).reshape(-1)[0], state[1] + 1])
        ends, obs = (state[1] >= LENGTH, jnp.zeros((), bool)), look(state)
        return state, TimeStep(obs, state[1], *ends, obs, jnp.zeros((0,), jnp.float32), {})

    return PureEnv(EnvSpec("echo", space, acts, acts), reset, step)


class Echo(gymnasium.Env):
    """The same on the host."""

    observation_space, action_space = SEES, ACTS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(2, np.float32)
        return self.state, {}

    def step(self, action):
        self.state = np.array([action[0], self.state[1] + 1], np.float32)
        return self.state, float(self.state[1]), bool(self.state[1] >= LENGTH), False, {}


ACTIONS = np.linspace(0.1, 1.2, 2 * LENGTH + 2, dtype=np.float32)[:, None, None] * np.ones((1, B, 1), np.float32)


def play(env, actions=ACTIONS, seed=3):
    """-> the first observations [B, ...], what is seen [T, B, ...]"""
    batch = vectorize(env, actions.shape[1])

    def run(key):
        state, obs = batch.reset(key)
        return obs, jax.lax.scan(batch.step, state, actions)[1]

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(seed)))


def done(seen):
    return seen.final_obs[:, 0, 0].round(3).tolist()


def test_a_fixed_delay():
    _, seen = play(transferred(echo(), action_delay=2))
    assert done(seen) == pytest.approx([0, 0, 0.1, 0.222, 0, 0, 0.589, 0.711, 0, 0], abs=1e-3)  # new episodes at 5, 9
    assert transferred(echo(), action_delay=0).spec == echo().spec


def test_a_delay_of_counts_and_of_one_sided_actions():
    _, seen = play(transferred(echo(acts=spaces.Discrete(3)), action_delay=1), np.full((3, 1), 2, np.int32))
    assert done(seen) == [0, 2, 2]
    above = spaces.Box(0.5, np.inf, (1,))
    _, seen = play(transferred(echo(acts=above), action_delay=1), np.full((2, 1, 1), 3, np.float32))
    assert done(seen) == [0.5, 3]  # at rest within the bounds
    with pytest.raises(UsageError, match="masks actions: one that comes late may not be legal"):
        transferred(mask_probe(), action_delay=1)
    with pytest.raises(UsageError, match="action_delay = 200: an episode of Pendulum-v1 is over after 200 steps"):
        envs.make("Pendulum-v1,action_delay=0:200", 1)


def test_a_random_delay_is_one_of_each_episode():
    _, seen = play(transferred(echo(), action_delay=(0, 2)), np.ones((8, 300, 1), np.float32))
    late = 4 - (seen.final_obs[..., 0] > 0).reshape(2, LENGTH, -1).sum(1)  # steps at rest, [episode, member]
    assert [np.mean(late == d) for d in range(3)] == pytest.approx([1 / 3] * 3, abs=0.08)
    assert np.corrcoef(late)[0, 1] == pytest.approx(0, abs=0.2)


def test_a_filter_of_first_order():
    _, seen = play(transferred(echo(), action_smoothing=0.75), np.full((6, 1, 1), 2, np.float32))  # clipped to 1
    assert done(seen) == pytest.approx([1 - 0.75**t for t in (1, 2, 3, 4, 1, 2)], abs=1e-3)


def test_a_penalty_on_the_rate():
    actions = np.array([0.5, -0.5, 3, 1, 1], np.float32)[:, None, None]  # clipped to 1
    _, seen = play(transferred(echo(), action_rate_penalty=2), actions)
    np.testing.assert_allclose(seen.reward[:, 0], [1 - 0.5, 2 - 2, 3 - 4.5, 4, 1 - 2], rtol=1e-6)
    assert seen.info["episode_return"][:, 0].tolist() == [1, 3, 6, 10, 1]  # in the environment's own
    assert transferred(point(1), action_rate_penalty=1).spec.goal_reward is None
    with pytest.raises(UsageError, match=r"actions that are numbers; those of echo are Discrete\(3\)"):
        transferred(echo(acts=spaces.Discrete(3)), action_rate_penalty=1)


def test_noise_at_every_step_and_a_bias_of_each_episode():
    still = np.zeros((8, 500, 1), np.float32)
    env = transferred(echo(), observation_noise=[0.5, 0])
    assert env.spec.observation_space == spaces.Box(np.float32([-np.inf, -9]), np.float32([np.inf, 9]))
    first, seen = play(env, still)
    noise = np.concatenate([first[None], seen.final_obs])
    assert noise[..., 0].std() == pytest.approx(0.5, rel=0.05)
    assert noise[:5, :, 1].tolist() == np.arange(5.0)[:, None].repeat(500, 1).tolist()
    assert np.abs(np.corrcoef(noise[..., 0]) - np.eye(9)).max() < 0.2
    first, seen = play(transferred(echo(), observation_bias=2.0), still)
    bias = np.concatenate([first[None], seen.obs])[..., 0]
    assert (np.ptp(bias[:4], 0) == 0).all()
    assert bias[0].std() == pytest.approx(2.0, rel=0.1)
    assert np.corrcoef(bias[0], bias[4])[0, 1] == pytest.approx(0, abs=0.15)
    np.testing.assert_array_equal(seen.final_obs[3, :, 0], bias[0])  # the true successor has the last one's


def test_noise_by_entry():
    env = echo(BOTH, look=lambda done: {"done": done, "eye": jnp.zeros((1,))})
    _, seen = play(transferred(env, observation_noise={"eye": 1.0}))
    np.testing.assert_allclose(seen.final_obs["done"][..., 0], np.minimum(ACTIONS, 1)[..., 0], rtol=1e-6)
    assert seen.final_obs["eye"].std() > 0.3
    assert transferred(point(1), observation_noise={"achieved_goal": 1}).spec.goal_reward is None
    for given, says in {"x": "no entry of numbers 'x'. It has done, eye", "eyes": "Did you mean eye?"}.items():
        with pytest.raises(UsageError, match=says):
            transferred(env, observation_noise={given: 1.0})
    with pytest.raises(UsageError, match=r"of eye: a number, or \(1,\) of them; got \(2,\)"):
        transferred(env, observation_bias={"eye": [1.0, 1.0]})
    with pytest.raises(UsageError, match="no entries at all: give one number"):
        transferred(echo(), observation_noise={"eye": 1.0})
    with pytest.raises(UsageError, match="there are no numbers that observation_noise could be added to"):
        transferred(ObservedEnv(tiger()), observation_noise=1.0)


def test_a_history():
    """[done, steps, action, 1 where one was taken] of the last two, the oldest first."""
    env = transferred(echo(), observation_history=2)
    first, seen = play(env)
    assert first[0].tolist() == [0] * 8
    np.testing.assert_allclose(seen.final_obs[0, 0], [0, 0, 0, 0, 0.1, 1, 0.1, 1], rtol=1e-5)
    np.testing.assert_allclose(seen.final_obs[3, 0, [1, 2, 5, 6]], [3, ACTIONS[2, 0, 0], 4, ACTIONS[3, 0, 0]])
    assert seen.obs[3, 0].tolist() == [0] * 8  # nothing of the last episode
    assert env.spec.observation_space == spaces.Box(
        np.tile(np.float32([-9, -9, -1, 0]), 2), np.tile(np.float32([9, 9, 1, 1]), 2)
    )
    env = transferred(ObservedEnv(tiger()), observation_history=2)  # 3 observations, 3 actions, a flag
    assert env.spec.observation_space == spaces.Box(0.0, 1.0, (14,))
    with pytest.raises(UsageError, match="a history is of numbers, counts"):
        transferred(echo(spaces.MultiBinary(2)), observation_history=2)


def test_a_history_of_a_dict():
    env = echo(BOTH, look=lambda done: {"done": done, "eye": jnp.zeros((1,))})
    env = transferred(env, observation_history=3)
    shapes = {name: part.shape for name, part in env.spec.observation_space.spaces.items()}
    assert shapes == {"done": (6,), "eye": (3,), "previous_actions": (6,)}
    _, seen = play(env, ACTIONS[:2])
    np.testing.assert_allclose(seen.obs["previous_actions"][1, 0], [0, 0, 0.1, 1, ACTIONS[1, 0, 0], 1], rtol=1e-6)
    with pytest.raises(UsageError, match="'previous_actions' already"):
        transferred(env, observation_history=2)


ALL = {
    "action_delay": (0, 2),
    "action_smoothing": 0.5,
    "action_rate_penalty": 0.1,
    "observation_noise": 0.3,
    "observation_bias": 0.2,
    "observation_history": 2,
}


def test_one_meaning_around_a_twin_and_its_original():
    """To the bits of every random number: both draw from the keys of the member and the step."""
    first, seen = play(transferred(echo(), **ALL))
    made = envs.make(Echo, B, **ALL)
    assert made.spec.observation_space == transferred(echo(), **ALL).spec.observation_space
    on_host, steps = made.reset(3), [made.step(action) for action in ACTIONS]
    np.testing.assert_allclose(on_host, first, rtol=1e-5, atol=1e-6)
    for name in ("obs", "final_obs", "reward", "terminated", "truncated"):
        there = np.stack([getattr(step, name) for step in steps])
        np.testing.assert_allclose(there, getattr(seen, name), rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(steps[-1].info["episode_return"], seen.info["episode_return"][-1])
    assert all(step.obs is step.final_obs for step in steps if not step.terminated.any())
    for seed in (4, 3, 4):  # a reset begins anew, whatever was before
        assert (made.reset(seed) == on_host).all() == (seed == 3)
        assert (made.step(ACTIONS[0]).obs == steps[0].obs).all() == (seed == 3)
    made.close()


def test_by_name_and_with_workers():
    name = "gymnasium/Pendulum-v1,action_delay=1,observation_noise=0.1"
    made, alone = envs.make(name, 2, workers=1), envs.make(name, 2)
    assert made.spec.id == name
    actions = np.ones((3, 2, 1), np.float32)
    np.testing.assert_array_equal(made.reset(0), alone.reset(0))
    for action in actions:
        np.testing.assert_array_equal(made.step(action).obs, alone.step(action).obs)
    made.close()
    alone.close()


def test_the_environment_draws_the_same_without_us():
    plain, noisy = (envs.make_env("Pendulum-v1", **given) for given in ({}, {"action_delay": 1, "observation_bias": 0}))
    key = jax.random.key(5)
    one, two = jax.jit(lambda: (plain.reset(key)[1], noisy.reset(key)[1]))()
    np.testing.assert_array_equal(one, two)


def test_costs_are_of_what_is_so():
    """A comparison reads the place of the cart, not what noise makes of it."""
    made = envs.make("CartPole-v1,observation_noise=100", 3, costs=["abs(obs[0]) > 1"])
    seen = jax.jit(lambda: made.step(made.reset(jax.random.key(0))[0], jnp.zeros(3, jnp.int32))[1])()
    assert not seen.costs.any()
    assert (np.abs(seen.obs[:, 0]) > 1).any()


def test_what_is_made_already():
    batch = vectorize(echo(), 2)
    with pytest.raises(UsageError, match="vectorised already"):
        transferred(batch, action_delay=1)
    with pytest.raises(UsageError, match="vectorised already"):
        envs.make(batch, 2, action_delay=1)
    host = envs.make(Echo, 1)
    assert transferred(host, action_delay=1).reset(0).shape == (1, 2)
    assert envs.make(host, 1, observation_history=2).reset(0).shape == (1, 8)
    with pytest.raises(UsageError, match="that are made already cannot be"):
        envs.make(host, 1, push=1)
    with pytest.raises(UsageError, match="reset"):
        transferred(host, action_delay=1).step(np.ones((1, 1), np.float32))
    with pytest.raises(UsageError, match="change the simulators, which are made already"):
        transferred(host, push=1)
    host.close()
