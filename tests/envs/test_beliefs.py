"""Beliefs as observations: they start anew with every episode, and leave the rest of the task alone."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs.beliefs import observe_belief
from steersman.envs.classic import make
from steersman.envs.classic.pendulum import Pendulum
from steersman.envs.transfer.around import transferred
from steersman.envs.wrappers import PureEnv, time_limit, transform_observation
from steersman.errors import UsageError
from steersman.tabular.pomdp import BeliefEnv, ObservedEnv
from steersman.tabular.problems.pomdp_classics import tiger
from steersman.theory.beliefs.filters import bayes, extended_kalman, kalman
from steersman.theory.beliefs.particles import particles
from steersman.types import EnvSpec, Filter, TimeStep
from steersman.vector import vectorize

KEY, B, LIMIT = jax.random.key(0), 3, 5


def point(limit=LIMIT):
    """A point on a line that is pushed, [position, velocity], seen as it is; it ends where it has gone too far."""

    def reset(key):
        state = 0.1 * jax.random.normal(key, (2,))
        return state, state

    def step(state, action, key):
        state = jnp.stack([state[0] + state[1], state[1] + action[0]])
        never, obs = jnp.zeros((), bool), state
        return state, TimeStep(obs, -jnp.abs(state[0]), jnp.abs(state[0]) > 2, never, obs, jnp.zeros((0,)), {})

    line, push = spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1.0, 1.0, (1,))
    return time_limit(PureEnv(EnvSpec("point", line, push, push), reset, step), limit)


A, PUSH, SEE = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.0], [1.0]]), np.eye(2)
KALMAN = kalman(A, PUSH, 0.01 * SEE, SEE, 0.04 * SEE, np.zeros(2), 0.01 * SEE)
CLOUD = particles(
    lambda key: 0.1 * jax.random.normal(key, (2,)),
    lambda s, a, key: jnp.stack([s[0] + s[1], s[1] + a[0]]) + 0.1 * jax.random.normal(key, (2,)),
    lambda s, o: -0.5 * jnp.square((o - s) / 0.2).sum(),
    16,
)


def play(env, num_envs=B, length=2 * LIMIT + 3):
    """(first observation, every step); the same actions for all environments with the same action space."""
    envs, (low, high) = vectorize(env, num_envs), (-1.5, 1.5)  # past the bounds, as a Gaussian policy goes
    actions = jax.random.uniform(jax.random.key(7), (length, B, 1), minval=low, maxval=high)[:, :num_envs]

    def run():
        state, obs = envs.reset(KEY)
        return obs, jax.lax.scan(envs.step, state, actions)[1], actions

    return jax.tree.map(np.asarray, jax.jit(run)())


@cache
def plain():
    return play(transferred(point(), observation_noise=0.2))


@cache
def believed(filter, num_envs=B):
    return play(observe_belief(transferred(point(), observation_noise=0.2), filter), num_envs)


BOTH = pytest.mark.parametrize("filter", [KALMAN, CLOUD], ids=["kalman", "particles"])


@BOTH
def test_the_task_is_the_same(filter, same_bits):
    (_, bare, _), (_, seen, _) = plain(), believed(filter)
    for name in ("reward", "terminated", "truncated", "costs"):
        same_bits(getattr(seen, name), getattr(bare, name))
    same_bits(seen.info["episode_return"], bare.info["episode_return"])
    assert seen.truncated.any()
    assert seen.terminated.any()


def test_beliefs_are_of_their_episode_alone():
    """Filtered by hand from each episode's first observation on, with the actions as the environment clips them."""
    (first, bare, actions), (begun, seen, _) = plain(), believed(KALMAN)
    step, begin = jax.jit(KALMAN.step), jax.jit(KALMAN.begin)
    for b in range(B):
        belief = begin(first[b], KEY)
        np.testing.assert_allclose(begun[b], KALMAN.features(belief), atol=1e-5)
        for t, action in enumerate(np.clip(actions[:, b], -1, 1)):
            belief = step(belief, action, bare.final_obs[t, b], KEY)
            np.testing.assert_allclose(seen.final_obs[t, b], KALMAN.features(belief), atol=1e-4)
            assert float(seen.info["log_likelihood"][t, b]) == pytest.approx(float(belief.log_likelihood), abs=1e-3)
            if seen.terminated[t, b] or seen.truncated[t, b]:
                belief = begin(bare.obs[t, b], KEY)
            np.testing.assert_allclose(seen.obs[t, b], KALMAN.features(belief), atol=1e-4)


def test_particles_are_of_their_episode_alone():
    """They lie around the state, those of a new episode around a start, as the noise of start and sensor says."""
    (_, bare, _), (_, seen, _) = plain(), believed(CLOUD)
    assert (np.abs(seen.final_obs[..., :2] - bare.final_obs) < 1).all()
    over = seen.terminated | seen.truncated
    assert np.abs(seen.final_obs[over][:, 0]).max() > 1
    assert np.abs(seen.obs[over][:, :2]).max() < 0.5


def test_one_member_does_as_it_does_among_others(same_bits):
    (_, alone, _), (_, together, _) = believed(CLOUD, 1), believed(CLOUD)
    same_bits(alone.obs[:, 0], together.obs[:, 0])


def test_the_state_is_arrays_that_can_be_put_back():
    env = observe_belief(point(), CLOUD)
    state, _ = jax.jit(env.reset)(KEY)
    leaves, tree = jax.tree.flatten(state)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32), np.dtype(np.int32)}
    back, step = jax.tree.unflatten(tree, [np.asarray(leaf) for leaf in leaves]), jax.jit(env.step)
    ways = [step(one, jnp.ones(1), jax.random.key(1)) for one in (state, back)]
    for x, y in zip(*map(jax.tree.leaves, ways), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_belief_beats_the_sensor_on_the_pendulum():
    """Particles that move as the environment does, which is handed over whole; the velocity is not seen at all."""
    swing = Pendulum()
    angle = transform_observation(swing, lambda obs: obs[:2], spaces.Box(-1.0, 1.0, (2,)))
    jitter = lambda key: 0.02 * jax.random.normal(key, (2,))

    def move(state, action, key):
        state = swing.step(state, action, key)[0]
        return type(state)(*(jnp.stack(state) + jitter(key)))

    seen = lambda state, obs: -0.5 * jnp.square((obs - jnp.stack([jnp.cos(state[0]), jnp.sin(state[0])])) / 0.1).sum()
    env = observe_belief(
        transferred(angle, observation_noise=0.1), particles(lambda key: swing.reset(key)[0], move, seen, 200)
    )
    keys = jax.random.split(KEY, 8)

    def step(state, key):
        state = jax.vmap(env.step)(state, jax.random.uniform(key, (8, 1), minval=-1), jax.random.split(key, 8))[0]
        believed = jax.vmap(lambda b: jnp.exp(b.log_weights) @ b.state.theta_dot)(state.belief)
        return state, believed - state.env.env.theta_dot

    error = jax.jit(lambda: jax.lax.scan(step, jax.vmap(env.reset)(keys)[0], jax.random.split(KEY, 60))[1])()
    assert np.sqrt(np.square(error[20:]).mean()) < 0.3  # rad/s; from two angles, sqrt(2) 0.1 / 0.05 = 2.8


def test_the_belief_of_a_finite_problem_is_beliefenvs(same_bits):
    wrapped, own = observe_belief(ObservedEnv(tiger()), tiger().online_filter()), BeliefEnv(tiger())
    assert wrapped.spec.observation_space == own.spec.observation_space

    def run(env):
        step = lambda state, key: env.step(state, jnp.int32(0), key)
        return jax.jit(lambda: jax.lax.scan(step, env.reset(KEY)[0], jax.random.split(KEY, 9))[1])()

    same_bits(run(wrapped).obs, run(own).obs)
    assert np.log([0.15, 0.85]).min() <= float(run(wrapped).info["log_likelihood"].min()) < 0


def test_an_action_mask_goes_with_the_belief():
    mask = np.array([1.0, 0.0], np.float32)
    space = spaces.Dict({"observation": spaces.Box(-1.0, 1.0, (2,)), "action_mask": spaces.Box(0.0, 1.0, (2,))})
    env = transform_observation(make("CartPole-v1"), lambda obs: {"observation": obs[:2], "action_mask": mask}, space)
    nothing = Filter(lambda o, k: Still(o["observation"], jnp.zeros(())), lambda b, a, o, k: b, lambda b: b.seen, 2)
    env = observe_belief(env, nothing)
    assert sorted(env.spec.observation_space.spaces) == ["action_mask", "belief"]
    np.testing.assert_array_equal(vectorize(env, 1).reset(KEY)[1]["action_mask"][0], mask)


class Still(NamedTuple):
    seen: jax.Array
    log_likelihood: jax.Array


def test_a_filter_draws_otherwise_than_its_environment():
    """Else a particle's noise would be the environment's own."""
    draw = lambda key: jax.random.uniform(key, (2,))
    drawing = Filter(*[lambda *x: Still(draw(x[-1]), jnp.zeros(()))] * 2, lambda b: b.seen, 2)
    env = observe_belief(point(), drawing)
    (state, first), keys = env.reset(KEY), jax.random.split(jax.random.key(1))
    drawn = [first, *(env.step(state, jnp.zeros(1), key)[1].obs for key in keys)]
    assert len({*np.ravel([*drawn, draw(KEY), *map(draw, keys)]).tolist()}) == 12


@pytest.mark.parametrize(
    ("env", "filter", "match"),
    [
        (make("CartPole-v1"), kalman(SEE, PUSH, SEE, np.ones((4, 2)), np.eye(4), [0, 0], SEE), "actions of a Box"),
        (make("Pendulum-v1"), KALMAN, r"observations of a Box \(2,\)"),
        (ObservedEnv(tiger()), KALMAN, "observations of a Box"),
        (point(), kalman(A, np.ones((2, 3)), SEE, SEE, SEE, [0, 0], SEE), r"Box \(3,\), as B"),
        (make("Pendulum-v1"), tiger().online_filter(), "3 actions and 2 observations"),
        (ObservedEnv(tiger()), bayes([1], np.ones((1, 3, 1)), np.ones((3, 1, 4)) / 4), "3 actions and 4 observations"),
        (ObservedEnv(tiger()), bayes([1], np.ones((1, 2, 1)), np.ones((2, 1, 2)) / 2), "2 actions and 2 observations"),
        (
            ObservedEnv(tiger()),
            bayes([1], np.ones((1, 3, 1)), np.ones((3, 1, 2)) / 2, first=np.ones((1, 2)) / 2),
            "2 observations, Discrete",
        ),
    ],
)
def test_a_filter_of_another_task_is_refused(env, filter, match):
    with pytest.raises(UsageError, match=match):
        observe_belief(env, filter)


def test_a_function_may_take_discrete_actions():
    one = np.eye(4)
    shift = extended_kalman(lambda s, a: s + a.astype(jnp.float32), lambda s: s, one, one, np.zeros(4), one)
    env = observe_belief(make("CartPole-v1"), shift)
    seen = jax.eval_shape(lambda: env.step(env.reset(KEY)[0], jnp.int32(1), KEY)[1])
    assert seen.obs.shape == (4 + 10,)
