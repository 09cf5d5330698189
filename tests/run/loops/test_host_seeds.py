"""Several seeds on host environments: each does what it does alone, with programs that are compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.host_seeds import HostSeeds
from steersman.types import Agent

SEEDS, B = [3, 4, 7], 2


def remembering():
    """Its state is a sum over what it saw and drew; its actions are random."""

    def act(state, carry, obs, first, key, *, explore):
        return jax.random.bernoulli(key, 0.5, first.shape).astype(jnp.int32), carry, {}

    def update(state, rollout, key):
        seen = rollout.obs.mean() + jax.random.uniform(key)
        return {"sum": state["sum"] + seen, "key": jax.random.fold_in(state["key"], 1)}, {"seen": seen}

    init = lambda key, rollout: {"sum": rollout.obs.mean(), "key": key}
    return Agent(init, lambda num_envs: (), act, update)


def alone(seed, overlap=False, programs=None):
    made, sizes = envs.make("gymnasium/CartPole-v1", B), {"unroll_length": 3, "first_length": 2}
    return HostLoop(remembering(), made, **sizes, seed=seed, overlap=overlap, programs=programs)


def together(overlap=False):
    first = alone(SEEDS[0], overlap)
    more = [first.with_seed(seed, envs.make("gymnasium/CartPole-v1", B)) for seed in SEEDS[1:]]
    return HostSeeds([first, *more])


def assert_equal(a, b):
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(data(x), data(y)), a, b)


@pytest.mark.parametrize("overlap", [False, True])
def test_each_seed_does_as_alone(overlap):
    many = together(overlap)
    state = many.start()
    for cut in (False, True):
        state, totals = many.advance(state, 20, cut=cut)
    compiled = many.compile_seconds
    programs: dict = {}
    for i, seed in enumerate(SEEDS):
        one = alone(seed, overlap, programs)
        own = one.start()
        for cut in (False, True):
            own, mine = one.advance(own, 20, cut=cut)
        assert_equal(own.agent, many.agents(state)[i])
        assert_equal(jax.tree.map(lambda x, i=i: x[i : i + 1], totals[:2]), mine[:2])
        one.close()
    assert totals.episodes.count.shape == totals.metrics["seen"].shape == (3,)
    assert len(set(totals.metrics["seen"].tolist())) == 3
    _ = [many.advance(state, 1), many.start()]
    assert many.compile_seconds == compiled  # no program is compiled again
    many.close()


def test_they_go_on_from_what_was_saved():
    many, again = together(), together()
    state, _ = many.advance(many.start(), 2, cut=True)
    saved = many.saved(many.boundary(state, 6))
    shapes = again.shapes()
    assert jax.tree.structure(saved) == jax.tree.structure(shapes)
    assert jax.tree.all(jax.tree.map(lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), saved, shapes))
    assert saved.agent["sum"].shape == (3,)
    state, wanted = many.advance(many.boundary(state, 6), 2)
    other, totals = again.advance(again.restored(saved, 6), 2)
    assert_equal([s.agent for s in state], [s.agent for s in other])
    assert_equal(wanted[:2], totals[:2])
    for loop in (many, again):
        loop.close()
