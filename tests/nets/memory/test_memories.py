"""Every memory: a sequence is its steps, nothing comes from later or from another episode, the start is slow."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.nets.memory.cells import linear_scan, slow_gates
from steersman.nets.memory.lru import LRU
from steersman.nets.memory.remembered import MEMORIES, MemorySettings, make_memory, remembered
from steersman.nets.memory.remembering import Remembering, acted, begin, flat_sequence, recalled, sequence, step
from steersman.nets.memory.windows import TCN, Window
from steersman.types import EnvSpec, Rollout

T, B, SIZE = 9, 3, 8
KINDS = MEMORIES[1:]
CONTEXT = {"tcn": 8, "window": 3}
NETWORK = {"hidden_sizes": (8,), "activation": "tanh", "encoder": "auto", "channels": "auto", "layer_norm": False}
ACTIONS = {"choices": spaces.Discrete(3), "box": spaces.Box(-1.0, 1.0, (2,))}
SEES = spaces.Box(-1.0, 1.0, (4,))


@cache
def network_of(kind, actions="choices", **settings):
    spec = EnvSpec("Place", SEES, ACTIONS[actions], ACTIONS[actions])
    make = lambda spec, settings, key: ActorCritic(spec, **settings, key=key)
    chosen = MemorySettings(kind, SIZE, CONTEXT.get(kind), **settings)
    return jax.jit(lambda key: remembered(spec, chosen, NETWORK, make, key))(jax.random.key(1))


def played(network, length=T, num=B, box=False, first=None):
    """Observations, where episodes begin, actions, and a carry from before."""
    rng = np.random.default_rng(0)
    obs = jnp.asarray(rng.normal(size=(length, num, 4)), jnp.float32)
    first = rng.random((length, num)) < 0.3 if first is None else np.full((length, num), first)
    shape = (length, num, 2) if box else (length, num)
    action = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) if box else jnp.asarray(rng.integers(0, 3, shape), "int32")
    )
    carry = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), begin(network, num))
    return carry, obs, jnp.asarray(first), action


WHOLE, STARTS, ONE = ("box", T, B, None), ("box", 4, 2, True), ("choices", 1, 1, None)  # a sequence of one step
SHAPES = [(kind, "choices", T, B, None) for kind in KINDS]  # each kind with one thing more that its code could mistake
SHAPES += [("gru", *WHOLE), ("lstm", *STARTS), ("lru", *ONE), ("tcn", *ONE), ("tcn", *STARTS), ("window", *STARTS)]


@pytest.mark.parametrize(("kind", "actions", "length", "num", "first"), SHAPES)
def test_a_sequence_is_its_steps(kind, actions, length, num, first):
    network = network_of(kind, actions)
    carry, obs, first, action = played(network, length, num, actions == "box", first)
    carries, seen = jax.jit(sequence)(network, carry, obs, first, action)

    @jax.jit
    def one(carry, obs, first, action):
        carry, seen = step(network, carry, obs, first)
        return acted(network, carry, action), seen

    for t in range(length):
        carry, known = one(carry, obs[t], first[t], action[t])
        np.testing.assert_allclose(known, seen[t], atol=2e-6)
        for now, then in zip(jax.tree.leaves(carry), jax.tree.leaves(carries), strict=True):
            np.testing.assert_allclose(now, then[t], atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_sequence_is_the_fast_one(kind):
    network = network_of(kind)
    given = jax.tree.map(lambda x: x[:, 0], played(network)[1:])
    carry = jax.tree.map(lambda x: x[0], played(network)[0])
    both = jax.jit(lambda *given: (Remembering.sequence(network, *given), network.sequence(*given)))(carry, *given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), *both)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_comes_from_later_or_from_another_episode(kind):
    network = network_of(kind)
    carry, obs, _, action = played(network, num=1)
    first = jnp.zeros((T, 1), bool).at[5].set(True)

    def known(carry, obs):
        return sequence(network, carry, obs, first, action)[1][:, 0].sum(-1)

    of_carry, of_obs = jax.jit(jax.jacrev(known, argnums=(0, 1)))(carry, obs)
    moved = np.abs(np.asarray(of_obs)).sum((2, 3))  # [t, by the observation at]
    assert (moved[np.triu_indices(T, 1)] == 0).all()
    assert (moved[5:, :5] == 0).all()
    assert (np.diag(moved) > 0).all()
    assert moved[4, 3] > 0
    by_carry = sum(np.abs(np.asarray(x)).reshape(T, -1).sum(1) for x in jax.tree.leaves(of_carry))
    assert by_carry[0] > 0
    assert (by_carry[5:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_true_successor_is_one_step_on(kind):
    """Also where the clock cut the episode, and the next row is of another."""
    network = network_of(kind)
    carry, obs, first, action = played(network)
    following = jnp.concatenate([obs[1:], obs[:1]]) + jnp.where(jnp.roll(first, -1, 0)[..., None], 10.0, 0.0)
    zeros = jnp.zeros((T, B))
    rollout = Rollout(obs, action, zeros, first, first, following, first, zeros[..., None], {}, carry)
    whole = lambda rollout: (recalled(network, rollout), sequence(network, carry, obs, first, action)[1])
    (seen, carries), acted = jax.jit(whole)(rollout)  # one program, so the same bits
    t, sees = 4, jax.jit(lambda *given: sequence(network, carry, *given)[1])
    longer = [jnp.concatenate([x[: t + 1], y]) for x, y in ((obs, following[t][None]), (action, action[:1]))]
    goes_on = jnp.concatenate([first[: t + 1], jnp.zeros((1, B), bool)])
    np.testing.assert_allclose(seen.next_obs[t], sees(longer[0], goes_on, longer[1])[-1], atol=2e-6)
    np.testing.assert_array_equal(seen.obs, acted)
    assert jax.tree.leaves(carries)[0].shape[:2] == (T, B)


def test_the_previous_action_is_told_from_none():
    network = network_of("window")
    carry = begin(network, 1)
    obs, first = jnp.zeros((1, 4)), jnp.zeros((1,), bool)
    none = step(network, carry, obs, first)[1]
    action = lambda a: acted(network, carry, jnp.asarray([a], "int32"))
    zero, one = (step(network, action(a), obs, first)[1] for a in (0, 1))
    assert not np.allclose(none, zero)
    assert not np.allclose(zero, one)
    without = network_of("window", previous_action=False)
    assert jax.tree.leaves(begin(without, 1))[1].shape == (1, 0)
    again = step(network, action(1), obs, jnp.ones((1,), bool))[1]
    np.testing.assert_array_equal(again, none)  # nothing of the last episode


def test_without_memory_all_is_as_it_was():
    spec = EnvSpec("Place", SEES, ACTIONS["choices"], ACTIONS["choices"])
    network = ActorCritic(spec, key=jax.random.key(0))
    obs = jnp.ones((B, 4))
    assert begin(network, B) == ()
    assert step(network, (), obs, jnp.ones((B,), bool))[1] is obs
    assert flat_sequence(network, (), obs, (), ()) is obs


def test_scans_agree():
    keys = jax.random.split(jax.random.key(0), 4)
    pair = lambda key, *shape: tuple(jax.random.normal(k, shape) for k in jax.random.split(key))
    gone = jax.random.uniform(keys[0], (33, 5)) < 0.1
    decay = jax.tree.map(lambda x: jnp.where(gone, 0.0, x / 3), pair(keys[1], 33, 5))
    inputs, start = pair(keys[2], 33, 5), pair(keys[3], 5)
    both = [linear_scan(decay, inputs, start, scan) for scan in ("sequential", "parallel")]
    number = lambda x: np.asarray(x[0]) + 1j * np.asarray(x[1])
    by_hand, h = [], number(start)
    for a, b in zip(number(decay), number(inputs), strict=True):
        h = a * h + b
        by_hand.append(h)
    for found in both:
        np.testing.assert_allclose(number(found), by_hand, atol=1e-5)
    one, other = (network_of("lru", scan=scan) for scan in ("sequential", "parallel"))
    given = played(one)
    both = jax.jit(lambda *given: (sequence(one, *given), sequence(other, *given)))(*given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *both)


def test_gates_and_poles_start_slow():
    tau = 1 / (1 - jax.nn.sigmoid(slow_gates(jax.random.key(0), 4000, 64)))
    assert tau.min() >= 1.9
    assert tau.max() <= 64.5
    np.testing.assert_allclose(np.median(tau), np.sqrt(2 * 64), rtol=0.1)  # log-uniform
    lru = LRU(4, 200, key=jax.random.key(0))
    radius = jnp.hypot(*lru.poles)
    assert radius.min() >= 0.899
    assert radius.max() <= 0.9991
    np.testing.assert_allclose(jnp.exp(lru.scale) ** 2, 1 - radius**2, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm", "lru"])
def test_a_cue_is_still_there_after_long(kind):
    """And its gradient; a GRU whose gates start at 1/2 has forgotten it."""

    def left(slow):
        network = network_of(kind, slow=slow, previous_action=False)
        obs, first = jnp.zeros((40, 1, 4)), jnp.zeros((40, 1), bool)
        known = lambda cue: sequence(network, begin(network, 1), obs.at[0].set(cue), first, jnp.zeros((40, 1), "int32"))
        return np.abs(jax.jit(jax.jacrev(lambda cue: known(cue)[1][-1, 0]))(jnp.ones((4,)))).max()

    slow = left(True)
    assert slow > 1e-3
    if kind == "gru":
        assert slow > 50 * left(False)


def test_clear_errors():
    with pytest.raises(UsageError, match=r"0 <= smallest < largest < 1"):
        LRU(4, 8, largest=1.0, key=jax.random.key(0))
    with pytest.raises(UsageError, match="memory_context = 1; the slowest gate"):
        slow_gates(jax.random.key(0), 4, 1)
    with pytest.raises(UsageError, match="memory_context = 1; lru looks back 2 steps or more"):
        make_memory(MemorySettings("lru", context=1), 4, jax.random.key(0))
    with pytest.raises(UsageError, match="a window holds 1 step"):
        Window(4, context=0)
    with pytest.raises(UsageError, match="see 2 steps or more"):
        TCN(4, context=1, key=jax.random.key(0))
    one = jnp.ones((1, 1)), jnp.ones((1, 1))
    with pytest.raises(UsageError, match="auto, sequential, parallel"):
        linear_scan(one, one, one, "fast")
