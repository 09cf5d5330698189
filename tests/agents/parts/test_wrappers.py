"""Normalisers around a learner from batches: what it is shown, and when the moments move, against numpy's."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.agents.parts.replay.with_replay import BatchLearner, with_replay
from steersman.agents.parts.wrappers import normalised, with_observation_norm, with_reward_scaling
from steersman.memory import Sample, uniform
from steersman.run.disk import checkpoint
from steersman.spaces import MASK
from steersman.types import Agent, PerEnv, Rollout

T, B, GAMMA = 5, 3, 0.9
KEY = jax.random.key(0)


class Shown(NamedTuple):
    """The state of an agent that only remembers what it was shown last, and at the start."""

    first: Any
    last: Any


def show(rollout):
    return {"obs": rollout.obs, "next_obs": rollout.next_obs, "reward": jnp.asarray(rollout.reward)}


def init(key, rollout):
    return Shown(show(rollout), show(rollout))


def act(state, carry, obs, first, key, *, explore):
    return jnp.zeros(first.shape, jnp.int32), carry, {"saw": obs}


def spy_learner():
    def learn(state, sample, key):
        return state, jnp.zeros_like(sample.weight), show(sample.batch)

    observe = lambda state, rollout: state._replace(last=show(rollout))
    return BatchLearner(init, lambda num_envs: (), act, learn, observe)


def spy_agent():
    return Agent(init, lambda num_envs: (), act, lambda state, rollout, key: (state._replace(last=show(rollout)), {}))


def rollout_of(seed):
    """Of a Dict: numbers far from 0 and 1, the last one's partly far out; a picture; a category; a mask."""
    rng = np.random.default_rng(seed)

    def obs():
        place = (5.0 + 3.0 * rng.normal(size=(T, B, 2))).astype(np.float32)
        place[-1, -1, 0] *= 100 if seed == 2 else 1
        picture, kind = rng.integers(0, 255, (T, B, 4, 4, 1)).astype(np.uint8), rng.integers(0, 3, (T, B), np.int32)
        return {"place": place, "picture": picture, "kind": kind, MASK: rng.integers(0, 2, (T, B, 2)).astype(np.int8)}

    reward = (2.0 + 4.0 * rng.normal(size=(T, B))).astype(np.float32)
    reward[0, 0] = 500.0 * (seed + 1)
    ended = rng.integers(0, 3, (T, B))
    terminated, truncated = ended == 1, ended == 2
    action, first, costs = np.zeros((T, B), np.int32), np.zeros((T, B), bool), np.zeros((T, B, 0), np.float32)
    return Rollout(obs(), action, reward, terminated, truncated, obs(), first, costs, {})


ROLLOUTS = [rollout_of(seed) for seed in range(3)]


def sample_of(rollout):
    """Its rows as a batch [N, ...]."""
    batch = jax.tree.map(lambda x: x.reshape(T * B, *x.shape[2:]), rollout)
    return Sample(batch, jnp.ones(T * B), jnp.ones(T * B), jnp.arange(T * B, dtype=jnp.int32))


def places(count):
    """Of the first rollouts: mean and variance of every observation, by numpy in float64."""
    x = np.concatenate([r.obs["place"].reshape(-1, 2) for r in ROLLOUTS[:count]]).astype(np.float64)
    return x.mean(0), x.var(0)


def discounted(count):
    """-> (every discounted return of the first rollouts, [count * T * B]; where each environment's stands)"""
    running, seen = np.zeros(B), []
    for r in ROLLOUTS[:count]:
        for reward, ended in zip(r.reward.astype(np.float64), r.terminated | r.truncated, strict=True):
            running = GAMMA * running + reward
            seen.append(running)
            running = np.where(ended, 0.0, running)
    return np.concatenate(seen), running


def is_normalised(seen, rollout, moments, shape=(T, B)):
    mean, variance = moments
    for name in ("obs", "next_obs"):
        obs, right = seen[name], getattr(rollout, name)
        assert obs["place"].shape == (*shape, 2)
        want = np.clip((right["place"] - mean) / np.sqrt(variance), -10.0, 10.0)
        np.testing.assert_allclose(np.asarray(obs["place"]).reshape(want.shape), want, rtol=1e-3, atol=1e-4)
        for same in ("picture", "kind", MASK):
            assert obs[same].dtype == right[same].dtype
            np.testing.assert_array_equal(np.asarray(obs[same]).reshape(right[same].shape), right[same])


def is_scaled(reward, rollout, count, clip=10.0):
    want = np.clip(rollout.reward / discounted(count)[0].std(), -clip, clip)
    np.testing.assert_allclose(np.asarray(reward).reshape(T, B), want, rtol=1e-4)


def test_observations_are_seen_under_the_moments_of_now():
    learner = with_observation_norm(spy_learner())
    one, two, three = ROLLOUTS
    state = jax.jit(learner.init)(KEY, one)
    np.testing.assert_allclose(state.moments.mean["place"], places(1)[0], rtol=1e-4)
    is_normalised(state.agent.first, one, places(1))

    _, _, seen = learner.act(state, (), one.next_obs, one.first, KEY, explore=True)
    is_normalised({"obs": seen["saw"], "next_obs": seen["saw"]}, one._replace(obs=one.next_obs), places(1))

    after, priority, shown = jax.jit(learner.learn)(state, sample_of(three), KEY)
    is_normalised(shown, three, places(1), (T * B,))
    assert np.abs(shown["obs"]["place"]).max() == 10.0
    assert priority.shape == (T * B,)
    jax.tree.map(np.testing.assert_array_equal, after, state)  # learn leaves them

    state = jax.jit(learner.observe)(after, two)
    is_normalised(state.agent.last, two, places(1))  # as they were played
    for found, right in zip((state.moments.mean, state.moments.variance), places(2), strict=True):
        np.testing.assert_allclose(found["place"], right, rtol=1e-4)
    assert float(state.moments.weight) == 2 * T * B
    is_normalised(jax.jit(learner.learn)(state, sample_of(one), KEY)[2], one, places(2), (T * B,))  # an old one, as now


def test_moments_are_of_what_is_floating_alone():
    state = jax.jit(with_observation_norm(spy_learner()).init)(KEY, ROLLOUTS[0])
    assert {name: x.shape for name, x in state.moments.mean.items()} == {"place": (2,), "picture": (0,), "kind": (0,)}


def test_rewards_are_scaled_and_those_of_several_steps_not_clipped():
    learner = with_reward_scaling(spy_learner(), GAMMA)
    one, two, three = ROLLOUTS
    state = jax.jit(learner.init)(KEY, one)
    is_scaled(state.agent.first["reward"], one, 1)
    assert abs(one.reward / discounted(1)[0].std()).max() < 10

    after, _, shown = jax.jit(learner.learn)(state, sample_of(three._replace(reward=50 * three.reward)), KEY)
    is_scaled(shown["reward"], three._replace(reward=50 * three.reward), 1, clip=np.inf)
    assert np.abs(shown["reward"]).max() > 100
    np.testing.assert_array_equal(shown["obs"]["place"].reshape(T, B, 2), three.obs["place"])
    jax.tree.map(np.testing.assert_array_equal, after, state)

    state = jax.jit(learner.observe)(after, two)
    np.testing.assert_allclose(state.moments.variance, discounted(2)[0].var(), rtol=1e-4)
    assert isinstance(state.returns, PerEnv)
    np.testing.assert_allclose(state.returns.value, discounted(2)[1], rtol=1e-4, atol=1e-4)
    is_scaled(state.agent.last["reward"], two, 2)  # with the rollout's own returns
    is_scaled(jax.jit(learner.learn)(state, sample_of(one), KEY)[2]["reward"], one, 2, clip=np.inf)


def test_what_is_played_is_clipped():
    learner = with_reward_scaling(spy_learner(), GAMMA, clip=1.5)
    state = jax.jit(learner.observe)(jax.jit(learner.init)(KEY, ROLLOUTS[0]), ROLLOUTS[1])
    is_scaled(state.agent.last["reward"], ROLLOUTS[1], 2, clip=1.5)
    assert np.abs(state.agent.last["reward"]).max() == 1.5


@pytest.mark.parametrize("wrap", [with_observation_norm, lambda agent: with_reward_scaling(agent, GAMMA)])
def test_agent_and_learner_have_the_same_moments(wrap):
    """And are shown the same: an agent's update is a learner's observe."""
    agent, learner = wrap(spy_agent()), wrap(spy_learner())
    states = [jax.jit(x.init)(KEY, ROLLOUTS[0]) for x in (agent, learner)]
    for rollout in ROLLOUTS[1:]:
        states = [jax.jit(agent.update)(states[0], rollout, KEY)[0], jax.jit(learner.observe)(states[1], rollout)]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_both_around_one_learner_are_saved_with_it(tmp_path):
    """Replay holds what was played, as it was; the moments go into the checkpoint and on from there."""
    config = SimpleNamespace(normalize_observations=True, scale_rewards=True, gamma=GAMMA)
    one, two, three = ROLLOUTS
    agent = with_replay(normalised(spy_learner(), config), uniform(100, 8), ratio=1 / (T * B))
    update = jax.jit(agent.update)
    state, _ = update(jax.jit(agent.init)(KEY, one), two, KEY)
    np.testing.assert_array_equal(state.memory.steps.reward[: 2 * T], np.concatenate([one.reward, two.reward]))
    outer, inner = state.learner, state.learner.agent
    np.testing.assert_allclose(outer.moments.variance["place"], places(2)[1], rtol=1e-4)
    np.testing.assert_allclose(inner.moments.variance, discounted(2)[0].var(), rtol=1e-4)
    is_normalised(inner.agent.last, two, places(1))
    is_scaled(inner.agent.last["reward"], two, 2)

    checkpoint.save(tmp_path / "a.safetensors", state, {})
    loaded, _ = checkpoint.load(tmp_path / "a.safetensors", jax.eval_shape(lambda s: s, state))
    jax.tree.map(np.testing.assert_array_equal, state, loaded)
    state, shown = update(loaded, three, jax.random.key(1))
    np.testing.assert_allclose(state.learner.agent.moments.variance, discounted(3)[0].var(), rtol=1e-4)
    rewards = np.concatenate([r.reward.ravel() for r in ROLLOUTS]) / discounted(3)[0].std()
    assert np.isclose(np.asarray(shown["reward"])[:, None], rewards[None], rtol=1e-3).any(1).all()


def test_what_is_not_asked_for_is_not_there():
    plain = SimpleNamespace(normalize_observations=False, scale_rewards=False, gamma=GAMMA)
    learner = spy_learner()
    assert normalised(learner, plain) is learner


def test_rewards_of_1e25_are_scaled():
    """Squares of them overflow float32; what the agent sees is finite and keeps its sign."""
    ended = jnp.zeros((T, B), bool).at[2].set(True)
    reward = jnp.full((T, B), 1e25).at[1].set(-1e25)
    rollout = Rollout(
        jnp.zeros((T, B, 2)), jnp.zeros((T, B)), reward, ended, ended, jnp.zeros((T, B, 2)), ended, None, {}
    )
    agent = with_reward_scaling(Agent(init, lambda n: (), act, lambda s, r, key: (Shown(s.first, show(r)), {})), GAMMA)
    state = agent.init(KEY, rollout)
    state, _ = agent.update(state, rollout, KEY)
    seen = np.asarray(state.agent.last["reward"])
    assert np.isfinite(seen).all()
    np.testing.assert_array_equal(np.sign(seen), np.sign(reward))
