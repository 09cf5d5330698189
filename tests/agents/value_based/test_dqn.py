"""Every switch of DQN ends at the exact answer of a small MDP; what each is for; what its settings refuse."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents.parts.replay.with_replay import updates_of
from steersman.agents.value_based.dqn import DQNConfig, dqn, dqn_learner
from steersman.envs.probe import known_values
from steersman.errors import UsageError
from steersman.memory import Sample
from steersman.run.loops.device_loop import device_loop
from steersman.spaces import abstract
from steersman.tabular import from_successors
from steersman.tabular.planning.dynamic_programming import value_iteration
from steersman.tabular.problems import classics
from steersman.types import EnvSpec, Rollout
from steersman.vector import vectorize

GAMMA, EPSILON = 0.8, 0.4


def small_mdp(**settings):
    """Six states, three actions, one successor each, the last state terminal."""
    return dataclasses.replace(classics.random_mdp(6, 3, 1, gamma=GAMMA, seed=3, terminals=1), **settings)


TABLE = DQNConfig(  # one-hot observations and no hidden layer: a table of Q
    unroll_length=4,
    update_ratio=0.25,
    batch_size=64,
    replay_capacity=4000,
    learning_starts=2000,
    learning_rate=5e-3,
    gamma=GAMMA,
    target_period=20,
    exploration_start=1.0,
    exploration_end=1.0,
    hidden_sizes=(),
    normalize_observations=False,
    scale_rewards=False,
)


def fit(config, spec, draw, steps, seeds=1):
    """Gradient steps on ``draw(key)``'s samples, several seeds side by side. -> (states, the last metrics)"""
    learner = dqn_learner(config, spec, budget=10_000)

    def step(state, key):
        state, _, metrics = learner.learn(state, draw(jax.random.fold_in(key, 0)), jax.random.fold_in(key, 1))
        return state, metrics

    def run(key):
        init_key, key = jax.random.split(key)
        state = learner.init(init_key, zero_rollout(spec))
        state, metrics = jax.lax.scan(step, state, jax.random.split(key, steps))
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))


def sample_of(obs, action, reward, discount, next_obs, weight=None):
    f, i = (lambda x: jnp.asarray(x, jnp.float32)), (lambda x: jnp.asarray(x, jnp.int32))
    no, weight = jnp.zeros(np.shape(reward), bool), np.ones(np.shape(reward)) if weight is None else weight
    batch = Rollout(i(obs), i(action), f(reward), no, no, i(next_obs), no, jnp.zeros((*np.shape(reward), 0)), {})
    return Sample(batch, f(discount), f(weight), i(obs))


def all_of(mdp):
    """Every state and action of a deterministic MDP, once."""
    states, actions = (x.ravel() for x in np.meshgrid(np.flatnonzero(~mdp.terminal), np.arange(3), indexing="ij"))
    after = mdp.successors[states, actions, 0]
    return sample_of(states, actions, mdp.reward[states, actions], GAMMA * ~mdp.terminal[after], after)


def train(env, config, updates, num_envs=8):
    """The whole agent in its loop. -> its learner's state"""
    make = partial(vectorize, env) if not isinstance(env, str) else partial(envs.make, env)
    agent, first = dqn(config, make(1).spec, budget=10_000), -(-config.learning_starts // num_envs)
    length = config.unroll_length
    loop = device_loop(agent, make, num_envs=num_envs, unroll_length=length, first_length=first, seeds=[0], shards=1)
    state, _ = loop.advance(loop.start(), updates)
    return jax.tree.map(np.asarray, state.agent.learner)


def learned_q(config, params, obs):
    out = jax.vmap(params)(obs)
    if config.distribution == "categorical":
        z = np.linspace(config.v_min, config.v_max, config.num_atoms)
        return np.asarray(jax.nn.softmax(out, -1)) @ z
    return np.asarray(out.mean(-1) if config.distribution == "quantile" else out)


def exact_q(mdp, config):
    """The fixed point of the target; with n steps, those in between are the uniformly random policy's."""
    q = np.zeros((mdp.num_states, mdp.num_actions))
    for _ in range(400):
        greedy = np.eye(mdp.num_actions)[q.argmax(1)]
        uniform = np.full_like(q, 1 / mdp.num_actions)
        if config.target == "q_learning":
            policy = greedy
        elif config.exploration == "boltzmann":
            weight = np.exp((q - q.max(1, keepdims=True)) / config.exploration_end)
            policy = weight / weight.sum(1, keepdims=True)
        else:
            policy = (1 - config.exploration_end) * greedy + config.exploration_end * uniform
        value = (policy * q).sum(1)
        for _ in range(config.n_step - 1):
            value = mdp.lookahead(value).mean(1)
        q = mdp.lookahead(value)
    return q


EXPLORING = {"exploration_start": EPSILON, "exploration_end": EPSILON}
C51 = {"distribution": "categorical", "v_min": 0.0, "v_max": 5.0, "num_atoms": 21}
SWITCHES = {  # -> (settings, how far off an action value may be)
    "plain": ({}, 0.01),
    "squared, Polyak": ({"loss": "squared", "target_period": 1, "tau": 0.05}, 0.01),
    "double, dueling": ({"double": True, "dueling": True}, 0.01),
    "expected sarsa": ({"target": "expected_sarsa", **EXPLORING}, 0.01),
    # Its next action is drawn: Huber's loss would end nearer to the median of the targets than to their mean.
    "sarsa": ({"target": "sarsa", **EXPLORING, "learning_rate": 1e-3, "loss": "squared"}, 0.08),
    "boltzmann": (
        {
            "target": "expected_sarsa",
            "exploration": "boltzmann",
            "exploration_start": 0.2,
            "exploration_end": 0.2,
        },
        0.01,
    ),
    "categorical": ({**C51, "double": True}, 0.05),  # a point between two atoms is spread over both
    "quantile": ({"distribution": "quantile", "num_atoms": 8}, 0.02),
    "noisy": ({"noisy": True}, 0.08),  # the noise has to be learned away
}


@pytest.mark.parametrize("name", SWITCHES)
def test_learns_the_exact_action_values(name):
    """Every state and action in every batch: the answer is exact, but where the switch itself draws."""
    settings, tolerance = SWITCHES[name]
    mdp, config = small_mdp(), dataclasses.replace(TABLE, **settings)
    state, metrics = fit(config, mdp.spec, lambda key: all_of(mdp), 5000)
    params = jax.tree.map(lambda x: x[0], state.params)
    q, right = learned_q(config, params, jnp.arange(5, dtype=jnp.int32)), exact_q(mdp, config)[:5]
    if config.target == "q_learning":
        np.testing.assert_allclose(right.max(1), value_iteration(mdp).value[:5], atol=1e-8)
    assert np.ptp(right) > 1.0
    np.testing.assert_allclose(q, right, atol=tolerance)
    assert all(np.isfinite(v).all() for v in metrics.values())


def all_walks(mdp, steps):
    """Every state and every sequence of actions of a deterministic MDP, once: items of a uniformly random policy."""
    starts = np.flatnonzero(~mdp.terminal)
    walks = np.array(list(itertools.product(starts, *[range(3)] * steps)), np.int64)
    now, actions, over = walks[:, 0], walks[:, 1:], np.zeros(len(walks), bool)
    rows = []
    for k in range(steps):
        after = mdp.successors[now, actions[:, k], 0]
        rows.append((now, actions[:, k], mdp.reward[now, actions[:, k]], mdp.terminal[after], after))
        if over.any():  # an item of fewer steps repeats its last
            rows[k] = tuple(np.where(over, last, new) for last, new in zip(rows[k - 1], rows[k], strict=True))
        over, now = rows[k][3], rows[k][4]
    obs, action, reward, terminated, next_obs = (np.stack(x, 1) for x in zip(*rows, strict=True))
    going = np.cumsum(terminated, 1) - terminated == 0
    power = GAMMA ** np.arange(steps)
    sample = sample_of(
        obs[:, 0], action[:, 0], (reward * going * power).sum(1), GAMMA**steps * ~terminated[:, -1], next_obs[:, -1]
    )
    stops = ~terminated & (np.arange(steps) == steps - 1)
    return sample._replace(path=path_of(obs, action, reward, terminated, stops, next_obs))


def path_of(obs, action, reward, terminated, truncated, next_obs, log_prob=-1.0986123):
    """``Sample.path`` [N, n] of states that are numbers."""
    f, i = (lambda x: jnp.asarray(x, jnp.float32)), (lambda x: jnp.asarray(x, jnp.int32))
    no, extras = np.zeros(np.shape(reward), bool), {"log_prob": jnp.full(np.shape(reward), log_prob, jnp.float32)}
    parts = i(obs), i(action), f(reward), jnp.asarray(terminated), jnp.asarray(truncated), i(next_obs)
    return Rollout(*parts, no, jnp.zeros((*np.shape(reward), 0)), extras)


WALKS = {  # of three steps, corrected -> (settings, how far off)
    "none": ({"n_step_correction": "none"}, 0.02),
    "cut": ({"n_step_correction": "cut", "double": True}, 0.01),
    "cut, categorical": ({"n_step_correction": "cut", **C51, "num_atoms": 6}, 0.1),
    "cut, quantile": ({"n_step_correction": "cut", "distribution": "quantile", "num_atoms": 3}, 0.02),
    "tree backup": ({"n_step_correction": "cut", "target": "expected_sarsa", **EXPLORING, "loss": "squared"}, 0.02),
    "retrace": ({"n_step_correction": "retrace", "target": "sarsa", **EXPLORING, "loss": "squared"}, 0.15),
}


@pytest.mark.parametrize("name", WALKS)
def test_three_steps_of_random_play_learn_what_one_step_learns(name):
    """Where they are corrected; uncorrected, they learn to follow two random actions."""
    settings, tolerance = WALKS[name]
    mdp, config = small_mdp(), dataclasses.replace(TABLE, n_step=3, **settings)
    walks = all_walks(mdp, 3)
    walks = walks._replace(path=None) if name == "none" else walks
    state, _ = fit(config, mdp.spec, lambda key: walks, 2000)
    q = learned_q(config, jax.tree.map(lambda x: x[0], state.params), jnp.arange(5, dtype=jnp.int32))
    right, random = (exact_q(mdp, dataclasses.replace(config, n_step=n))[:5] for n in (1, 3))
    assert np.abs(right - random).max() > 0.3
    np.testing.assert_allclose(q, random if name == "none" else right, atol=tolerance)


STOPS = np.array([2, 2, 2, 1, 1, 0])  # the last step of each of six items: three whole ones, a termination,
ENDED = np.array([0, 0, 0, 1, 0, 0], bool)[:, None]  # a truncation, and the newest step


def items_of_three(greedy):
    """Six items in five states; greedy but for the second's third action, the third's second. -> path, steps of each"""
    rng = np.random.default_rng(0)
    states, reward = rng.integers(0, 5, (6, 4)), rng.normal(size=(6, 3))
    action = np.concatenate([rng.integers(0, 3, (6, 1)), greedy[states[:, 1:3]]], 1)
    action[1, 2], action[2, 1] = (action[1, 2] + 1) % 3, (action[2, 1] + 1) % 3
    step = np.minimum(np.arange(3)[None], STOPS[:, None])
    along = lambda x: np.take_along_axis(x, step, 1)
    last = np.arange(3)[None] >= STOPS[:, None]
    obs, next_obs = along(states), along(states[:, 1:])
    path = path_of(obs, along(action), along(reward), last & ENDED, last & ~ENDED, next_obs, log_prob=-0.9)
    return path, np.array([3, 2, 1, 2, 2, 1])


def table_of(config, spec):
    """A learner, its state with values that are apart, and its q [S, A]."""
    learner = dqn_learner(config, spec)
    state = jax.jit(learner.init)(jax.random.key(5), zero_rollout(spec))
    state = state._replace(target=jax.tree.map(lambda x: 3 * x, state.target))
    return learner, state, learned_q(config, state.target, jnp.arange(5, dtype=jnp.int32))


@pytest.mark.parametrize("output", [{}, {**C51, "v_min": -5.0}, {"distribution": "quantile", "num_atoms": 4}], ids=str)
def test_cut_items_are_items_of_fewer_steps(output):
    """Up to the first action that is not greedy, or the end: the same loss, priorities and gradient."""
    spec, config = spec_of(spaces.Discrete(5), spaces.Discrete(3)), dataclasses.replace(TABLE, **output)
    corrected = dataclasses.replace(config, n_step=3, n_step_correction="cut")
    learner, state, q = table_of(corrected, spec)
    path, steps = items_of_three(q.argmax(1))
    power, each, rows = GAMMA ** np.arange(3), np.arange(6), jax.tree.map(np.asarray, path)
    reward = (rows.reward * power * (np.arange(3) < steps[:, None])).sum(1)
    discount = GAMMA**steps * ~rows.terminated[each, steps - 1]
    first = (rows.obs[:, 0], rows.action[:, 0])
    fewer = sample_of(*first, reward, discount, rows.next_obs[each, steps - 1])
    whole = sample_of(*first, 9 * reward, discount, rows.next_obs[:, -1])._replace(path=path)  # what is left of these
    cut, plain = (
        jax.jit(made.learn)(state, sample, jax.random.key(1))
        for made, sample in ((learner, whole), (dqn_learner(config, spec), fewer))
    )
    assert float(cut[2].pop("n_step_agreement")) == 0.75  # of 8 later actions all but two were
    for x, y in zip(jax.tree.leaves(cut), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["q_learning", "expected_sarsa"])
def test_retrace_by_hand(target):
    """Backwards through every item; recorded log-probabilities of -0.9, a policy that explores in 4 of 10."""
    spec = spec_of(spaces.Discrete(5), spaces.Discrete(3))
    settings = {"n_step": 3, "n_step_correction": "retrace", "retrace_lambda": 0.7, "target": target, **EXPLORING}
    learner, state, q = table_of(dataclasses.replace(TABLE, **settings), spec)
    greedy = np.eye(3)[q.argmax(1)]
    policy = greedy if target == "q_learning" else (1 - EPSILON) * greedy + EPSILON / 3
    path, _ = items_of_three(q.argmax(1))
    rows, online = jax.tree.map(np.asarray, path), learned_q(TABLE, state.params, jnp.arange(5, dtype=jnp.int32))
    targets = []
    for i, last in enumerate(STOPS):
        g = 0.0
        for k in range(last, -1, -1):
            after, value = rows.next_obs[i, k], 0.0
            if not rows.terminated[i, k]:
                value = policy[after] @ q[after]
                if k < last:
                    a = rows.action[i, k + 1]
                    value += 0.7 * min(1.0, policy[after, a] / np.exp(-0.9)) * (g - q[after, a])
            g = rows.reward[i, k] + GAMMA * value
        targets.append(g)
    sample = sample_of(rows.obs[:, 0], rows.action[:, 0], np.zeros(6), np.ones(6), rows.next_obs[:, -1])
    _, priority, _ = jax.jit(learner.learn)(state, sample._replace(path=path), jax.random.key(0))
    error = np.array(targets) - online[rows.obs[:, 0], rows.action[:, 0]]
    np.testing.assert_allclose(priority, np.abs(error), rtol=1e-4)


def test_acting_records_what_retrace_needs():
    spec = spec_of(spaces.Discrete(5), spaces.Discrete(3))
    config = dataclasses.replace(TABLE, n_step=3, n_step_correction="retrace", **EXPLORING)
    learner, state, _ = table_of(config, spec)
    obs = jnp.arange(5, dtype=jnp.int32)
    action, _, extras = learner.act(state, (), obs, np.ones(5, bool), jax.random.key(0), explore=True)
    greedy = np.asarray(action) == learned_q(config, state.params, obs).argmax(1)
    assert greedy.any()
    np.testing.assert_allclose(np.exp(extras["log_prob"]), np.where(greedy, 0.6, 0) + 0.4 / 3, rtol=1e-5)
    assert learner.keeps == ("log_prob",)
    assert dqn_learner(dataclasses.replace(config, n_step=1), spec).keeps == ()


def test_the_whole_agent_learns_them_from_replay():
    """Through its memory and loop, acting at random. Items of three steps are random walks, so the answer has noise."""
    settings = {"n_step": 3, "prioritized": True, "priority_correction": 1.0, "learning_rate": 2e-3}
    settings["n_step_correction"] = "none"
    mdp, config = small_mdp(), dataclasses.replace(TABLE, **settings)
    state = train(mdp, config, 700)
    q = learned_q(config, state.params, jnp.arange(5, dtype=jnp.int32))
    np.testing.assert_allclose(q, exact_q(mdp, config)[:5], atol=0.15)


def test_overestimation_and_its_cure():
    """One state, ten actions that pay +-1 at random: Q* = 0. The maximum over noisy estimates is biased upwards, and
    bootstrapping multiplies that by gamma / (1 - gamma); double Q-learning selects with other noise than it evaluates.
    """
    arms, gamma = 10, 0.8
    shape = (1, arms, 2)
    mdp = from_successors(np.zeros(shape, int), np.full(shape, 0.5), np.broadcast_to([-1.0, 1.0], shape), gamma=gamma)
    np.testing.assert_allclose(value_iteration(mdp).value, 0, atol=1e-9)

    def draw(key):
        zero, (action_key, reward_key) = np.zeros(16), jax.random.split(key)
        action = jax.random.randint(action_key, (16,), 0, arms)
        reward = jax.random.rademacher(reward_key, (16,), jnp.float32)
        return sample_of(zero, action, reward, np.full(16, gamma), zero)

    values = {}
    for double in (False, True):
        config = dataclasses.replace(TABLE, double=double, learning_rate=0.02, target_period=400, gamma=gamma)
        state, _ = fit(config, mdp.spec, draw, 16_000, seeds=4)
        values[double] = np.asarray(jax.vmap(lambda p: p(jnp.int32(0)))(state.target)).mean(1)
    assert values[False].min() > 0.4, values
    assert np.abs(values[True]).max() < 0.5 * values[False].min(), values


LEARNER = dataclasses.replace(
    TABLE,
    gamma=0.9,
    hidden_sizes=(16,),
    learning_rate=4e-3,
    exploration_end=0.2,
    exploration_fraction=0.5,
    double=True,
)


@pytest.mark.parametrize("name", ["truncation-ring", "mask"])
def test_learns_the_probes(name):
    state = train(f"probe/{name}", LEARNER, 700)
    known = known_values(f"probe/{name}", LEARNER.gamma)
    q = jax.vmap(state.params)(known.obs)
    if name == "mask":
        q = jnp.where(known.obs["action_mask"] > 0, q, -jnp.inf)
    np.testing.assert_allclose(q.max(1), known.value, atol=0.06 * max(1.0, np.abs(known.value).max()))


def test_never_takes_an_illegal_action():
    made = envs.make("probe/mask", 256)
    _, obs = made.reset(jax.random.key(0))
    lead = lambda x: jax.tree.map(lambda y: np.asarray(y)[None], x)
    no = np.zeros((1, 256), bool)
    number = no.astype(np.float32)
    rollout = Rollout(
        lead(obs), no.astype(np.int32), number, no, no, lead(obs), no, np.zeros((1, 256, 0), np.float32), {}
    )
    for settings in (
        {},
        {"exploration": "boltzmann", "exploration_start": 1e6, "exploration_end": 1e6},
        {"noisy": True},
    ):
        agent = dqn(dataclasses.replace(TABLE, **settings), made.spec, budget=10_000)
        state = jax.jit(agent.init)(jax.random.key(0), rollout)
        for explore in (True, False):
            action, _, _ = agent.act(state, (), obs, np.ones(256, bool), jax.random.key(1), explore=explore)
            assert (np.asarray(jnp.take_along_axis(obs["action_mask"], action[:, None], axis=1)) == 1).all()


def spec_of(observation, action):
    return EnvSpec("test", observation, action, action)


BOX = spaces.Box(-1, 1, (3,))


def zero_rollout(spec, length=4, num=2):
    zeros = lambda space: jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), abstract(space, (length, num)))
    obs, no = zeros(spec.observation_space), np.zeros((length, num), bool)
    reward = np.random.default_rng(0).normal(size=(length, num)).astype(np.float32)
    return Rollout(obs, zeros(spec.action_space), reward, no, no, obs, no, np.zeros((length, num, 0), np.float32), {})


def test_learns_from_stacked_frames():
    spec = spec_of(spaces.Box(0, 255, (36, 36, 4), np.uint8), spaces.Discrete(3))
    config = dataclasses.replace(TABLE, batch_size=4, replay_capacity=64, update_ratio=1 / 8, frame_stack=4)
    agent, rollout = dqn(config, spec), zero_rollout(spec)
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    state, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(2))
    assert np.isfinite(metrics["loss"])


def test_one_gradient_step_by_hand():
    """Terminal, truncated and going on; weights; the clipped gradient of Huber's loss; the target network's copy."""
    spec = spec_of(spaces.Discrete(3), spaces.Discrete(2))
    config = dataclasses.replace(TABLE, update_ratio=1 / 8, target_period=2, max_grad_norm=1e6)
    learner = dqn_learner(config, spec)
    state = jax.jit(learner.init)(jax.random.key(0), zero_rollout(spec))
    weight = np.asarray(state.params.advantage.output.weight)  # [A, S]
    q = weight.T + np.asarray(state.params.advantage.output.bias)
    s, a, r = np.array([0, 1, 2]), np.array([0, 1, 1]), np.array([0.1, 0.2, -9.0])
    after, discount = np.array([1, 2, 0]), np.array([0.0, GAMMA, GAMMA])
    delta = r + discount * q[after].max(1) - q[s, a]
    importance = np.array([1.0, 0.5, 0.25])
    each = np.where(np.abs(delta) <= 1, delta**2 / 2, np.abs(delta) - 0.5)
    sample = sample_of(s, a, r, discount, after, importance)
    learned, priority, metrics = learner.learn(state, sample, jax.random.key(1))
    np.testing.assert_allclose(metrics["loss"], (importance * each).mean(), rtol=1e-5)
    np.testing.assert_allclose(priority, np.abs(delta), rtol=1e-5)
    gradient = np.zeros((2, 3))
    np.add.at(gradient, (a, s), -importance * np.clip(delta, -1, 1) / 3)
    norm = np.sqrt((gradient**2).sum() + (gradient.sum(1) ** 2).sum())  # weights and biases
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    moved = np.asarray(learned.params.advantage.output.weight) - weight
    np.testing.assert_allclose(np.sign(moved), -np.sign(gradient))
    same = lambda a, b: all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert same(learned.target, state.target)
    learned, _, _ = learner.learn(learned, sample, jax.random.key(1))
    assert same(learned.target, learned.params)


def test_epsilon_falls_over_its_part_of_the_run():
    spec = spec_of(BOX, spaces.Discrete(3))
    config = dataclasses.replace(
        TABLE, update_ratio=1 / 8, learning_starts=8, exploration_end=0.0, exploration_fraction=0.5
    )
    agent, rollout = dqn(config, spec, budget=64), zero_rollout(spec)
    state, seen = jax.jit(agent.init)(jax.random.key(0), rollout), []
    update = jax.jit(agent.update)
    for _ in range(5):
        state, metrics = update(state, rollout, jax.random.key(0))
        seen.append(float(metrics["exploration"]))
    np.testing.assert_allclose(seen, [0.5, 0.25, 0, 0, 0], atol=1e-6)


def test_the_learning_rate_falls_to_zero_by_choice():
    """The third of four rollouts is learned from with a quarter of the rate, and what comes after with none."""
    spec = spec_of(BOX, spaces.Discrete(3))
    settings = {"update_ratio": 1 / 8, "learning_starts": 0, "anneal_learning_rate": True}
    agent, rollout = dqn(dataclasses.replace(TABLE, **settings), spec, budget=32), zero_rollout(spec)
    states, update = [agent.init(jax.random.key(0), rollout)], jax.jit(agent.update)
    for _ in range(5):
        states.append(update(states[-1], rollout, jax.random.key(0))[0])
    params = [np.concatenate([x.ravel() for x in jax.tree.leaves(s.learner.params)]) for s in states]
    steps = [np.abs(b - a).max() for a, b in itertools.pairwise(params)]
    assert steps[3] == steps[4] == 0
    np.testing.assert_allclose(steps[2] / steps[0], 1 / 3, atol=0.1)


def test_a_sweep_over_floats_is_one_program():
    made = envs.make("probe/two-steps", 4)

    def run(learning_rate, gamma):
        config = DQNConfig(
            unroll_length=4, update_ratio=1 / 16, batch_size=4, hidden_sizes=(4,), replay_capacity=64,
            learning_rate=learning_rate, gamma=gamma, n_step=2, prioritized=True, normalize_observations=False,
            scale_rewards=False,
        )  # fmt: skip
        agent, rollout = dqn(config, made.spec), jax.tree.map(jnp.asarray, zero_rollout(made.spec, 4, 4))
        state = agent.init(jax.random.key(0), rollout)
        return agent.update(state, rollout, jax.random.key(1))[0].learner.params

    rates, gammas = jnp.array([1e-3, 1e-2], jnp.float32), jnp.array([0.9, 0.5], jnp.float32)
    swept, alone = jax.jit(jax.vmap(run))(rates, gammas), jax.jit(run)(rates[1], gammas[1])
    for a, b in zip(jax.tree.leaves(swept), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"double": True, "target": "sarsa"}, "Drop double, or set target to q_learning"),
        ({"distribution": "quantile", "loss": "squared"}, "loss squared .* distribution quantile"),
        ({"distribution": "categorical", "num_atoms": 1}, "num_atoms = 1"),
        ({"distribution": "categorical", "v_min": 1.0, "v_max": 1.0}, "v_min = 1.0 and v_max = 1.0"),
        ({"exploration_start": 2.0}, "exploration_start = 2.0"),
        ({"target": "q-learning"}, "q_learning or expected_sarsa"),
        ({"n_step": 0}, "n_step = 0"),
        ({"n_step_correction": "watkins"}, "none or cut or retrace"),
        (
            {"n_step_correction": "retrace", "target": "sarsa", **C51},
            "count negative where target is sarsa.*none or cut",
        ),
        ({"retrace_lambda": 1.5}, "retrace_lambda = 1.5"),
        ({"huber_threshold": 0.0}, "huber_threshold = 0.0"),
        ({"priority_exponent": 1.5}, "priority_exponent = 1.5"),
    ],
)
def test_settings_that_do_not_go(settings, said):
    with pytest.raises(UsageError, match=said):
        DQNConfig(**settings)


def test_a_temperature_may_exceed_one():
    assert DQNConfig(exploration="boltzmann", exploration_start=5.0).exploration_start == 5.0


def test_a_continuous_action_space_names_another_algorithm():
    with pytest.raises(
        UsageError, match=r"DQN needs a Discrete action space; test has Box.*Try: steersman train \w+ test"
    ):
        dqn(DQNConfig(), spec_of(BOX, BOX))


@pytest.mark.parametrize(("ratio", "length", "num", "updates"), [(1.0, 1, 1, 1), (0.5, 256, 1, 128), (0.1, 10, 3, 3)])
def test_updates_after_a_rollout(ratio, length, num, updates):
    assert updates_of(ratio, length, num) == updates


@pytest.mark.parametrize(("ratio", "offer"), [(0.1, "0.25"), (0.3, "0.25"), (0.6, "0.5")])
def test_a_ratio_that_is_not_whole_offers_the_nearest(ratio, offer):
    with pytest.raises(UsageError, match=f"Set update_ratio to {offer},"):
        updates_of(ratio, 4, 1)
