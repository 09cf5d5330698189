"""DDPG, TD3, SAC, TQC and CrossQ learn exact values, and are to each other what their papers say."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.off_policy.common import action_noise, values
from steersman.agents.off_policy.crossq import CrossQConfig, crossq_learner
from steersman.agents.off_policy.ddpg import DDPGConfig, ddpg_learner
from steersman.agents.off_policy.sac import SACConfig, sac_learner
from steersman.agents.off_policy.td3 import TD3Config, td3_learner
from steersman.agents.off_policy.tqc import TQCConfig, tqc_learner
from steersman.errors import UsageError
from steersman.memory import Sample, uniform
from steersman.memory.stream import Last
from steersman.nets.actors import Actor
from steersman.nets.critics import Critic
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec, Rollout

BOX, UNIT = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
AS_THEY_ARE = {"normalize_observations": False, "scale_rewards": False}  # observations and rewards
TINY = {"hidden_sizes": (8,), "batch_size": 16, **AS_THEY_ARE}


def spec_of(action=UNIT, observation=BOX):
    return EnvSpec("test", observation, action, action)


def transitions(obs, action, reward, next_obs, terminated=None):
    """A rollout [T, 1, ...] of single steps, each cut by the clock so that it stands alone."""
    obs, next_obs, reward = (np.asarray(x, np.float32)[:, None] for x in (obs, next_obs, reward))
    ended = np.ones(reward.shape, bool)
    terminated = np.zeros_like(ended) if terminated is None else np.asarray(terminated, bool)[:, None]
    costs = np.zeros((*reward.shape, 0), np.float32)
    return Rollout(obs, np.asarray(action)[:, None], reward, terminated, ended, next_obs, ended, costs, {})


def fit(learner, rollout, updates, *, batch_size, gamma, seed=0, **n_step):
    """Learn from a fixed set of transitions, in one program."""
    memory = uniform(4 * rollout.reward.size, batch_size, gamma=gamma, **n_step)  # of one step: twice the frames

    def run(key):
        init_key, key = jax.random.split(key)
        state, held = learner.init(init_key, rollout), memory.init(rollout)

        def step(state, key):
            one, two = jax.random.split(key)
            state, _, metrics = learner.learn(state, memory.sample(held, one), two)
            return state, metrics["q"]

        return jax.lax.scan(step, state, jax.random.split(key, updates))[0]

    return jax.jit(run)(jax.random.key(seed))


def sample(n=16, seed=0, discount=0.9, action=UNIT):
    rng = np.random.default_rng(seed)
    obs, next_obs = (jnp.asarray(rng.normal(size=(n, 3)), jnp.float32) for _ in range(2))
    acts = jnp.asarray(rng.uniform(-1, 1, (n, *action.shape)), jnp.float32)
    reward = jnp.asarray(rng.uniform(-0.3, 0.3, n), jnp.float32)
    flags = jnp.zeros(n, bool)
    batch = Rollout(obs, acts, reward, flags, flags, next_obs, flags, jnp.zeros((n, 0)), {})
    return Sample(batch, jnp.full(n, discount, jnp.float32), jnp.ones(n), jnp.arange(n, dtype=jnp.int32))


def leaves_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def first_rollout(action=UNIT):
    return jax.tree.map(lambda x: x[:, None], sample(action=action).batch)


def one_step_traced(learner, one):
    """-> (the state before, after, the metrics with the priorities among them)"""
    before = learner.init(jax.random.key(0), jax.tree.map(lambda x: x[:, None], one.batch))
    after, priority, metrics = learner.learn(before, one, jax.random.key(1))
    return before, after, {**metrics, "priority": priority}


def one_step(learner, one):
    return jax.jit(lambda one: one_step_traced(learner, one))(one)


def start_and_learn(learner, steps, **options):
    """-> (state at the start, after every one of ``steps`` gradient steps)"""
    samples = jax.tree.map(lambda *x: jnp.stack(x), *[sample(seed=i, **options) for i in range(steps)])

    def run(key):
        def step(state, inputs):
            one, key = inputs
            return (learner.learn(state, one, key)[0],) * 2

        first = learner.init(key, first_rollout(**options))
        return first, jax.lax.scan(step, first, (samples, jax.random.split(key, steps)))[1]

    first, rest = jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))
    return [first, *(jax.tree.map(lambda x, i=i: x[i], rest) for i in range(steps))]


# Values, against the exact ones.

GAMMA, A, B, COST = 0.9, 0.9, 0.5, 0.5  # x' = A x + B u, reward -(x^2 + COST u^2), for ever


def riccati():
    p = 0.0
    for _ in range(1000):
        p = 1 + GAMMA * A * A * p - (GAMMA * A * B * p) ** 2 / (COST + GAMMA * B * B * p)
    return p, GAMMA * A * B * p / (COST + GAMMA * B * B * p)


PLAIN = {"hidden_sizes": (64, 64), "batch_size": 64, "learning_rate": 1e-3, **AS_THEY_ARE}
LQR = PLAIN | {"tau": 0.02}


@pytest.mark.parametrize(
    ("make", "config", "tolerance"),
    [
        (ddpg_learner, DDPGConfig(**LQR), 0.05),
        (td3_learner, TD3Config(**LQR, target_noise=0.02), 0.05),
        (sac_learner, SACConfig(**LQR, temperature=1e-3, learn_temperature=False), 0.05),
        (
            tqc_learner,
            TQCConfig(**LQR, temperature=1e-3, learn_temperature=False, num_quantiles=5, drop_quantiles=0),
            0.05,
        ),
        (
            crossq_learner,
            CrossQConfig(**PLAIN, temperature=1e-3, learn_temperature=False, critic_sizes=(64, 64), norm_warm_up=500),
            0.1,
        ),
    ],
    ids=["ddpg", "td3", "sac", "tqc", "crossq"],
)
def test_q_and_policy_of_a_linear_quadratic_regulator(make, config, tolerance):
    """Every transition is truncated, so all value comes through bootstrapping from the true successor.

    The minimum of two critics is too low by a constant (their noise, over 1 - gamma): there Q is exact but for that.
    """
    p, k = riccati()
    rng = np.random.default_rng(0)
    x, u = rng.uniform(-1.2, 1.2, (4000, 1)), rng.uniform(-1, 1, (4000, 1)).astype(np.float32)
    rollout = transitions(x, u, -(x**2 + COST * u**2)[:, 0], A * x + B * u)
    spec = spec_of(UNIT, spaces.Box(-1, 1, (1,)))
    learner = make(config, spec)
    state = fit(learner, rollout, 3000, batch_size=config.batch_size, gamma=GAMMA)
    if not getattr(config, "learn_temperature", True):
        assert float(state.log_temperature.params) == pytest.approx(np.log(1e-3))
    x, u = (
        g.reshape(-1, 1).astype(np.float32) for g in np.meshgrid(np.linspace(-0.9, 0.9, 7), np.linspace(-0.8, 0.8, 7))
    )
    if make is crossq_learner:
        q, _ = jax.vmap(lambda critic, m: critic(m, x, u, train=False))(state.critics.params, state.critic_moments)
    else:
        q = values(state.critics.params, x, u)
    exact = -(x**2 + COST * u**2) - GAMMA * p * (A * x + B * u) ** 2
    error = np.asarray(q).mean((0, 2)) - exact[:, 0]
    if make in (td3_learner, sac_learner):
        assert -0.2 < error.mean() < 0
        error = error - error.mean()
    assert np.abs(error).mean() < tolerance
    line = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    action, _, _ = learner.act(state, (), line, np.ones(19, bool), jax.random.key(0), explore=False)
    assert np.abs(action + k * line).mean() < tolerance


@pytest.mark.parametrize("correction", [None, "retrace"])
def test_soft_q_of_discrete_actions_is_that_of_soft_value_iteration(correction):
    """From single steps, and from three of a random walk, whose actions are not the policy's."""
    states, actions, gamma, alpha = 4, 3, 0.8, 0.5
    rng = np.random.default_rng(0)
    after, reward = rng.integers(0, states, (states, actions)), rng.normal(size=(states, actions))
    terminated = rng.random((states, actions)) < 0.2
    q = np.zeros((states, actions))
    for _ in range(500):
        v = alpha * np.log(np.exp(q / alpha).sum(1))
        q = reward + gamma * ~terminated * v[after]
    s, a = (x.ravel() for x in np.meshgrid(range(states), range(actions), indexing="ij"))
    eye = np.eye(states, dtype=np.float32)
    rollout = transitions(eye[s], a.astype(np.int32), reward[s, a], eye[after[s, a]], terminated[s, a])
    spec = spec_of(spaces.Discrete(actions), spaces.Box(0, 1, (states,)))
    settings: dict = {"hidden_sizes": (32,), "batch_size": 32, "learning_rate": 3e-3, "tau": 0.05}
    memory = {}
    if correction is not None:
        settings |= {"n_step": 3, "n_step_correction": correction, "gamma": gamma}
        memory, s = {"n_step": 3, "path": True}, np.zeros(4000, int)
        a = rng.integers(0, actions, 4000)
        for t in range(3999):
            s[t + 1] = rng.integers(states) if terminated[s[t], a[t]] else after[s[t], a[t]]
        rollout = transitions(eye[s], a.astype(np.int32), reward[s, a], eye[after[s, a]], terminated[s, a])
        ended = rollout.terminated
        rollout = rollout._replace(truncated=~np.ones_like(ended), first=np.roll(ended, 1, axis=0))
        rollout = rollout._replace(extras={"log_prob": np.full(ended.shape, -np.log(actions), np.float32)})
    learner = sac_learner(SACConfig(**settings, temperature=alpha, learn_temperature=False), spec)
    state = fit(learner, rollout, 3000, batch_size=32, gamma=gamma, **memory)
    np.testing.assert_allclose(np.asarray(values(state.critics.params, eye)).mean(0), q, atol=0.1)
    policy = jax.vmap(state.actor.params)(eye).probabilities()
    np.testing.assert_allclose(policy, jax.nn.softmax(q / alpha), atol=0.05)


# What they are to each other.


def test_td3_without_its_three_additions_is_ddpg():
    spec = spec_of(spaces.Box(-1, 1, (2,)))
    plain = TD3Config(**TINY, num_critics=1, policy_delay=1, target_noise=0.0)
    ddpg = start_and_learn(ddpg_learner(DDPGConfig(**TINY), spec), 4, action=spec.action_space)
    td3 = start_and_learn(td3_learner(plain, spec), 4, action=spec.action_space)
    for a, b in zip(ddpg, td3, strict=True):
        leaves_close(tuple(a)[:4], tuple(b)[:4], rtol=1e-5, atol=1e-7)
    # Of the other two: the tests of the delay below, and of the smoothing in theory.
    twin = start_and_learn(td3_learner(dataclasses.replace(plain, num_critics=2), spec), 4, action=spec.action_space)
    actors = zip(jax.tree.leaves(twin[-1].actor), jax.tree.leaves(td3[-1].actor), strict=True)
    assert any((x != y).any() for x, y in actors)


def test_tqc_with_one_quantile_is_sac_with_half_the_loss():
    """One critic, one atom, none dropped; errors below kappa, where Huber's loss is the square's."""
    spec = spec_of()
    sac = sac_learner(SACConfig(**TINY, num_critics=1), spec)
    tqc = tqc_learner(TQCConfig(**TINY, num_critics=1, num_quantiles=1, drop_quantiles=0), spec)
    small = sample(discount=0.0)
    small = small._replace(batch=small.batch._replace(obs=0.1 * small.batch.obs, action=0.1 * small.batch.action))
    (_, a, sac_metrics), (_, b, tqc_metrics) = one_step(sac, small), one_step(tqc, small)
    assert float(sac_metrics["critic_loss"]) < 0.5
    assert float(tqc_metrics["critic_loss"]) == pytest.approx(0.5 * float(sac_metrics["critic_loss"]), rel=1e-5)
    half = lambda net: jax.tree.map(lambda m: 0.5 * m, net.optimiser.mu)
    leaves_close(half(a.critics), b.critics.optimiser.mu, rtol=1e-4, atol=1e-8)
    leaves_close(a.critics.params, b.critics.params, atol=1e-5)  # Adam does not see the scale of a loss
    leaves_close(a.actor.params, b.actor.params, atol=1e-5)


def test_crossq_sees_both_ends_of_a_transition_in_one_batch():
    states = start_and_learn(crossq_learner(CrossQConfig(**TINY, critic_sizes=(8,)), spec_of()), 4)
    moments = states[1].critic_moments[0]  # of the joined inputs: observation, then action
    both = np.concatenate([sample().batch.obs, sample().batch.next_obs])
    np.testing.assert_allclose(moments.mean[0, :3], 0.01 * both.mean(0), rtol=1e-4)
    np.testing.assert_allclose(moments.var[0, :3], 0.99 + 0.01 * both.var(0), rtol=1e-4)
    np.testing.assert_array_equal(moments.mean[0], moments.mean[1])  # one input for both critics
    assert (states[0].critic_moments[0].mean == 0).all()
    of_actor = states[1].actor_moments[0]  # the actor learns from the first end alone
    np.testing.assert_allclose(of_actor.mean, 0.01 * np.asarray(sample().batch.obs).mean(0), rtol=1e-4, atol=1e-7)
    assert actor_moved(states) == [True, False, False, True]  # its policy_delay is 3


# Settings mean what they say.


@pytest.mark.parametrize(
    ("make", "config"),
    [(td3_learner, TD3Config(**TINY, policy_delay=3)), (sac_learner, SACConfig(**TINY, policy_delay=3))],
    ids=["td3", "sac"],
)
def test_the_actor_learns_at_every_third_step(make, config):
    states = start_and_learn(make(config, spec_of()), 4)
    assert actor_moved(states) == [True, False, False, True]
    critics = [jax.tree.leaves(s.critics)[0] for s in states]
    assert all((a != b).any() for a, b in itertools.pairwise(critics))


def actor_moved(states):
    different = lambda a, b: any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return [different(a.actor, b.actor) for a, b in itertools.pairwise(states)]


def test_the_temperature_is_steered_to_the_target_entropy():
    """The first policy's entropy is near log 2 a dimension."""

    def log_temperature(goal):
        learner = sac_learner(SACConfig(**TINY, temperature=1.0, target_entropy=goal), spec_of())
        return one_step_traced(learner, sample())[1].log_temperature

    after = jax.jit(jax.vmap(log_temperature))(jnp.array([-5.0, 5.0])).params
    assert after[0] < 0 < after[1]


def test_a_terminal_state_is_worth_nothing_and_weights_count():
    learner = sac_learner(SACConfig(**TINY), spec_of())
    ended = sample(discount=0.0)
    one = (jnp.arange(16) == 3).astype(jnp.float32)

    def run(weight):
        return one_step_traced(learner, ended._replace(weight=weight))

    both = jax.jit(jax.vmap(run))(jnp.stack([jnp.ones(16), one]))
    (state, _, metrics), (_, _, weighted) = [jax.tree.map(lambda x, i=i: x[i], both) for i in range(2)]
    priority = metrics.pop("priority")
    assert float(metrics["target"]) == pytest.approx(float(ended.batch.reward.mean()), abs=1e-6)
    q = values(state.critics.params, ended.batch.obs, ended.batch.action)[..., 0]
    error = np.asarray(q) - np.asarray(ended.batch.reward)
    np.testing.assert_allclose(priority, np.sqrt((error**2).mean(0)), rtol=1e-4)
    assert float(weighted["critic_loss"]) == pytest.approx(0.5 * (error[:, 3] ** 2).sum() / 16, rel=1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "ou", "pink"])
def test_exploration_remembers_within_an_episode_only(kind):
    noise = action_noise(kind, 2)
    memory, first = noise.begin(500), np.zeros(500, bool)
    steps = []
    step = jax.jit(noise.step)
    for t in range(12):
        memory, z = step(memory, first | (t in (0, 10)), jax.random.key(t))
        steps.append(np.asarray(z))
    correlation = lambda a, b: (a * b).mean()
    within, across = correlation(steps[8], steps[9]), correlation(steps[9], steps[10])
    assert abs(across) < 0.15
    assert (within > 0.5) == (kind != "gaussian")
    assert (steps[11][0] != steps[11][1]).all()  # members have noise of their own


def test_acting_with_and_without_noise():
    learner = td3_learner(TD3Config(**TINY, exploration_std=0.3), spec_of(spaces.Box(-1, 1, (2, 2))))
    obs = jnp.zeros((256, 3))
    rollout = transitions(np.zeros((1, 3)), np.zeros((1, 2, 2), np.float32), [0.0], np.zeros((1, 3)))
    state = jax.jit(learner.init)(jax.random.key(0), rollout)
    first = np.ones(256, bool)
    mean, _, _ = learner.act(state, (), obs, first, jax.random.key(1), explore=False)
    noisy, _, _ = learner.act(state, (), obs, first, jax.random.key(1), explore=True)
    assert noisy.shape == (256, 2, 2)
    assert (np.asarray(mean) == np.asarray(mean)[0]).all()
    assert np.std(noisy - mean) == pytest.approx(0.3, rel=0.1)
    assert np.abs(noisy).max() <= 1


# Pictures.


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "tqc", "crossq"])
def test_pictures_are_read_by_the_encoder_that_is_asked_for(name):
    spec, entry = spec_of(UNIT, spaces.Box(0, 255, (36, 36, 1), np.uint8)), ALGORITHMS[name]
    rollout = transitions_like(spec, (1, 1))
    every = {"auto": 512, "nature": 512, "impala": 256, "minatar": 128, "flatten": 36 * 36}
    for encoder, features in every.items() if name == "sac" else [("minatar", 128)]:
        agent = entry.factory(entry.config(**TINY, encoder=encoder), spec)
        state = jax.eval_shape(agent.init, jax.random.key(0), rollout).learner
        for net in (state.actor.params, state.critics.params):
            assert net.encoder.out_size == features

    def blind():
        agent = entry.factory(entry.config(**TINY, encoder="nature"), spec_of())
        jax.eval_shape(agent.init, jax.random.key(0), first_rollout())

    with pytest.raises(UsageError, match="encoder = 'nature' reads images"):
        blind()


@pytest.mark.parametrize("name", ["sac", "crossq"])
def test_learns_from_pictures(name):
    """SAC of a stack of frames, each kept once, CrossQ of a grid of floats; every part of the actor moves."""
    frames, grid = spaces.Box(0, 255, (8, 8, 4), np.uint8), spaces.Box(0, 1, (6, 6, 2))
    spec, rng = spec_of(UNIT, frames if name == "sac" else grid), np.random.default_rng(0)
    settings = {"encoder": "minatar", "hidden_sizes": (8,), "batch_size": 3, "replay_capacity": 16, **AS_THEY_ARE}
    settings |= {"update_ratio": 1 / 8, "frame_stack": 4 if name == "sac" else 1}
    settings |= {"critic_sizes": (8,)} if name == "crossq" else {}
    entry = ALGORITHMS[name]
    agent = entry.factory(entry.config(**settings), spec)

    def fill(shape):
        whole = shape.dtype.kind in "iu"
        return (rng.integers(0, 255, shape.shape) if whole else rng.uniform(0, 1, shape.shape)).astype(shape.dtype)

    rollout = jax.tree.map(fill, transitions_like(spec, (8, 1)))

    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    assert isinstance(state.memory.frames, Last) == (name == "sac")
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(1))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((after.learner, metrics)))
    actors = jax.tree.map(np.asarray, (state.learner.actor.params, after.learner.actor.params))
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, actors), strict=True))


def test_an_action_of_rank_three_is_no_picture():
    """Its shape is that of a grid, which ``auto`` would read by convolutions."""
    space = spaces.Box(-1, 1, (5, 5, 2))
    learner = sac_learner(SACConfig(**TINY), spec_of(space))
    shapes = jax.eval_shape(lambda: one_step_traced(learner, sample(action=space)))
    assert shapes[0].actor.params.head.bias.shape == (100,)
    assert shapes[0].critics.params.action_encoder.out_size == 50


# Refusals.


@pytest.mark.parametrize("name", ["ddpg", "td3", "tqc", "crossq", "sac"])
def test_action_spaces_that_cannot_be_served(name):
    entry = ALGORITHMS[name]
    if name != "sac":
        with pytest.raises(UsageError, match="steersman train dqn test"):
            entry.factory(entry.config(), spec_of(spaces.Discrete(2)))
    for space in (spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf]))):
        with pytest.raises(UsageError, match="within bounds"):
            entry.factory(entry.config(), spec_of(space))
    with pytest.raises(UsageError, match=r"needs a continuous \(Box\) action space"):
        entry.factory(entry.config(), spec_of(spaces.MultiDiscrete([2, 2])))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SACConfig(temperature=0.0), "temperature = 0.0"),
        (lambda: SACConfig(exploration_noise="purple"), "gaussian or ou or pink"),
        (lambda: TD3Config(policy_delay=0), "policy_delay = 0"),
        (lambda: DDPGConfig(exploration_std=-1.0), "exploration_std = -1.0"),
        (lambda: TQCConfig(num_quantiles=2, drop_quantiles=2), "leaves no target"),
        (lambda: CrossQConfig(adam_b1=1.5), "adam_b1 = 1.5"),
        (lambda: DDPGConfig(hindsight=2.0), "hindsight = 2.0"),
    ],
)
def test_settings_out_of_range(make, said):
    with pytest.raises(UsageError, match=said):
        make()


def test_networks_of_ones_own():
    def network(key, spec):
        one, two = jax.random.split(key)
        return Actor(spec, hidden_sizes=(4,), key=one), Critic(spec, hidden_sizes=(5,), key=two)

    made = sac_learner(SACConfig(**TINY), spec_of(), network=network)
    state = jax.eval_shape(made.init, jax.random.key(0), first_rollout())
    assert state.actor.params.trunk.out_size == 4
    assert state.critics.params.trunk.layers[0].bias.shape == (2, 5)
    with pytest.raises(UsageError, match="CrossQ takes no network"):
        crossq_learner(CrossQConfig(), spec_of(), network=network)
    with pytest.raises(UsageError, match="your network: it is an int"):
        sac_learner(SACConfig(), spec_of(), network=3)


def test_rates_can_be_swept_in_one_program():
    """The learner is built inside vmap: no Python branch reads a swept float."""

    def swept(rate, tau):
        return one_step_traced(td3_learner(TD3Config(**TINY, learning_rate=rate, tau=tau), spec_of()), sample())[1]

    critics = jax.eval_shape(jax.vmap(swept), jnp.ones(3), jnp.ones(3)).critics.params
    assert all(x.shape[0] == 3 for x in jax.tree.leaves(critics))


# Hindsight.


def goal_spec():
    return envs.make("goal/point", 1).spec


def test_hindsight_needs_goals_a_clock_and_a_reward():
    entry = ALGORITHMS["sac"]
    config = entry.config(**TINY, hindsight=0.8)
    with pytest.raises(UsageError, match="no time limit"):
        entry.factory(config, spec_of())
    with pytest.raises(UsageError, match="n_step = 2 must be 1"):
        entry.factory(entry.config(**TINY, hindsight=0.8, n_step=2), goal_spec())
    with pytest.raises(UsageError, match=r"knows no costs for other goals; .* has costs \(wear\)"):
        entry.factory(config, dataclasses.replace(goal_spec(), cost_names=("wear",)))
    unrewarded = dataclasses.replace(goal_spec(), goal_reward=None)
    agent = entry.factory(config, unrewarded)  # acting needs no reward: a loaded policy has none
    rollout = transitions_like(unrewarded, (4, 2))
    state = jax.eval_shape(agent.init, jax.random.key(0), rollout)
    with pytest.raises(UsageError, match="has no goal_reward"):
        jax.eval_shape(agent.update, state, rollout, jax.random.key(0))


def test_the_share_of_hindsight_can_be_swept():
    entry, spec = ALGORITHMS["sac"], goal_spec()
    rollout = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), transitions_like(spec, (4, 2)))

    def swept(share):
        agent = entry.factory(entry.config(**TINY, hindsight=share, update_ratio=1 / 8), spec)
        return agent.update(agent.init(jax.random.key(0), rollout), rollout, jax.random.key(1))[1]["critic_loss"]

    assert jax.eval_shape(jax.vmap(swept), jnp.ones(3)).shape == (3,)
