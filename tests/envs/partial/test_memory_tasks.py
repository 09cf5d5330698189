"""Every task's best return, with a memory and without, by rules written by hand; and its steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.partial.memory_tasks import Maze
from steersman.envs.partial.rocksample import rocks_of
from steersman.errors import UsageError

NOTHING = lambda num: ()
ONE = lambda num: jnp.zeros(num, bool)


def near(returns, mean, spread):
    """Within four standard errors; the standard deviation of one return is known."""
    assert returns.mean() == pytest.approx(mean, abs=4 * spread / np.sqrt(len(returns)))


def test_chain(returns_of):
    def remember(cue, obs, first):
        cue = jnp.where(first, obs[:, 0] > 0, cue)
        return cue, cue.astype(jnp.int32)

    assert (returns_of("memory/chain-7", remember, ONE, 16) == 1).all()
    always = lambda memory, obs, first: (memory, jnp.ones(len(obs), jnp.int32))  # the query always looks the same
    near(returns_of("memory/chain-7", always, NOTHING, 16), 0, 1)


def test_what_is_seen_of_a_chain():
    env = envs.make_env("memory/chain-3")
    play = jax.jit(env.step)
    state, obs = env.reset(jax.random.key(4))
    assert abs(obs[0]) == 1
    assert obs[1] == 0
    seen = []
    for _ in range(4):
        state, step = play(state, jnp.int32(obs[0] > 0), jax.random.key(0))
        seen.append((*step.obs.tolist(), float(step.reward), bool(step.terminated)))
    assert seen == [(0, 0, 0, False), (0, 0, 0, False), (0, 1, 0, False), (0, 0, 1, True)]


@pytest.mark.parametrize(("name", "length"), [("memory/tmaze-4", 5), ("memory/tmaze-4,active=true", 7)])
def test_tmaze(returns_of, name, length):
    def remember(memory, obs, first):
        known, north = (jnp.where(first, False, x) for x in memory)
        at_sign = obs[:, :2].any(-1)
        known, north = known | at_sign, jnp.where(at_sign, obs[:, 0] > 0, north)
        along = jnp.where(known, 1, 3)
        return (known, north), jnp.where(obs[:, 3] > 0, jnp.where(north, 0, 2), along).astype(jnp.int32)

    returns = returns_of(name, remember, lambda num: (jnp.zeros(num, bool), jnp.zeros(num, bool)), 2 * length)
    np.testing.assert_allclose(returns, 4, rtol=1e-6)
    assert len(returns) == 800  # both episodes of every member: that long, and no longer
    north = lambda memory, obs, first: (memory, jnp.where(obs[:, 3] > 0, 0, 1).astype(jnp.int32))
    near(returns_of(name, north, NOTHING, 20), 1.95, 2.05)


def test_walls_and_the_clock_of_a_tmaze():
    step = jax.jit(envs.make_env("memory/tmaze-2").step)
    at = lambda place, steps=0: (Maze(jnp.asarray(True), jnp.int32(place)), jnp.int32(steps))
    start, _ = envs.make_env("memory/tmaze-2").reset(jax.random.key(0))
    for place, action, reward, obs in [
        (0, 3, -0.1, [1, 0, 0, 0]),  # the sign points north
        (0, 0, -0.1, [1, 0, 0, 0]),
        (0, 1, 0.0, [0, 0, 1, 0]),
        (1, 1, 0.0, [0, 0, 0, 1]),
        (2, 1, -0.1, [0, 0, 0, 1]),
        (2, 3, 0.0, [0, 0, 1, 0]),
    ]:
        _, seen = step(start._replace(env=at(place)[0]), jnp.int32(action), jax.random.key(0))
        assert float(seen.reward) == pytest.approx(reward)
        assert seen.obs.tolist() == obs
        assert not seen.terminated | seen.truncated
    for action, reward in ((0, 4), (2, -0.1)):
        _, seen = step(start._replace(env=at(2)[0]), jnp.int32(action), jax.random.key(0))
        assert float(seen.reward) == pytest.approx(reward)
        assert seen.terminated
    _, seen = step(start._replace(steps=jnp.int32(7)), jnp.int32(0), jax.random.key(0))
    assert seen.truncated
    assert not seen.terminated


def test_repeat(returns_of):
    def remember(last, obs, first):
        last = jnp.concatenate([last[:, 1:], obs.argmax(-1)[:, None].astype(jnp.int32)], 1)
        return last, last[:, 0]

    returns = returns_of("memory/repeat-3", remember, lambda num: jnp.zeros((num, 4), jnp.int32), 51)
    np.testing.assert_allclose(returns, 1, rtol=1e-5)
    echo = lambda memory, obs, first: (memory, obs.argmax(-1).astype(jnp.int32))
    near(returns_of("memory/repeat-3", echo, NOTHING, 51), -0.5, 2 * np.sqrt(3 / 16 / 48))


def test_rocksample_at_its_best(returns_of):
    """Size 2 has a path through all four cells, and a rock on each: check, take it if it is good, go on, leave."""
    places = [(0, 1), (0, 0), (1, 0), (1, 1)]  # of the path, column and row
    ways = [2, 1, 0, 1]  # south, east, north, east
    rocks = [rocks_of(2, 4).tolist().index(list(place)) for place in places]

    def rule(memory, obs, first):
        column, row = obs[:, :2].argmax(-1), obs[:, 2:4].argmax(-1)
        at = jnp.array([[1, 0], [2, 3]])[column, row]
        rock = jnp.array(rocks)[at]
        reading = jnp.take_along_axis(obs[:, 4:], rock[:, None], 1)[:, 0]
        return memory, jnp.where(reading == 0, 5 + rock, jnp.where(reading > 0, 4, jnp.array(ways)[at])).astype(
            jnp.int32
        )

    returns = returns_of("memory/rocksample,size=2,rocks=4", rule, NOTHING, 30)
    assert set(returns) == {10, 20, 30, 40, 50}
    near(returns, 10 + 5 * 4, 10.0)  # of four fair coins of 10


def test_the_sensor_of_rocksample_gets_worse_with_distance():
    env = envs.make_env("memory/rocksample")
    state, obs = env.reset(jax.random.key(0))
    field = state.env.env
    assert obs[0] == obs[7 + 3] == 1  # column 0, row 3
    keys, step = jax.random.split(jax.random.key(1), 4000), jax.jit(jax.vmap(env.step, (None, None, 0)))
    for rock, distance in ((3, 6.0), (6, np.hypot(5, 2))):
        _, seen = step(state, jnp.int32(5 + rock), keys)
        readings = np.asarray(seen.obs[:, 14:])
        assert (np.delete(readings, rock, 1) == 0).all()
        right = (readings[:, rock] == (1 if field.good[rock] else -1)).mean()
        assert right == pytest.approx((1 + 2 ** (-distance / 20)) / 2, abs=4 * 0.3 / np.sqrt(4000))
        assert (seen.reward == 0).all()


def test_a_rock_pays_once_and_the_east_ends_it():
    env = envs.make_env("memory/rocksample,max_episode_steps=6")
    state, _ = env.reset(jax.random.key(0))
    on = state.env.env._replace(place=jnp.array([6, 3], jnp.int32), good=jnp.ones(8, bool))  # of the fourth rock
    state, seen = state._replace(env=state.env._replace(env=on)), None
    rewards = []
    step = jax.jit(env.step)
    for action in (4, 4, 3, 4, 1, 1):  # sample twice, west, sample nothing, east, leave
        state, seen = step(state, jnp.int32(action), jax.random.key(0))
        rewards.append(float(seen.reward))
    assert rewards == [10, -10, 0, 0, 0, 10]
    assert seen.terminated
    assert not seen.obs[:7].any()  # in no column
    assert float(seen.info["discounted_return"]) == pytest.approx(10 - 9.5 + 10 * 0.95**5)
    state, _ = env.reset(jax.random.key(0))
    for action in (0, 0, 0, 0, 3, 3):  # the other edges stop it
        state, seen = step(state, jnp.int32(action), jax.random.key(0))
        assert seen.reward == 0
    assert seen.obs[:14].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert seen.truncated
    assert not seen.terminated


@pytest.mark.parametrize(
    ("name", "says"),
    {
        "chain-0": r"^memory/chain-0: the name ends in .* a whole number of at least 1, as in memory/chain-20",
        "chain-x": "^memory/chain-x: the name ends in",
        "tmaze": "as in memory/tmaze-20",
        "repeat--1": "a whole number",
        "chian-3": r"Unknown memory task memory/chian-3\. Did you mean chain-20\?",
        "rocksampel": r"Did you mean rocksample\?",
        "xyz": "There are memory/chain-20, memory/tmaze-10, memory/repeat-4, memory/rocksample",
        "chain-5,length=3": "memory/chain-5 cannot be made with the arguments {'length': 3}",
        "tmaze-5,activ=true": r"It takes active, max_episode_steps; give them as memory/tmaze-5,active=\.\.\.",
        "repeat-2,symbols=1": "2 symbols or more and 1 step or more; got 1 and 48",
        "rocksample,size=2,rocks=5": "got size=2, rocks=5",
    }.items(),
)
def test_mistakes_in_names(name, says):
    with pytest.raises(UsageError, match=says):
        envs.make(f"memory/{name}", 2)
