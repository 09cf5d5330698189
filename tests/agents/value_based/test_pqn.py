"""PQN learns the known answers of the probes and the exact action values of a finite problem."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents.value_based.pqn import PQNConfig, pqn
from steersman.envs.probe import known_values
from steersman.errors import UsageError
from steersman.nets.value import QNetwork
from steersman.run.evaluate import device_evaluator
from steersman.run.loops.device_loop import device_loop
from steersman.spaces import abstract
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.problems.classics import random_mdp
from steersman.types import EnvSpec, Rollout
from steersman.vector import vectorize

AS_THEY_ARE = {"normalize_observations": False, "scale_rewards": False}  # observations and rewards
LEARNER = PQNConfig(
    **AS_THEY_ARE,
    unroll_length=16,
    num_epochs=2,
    num_minibatches=4,
    learning_rate=1e-2,
    gamma=0.9,
    q_lambda=0.7,
    exploration_end=0.1,
    hidden_sizes=(32,),
    activation="tanh",  # learns from observations that are all zero too
)


def learn(name, config=LEARNER, updates=200, **env):
    made = partial(envs.make, name, **env)
    agent = pqn(config, made(1).spec, budget=200 * 16 * 16)
    loop = device_loop(agent, made, num_envs=16, unroll_length=16, first_length=16, seeds=[0], shards=1)
    state, totals = loop.advance(loop.start(), updates)
    return agent, jax.tree.map(np.asarray, state.agent), totals, made


def test_learns_the_value():
    """Of the probe that the others of values are simpler cases of."""
    name = "probe/truncation-ring"
    _, state, _, _ = learn(name)
    known = known_values(name, LEARNER.gamma)
    q = jax.vmap(state.params)(known.obs)
    np.testing.assert_allclose(q.max(-1), known.value, atol=0.06 * max(1.0, np.abs(known.value).max()))


def test_learns_to_act():
    name = "probe/mask"
    agent, state, _, made = learn(name)
    known = known_values(name, LEARNER.gamma)
    evaluation = device_evaluator(agent, made(64))(state, 1)
    assert evaluation.mean == pytest.approx(known.mean_return, abs=0.1)


def test_exact_action_values_of_a_random_problem():
    """One-step targets and a uniformly random behaviour: Q-learning, whose answer is Q* whatever is played."""
    mdp = dataclasses.replace(random_mdp(5, 3, gamma=0.8, seed=3, terminals=1), max_episode_steps=10)
    exact = mdp.lookahead(value_iteration(mdp, tol=1e-10).value)
    config = PQNConfig(
        unroll_length=16, num_epochs=1, num_minibatches=4, learning_rate=0.02,
        gamma=mdp.gamma, q_lambda=0.0, exploration_end=1.0, hidden_sizes=(), **AS_THEY_ARE,
    )  # fmt: skip
    agent = pqn(config, mdp.spec, budget=400 * 16 * 64)
    make = lambda num_envs: vectorize(mdp, num_envs)
    loop = device_loop(agent, make, num_envs=64, unroll_length=16, first_length=1, seeds=[0], shards=1)
    state, _ = loop.advance(loop.start(), 400)
    alive = ~mdp.terminal
    q = np.asarray(jax.vmap(state.agent.params)(jnp.arange(5, dtype=jnp.int32)))
    np.testing.assert_allclose(q[alive], exact[alive], atol=0.05)
    assert np.ptp(exact[alive]) > 1.0  # the tolerance means something


def spec_of(observation, action=None):
    action = spaces.Discrete(3) if action is None else action
    return EnvSpec("test", observation, action, action)


def zero_rollout(spec, length=8, num=4):
    zeros = lambda space: jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), abstract(space, (length, num)))
    obs, flags = zeros(spec.observation_space), np.zeros((length, num), bool)
    reward = np.random.default_rng(0).normal(size=(length, num)).astype(np.float32)
    costs = np.zeros((length, num, 0), np.float32)
    return Rollout(obs, zeros(spec.action_space), reward, flags, flags, obs, flags, costs, {})


BOX = spaces.Box(-1, 1, (3,))


class Table(QNetwork):
    """Q as the parameters themselves: one number for each place (one-hot) and action."""

    def __init__(self, key, spec):
        super().__init__(spec, hidden_sizes=(), layer_norm=False, key=key)


def test_one_update_by_hand():
    """lambda = 1, the clock at t = 1, the end at t = 3: targets and the first gradient worked out by hand.

    RAdam's first steps are plain momentum: the direction is the gradient, so the new bias is the old one minus the
    learning rate times mean(Q - G) over the transitions of each action.
    """
    spec = spec_of(spaces.Box(0, 1, (2,)), spaces.Discrete(2))
    config = PQNConfig(
        unroll_length=4, num_epochs=1, num_minibatches=1, learning_rate=0.5, anneal_learning_rate=False, gamma=0.5,
        q_lambda=1.0, max_grad_norm=1e9, **AS_THEY_ARE,
    )  # fmt: skip
    agent = pqn(config, spec, network=Table)
    rollout = zero_rollout(spec, 4, 1)
    obs = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]][:, None]
    after = np.eye(2, dtype=np.float32)[[1, 1, 1, 0]][:, None]
    flags = np.zeros((4, 1), bool)
    terminated, truncated = flags.copy(), flags.copy()
    terminated[3], truncated[1] = True, True
    action = np.array([0, 1, 1, 0], np.int32)[:, None]
    reward = np.array([1, 2, 3, 4], np.float32)[:, None]
    rollout = rollout._replace(
        obs=obs, next_obs=after, action=action, reward=reward, terminated=terminated, truncated=truncated
    )
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    q = np.asarray(jax.vmap(state.params)(np.eye(2, dtype=np.float32)))
    g1 = 2 + 0.5 * q[1].max()  # bootstraps from its true successor, place 1
    g0 = 1 + 0.5 * g1
    g3 = 4.0
    g2 = 3 + 0.5 * g3
    taken = np.array([q[0, 0], q[1, 1], q[0, 1], q[1, 0]])
    error = taken - np.array([g0, g1, g2, g3])
    state_after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(1))
    np.testing.assert_allclose(metrics["loss"], 0.5 * np.square(error).mean(), rtol=1e-5)
    bias = np.array([error[0] + error[3], error[1] + error[2]]) / 4
    bias_of = lambda s: s.params.advantage.output.bias
    moved = np.asarray(bias_of(state) - bias_of(state_after))
    np.testing.assert_allclose(moved, 0.5 * bias, rtol=1e-4)


def test_exploration_follows_its_schedule():
    spec = spec_of(BOX)
    config = PQNConfig(
        unroll_length=8, num_minibatches=1, num_epochs=1, exploration_fraction=0.5,
        exploration_start=1.0, exploration_end=0.2, learning_rate=1e-2,
    )  # fmt: skip
    agent = pqn(config, spec, budget=8 * 32)
    obs = np.random.default_rng(1).normal(size=(8, 4, 3)).astype(np.float32)
    rollout = zero_rollout(spec)._replace(obs=obs, next_obs=obs)
    state, update, seen = agent.init(jax.random.key(0), rollout), jax.jit(agent.update), []
    for i in range(6):
        state, metrics = update(state, rollout, jax.random.key(i))
        seen.append((float(metrics["exploration"]), float(metrics["learning_rate"])))
    np.testing.assert_allclose([e for e, _ in seen], [1.0, 0.8, 0.6, 0.4, 0.2, 0.2], atol=1e-6)
    np.testing.assert_allclose([r for _, r in seen], 1e-2 * (1 - np.arange(6) / 8), atol=1e-8)
    many, first = np.broadcast_to(obs[0, :1], (4000, 3)), np.ones(4000, bool)
    act = jax.jit(lambda key: [agent.act(state, (), many, first, key, explore=e)[0] for e in (True, False)])
    action, greedy = act(jax.random.key(1))
    assert np.mean(np.asarray(action) == greedy[0]) == pytest.approx(1 - 0.2 + 0.2 / 3, abs=0.03)


@pytest.mark.parametrize(
    "observation",
    [
        BOX,
        spaces.Box(0, 255, (36, 36, 4), np.uint8),
        spaces.Box(0, 1, (10, 10, 4)),
        spaces.Dict(a=BOX, b=spaces.Discrete(4)),
    ],
    ids=str,
)
def test_serves_every_observation(observation):
    spec = spec_of(observation)
    config = PQNConfig(unroll_length=8, num_epochs=1, num_minibatches=2, hidden_sizes=(8,), normalize_observations=True)
    agent = pqn(config, spec)
    rollout = zero_rollout(spec)
    metrics = jax.jit(lambda key: agent.update(agent.init(key, rollout), rollout, key)[1])(jax.random.key(0))
    assert np.isfinite(metrics["loss"])


def test_never_takes_an_illegal_action_and_never_bootstraps_from_one():
    made = envs.make("probe/mask", 256)
    agent = pqn(dataclasses.replace(LEARNER, exploration_start=0.5), made.spec, budget=200 * 16 * 16)
    _, obs = made.reset(jax.random.key(0))
    rollout = Rollout(*[jax.tree.map(lambda x: x[None], obs)] * 9)
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    for explore in (True, False):
        action, _, _ = agent.act(state, (), obs, np.ones(256, bool), jax.random.key(1), explore=explore)
        assert (np.take_along_axis(np.asarray(obs["action_mask"]), np.asarray(action)[:, None], axis=1) == 1).all()


def test_mistakes():
    with pytest.raises(UsageError, match="PQN needs a Discrete action space; test has Box.*steersman train sac"):
        pqn(PQNConfig(), spec_of(BOX, spaces.Box(-1, 1, (2,))))
    with pytest.raises(UsageError, match="exploration_end = 1.5"):
        PQNConfig(exploration_end=1.5)
    with pytest.raises(UsageError, match="encoder = 'natur'.*Did you mean nature"):
        PQNConfig(encoder="natur")
    with pytest.raises(UsageError, match="cannot train your network: it is an int"):
        pqn(PQNConfig(), spec_of(BOX), network=3)


def test_a_sweep_is_one_program():
    """No Python branch reads a float that one may want to sweep."""
    made = envs.make("probe/two-steps", 4)

    def train(learning_rate, exploration_end, q_lambda):
        config = PQNConfig(
            unroll_length=4, num_minibatches=1, hidden_sizes=(4,), learning_rate=learning_rate,
            exploration_end=exploration_end, q_lambda=q_lambda, **AS_THEY_ARE,
        )  # fmt: skip
        agent = pqn(config, made.spec, budget=100)
        rollout = jax.tree.map(jnp.asarray, zero_rollout(made.spec, 4, 4))
        return agent.update(agent.init(jax.random.key(0), rollout), rollout, jax.random.key(1))[0].params

    rates = jnp.array([1e-3, 1e-2], jnp.float32)
    swept = jax.jit(jax.vmap(train))(rates, rates * 10, rates * 50)
    alone = jax.jit(train)(rates[1], rates[1] * 10, rates[1] * 50)
    for a, b in zip(jax.tree.leaves(swept), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6)
