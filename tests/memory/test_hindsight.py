"""Hindsight: the new goals are what the same episode reached later, and the rewards are those of the new goals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.memory import hindsight, uniform
from steersman.types import Rollout

LENGTH, EPISODE, B, N = 14, 5, 2, 512
reward = lambda achieved, desired: jnp.where(jnp.all(achieved == desired), 0.0, -1.0).astype(jnp.float32)


def rollout():
    """Achieved: 100 environment + 10 episode + steps into it. Episodes end by the clock; the last one is unfinished."""
    t = np.arange(LENGTH)[:, None]
    inside = np.broadcast_to(t % EPISODE, (LENGTH, B))
    at = (100 * np.arange(B)[None] + 10 * (t // EPISODE) + inside).astype(np.float32)
    look = lambda x: {"observation": x[..., None], "achieved_goal": x[..., None], "desired_goal": 0 * x[..., None] - 1}
    zero, no = np.zeros((LENGTH, B), np.float32), np.zeros((LENGTH, B), bool)
    end, costs = inside == EPISODE - 1, np.zeros((LENGTH, B, 0), np.float32)
    return Rollout(look(at), zero[..., None], zero - 1, no, end, look(at + 1), inside == 0, costs, {})


@pytest.fixture(scope="module")
def drawn():
    def run(fraction):
        memory = hindsight(100, N, reward, horizon=EPISODE, fraction=fraction, gamma=0.9)
        return jax.jit(lambda key: memory.sample(memory.init(rollout()), key))(jax.random.key(0))

    return {fraction: jax.tree.map(np.asarray, run(fraction)) for fraction in (0.0, 0.8, 1.0)}


def test_without_relabelling_it_is_uniform_replay(drawn):
    plain = uniform(100, N, gamma=0.9)
    key = jax.random.split(jax.random.key(0), 3)[0]
    same = plain.sample(plain.init(rollout()), key)
    jax.tree.map(np.testing.assert_array_equal, drawn[0.0], jax.tree.map(np.asarray, same))


def test_goals_come_from_later_in_the_same_episode(drawn):
    batch = drawn[1.0].batch
    after, goal = batch.next_obs["achieved_goal"][:, 0], batch.next_obs["desired_goal"][:, 0]
    assert (goal // 10 == batch.obs["achieved_goal"][:, 0] // 10).all()  # the same environment and episode
    assert (goal >= after).all()
    np.testing.assert_array_equal(batch.obs["desired_goal"][:, 0], goal)
    np.testing.assert_array_equal(batch.reward, np.where(after == goal, 0, -1))
    np.testing.assert_allclose(drawn[1.0].discount, 0.9)
    # Of the first step of a whole episode every later state is as likely; an unfinished one ends at the newest step.
    offsets = goal - after
    start, whole = batch.obs["achieved_goal"][:, 0] % 10 == 0, batch.obs["achieved_goal"][:, 0] // 10 % 10 < 2
    assert np.bincount(offsets[start & whole].astype(int)).min() > 0
    assert set(offsets[start & whole]) == set(range(EPISODE))
    assert set(offsets[start & ~whole]) == set(range(LENGTH % EPISODE))


def test_the_fraction_is_that_of_new_goals(drawn):
    new = drawn[0.8].batch.obs["desired_goal"][:, 0] != -1
    assert new.mean() == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / N))
    assert (drawn[0.8].batch.reward[~new] == -1).all()


def test_observations_without_goals():
    bare = rollout()._replace(obs=np.zeros((LENGTH, B, 1), np.float32))
    with pytest.raises(UsageError, match="achieved_goal"):
        hindsight(100, N, reward, horizon=EPISODE).init(bare)
