"""The host loop's order of things, seen through an agent that says who acted."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs, train
from steersman.errors import UsageError
from steersman.run.loops.host_loop import HostLoop
from steersman.types import Agent

B = 3


def telltale():
    """Its state counts the updates and remembers what it saw; its actions carry the count."""

    def act(state, carry, obs, first, key, *, explore):
        action = jax.random.bernoulli(key, 0.5, first.shape).astype(jnp.int32)
        return action, carry, {"version": jnp.full(first.shape, state["version"], jnp.float32)}

    def update(state, rollout, key):
        acted_by = rollout.extras["version"]
        lag = state["version"] - acted_by
        memory = (
            jnp.roll(state["memory"], 1).at[0].set(jax.tree.leaves(rollout.obs)[0].mean() + jax.random.uniform(key))
        )
        state = {"version": state["version"] + 1, "memory": memory}
        return state, {"lag": lag.mean(), "spread": acted_by.max() - acted_by.min()}

    init = lambda key, rollout: {"version": jnp.zeros(()), "memory": jnp.zeros((10_000,))}
    return Agent(init, lambda num_envs: (), act, update)


def loop_of(length, overlap):
    made = envs.make("gymnasium/CartPole-v1", B)
    return HostLoop(telltale(), made, unroll_length=length, first_length=2, seed=0, overlap=overlap)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("overlap", [False, True])
def test_who_acts(length, overlap):
    loop = loop_of(length, overlap)
    state = loop.start()
    behind = []
    for _ in range(2):  # from a boundary to the next
        for cut in (False, False, True):
            state, totals = loop.advance(state, 2, cut=cut)
            behind.append(totals.metrics["lag"].item())
            assert totals.metrics["spread"] == 0  # one policy for a whole unroll
        assert state.agent["version"] in (6, 12)  # at a boundary, all is learned from
        state = loop.boundary(state, 0)
    loop.close()
    # An advance learns from two rollouts. Overlapping, the first one learns from one and the last from three, of which
    # all but the first after a boundary were played by the policy before.
    assert behind == ([0, 2, 3, 0, 2, 3] if overlap else [0] * 6)


@pytest.mark.parametrize("overlap", [False, True])
def test_where_advances_are_cut_does_not_matter(overlap):
    states = []
    for chunks in ([6], [1, 3, 2]):
        loop = loop_of(1, overlap)
        state = loop.start()
        for i, n in enumerate(chunks):
            state, _ = loop.advance(state, n, cut=i == len(chunks) - 1)
        states.append(jax.tree.leaves(state.agent))
        loop.close()
    for x, y in zip(*states, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_state_is_written_in_place(overlap):
    loop = loop_of(1, overlap)
    state, _ = loop.advance(loop.start(), 2)
    before = state.agent["memory"].unsafe_buffer_pointer()
    for n in (1, 5):
        state, _ = loop.advance(state, n)
        assert state.agent["memory"].unsafe_buffer_pointer() == before
    loop.close()


def test_compiled_environments_have_nothing_to_overlap():
    with pytest.raises(UsageError, match="overlap is for host environments.*CartPole-v1 is compiled"):
        train("ppo", "CartPole-v1", steps=1000, overlap=True)


class OneOfMany(gymnasium.Env):
    """A Dict observation with a single entry."""

    observation_space = gymnasium.spaces.Dict(only=gymnasium.spaces.Box(-1, 1, (2,)))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"only": self.np_random.uniform(-1, 1, 2).astype(np.float32)}, {}

    def step(self, action):
        obs, info = self.reset()
        return obs, 1.0, bool(self.np_random.random() < 0.2), False, info


@pytest.mark.parametrize("length", [1, 8])
def test_a_dict_observation_with_one_entry(length):
    loop = HostLoop(telltale(), envs.make(OneOfMany, B), unroll_length=length, first_length=2, seed=0)
    state, totals = loop.advance(loop.start(), 3)
    assert totals.metrics["lag"] == 0
    assert state.acting.obs["only"].shape == (B, 2)
    assert np.all(np.isfinite(state.agent["memory"]))
    loop.close()
