"""What replay keeps of a rollout, how often a learner observes, and how it counts environment steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.parts.replay.with_replay import BatchLearner, with_replay
from steersman.errors import UsageError
from steersman.memory import Buffer, Sample, prioritized, uniform
from steersman.run.disk.spec_json import transitions_like
from steersman.types import EnvSpec, Rollout

T, B = 6, 4
KEY = jax.random.key(0)


def rollout_of(start, extras, carry=()):
    """Transitions whose observation counts up from ``start``: a number of its own for each."""
    x = (start + np.arange(T * B, dtype=np.float32)).reshape(T, B)
    no, costs = np.zeros((T, B), bool), np.zeros((T, B, 0), np.float32)
    named = {name: np.float32(factor) * x for name, factor in extras.items()}
    return Rollout(x, x.astype(np.int32), x, no, ~no, x + 0.5, ~no, costs, named, carry)


def learner_that_keeps(*names):
    """It counts what it observes, and shows the batches that it gets."""

    def init(key, first_rollout):
        return {"observed": jnp.int32(0), "sum": jnp.float32(0), "carry": jnp.zeros(2)}

    def act(state, carry, obs, first, key, *, explore):
        recorded = {"twice": 2 * obs, "pair": jnp.zeros((*obs.shape, 2)), "other": obs}
        return jnp.zeros(first.shape, jnp.int32), carry, recorded

    def observe(state, rollout):
        total = state["sum"] + jnp.asarray(rollout.reward).sum()
        carry = state["carry"] if isinstance(rollout.carry, tuple) else rollout.carry
        return {"observed": state["observed"] + 1, "sum": total, "carry": carry}

    def learn(state, sample, key):
        batch = sample.batch
        return state, jnp.zeros_like(sample.weight), {"obs": batch.obs, "extras": batch.extras, "state": state}

    return BatchLearner(init, lambda num_envs: (), act, learn, observe, keeps=names)


def agent_of(learner, steps=1):
    agent = with_replay(learner, uniform(200, 64), ratio=steps / (T * B))
    return agent._replace(init=jax.jit(agent.init), update=jax.jit(agent.update))


def test_what_is_kept_comes_back_at_its_transition():
    agent = agent_of(learner_that_keeps("twice"))
    state = agent.init(KEY, rollout_of(1.0, {"twice": 2, "other": 3}))
    _, shown = agent.update(state, rollout_of(101.0, {"twice": 2, "other": 3}), KEY)
    np.testing.assert_array_equal(shown["extras"]["twice"], 2 * shown["obs"])
    assert set(shown["extras"]) == {"twice"}
    assert shown["obs"].min() < 100 < shown["obs"].max()


def test_a_first_rollout_that_has_not_recorded_it_has_zeros():
    """Of the shape and dtype that acting gives; what it has recorded stays."""
    agent = agent_of(learner_that_keeps("twice", "pair", "other"))
    state = agent.init(KEY, rollout_of(1.0, {"other": 3}))
    assert {name: x.shape[1:] for name, x in state.memory.steps.extras.items()} == {
        "twice": (B,), "pair": (B, 2), "other": (B,),
    }  # fmt: skip
    second = rollout_of(101.0, {"twice": 2, "other": 3})
    second.extras["pair"] = np.ones((T, B, 2), np.float32)
    _, shown = agent.update(state, second, KEY)
    obs, extras = np.asarray(shown["obs"]), shown["extras"]
    old = obs < 100
    assert 0 < old.sum() < 64
    np.testing.assert_array_equal(extras["twice"], np.where(old, 0, 2 * obs))
    np.testing.assert_array_equal(extras["pair"], np.broadcast_to(np.where(old, 0, 1)[:, None], (64, 2)))
    np.testing.assert_array_equal(extras["other"], 3 * obs)


def test_what_acting_does_not_record_cannot_be_kept():
    agent = agent_of(learner_that_keeps("twice", "thrice"))
    with pytest.raises(UsageError, match=r"keeps 'thrice', .* records other, pair, twice\."):
        agent.init(KEY, rollout_of(1.0, {"thrice": 3}))  # the random policy's own is no help


@pytest.mark.parametrize("steps", [1, 3])
def test_a_rollout_is_observed_once_and_the_first_is_not(steps):
    """Before the gradient steps, however many there are."""
    agent = agent_of(learner_that_keeps(), steps=steps)
    state = agent.init(KEY, rollout_of(1.0, {}))
    assert int(state.learner["observed"]) == 0
    for i in range(1, 4):
        rollout = rollout_of(100.0 * i, {})
        before, (state, shown) = state, agent.update(state, rollout, KEY)
        assert int(state.learner["observed"]) == i
        assert float(state.learner["sum"] - before.learner["sum"]) == rollout.reward.sum()
        assert float(shown["state"]["observed"]) == i
        assert int(state.memory.count) == T * (i + 1)


def test_a_memory_is_given_the_carry_and_what_is_kept():
    """No other extras; what is made of the carry, which has no time axis, is for the memory to say."""
    whole = lambda rollout, key: Sample(rollout, jnp.ones(1), jnp.ones(1), jnp.zeros(1, jnp.int32))
    newest = Buffer(lambda r: r, lambda memory, r: r, whole, lambda memory, index, priority: memory)
    agent = with_replay(learner_that_keeps("twice"), newest, ratio=1 / (T * B))
    carry, extras = jnp.array([3.0, 4.0]), {"twice": 2, "other": 3}
    first, second = rollout_of(1.0, extras, carry=carry), rollout_of(101.0, extras, carry=carry)
    state = jax.jit(agent.init)(KEY, first)
    after, shown = jax.jit(agent.update)(state, second, KEY)
    for memory, rollout in (
        (state.memory, first._replace(carry=())),
        (after.memory, second),
    ):  # the first: of ``begin``
        kept = rollout._replace(extras={"twice": rollout.extras["twice"]})
        jax.tree.map(np.testing.assert_array_equal, memory, kept)
    np.testing.assert_array_equal(after.learner["carry"], carry)
    np.testing.assert_array_equal(shown["extras"]["twice"], second.extras["twice"])
    for buffer in (uniform(200, 4), uniform(24, 4), prioritized(200, 4)):  # those of single transitions leave it out
        first = first._replace(extras={})
        added = jax.jit(lambda r, buffer=buffer: buffer.add(buffer.init(r), r))
        with_it, without = (added(r) for r in (first, first._replace(carry=())))
        jax.tree.map(np.testing.assert_array_equal, with_it, without)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if ALGORITHMS[name].data == "start" and name != "pets"])
def test_environment_steps_are_counted_with_those_of_the_random_policy(name):
    box = spaces.Box(-1.0, 1.0, (2,))
    action = spaces.Discrete(2) if name in ("dqn", "dyna") else box
    spec, entry = EnvSpec("test", box, action, action), ALGORITHMS[name]
    settings = {"hidden_sizes": (), "batch_size": 2, "replay_capacity": 64, "update_ratio": 1 / (T * B)}
    config = entry.config(**settings, learning_starts=1000, normalize_observations=True, scale_rewards=False)
    agent = entry.factory(config, spec)
    rollout = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), transitions_like(spec, (T, B)))

    @jax.jit  # which leaves all else out
    def counts(key):
        state = agent.init(key, rollout)
        return state.learner.agent.steps, agent.update(state, rollout, key)[0].learner.agent.steps

    assert tuple(map(int, counts(KEY))) == (1000, 1000 + T * B)
    assert entry.first_length(config, B) == 1000 // B
