"""Continuous control with memory: a gradient step by hand, every member of the family, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.off_policy.common import Own, critics_see
from steersman.agents.off_policy.sac import SACConfig, sac_learner
from steersman.agents.off_policy.td3 import TD3Config, td3_learner
from steersman.agents.parts.replay.sequences import Carry, items_of
from steersman.errors import UsageError
from steersman.memory import Sample
from steersman.nets.actors import Actor
from steersman.nets.critics import Critic
from steersman.nets.memory.remembering import Remembering
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec, Rollout

BOX = spaces.Box(-1, 1, (3,))
SPEC, CHOICE = (EnvSpec("test", BOX, a, a, max_episode_steps=9) for a in (spaces.Box(-1, 1, (2,)), spaces.Discrete(2)))
K, L, N, GAMMA = 2, 3, 2, 0.9
SMALL = {"memory_size": 4, "hidden_sizes": (5,), "burn_in": K, "sequence_length": K + L, "gamma": GAMMA}
SMALL |= {"memory": "gru", "unroll_length": 4, "batch_size": N, "replay_capacity": 64, "update_ratio": 1 / 8}


def sample_of(learner):
    """Sequences with an end in them, and a carry of before."""
    rng, shape = np.random.default_rng(0), (K + L, N)
    obs, next_obs = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    terminated, truncated, first = np.zeros((3, *shape), bool)
    terminated[2, 0], first[3, 0], first[1, 1] = True, True, True
    carry = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), learner.begin(N))
    reward, action = rng.normal(size=shape).astype(np.float32), rng.uniform(-1, 1, (*shape, 2)).astype(np.float32)
    costs, weight = np.zeros((*shape, 0), np.float32), np.ones(shape, np.float32)
    parts = obs, action, reward, terminated, truncated, next_obs, first, costs, {}, carry
    batch = jax.tree.map(jnp.asarray, Rollout(*parts))
    discount = jnp.where(batch.terminated, 0.0, jnp.float32(GAMMA))
    return Sample(batch, discount, jnp.asarray(weight), jnp.arange(N, dtype=jnp.int32))


def emptied(first, carry, start):
    return jax.tree.map(lambda c, s: jnp.where(first, s, c), carry, start)


@jax.jit
def stepped(network, carry, batch, b, *actions):
    """What a network says at each row and at its true successor, one step after another. actions: there, [2, L]."""
    now, after = [], []
    for t in range(K + L):
        carry = emptied(batch.first[t, b], carry, network.begin())
        carry, seen = network.step(carry, batch.obs[t, b])
        carry = network.acted(carry, batch.action[t, b])
        if t >= K:
            here, there = ([x[t - K] for x in pair] for pair in (actions or ((), ())))
            now.append(network(seen, *here))
            after.append(network(network.step(carry, batch.next_obs[t, b])[1], *there))
    return jax.tree.map(lambda *x: jnp.stack(x), (now[0], after[0]), *zip(now[1:], after[1:], strict=True))


def test_a_gradient_step_of_td3_by_hand():
    """The target actor from the stored carry, by itself; each critic with a memory of its own, from none."""
    learner = td3_learner(TD3Config(**SMALL, target_noise=0.0), SPEC)
    init = jax.jit(learner.init)
    state, other = (init(jax.random.key(i), None) for i in (0, 1))
    state = state._replace(target_actor=other.target_actor, targets=other.targets)
    sample = sample_of(learner)
    after, priority, metrics = jax.jit(learner.learn)(state, sample, jax.random.key(2))
    batch, errors = sample.batch, np.zeros((2, L, N))
    for b in range(N):
        carry = jax.tree.map(lambda x, b=b: x[b], batch.carry)
        action, q, q_t = stepped(state.target_actor, carry, batch, b)[1].mode(), [], []
        for k in range(2):
            target, critic = (jax.tree.map(lambda x, k=k: x[k], n) for n in (state.targets, state.critics.params))
            taken = [batch.action[K:, b]], [action]
            q_t.append(stepped(target, target.begin(), batch, b, *taken)[1][:, 0])
            q.append(stepped(critic, critic.begin(), batch, b, *taken)[0][:, 0])
        y = np.asarray(batch.reward[K:, b] + sample.discount[K:, b] * np.min(q_t, 0))
        errors[:, :, b] = y - np.array(q)
    mean = np.abs(errors).mean(0)
    np.testing.assert_allclose(priority, 0.9 * mean.max(0) + 0.1 * mean.mean(0), rtol=1e-4)
    np.testing.assert_allclose(metrics["critic_loss"], (0.5 * errors**2).mean((1, 2)).sum(), rtol=1e-4)
    for new, old in ((after.actor, state.actor), (after.critics, state.critics)):
        moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), new.params, old.params)
        assert moved.torsos["known"].memory.recurrent > 0


FAMILY = [
    ("ddpg", SPEC, {"exploration_noise": "pink", "memory": "lstm"}),
    ("sac", SPEC, {"n_step": 2, "n_step_correction": "retrace", "memory": "lru", "normalize_observations": True}),
    ("sac", CHOICE, {"n_step": 3, "n_step_correction": "cut", "memory": "window"}),
    ("tqc", SPEC, {"num_quantiles": 3, "n_step": 2, "scale_rewards": True, "memory": "tcn"}),
]


@pytest.mark.parametrize(("name", "spec", "settings"), FAMILY, ids=lambda x: str(x)[:12])
def test_the_family_has_memory(name, spec, settings):
    """In shapes alone: the agent is made, acts and learns, and its state stays what it is."""
    entry, like = ALGORITHMS[name], transitions_like(spec, (4, 2))
    agent = entry.factory(entry.config(**{**SMALL, **settings}), spec)

    def whole(key):
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        state, carry = agent.init(key, zeros), agent.begin(2)
        acted = [agent.act(state, carry, zeros.obs[0], zeros.first[0], key, explore=e) for e in (True, False)]
        extras = jax.tree.map(lambda x: jnp.zeros((4, *x.shape), x.dtype), acted[0][2])
        after, _ = agent.update(state, zeros._replace(carry=carry, extras=extras), key)
        return state, carry, acted, after

    state, carry, (explored, greedy), after = jax.eval_shape(whole, jax.random.key(0))
    assert state == after
    assert explored[:2] == greedy[:2]
    assert explored[1] == carry
    assert isinstance(carry, Carry) == ("exploration_noise" in settings)  # else it is the network's alone
    assert set(entry.with_memory) <= {f.name for f in dataclasses.fields(entry.config)}


class Sum(Remembering):
    """It sees the sum of what has been observed."""

    inside: Critic

    def begin(self):
        return jnp.zeros((3,))

    def step(self, carry, obs):
        return carry + obs, carry + obs

    def __call__(self, seen, *action):
        return self.inside(seen, *action)


class Empty(Sum):
    def begin(self):
        return ()


def test_networks_of_ones_own_may_remember():
    """One of the two, too: the actor here sees observations as they are."""
    sizes = {"hidden_sizes": (4,)}
    network = lambda key, spec: (Actor(spec, **sizes, key=key), Sum(Critic(spec, **sizes, key=key)))
    config = SACConfig(**{**SMALL, "memory": "none"})
    learner = sac_learner(config, SPEC, network=network)
    assert learner.remembers
    assert learner.begin(2) == ()
    state, sample = jax.jit(learner.init)(jax.random.key(0), None), sample_of(learner)
    items = items_of(config, sample)
    seen, _ = critics_see(state.critics.params, items)
    total = np.zeros((N, 3))
    for t in range(K + L):
        total = np.where(sample.batch.first[t][:, None], 0, total) + sample.batch.obs[t]
        if t >= K:
            rows = seen.seen.reshape(2, L, N, 3)[:, t - K]
            np.testing.assert_allclose(rows, np.broadcast_to(total, rows.shape), rtol=1e-5, atol=1e-6)
    assert isinstance(seen, Own)
    np.testing.assert_array_equal(items.sees(state.actor.params, ())[0], sample.batch.obs[K:].reshape(-1, 3))
    bad = lambda key, spec: (Actor(spec, **sizes, key=key), Empty(Critic(spec, key=key)))
    with pytest.raises(UsageError, match="of its critic, its begin.. gives a carry without arrays"):
        sac_learner(config, SPEC, network=bad)


def test_where_memory_does_not_go():
    with pytest.raises(UsageError, match="CrossQ: memory = 'gru'.*Train sac or tqc"):
        ALGORITHMS["crossq"].config(memory="gru")
    entry = ALGORITHMS["sac"]
    with pytest.raises(UsageError, match="hindsight replaces the goal of single steps, and a memory has seen the old"):
        entry.factory(entry.config(**SMALL, hindsight=0.5), SPEC)
