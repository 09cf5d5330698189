"""Every probe's known answer follows from the probe itself: the Bellman equation holds, or the played return is it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.probe import MEMORY_STEPS, PROBES, TRUNCATION_STEPS, known_values
from steersman.errors import UsageError

GAMMA = 0.9
T, B = 24, 64
CONTINUOUS = ("one-step", "observation", "two-steps", "truncation", "truncation-ring")


def best(name):
    """The best policy: (observation, cue seen at the first step) -> action."""
    zero = lambda obs, cue: jnp.zeros((B,), jnp.int32)
    sign = lambda obs, cue: (obs[:, 0] > 0).astype(jnp.int32)
    return {
        "probe/action": lambda obs, cue: jnp.ones((B,), jnp.int32),
        "probe/action-observation": sign,
        "probe/continuous-action": lambda obs, cue: obs / 2,
        "probe/memory": lambda obs, cue: (cue > 0).astype(jnp.int32),
        "probe/mask": lambda obs, cue: jnp.where(obs["observation"][:, 2] == 1, 1, 2).astype(jnp.int32),
    }.get(name, zero)


def play(batch, policy):
    def step(carry, _):
        state, obs, cue = carry
        state, seen = batch.step(state, policy(obs, cue))
        ended = seen.terminated | seen.truncated
        now = jax.tree.leaves(seen.obs)[0][:, 0]
        return (state, seen.obs, jnp.where(ended, now, cue)), (obs, seen)

    state, obs = batch.reset(jax.random.key(0))
    cue = jax.tree.leaves(obs)[0][:, 0]
    return jax.jit(lambda c: jax.lax.scan(step, c, None, T)[1])((state, obs, cue))


def lookup(known, obs):
    """The known value of each observation [n, ...], by equality with one of the table."""
    table, rows = (np.asarray(jax.tree.leaves(x)[-1]) for x in (known.obs, obs))
    match = (rows[:, None] == table[None]).all(-1)
    assert match.any(1).all()
    return known.value[match.argmax(1)]


@pytest.mark.parametrize("name", PROBES)
def test_the_known_answer(name):
    known = known_values(name, GAMMA)
    obs, seen = play(envs.make(name, B), best(name))
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(T * B, *x.shape[2:]), (obs, seen))
    obs, seen = flat
    if name == "probe/memory":
        first = seen.info["episode_length"] == 1
        assert set(obs[first][:, 0]) == {-1.0, 1.0}
        assert (obs[~first][:, 0] == 0).all()  # the cue is not shown again
        ends = seen.terminated
        assert (seen.info["episode_length"][ends] == MEMORY_STEPS).all()
        np.testing.assert_array_equal(seen.reward[ends], 1)
        np.testing.assert_allclose(known.value, GAMMA ** (MEMORY_STEPS - 1), rtol=1e-6)
        assert (seen.reward[~ends] == 0).all()
    elif name == "probe/continuous-action":
        np.testing.assert_array_equal(seen.reward, 0)
        assert obs.std() > 0.4
    else:
        target = seen.reward + GAMMA * ~seen.terminated * lookup(known, seen.final_obs)
        values = lookup(known, obs)
        for value in np.unique(known.value):
            assert abs(target[values == value].mean() - value) < 1e-5
    returns = seen.info["episode_return"][seen.terminated | seen.truncated]
    assert abs(returns.mean() - known.mean_return) < 5 * returns.std() / np.sqrt(returns.size) + 1e-6


def test_probes_that_need_no_action_have_a_continuous_form():
    for short in CONTINUOUS:
        batch = envs.make(f"probe/{short}", B, continuous=True)
        assert batch.spec.action_space.shape == (1,)
    for short in ("two-steps", "truncation-ring"):
        batch = envs.make(f"probe/{short}", B, continuous=True)
        one = play(batch, lambda obs, cue: jnp.ones((B, 1)))[1]
        other = play(envs.make(f"probe/{short}", B), lambda obs, cue: jnp.ones((B,), jnp.int32))[1]
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_wrong_answers_differ_on_the_ring():
    """What the ring is for: three ways to bootstrap wrongly at a truncation give other values than the right one."""
    right = known_values("probe/truncation-ring", GAMMA).value

    def fixed_point(at_truncation):
        """The values learned when a share 1 / TRUNCATION_STEPS of all steps bootstraps with ``at_truncation(v, s)``."""
        v, share = np.zeros(3), 1 / TRUNCATION_STEPS
        for _ in range(500):
            bootstrap = [share * at_truncation(v, s) + (1 - share) * v[(s + 1) % 3] for s in range(3)]
            v = np.array([0, 0, 1]) + GAMMA * np.array(bootstrap)
        return v

    np.testing.assert_allclose(fixed_point(lambda v, s: v[(s + 1) % 3]), right, rtol=1e-5)
    wrong = [lambda v, s: 0.0, lambda v, s: v[s], lambda v, s: v.mean()]
    assert all(np.abs(fixed_point(w) - right).max() > 0.05 for w in wrong)


def test_actions_matter_where_they_should():
    wrong = play(envs.make("probe/mask", B), lambda obs, cue: jnp.argmin(obs["action_mask"], -1).astype(jnp.int32))[1]
    np.testing.assert_array_equal(wrong.reward, -100)
    wrong = play(envs.make("probe/action", B), lambda obs, cue: jnp.zeros((B,), jnp.int32))[1]
    np.testing.assert_array_equal(wrong.reward, -1)
    wrong = play(envs.make("probe/memory", B), lambda obs, cue: (cue < 0).astype(jnp.int32))[1]
    np.testing.assert_array_equal(wrong.reward[wrong.terminated], -1)
    wrong = play(envs.make("probe/continuous-action", B), lambda obs, cue: obs / 2 + 0.5)[1]
    np.testing.assert_allclose(wrong.reward, -0.25, rtol=1e-5)


def test_unknown_probes():
    with pytest.raises(UsageError, match="Did you mean probe/one-step"):
        known_values("probe/onestep", GAMMA)
