"""The loop over data: an update is a step on what it is handed, and the data is no part of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.run.loops.data_loop import DataLoop
from steersman.types import Agent, Rollout

N = 7
DATA = {"x": np.arange(N, dtype=np.float32), "y": np.arange(2 * N, dtype=np.int32).reshape(N, 2)}


def first():
    """A rollout [N, 1, ...]."""
    number, no = np.arange(N, dtype=np.float32)[:, None], np.zeros((N, 1), bool)
    return Rollout(number, number, number, no, ~no, number, ~no, np.zeros((N, 1, 0), np.float32), {})


def summing():
    """It adds up what it draws, and keeps the mean of what ``init`` was given."""

    def init(key, rollout):
        return {"mean": rollout.obs.mean() + rollout.carry.sum(), "sum": jnp.zeros((3,)), "key": key}

    def update(state, data, key):
        drawn = data["x"][jax.random.randint(key, (3,), 0, N)]
        return state | {"sum": state["sum"] + drawn}, {"drawn": drawn.mean(), "rows": jnp.int32(len(data["y"]))}

    return Agent(init, lambda num_envs: jnp.ones((num_envs,)), lambda *_, explore: None, update)


def loop_of(*seeds, devices=None):
    return DataLoop(summing(), DATA, first=first(), seeds=list(seeds), devices=devices)


def test_an_update_is_a_step_on_the_data():
    loop = loop_of(4)
    assert (loop.first_steps, loop.steps_per_update) == (0, 1)
    state, totals = loop.advance(loop.start(), 5)
    agent = loop.agents(state)[0]
    assert agent["mean"] == np.arange(N).mean() + 1  # of all the data, with an acting memory as ``begin`` gives it
    assert totals.metrics["rows"] == 5 * N
    np.testing.assert_allclose(totals.metrics["drawn"], agent["sum"].mean(keepdims=True), rtol=1e-6)
    assert [int(x[0]) for x in totals.episodes[:3]] == [0, 0, 0]


def test_the_data_is_no_part_of_the_state():
    loop = loop_of(4)
    shapes = loop.shapes()
    assert loop.compile_seconds == 0
    saved = loop.saved(loop.start())
    assert [x.shape for x in jax.tree.leaves(shapes)] == [x.shape for x in jax.tree.leaves(saved)] == [(), (), (3,), ()]


@pytest.mark.parametrize("devices", [1, 2])
def test_seeds_share_the_data_and_do_as_alone(devices):
    loop = loop_of(4, 5, 6, devices=devices)
    state, totals = loop.advance(loop.start(), 5)
    for seed, agent, drawn in zip((4, 5, 6), loop.agents(state), totals.metrics["drawn"], strict=True):
        alone = loop_of(seed)
        one, single = alone.advance(alone.start(), 5)
        np.testing.assert_array_equal(agent["sum"], one.agent["sum"])
        np.testing.assert_allclose(drawn, single.metrics["drawn"][0], rtol=1e-6)
    assert len({float(agent["sum"].sum()) for agent in loop.agents(state)}) == 3


def test_a_loop_that_never_started_goes_on_with_the_same_data():
    loop, other = loop_of(4), loop_of(4)
    state, _ = loop.advance(loop.start(), 2)
    saved = jax.tree.map(jnp.copy, loop.saved(state))
    a, _ = loop.advance(state, 3)
    b, _ = other.advance(other.restored(saved, 2), 3)
    np.testing.assert_array_equal(a.agent["sum"], b.agent["sum"])
