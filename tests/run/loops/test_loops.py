"""The compiled loop: several seeds over the devices."""

from functools import partial

import jax
import numpy as np
import pytest

from steersman import envs
from steersman.agents.value_based.dqn import DQNConfig, dqn
from steersman.run.loops.device_loop import DeviceLoop

T, B, SEEDS = 4, 2, [5, 6, 7]


@pytest.fixture(scope="module")
def agent():
    config = DQNConfig(unroll_length=T, batch_size=4, replay_capacity=64, hidden_sizes=(8,), update_ratio=0.25)
    return dqn(config, envs.make("CartPole-v1", B).spec)


def loop_on(agent, devices):
    make = partial(envs.make, "CartPole-v1")
    return DeviceLoop(agent, make, num_envs=B, unroll_length=T, first_length=T, seeds=SEEDS, shards=1, devices=devices)


def bits(state):
    data = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(data(x)) for x in jax.tree.leaves(state)]


def test_seeds_go_on_where_they_stopped_on_another_number_of_devices(agent):
    """Three seeds on two devices are two rounds, on one three; a checkpoint has three rows either way."""
    here, there = loop_on(agent, 2), loop_on(agent, 1)
    assert [here.rounds, there.rounds] == [[[0, 1], [2, 0]], [[0], [1], [2]]]
    state, _ = here.advance(here.start(), 1)
    saved = here.saved(state)
    assert {len(x) for x in jax.tree.leaves(saved)} == {3}

    there.start()  # compiles
    ends = []
    for loop in (here, there):
        state, totals = loop.advance(loop.restored(saved, 0), 3)
        assert totals.metrics["loss"].shape == (3,)
        ends.append(loop.saved(state))
        assert [bits(a) for a in loop.agents(state)][1][0].tolist() == bits(ends[-1].agent)[0][1].tolist()
    for x, y in zip(bits(ends[0]), bits(ends[1]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_memory_of_many_seeds_is_written_in_place(agent):
    loop = loop_on(agent, 1)
    state, _ = loop.advance(loop.start(), 1)
    where = [part.agent.memory.steps.reward.unsafe_buffer_pointer() for part in state]
    state, _ = loop.advance(state, 2)
    assert [part.agent.memory.steps.reward.unsafe_buffer_pointer() for part in state] == where


def test_emptied_says_the_shapes_and_frees_the_arrays(agent):
    loop = loop_on(agent, 2)
    state = loop.start()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), loop.saved(state))
    leaf = state[0].agent.memory.steps.reward
    assert jax.tree.map(lambda x: (x.shape, x.dtype), loop.emptied(state)) == shapes
    assert leaf.is_deleted()
