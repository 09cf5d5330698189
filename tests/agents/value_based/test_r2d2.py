"""DQN with memory: a gradient step by hand, every switch of it, exploration in rungs, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.value_based import q_outputs
from steersman.agents.value_based.dqn import DQNConfig, dqn, dqn_learner
from steersman.errors import UsageError
from steersman.memory import Sample
from steersman.nets.memory.remembering import Remembering
from steersman.run.disk.spec_json import transitions_like
from steersman.run.settings import fitted
from steersman.theory import values
from steersman.types import EnvSpec, Rollout

SPEC = EnvSpec("test", spaces.Box(-1, 1, (3,)), spaces.Discrete(2), spaces.Discrete(2))
K, L, N, GAMMA = 2, 4, 3, 0.9
SMALL = DQNConfig(
    memory="gru", memory_size=5, hidden_sizes=(6,), burn_in=K, sequence_length=K + L, gamma=GAMMA, unroll_length=4,
    batch_size=N, replay_capacity=256, update_ratio=1 / 8, loss="squared", max_grad_norm=None,
)  # fmt: skip


def sample_of(learner):
    """Sequences with an end in them, and a carry of before."""
    rng = np.random.default_rng(0)
    shape = (K + L, N)
    obs, next_obs = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    terminated, truncated, first = np.zeros((3, *shape), bool)
    terminated[3, 0], first[4, 0], truncated[2, 1], first[3, 1], first[1, 2] = [True] * 5
    carry = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), learner.begin(N))
    reward, action = rng.normal(size=shape).astype(np.float32), rng.integers(0, 2, shape).astype(np.int32)
    costs, weight = np.zeros((*shape, 0), np.float32), np.broadcast_to(np.array([1.0, 0.5, 0.25], np.float32), shape)
    parts = obs, action, reward, terminated, truncated, next_obs, first, costs, {}, carry
    batch = jax.tree.map(jnp.asarray, Rollout(*parts))
    discount = jnp.where(batch.terminated, 0.0, jnp.float32(GAMMA))
    return Sample(batch, discount, jnp.asarray(weight), jnp.arange(N, dtype=jnp.int32))


def emptied(first, carry, start):
    return jax.tree.map(lambda c, s: jnp.where(first, s, c), carry, start)


def stepped(network, batch, b):
    """q at each row and at its true successor, one step after another from the stored carry."""
    carry, q, q_t = jax.tree.map(lambda x: x[b], batch.carry), [], []
    for t in range(K + L):
        carry = emptied(batch.first[t, b], carry, network.begin())
        carry, seen = network.step(carry, batch.obs[t, b])
        carry = network.acted(carry, batch.action[t, b])
        q.append(network(seen))
        q_t.append(network(network.step(carry, batch.next_obs[t, b])[1]))
    return jnp.stack(q)[K:], jnp.stack(q_t)[K:]


stepped = jax.jit(stepped, static_argnums=2)


def test_a_gradient_step_by_hand():
    """Each network brought through the burn-in by itself; priorities 0.9 max + 0.1 mean; weights of sequences."""
    learner = dqn_learner(dataclasses.replace(SMALL, double=True), SPEC)
    init = jax.jit(learner.init)
    state = init(jax.random.key(0), None)._replace(target=init(jax.random.key(1), None).target)
    sample = sample_of(learner)
    after, priority, metrics = jax.jit(learner.learn)(state, sample, jax.random.key(2))
    batch, errors = sample.batch, np.zeros((L, N))
    for b in range(N):
        q, own = stepped(state.params, batch, b)
        _, q_t = stepped(state.target, batch, b)
        best = own.argmax(1)
        target = batch.reward[K:, b] + sample.discount[K:, b] * q_t[np.arange(L), best]
        errors[:, b] = target - q[np.arange(L), batch.action[K:, b]]
    np.testing.assert_allclose(priority, 0.9 * np.abs(errors).max(0) + 0.1 * np.abs(errors).mean(0), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], (0.5 * errors**2 * np.array([1, 0.5, 0.25])).mean(), rtol=1e-4)
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), after.params, state.params)
    assert all(x > 0 for x in jax.tree.leaves((moved.torsos["known"].memory.recurrent, moved.network.trunk)))


SWITCHES = [
    {"distribution": "categorical", "num_atoms": 5, "double": True, "dueling": True, "noisy": True, "n_step": 2},
    {"distribution": "quantile", "num_atoms": 3, "n_step": 3, "n_step_correction": "retrace", "memory": "lru"},
    {"target": "sarsa", "n_step": 3, "n_step_correction": "retrace", "memory": "tcn", "value_rescaling": True},
    {"target": "expected_sarsa", "n_step": 2, "memory": "window", "exploration_ladder": True, "prioritized": True},
    {"memory": "lstm", "normalize_observations": True, "scale_rewards": True, "n_step": 2, "n_step_correction": "none"},
]


@pytest.mark.parametrize("settings", SWITCHES, ids=lambda s: " ".join(map(str, s.values())))
def test_every_switch_goes_with_memory(settings):
    """In shapes alone: the agent is made, acts and learns, and its state stays what it is."""
    settings = {"loss": "huber", **settings} if "distribution" in settings else settings
    agent = dqn(dataclasses.replace(SMALL, **settings), SPEC, budget=100)
    like = transitions_like(SPEC, (4, 2))

    def whole(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        state = agent.init(key, zeros)
        acted = [agent.act(state, agent.begin(2), zeros.obs[0], zeros.first[0], key, explore=e) for e in (True, False)]
        extras = jax.tree.map(lambda x: jnp.zeros((4, *x.shape), x.dtype), acted[0][2])
        rollout = zeros._replace(carry=agent.begin(2), extras=extras)
        return state, acted, agent.update(state, rollout, key)[0]

    state, (explored, greedy), after = jax.eval_shape(whole, jax.random.key(0))
    assert state == after
    assert explored[:2] == greedy[:2]


def test_rescaled_values_by_hand():
    """The loss of h(r + discount h^-1(q_t)) against the output; actions are compared in the environment's units."""
    output = q_outputs.scalar(huber=False, rescale=True)
    out, out_t = jnp.array([[1.0, -2.0]]), jnp.array([[3.0, 5.0]])
    np.testing.assert_allclose(output.q(out), values.unscaled(out))
    pi = jnp.array([[0.0, 1.0]])
    each, priority = output.loss(out, jnp.array([1]), jnp.array([2.0]), jnp.array([0.5]), out_t, pi)
    h = lambda x: np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x
    raw = (np.sqrt(1 + 4e-3 * (5 + 1 + 1e-3)) - 1) / 2e-3
    error = h(2 + 0.5 * (raw**2 - 1)) + 2
    np.testing.assert_allclose((each[0], priority[0]), (0.5 * error**2, error), rtol=1e-4)


def test_each_environment_explores_on_a_rung_of_its_own():
    config = dataclasses.replace(
        SMALL, exploration_ladder=True, exploration_start=0.4, exploration_end=0.4, n_step=2,
        n_step_correction="retrace",
    )  # fmt: skip
    learner = dqn_learner(config, SPEC)
    state, size = jax.jit(learner.init)(jax.random.key(0), None), 8
    obs, opens = jnp.ones((size, 3)), jnp.ones(size, bool)
    act = jax.jit(jax.vmap(lambda key: learner.act(state, learner.begin(size), obs, opens, key)[2]["log_prob"]))
    best = np.exp(act(jax.random.split(jax.random.key(0), 40))).max(0)  # that of the greedy action
    np.testing.assert_allclose(best, 1 - 0.4 ** (1 + 7 * np.arange(size) / (size - 1)) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"burn_in": 6}, "burn_in = 6 leaves nothing to learn from of sequences of sequence_length = 6"),
        ({"burn_in": -1}, "burn_in = -1"),
        ({"sequence_length": 0}, "sequence_length = 0"),
        ({"memory": "gruu"}, "memory = 'gruu'.*Did you mean gru"),
        ({"value_rescaling": True, "distribution": "quantile", "loss": "huber"}, "value_rescaling is of a number"),
        ({"exploration_ladder": True, "exploration": "boltzmann"}, "exploration_ladder is of epsilons"),
    ],
)
def test_settings_that_do_not_go(settings, said):
    with pytest.raises(UsageError, match=said):
        dataclasses.replace(SMALL, **settings)


def test_a_replay_too_small_for_a_sequence_is_refused():
    agent = dqn(dataclasses.replace(SMALL, sequence_length=200), SPEC)
    with pytest.raises(UsageError, match="replay_capacity = 256 is too small for sequences of 200 steps"):
        jax.eval_shape(agent.init, jax.random.key(0), transitions_like(SPEC, (4, 2)))


class Counter(Remembering):
    """q grows with the steps seen."""

    weight: jax.Array

    def begin(self):
        return jnp.zeros(())

    def step(self, carry, obs):
        return carry + 1.0, carry + obs[0]

    def __call__(self, seen):
        return seen * self.weight


def test_a_network_of_ones_own_that_remembers():
    config = dataclasses.replace(SMALL, memory="none")
    make = lambda key, spec: Counter(jax.random.normal(key, (2,)))
    learner = dqn_learner(config, SPEC, network=make)
    assert learner.remembers
    assert jax.tree.map(jnp.shape, learner.begin(3)) == (3,)
    sample = sample_of(learner)
    state = jax.jit(learner.init)(jax.random.key(0), None)
    _, _, metrics = jax.jit(learner.learn)(state, sample, jax.random.key(0))
    q = [stepped(state.params, sample.batch, b)[0][np.arange(L), sample.batch.action[K:, b]] for b in range(N)]
    np.testing.assert_allclose(metrics["q"], np.mean(q), rtol=1e-5)
    with pytest.raises(UsageError, match="memory = 'gru' is put before the agent's own network"):
        dqn(SMALL, SPEC, network=make)


def test_memory_brings_defaults_of_its_own():
    """But for what is asked for, and for a preset that has a memory itself."""
    entry = ALGORITHMS["dqn"]
    preset = {"batch_size": 64, "update_ratio": 0.5, "steps": 50_000}
    asked = {"memory": "gru", "batch_size": 16}
    found = fitted(entry, preset | asked, asked)
    assert found == preset | dict(entry.with_memory) | asked
    assert fitted(entry, preset | {"memory": "none"}, {"memory": "none"}) == preset | {"memory": "none"}
    assert fitted(entry, preset | {"memory": "gru"}, {}) == preset | {"memory": "gru"}
    assert set(entry.with_memory) <= {f.name for f in dataclasses.fields(entry.config)}
