"""Every loop tells an agent what it remembered when the rollout began: its acting memory, one per rollout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.run.collect import play
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.host_rollout import unroll_host
from steersman.run.policy import Policy
from steersman.types import Agent, DeviceEnvs, PerEnv
from steersman.unroll import Acting, begin, unroll

T, B, FIRST, UPDATES = 4, 6, 3, 12  # the pole falls within 48 random steps
COMPILED, HOST = "CartPole-v1", "gymnasium/CartPole-v1"


def remembering():
    """It counts its steps, in all and of the episode, and acts at random; its state notes what rollouts began with."""

    def begin(num_envs):
        return {"all": jnp.zeros((num_envs,), jnp.int32), "episode": jnp.zeros((num_envs,), jnp.int32)}

    def init(key, rollout):
        return {"first": PerEnv(rollout.carry), "began": PerEnv(rollout.carry), "sum": jnp.zeros((), jnp.int32)}

    def act(state, carry, obs, first, key, *, explore):
        episode = jnp.where(first, 0, carry["episode"])
        keys = jax.random.split(key, first.shape[0])
        action = jax.vmap(lambda k: jax.random.bernoulli(k).astype(jnp.int32))(keys)
        after = {"all": carry["all"] + 1, "episode": episode + 1}
        return action, after, {"before": carry}

    def update(state, rollout, key):
        noted = jax.tree.map(lambda x: x[0], rollout.extras["before"])
        wrong = sum(jnp.abs(x - y).sum() for x, y in zip(*map(jax.tree.leaves, (noted, rollout.carry)), strict=True))
        total = state["sum"] + rollout.carry["all"][0]
        state = {"first": state["first"], "began": PerEnv(rollout.carry), "sum": total}
        return state, {"wrong": wrong, "all": rollout.carry["all"][0], "episode": rollout.carry["episode"].max()}

    return Agent(init, begin, act, update)


def compiled(length=T, **options):
    options = {"seeds": [0], "shards": 1, "devices": 2} | options
    make = partial(envs.make, COMPILED)
    return device_loop(remembering(), make, num_envs=B, unroll_length=length, first_length=FIRST, **options)


def on_host(length=T, **options):
    made = envs.make(HOST, B)
    return HostLoop(remembering(), made, unroll_length=length, first_length=FIRST, seed=0, **options)


LOOPS = {
    "compiled": compiled,
    "shards": partial(compiled, shards=2),
    "seeds": partial(compiled, seeds=[0, 1, 2]),
    "host": on_host,
    "step by step": partial(on_host, 1),
    "overlap": partial(on_host, overlap=True),
    "overlap, step by step": partial(on_host, 1, overlap=True),
}


@pytest.mark.parametrize("name", LOOPS)
def test_an_update_is_told_the_memory_that_its_rollout_began_with(name):
    loop, seeds = LOOPS[name](), 3 if name == "seeds" else 1
    length = 1 if "step by step" in name else T
    state = loop.start()
    for _ in range(2):  # host loops begin anew at a boundary
        state, one = loop.advance(state, 1)
        state, rest = loop.advance(state, UPDATES - 1, cut=True)
        for totals in (one, rest):
            np.testing.assert_array_equal(totals.metrics["wrong"], [0] * seeds)
        began = loop.agents(state)[0]["began"].value
        assert began["all"].shape == (B,)
        if length > 1:
            assert rest.episodes.count.min() > 0  # so the two counts differ
            assert (began["episode"] < began["all"]).any()
        state = loop.boundary(state, 1)
    loop.close()


@pytest.mark.parametrize("length", [1, T])
def test_all_loops_tell_the_same(length):
    """The count of all steps does not depend on the environment: it is 0, T, 2 T ... in every loop."""
    wanted = length * np.arange(UPDATES)
    for loop in (compiled(length), on_host(length), on_host(length, overlap=True), compiled(length, seeds=[3, 4, 5])):
        state, told = loop.start(), []
        for agent in loop.agents(state):
            np.testing.assert_array_equal(agent["first"].value["all"], np.zeros(B, int))  # at random, nothing is kept
        state, totals = loop.advance(state, UPDATES, cut=True)
        np.testing.assert_array_equal(totals.metrics["all"], [wanted.sum()] * len(loop.agents(state)))
        for agent in loop.agents(state):
            np.testing.assert_array_equal(agent["began"].value["all"], [wanted[-1]] * B)
            told.append(int(agent["sum"]))
        assert set(told) == {wanted.sum()}
        loop.close()


@pytest.mark.parametrize("make", [compiled, on_host])
def test_recorded_data_begins_with_a_fresh_memory(make):
    first = jax.tree.map(np.asarray, rollout_of(COMPILED)[1])
    loop = make(data=first._replace(carry=()))
    state, _ = loop.advance(loop.start(), 1)
    np.testing.assert_array_equal(loop.agents(state)[0]["first"].value["episode"], np.zeros(B, int))
    assert loop.shapes().agent["first"].value["episode"].shape == (B,)
    loop.close()


def rollout_of(place):
    """Two rollouts in a row of the remembering agent, as ``collect`` plays them."""
    agent, made = remembering(), envs.make(place, B)
    act = partial(agent.act, explore=True)
    if isinstance(made, DeviceEnvs):
        acting = begin(agent, made, jax.random.key(0))
        play = jax.jit(lambda acting, key: unroll(partial(act, ()), made, acting, key, T)[:2])
    else:
        acting = Acting((), made.reset(0), np.ones(B, bool), agent.begin(B))
        play = partial(unroll_host(act, made, T), ())
    acting, one = play(acting, jax.random.key(1))
    one = jax.tree.map(np.array, one)  # the rows are written again
    _, two = play(acting, jax.random.key(2))
    return one, two


@pytest.mark.parametrize("place", [COMPILED, HOST])
def test_a_rollout_carries_one_memory_however_long_it_is(place):
    one, two = rollout_of(place)
    np.testing.assert_array_equal(one.carry["all"], np.zeros(B, int))
    np.testing.assert_array_equal(two.carry["all"], np.full(B, T))
    np.testing.assert_array_equal(two.extras["before"]["episode"][0], two.carry["episode"])


@pytest.mark.parametrize("place", [COMPILED, HOST])
def test_recordings_are_of_transitions_alone(place, monkeypatch):
    monkeypatch.setattr("steersman.run.collect.PIECE", T)
    made = envs.make(place, B)
    rollout = play(Policy(remembering(), (), made.spec), made, 2 * T + 1, 0, True)
    assert rollout.carry == ()
    assert {len(x) for x in jax.tree.leaves(rollout)} == {2 * T + 1}
