"""Sequences come back as they were seen, with the carry that acting had; none crosses what it must not."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.memory import Buffer, sequence_priority, sequences
from steersman.memory.sum_tree import NOWHERE
from steersman.types import Rollout

P, S, B = 4, 6, 2  # of an unroll, of a sequence, environments


def rows(start, length, ends=5):
    """Steps ``start`` and on: each shows t + 1000 b, an episode ends every ``ends`` steps, the carry is the same."""
    t = np.arange(start, start + length)[:, None] + 1000 * np.arange(B)[None]
    over = np.broadcast_to((np.arange(start, start + length)[:, None] % ends) == ends - 1, t.shape)
    obs, carry = t.astype(np.float32)[..., None], t[0].astype(np.float32)
    first = np.broadcast_to((np.arange(start, start + length)[:, None] % ends) == 0, t.shape)
    after = obs + np.where(over, 0.5, 1.0).astype(np.float32)[..., None]
    parts = obs, t.astype(np.int32), obs[..., 0], over & (t % 2 == 0), over & (t % 2 == 1), after, first
    return Rollout(*parts, np.zeros((length, B, 0), np.float32), {"twice": 2 * obs}, {"h": carry})


@cache
def buffer_of(capacity=24 * B, batch=64, **settings):
    buffer = sequences(capacity, batch, S, period=P, gamma=0.5, **settings)
    return Buffer(*map(jax.jit, buffer))  # once for all tests


def filled(buffer, first, unrolls):
    """A first rollout of ``first`` steps, and so many unrolls. -> (memory, the step after the newest)"""
    memory = buffer.init(rows(0, first))
    for i in range(unrolls):
        memory = buffer.add(memory, rows(first + P * i, P))
    return memory, first + P * unrolls


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("first", "unrolls"), [(1, 1), (11, 3), (40, 1), (9, 9)])
def test_sequences_are_what_was_seen(first, unrolls, prioritized):
    """Contiguous in time, each of one environment, from an unroll's start; also once the ring has turned."""
    buffer = buffer_of(prioritized=prioritized)
    memory, newest = filled(buffer, first, unrolls)
    drawn = jax.tree.map(np.asarray, buffer.sample(memory, jax.random.key(0)))
    batch, start = drawn.batch, drawn.batch.obs[0, :, 0]
    step, env = start % 1000, start // 1000
    assert ((step - first) % P == 0).all()
    assert (step >= max(first % P, newest - 24)).all()
    assert set(env) == {0, 1}
    there = step + np.arange(S)[:, None] < newest
    np.testing.assert_array_equal(drawn.weight > 0, there)
    expected = start + np.minimum(np.arange(S)[:, None], newest - 1 - step)
    every = rows(0, newest)
    at = (expected % 1000).astype(int), (expected // 1000).astype(int)
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(every, name)[at], err_msg=name)
    np.testing.assert_array_equal(batch.extras["twice"], 2 * batch.obs)
    np.testing.assert_array_equal(drawn.discount, np.where(batch.terminated, 0, 0.5))
    stops = (at[0] == newest - 1) & ~batch.terminated  # nothing is known behind the newest
    np.testing.assert_array_equal(batch.truncated, every.truncated[at] | stops)
    known = step >= first  # what a random policy played has none
    np.testing.assert_array_equal(batch.carry["h"], np.where(known, start, batch.carry["h"]))
    opens = np.where(np.arange(S)[:, None] == 0, ~known, False)
    np.testing.assert_array_equal(batch.first, every.first[at] | opens)
    np.testing.assert_array_equal(drawn.index == NOWHERE, step + S > newest)


def test_stacks_of_frames_are_put_together_again():
    """Each frame is held once; a stack holds none of another episode's."""

    def stacked(start, length):
        t = np.arange(start, start + length)
        stack = lambda t: np.stack([np.maximum(t - back, opens) for back in (2, 1, 0)], -1)[:, None, None, None]
        opens, environment = t - t % 5, 100 * np.arange(B)[:, None, None, None]
        seen, after = (np.broadcast_to(stack(x) + environment, (length, B, 2, 2, 3)) for x in (t, t + 1))
        return rows(start, length)._replace(obs=seen.astype(np.uint8), next_obs=after.astype(np.uint8))

    buffer = buffer_of(capacity=32 * B, frame_stack=3)
    memory = buffer.init(stacked(0, 9))
    for start in (9, 13, 17):
        memory = buffer.add(memory, stacked(start, P))
    assert memory.stream.frames.frame.shape[1:] == (B, 2, 2)
    drawn = jax.tree.map(np.asarray, buffer.sample(memory, jax.random.key(0)))
    batch, every = drawn.batch, stacked(0, 21)
    at = np.minimum(batch.obs[0, :, 0, 0, -1] % 100 + np.arange(S)[:, None], 20), batch.obs[:, :, 0, 0, -1] // 100
    np.testing.assert_array_equal(batch.obs, every.obs[at])
    np.testing.assert_array_equal(batch.next_obs, every.next_obs[at])


def test_without_the_stored_carry_memory_begins_anew():
    buffer = buffer_of(stored_carry=False)
    memory, _ = filled(buffer, 4, 4)
    assert buffer.sample(memory, jax.random.key(0)).batch.first[0].all()


def test_rows_that_short_episodes_push_out_begin_no_sequence():
    """Episodes of one step take two frames each: fewer steps are held than there are rows."""
    for prioritized in (False, True):
        buffer = buffer_of(capacity=20 * B, prioritized=prioritized)
        memory = buffer.init(rows(0, P, ends=1))
        for i in range(1, 9):
            memory = buffer.add(memory, rows(P * i, P, ends=1))
        assert P < int(memory.stream.count) < 20
        start = np.asarray(buffer.sample(memory, jax.random.key(0)).batch.obs[0, :, 0]) % 1000
        assert start.min() >= 9 * P - int(memory.stream.count)
        assert len(set(start)) == int(memory.stream.count) // P


def test_priorities_by_hand():
    """p = 0.9 max + 0.1 mean, to the power of alpha; the weights undo it; new ones are as likely as the likeliest."""
    error = np.array([[1.0, -4.0], [-3.0, 2.0], [2.0, 0.0]], np.float32)
    np.testing.assert_allclose(sequence_priority(error), [0.9 * 3 + 0.1 * 2, 0.9 * 4 + 0.1 * 2], rtol=1e-6)
    buffer = buffer_of(capacity=12 * B, batch=2000, prioritized=True, alpha=0.5, beta=1.0)
    memory, _ = filled(buffer, 8, 1)  # three unrolls of two environments; those of the last are not whole yet
    index = jnp.array([0, 1, 2, NOWHERE], jnp.int32)
    memory = buffer.update(memory, index, jnp.array([4.0, 9.0, 1.0, 100.0], jnp.float32))
    drawn = jax.tree.map(np.asarray, buffer.sample(memory, jax.random.key(0)))
    value = np.array([2, 3, 1, 1, 1, 1]) / 9  # sqrt of 4, 9 and 1; the others are new
    start = drawn.batch.obs[0, :, 0]
    which = (start % 1000 // P * 2 + start // 1000).astype(int)
    np.testing.assert_allclose(np.bincount(which, minlength=6) / 2000, value, atol=0.01)
    np.testing.assert_allclose(drawn.weight[0], (1 / (6 * value[which])) / (1 / (6 * value)).max(), rtol=1e-4)
    memory = buffer.add(memory, rows(12, P))  # over the first unroll
    drawn = buffer.sample(memory, jax.random.key(1))
    start = np.asarray(drawn.batch.obs[0, :, 0])
    share = np.array([1, 3, 1]) / 10  # of the three unrolls' six: 1 1, 1 1 and 3 3
    unroll = (start % 1000 // P).astype(int)
    np.testing.assert_allclose(np.bincount(unroll, minlength=4)[1:] / 2000, share[[0, 0, 1]] * 2, atol=0.2)
    assert (np.bincount(unroll, minlength=4) > 0).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"capacity": 8 * B}, "replay_capacity = 16 is too small for sequences of 6 steps.* it must be 24 or more"),
        ({"frame_stack": 4}, "it must be 64 or more"),
    ],
)
def test_a_memory_that_may_hold_no_sequence_is_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        buffer_of(**settings).init(rows(0, P))


def test_a_part_of_an_unroll_is_refused():
    with pytest.raises(UsageError, match="6 steps is no whole number of unrolls of period = 4"):
        buffer_of().add(buffer_of().init(rows(0, P)), rows(4, 6))
