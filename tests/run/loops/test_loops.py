"""The compiled loop: several seeds over the devices; and what every loop says of its state before there is one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs, shards
from steersman.agents.value_based.dqn import DQNConfig, dqn
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.host_loop import HostLoop
from steersman.types import Agent, PerEnv

T, B, SEEDS = 4, 2, [5, 6, 7]


@pytest.fixture(scope="module")
def agent():
    config = DQNConfig(unroll_length=T, batch_size=4, replay_capacity=64, hidden_sizes=(8,), update_ratio=0.25)
    return dqn(config, envs.make("CartPole-v1", B).spec)


def loop_on(agent, devices):
    make = partial(envs.make, "CartPole-v1")
    return device_loop(agent, make, num_envs=B, unroll_length=T, first_length=T, seeds=SEEDS, shards=1, devices=devices)


@pytest.fixture(scope="module")
def loops(agent):
    """By the number of devices: programs that are compiled once."""
    return {devices: loop_on(agent, devices) for devices in (1, 2)}


def bits(state):
    data = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(data(x)) for x in jax.tree.leaves(state)]


def test_seeds_go_on_where_they_stopped_on_another_number_of_devices(loops):
    """Three seeds on two devices are two rounds, on one three; a checkpoint has three rows either way."""
    here, there = loops[2], loops[1]
    assert [here.rounds, there.rounds] == [[[0, 1], [2, 0]], [[0], [1], [2]]]
    state, _ = here.advance(here.start(), 1)
    saved = here.saved(state)
    assert {len(x) for x in jax.tree.leaves(saved)} == {3}

    ends = []
    for loop in (here, there):
        state, totals = loop.advance(loop.restored(saved, 0), 3)
        assert totals.metrics["loss"].shape == (3,)
        ends.append(loop.saved(state))
        assert [bits(a) for a in loop.agents(state)][1][0].tolist() == bits(ends[-1].agent)[0][1].tolist()
    for x, y in zip(bits(ends[0]), bits(ends[1]), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_memory_of_many_seeds_is_written_in_place(loops):
    loop = loops[1]
    state, _ = loop.advance(loop.start(), 1)
    where = [part.agent.memory.steps.reward.unsafe_buffer_pointer() for part in state]
    state, _ = loop.advance(state, 2)
    assert [part.agent.memory.steps.reward.unsafe_buffer_pointer() for part in state] == where


def counting(metrics):
    """An agent whose state has parts of every kind; ``metrics`` gives what an update says."""
    act = lambda state, carry, obs, first, key, *, explore: (jnp.zeros(first.shape, jnp.int32), carry, {})

    def init(key, rollout):
        seen = PerEnv(rollout.reward.sum(0))
        return {"key": key, "seen": seen, "none": jnp.zeros((0,)), "steps": jnp.int32(rollout.reward.size)}

    def update(state, rollout, key):
        seen = PerEnv(state["seen"].value + rollout.reward.sum(0))
        return state | {"key": key, "seen": seen, "steps": state["steps"] + 1}, metrics()

    return Agent(init, lambda num_envs: jnp.zeros((num_envs, 2)), act, update)


def shard_metrics():
    index = jnp.asarray(shards.shard_index(), jnp.int32)
    return {"float": index.astype(jnp.float32) + 0.5, "int": 3 * index, "bool": index == 1, "same": jnp.bool_(True)}


def loops_of(agent):
    make = partial(envs.make, "CartPole-v1")
    sizes = {"unroll_length": T, "first_length": 2 * T}
    device = partial(device_loop, agent, make, num_envs=B, devices=2, **sizes)
    return {
        "one": lambda: device(seeds=[3], shards=1),
        "shards": lambda: device(seeds=[3], shards=2),
        "seeds": lambda: device(seeds=SEEDS, shards=1),
        "host": lambda: HostLoop(agent, envs.make("gymnasium/CartPole-v1", B), seed=3, **sizes),
    }


LOOPS = loops_of(counting(shard_metrics))


@pytest.fixture(scope="module")
def made():
    """Of each kind one loop, its programs compiled once."""
    loops = {name: make() for name, make in LOOPS.items()}
    yield loops
    for loop in loops.values():
        loop.close()


@pytest.mark.parametrize(("name", "means"), [("one", (0.5, 0, 0, 1)), ("shards", (1.0, 1.5, 0.5, 1))])
def test_metrics_are_averaged_over_the_shards(made, name, means):
    """Numbers of each shard's own, in whatever type; after the last update, not in each."""
    loop = made[name]
    _, totals = loop.advance(loop.start(), 5)
    found = [totals.metrics[k] for k in ("float", "int", "bool", "same")]
    np.testing.assert_allclose(found, [[5 * mean] for mean in means])
    assert {x.dtype for x in found} == {np.dtype(np.float32)}
    inner, _, outer = loop._programs["advance"].as_text().rpartition("ENTRY")
    assert ("all-reduce(" in inner, "all-reduce(" in outer) == (False, name == "shards")


def looks(tree):
    """Shapes and types; where a leaf is spread over several devices, how."""
    spread = lambda x: x.sharding if getattr(x, "sharding", None) and len(x.sharding.device_set) > 1 else None
    return jax.tree.map(lambda x: (x.shape, x.dtype, spread(x)), tree)


@pytest.mark.parametrize("name", LOOPS)
def test_the_shapes_of_a_checkpoint_are_known_before_anything_is_played(made, name):
    loop = LOOPS[name]()
    shapes = loop.shapes()
    assert loop.compile_seconds == 0
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(shapes))
    state, _ = made[name].advance(made[name].start(), 1)
    assert looks(shapes) == looks(made[name].saved(state))
    loop.close()


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_never_started_goes_on(made, name):
    loop, other = made[name], LOOPS[name]()
    state, _ = loop.advance(loop.start(), 2, cut=True)
    saved = jax.tree.map(jnp.copy, loop.saved(state))
    a, _ = loop.advance(loop.boundary(state, 9), 3)
    b, _ = other.advance(other.restored(saved, 9), 3)
    for x, y in zip(bits(loop.agents(a)), bits(other.agents(b)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not {"start", "init", "random"} & other._programs.keys()
    other.close()
