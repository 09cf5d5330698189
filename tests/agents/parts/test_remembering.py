"""How agents have memory: whole sequences in minibatches, replay of what acting remembered, networks of one's own."""

from functools import partial

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.parts.remembering import sequence_length, shuffled_sequences
from steersman.errors import UsageError
from steersman.nets.layers.linear import Linear
from steersman.nets.memory.remembered import MEMORIES
from steersman.nets.memory.remembering import Remembering, flat_sequence
from steersman.run.evaluate import device_evaluator
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.host_loop import HostLoop
from steersman.theory.distributions import Categorical
from steersman.types import Rollout
from steersman.unroll import begin, random_policy, unroll

T, B = 12, 4


def numbered():
    """A rollout whose every entry is t + 1000 b, and carries that are of the row before."""
    number = jnp.arange(T)[:, None] + 1000 * jnp.arange(B)[None]
    number = number.astype(jnp.float32)
    first = number % 5 == 0
    rollout = Rollout(number, number, number, first, first, number, first, number[..., None], {}, number[0] - 1)
    return number, rollout


@pytest.mark.parametrize("length", [1, 3, 6, 12, None])
def test_sequences_are_contiguous_in_time(length):
    number, rollout = numbered()
    shuffled = jax.jit(lambda key, x, rollout: shuffled_sequences(key, {"x": x}, rollout, x, 2, length))
    batch, recall = shuffled(jax.random.key(0), number, rollout)
    size = length or 6 * 2
    rows = np.asarray(batch["x"]).reshape(2, size, -1)  # [M, L, n]
    np.testing.assert_array_equal(np.diff(rows, axis=1), np.ones_like(rows[:, 1:]))  # one after another, one b each
    assert (rows[:, 0] % 1000 % size == 0).all()
    np.testing.assert_array_equal(recall.carry, rows[:, 0] - 1)  # what was there before each one's first row
    np.testing.assert_array_equal(recall.first.reshape(rows.shape), rows % 5 == 0)
    assert sorted(rows.reshape(-1)) == sorted(np.asarray(number).reshape(-1))  # each row once


def test_what_divides():
    assert sequence_length(128, 8, 16, None) == 64  # the longest that leaves 16 sequences
    assert sequence_length(128, 16, 4, None) == 128
    assert sequence_length(128, 8, 16, 16) == 16
    with pytest.raises(
        UsageError, match=r"sequence_length = 5 does not divide unroll_length = 12. Set it to one of 2, 3"
    ):
        sequence_length(12, 4, 2, 5)
    with pytest.raises(UsageError, match=r"4 sequences of 12 steps.*num_minibatches = 3. Set .* one of 1, 2, 4"):
        sequence_length(12, 4, 3, 12)


def agent_on(name, environment, **settings):
    entry = ALGORITHMS[name]
    known = entry.config.__dataclass_fields__
    config = entry.config(**{k: v for k, v in settings.items() if k in known})
    return entry.factory(config, envs.make(environment, 1).spec, budget=1000), config


SMALL = {"hidden_sizes": (8,), "memory_size": 8, "num_epochs": 1, "num_minibatches": 2, "unroll_length": T}
CONTEXT = {"tcn": 4, "window": 2, "gru": 16, "lstm": 16, "lru": 100}


@pytest.mark.parametrize("memory", MEMORIES[1:])
def test_replayed_log_ratios_are_zero(memory):
    """Of an update's first minibatch, with four episode starts inside and a carry from before."""
    place = "probe/memory"
    agent, _ = agent_on("ppo", place, **SMALL, memory=memory, memory_context=CONTEXT[memory])
    made = envs.make(place, B)

    @jax.jit
    def log_ratio(key):
        acting = begin(agent, made, key)
        act = lambda state: lambda carry, obs, first, key: agent.act(state, carry, obs, first, key, explore=True)
        like = jax.eval_shape(lambda now: unroll(random_policy(made.spec), made, now, key, T)[1], acting)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        state = agent.init(key, zeros)
        acting, _, _ = unroll(act(state), made, acting, key, T - 1)  # the next begins within an episode
        _, rollout, _ = unroll(act(state), made, acting, key, T)
        network, log_prob = state.agent.agent.params, rollout.extras["log_prob"]
        normed = state.moments.normalize(rollout.obs, 10.0)
        carries = jax.vmap(network.sequence, (0, 1, 1, 1), 1)(rollout.carry, normed, rollout.first, rollout.action)[0]
        batch, recall = shuffled_sequences(key, (normed, rollout.action, log_prob), rollout, carries, 2, 4)
        obs, action, then = jax.tree.map(lambda x: x[0], batch)
        recall = jax.tree.map(lambda x: x[0], recall)
        policy, _ = jax.vmap(network)(flat_sequence(network, recall.carry, obs, recall.first, action))
        return policy.log_prob(action) - then, rollout.first.sum(), recall.carry

    ratio, starts, carry = log_ratio(jax.random.key(0))
    assert starts >= 3 * B
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(carry)) > 0
    np.testing.assert_allclose(ratio, 0.0, atol=1e-5)


@pytest.mark.parametrize(("name", "memory"), [("ppo", "tcn"), ("trpo", "lru")])
def test_the_first_minibatch_on_a_host_is_that_of_acting(name, memory):
    """Before its step the policy is the one that played: no divergence, ratios of one."""
    settings = {**SMALL, "num_minibatches": 1, "memory": memory, "lag": 0, "max_kl": 1e-9, "unroll_length": 32}
    settings |= {"memory_context": CONTEXT[memory]}
    place = envs.make(lambda: gymnasium.make("CartPole-v1", max_episode_steps=10), 2)
    entry = ALGORITHMS[name]
    known = entry.config.__dataclass_fields__
    agent = entry.factory(entry.config(**{k: v for k, v in settings.items() if k in known}), place.spec, budget=1000)
    loop = HostLoop(agent, place, unroll_length=32, first_length=32, seed=0)
    _, seen = loop.advance(loop.start(), 3)
    assert np.max(np.abs(seen.metrics["kl"])) < 1e-6


class Counting(Remembering):
    """Sums what it sees: a network with memory of one's own, in three methods."""

    layer: Linear

    def begin(self):
        return jnp.zeros((2,))

    def step(self, carry, obs):
        carry = carry + obs[:2]
        return carry, jnp.concatenate([carry, obs])

    def __call__(self, seen):
        out = self.layer(seen)
        return Categorical(out[:2]), out[2]


def counting(key, spec, kind=Counting):
    return kind(Linear(2 + spec.observation_space.shape[0], 3, gain=0.1, key=key))


def test_a_network_of_ones_own_remembers():
    entry, made = ALGORITHMS["a2c"], envs.make("probe/memory", 16)
    settings = {"gamma": 0.9, "unroll_length": 9, "learning_rate": 1e-2, "normalize_observations": False}
    agent = entry.factory(entry.config(**settings, scale_rewards=False), made.spec, network=counting)
    loop = device_loop(
        agent, partial(envs.make, "probe/memory"), num_envs=16, unroll_length=9, first_length=1, seeds=[0], shards=1
    )
    state, _ = loop.advance(loop.start(), 600)
    evaluation = device_evaluator(agent, envs.make("probe/memory", 64))(jax.tree.map(np.asarray, state.agent), 1)
    assert evaluation.mean == pytest.approx(1.0, abs=0.1)


class Numbering(Counting):
    def begin(self):
        return jnp.zeros((2,), jnp.int32)


class Growing(Counting):
    def step(self, carry, obs):
        return jnp.concatenate([carry, obs[:1]]), obs


class Forgetful(Counting):
    def begin(self):
        return ()


class Lone(Counting):
    def step(self, carry, obs):
        return carry


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Numbering, "its carry holds int32; all of it must be arrays of floating numbers"),
        (Growing, r"its step gives a carry of .*begin\(\) gives .*and it must stay so"),
        (Forgetful, "a carry without arrays, and so it remembers nothing"),
        (Lone, r"its step gives an array of shape \(2,\), not a pair \(carry, seen\)"),
    ],
)
def test_a_carry_that_does_not_do(kind, says):
    with pytest.raises(UsageError, match=says):
        ALGORITHMS["ppo"].factory(
            ALGORITHMS["ppo"].config(), envs.make("probe/memory", 1).spec, network=partial(counting, kind=kind)
        )


def test_sequences_are_checked_before_a_run_begins():
    ppo = ALGORITHMS["ppo"]
    with pytest.raises(UsageError, match="sequence_length = 5 does not divide unroll_length = 32"):
        ppo.check(ppo.config(memory="gru", unroll_length=32, num_minibatches=2, sequence_length=5), 16)
    ppo.check(ppo.config(unroll_length=32, num_minibatches=2, sequence_length=5), 16)  # it has no memory


def test_where_memory_cannot_be():
    spec = envs.make("probe/memory", 1).spec
    with pytest.raises(UsageError, match="ActorCritic: memory = 'gru'; it must be left out: .* one step at a time"):
        ALGORITHMS["actor_critic"].config(memory="gru")
    with pytest.raises(UsageError, match="Counting remembers, and actor_critic learns from single steps"):
        ALGORITHMS["actor_critic"].factory(ALGORITHMS["actor_critic"].config(), spec, network=counting)
    with pytest.raises(UsageError, match="memory = 'gru' is put before the agent's own network"):
        ALGORITHMS["ppo"].factory(ALGORITHMS["ppo"].config(memory="gru"), spec, network=counting)
    with pytest.raises(UsageError, match="TRPO: share_memory = True; it must be left out: the critic's steps"):
        ALGORITHMS["trpo"].config(share_memory=True)
    with pytest.raises(UsageError, match="one trunk behind one memory; share_memory = False asks for two"):
        ALGORITHMS["ppo"].config(memory="gru", share_trunk=True, share_memory=False)
    with pytest.raises(UsageError, match="memory = 'grue'; it must be none or gru"):
        ALGORITHMS["ppo"].config(memory="grue")


def test_a_masked_choice_is_made_from_memory():
    """The mask of illegal actions is there behind a memory as before one."""
    agent, _ = agent_on("ppo", "probe/mask", **SMALL, memory="gru")
    space = envs.make("probe/mask", 1).spec.observation_space
    assert isinstance(space, spaces.Dict)
    assert eqx.is_array(jax.tree.leaves(agent.begin(2))[0])
