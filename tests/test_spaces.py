import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steersman.errors import UsageError
from steersman.spaces import (
    abstract,
    canonical_action_space,
    from_native,
    inside_space,
    native_map,
    random_log_prob,
    sample_action,
    space_from_json,
    space_to_json,
    to_inside,
    to_native,
)

F = np.float32
MIXED = spaces.Box(np.array([-2, -np.inf, 0, -np.inf], F), np.array([6, np.inf, np.inf, 3], F))
ACTIONS = {
    "bounded": spaces.Box(-2.0, 6.0, (2, 3)),
    "mixed": MIXED,
    "float64": spaces.Box(-0.1, 0.3, (2,), np.float64),
    "integers": spaces.Box(0, 10, (3,), np.int32),
    "discrete": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, -2]]),
    "multibinary": spaces.MultiBinary([2, 2]),
    "dict": spaces.Dict({"arm": spaces.Box(-3.0, 3.0, (2,)), "grip": spaces.Discrete(2, start=5)}),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(3)]),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_random_canonical_actions_become_legal_native_ones_on_numpy_and_on_jax(name, key):
    native = ACTIONS[name]
    canonical = canonical_action_space(native)
    action = sample_action(canonical, key, 16)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), action)
    assert shapes == abstract(canonical, (16,))
    host = to_native(native, jax.tree.map(np.asarray, action))
    compiled = jax.jit(lambda a: to_native(native, a))(action)
    for i in range(16):
        assert native.contains(jax.tree.map(lambda x, i=i: x[i], host))
    for ours, theirs in zip(jax.tree.leaves(compiled), jax.tree.leaves(host), strict=True):
        assert ours.dtype in (jnp.float32, jnp.int32)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_affine_map_by_hand():
    native = spaces.Box(-2.0, 6.0, (1,))
    action = np.array([[-1.0], [-0.5], [0.0], [1.0], [-9.0], [9.0]], F)
    np.testing.assert_array_equal(to_native(native, action)[:, 0], [-2, 0, 2, 6, -2, 6])
    single = to_native(MIXED, np.array([0.5, 7.0, -3.0, 9.0], F))  # bounded, free, bounded below, bounded above
    np.testing.assert_array_equal(single, [4, 7, 0, 3])
    np.testing.assert_array_equal(to_native(spaces.Box(0, 10, (1,), np.int32), np.array([0.1], F)), [6])


@settings(max_examples=50, deadline=None)
@given(low=st.floats(-1e6, 1e6, width=32), size=st.floats(2**-10, 1e6, width=32), action=st.floats(-3, 3, width=32))
def test_native_actions_never_leave_the_bounds(low, size, action):
    native = spaces.Box(F(low), F(F(low) + F(size)) + F(1), (1,))
    mapped = native_map(native)
    assert native.contains(mapped(np.array([action], F)))
    on_jax = np.asarray(mapped(jnp.array([action], jnp.float32)))
    assert native.low <= on_jax <= native.high


def test_canonical_spaces():
    assert canonical_action_space(spaces.Box(-2.0, 6.0, (2,))) == spaces.Box(-1.0, 1.0, (2,))
    mixed = canonical_action_space(MIXED)
    np.testing.assert_array_equal(mixed.low, [-1, -np.inf, 0, -np.inf])
    np.testing.assert_array_equal(mixed.high, [1, np.inf, np.inf, 3])
    assert canonical_action_space(ACTIONS["multidiscrete"]).nvec.tolist() == [2, 3, 4, 5]
    with pytest.raises(UsageError, match="Cannot act in the space Text"):
        canonical_action_space(spaces.Text(5))


def test_observations_on_the_inside():
    native = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4, 1), np.uint8),
            "joints": spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "ram": spaces.Box(0, 255, (3,), np.uint8),
            "room": spaces.Discrete(4, start=2),
            "switches": spaces.MultiBinary(2),
            "cards": spaces.MultiDiscrete([3, 4], start=[1, 1]),
        }
    )
    native.seed(0)
    obs = [native.sample() for _ in range(5)]
    batch = {name: np.stack([o[name] for o in obs]) for name in native.spaces}
    inside = inside_space(native)
    for xp in (np.asarray, jnp.asarray):
        got = to_inside(native, {name: xp(x) for name, x in batch.items()})
        assert jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), got) == abstract(inside, (5,))
        assert np.min(np.asarray(got["room"])) >= 0
        np.testing.assert_array_equal(got["cards"], batch["cards"] - 1)
    assert inside["switches"] == spaces.Box(0.0, 1.0, (2,))
    with pytest.raises(UsageError, match="Cannot observe"):
        inside_space(spaces.Text(5))


def test_sampling_is_uniform_over_what_is_legal(key):
    mask = np.array([[1, 0, 1]], F).repeat(2000, 0)
    action = np.asarray(sample_action(spaces.Discrete(3), key, 2000, mask))
    counts = np.bincount(action, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 1000) < 5 * np.sqrt(500)
    box = np.asarray(sample_action(canonical_action_space(MIXED), jax.random.key(1), 2000))
    assert abs(box[:, 0].mean()) < 0.1
    assert abs(box[:, 1].std() - 1) < 0.1
    assert box[:, 2].min() >= 0
    assert abs(box[:, 2].mean() - 1) < 0.1
    assert box[:, 3].max() <= 3
    assert abs(np.corrcoef(box.T) - np.eye(4)).max() < 0.15  # each entry has randomness of its own


SAVED = [*ACTIONS.values(), spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Box(0, 1, (2,), np.bool_)]
SAVED += [spaces.Box(-1.0, 1.0, ()), spaces.MultiBinary(3), spaces.Dict({"a": spaces.Tuple([MIXED])})]


@pytest.mark.parametrize("space", SAVED, ids=str)
def test_json_round_trip(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert len(text) < 1000
    back = space_from_json(json.loads(text))
    assert back == space
    assert back.dtype == space.dtype


BAD = [
    None,
    [],
    {},
    {"type": "Box"},
    {"type": "Shell", "n": 3},
    {"type": ["Box"]},
    {"type": "Box", "shape": [2], "dtype": "float32", "low": [0.0], "high": 1.0},
    {"type": "Box", "shape": [2], "dtype": "object", "low": 0.0, "high": 1.0},
    {"type": "Box", "shape": [10**9, 10**9], "dtype": "uint8", "low": 0, "high": 1},
    {"type": "Box", "shape": [-1], "dtype": "uint8", "low": 0, "high": 1},
    {"type": "Box", "shape": [1], "dtype": "float32", "low": 2, "high": 1},
    {"type": "Box", "shape": [1], "dtype": "float32", "low": "nan", "high": 1},
    {"type": "Box", "shape": [1], "dtype": "float32", "low": {}, "high": 1},
    {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
    {"type": "Discrete", "n": 2.5, "start": 0, "dtype": "int64"},
    {"type": "Discrete", "n": 10**40, "start": 0, "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [[1], [1, 2]], "start": [0], "dtype": "int64"},
    {"type": "MultiBinary", "shape": "three"},
    {"type": "Dict", "spaces": [1]},
    {"type": "Tuple", "spaces": {"a": 1}},
]


@pytest.mark.parametrize("data", BAD, ids=repr)
def test_json_that_is_not_a_space_is_refused(data):
    with pytest.raises(UsageError):
        space_from_json(data)


@pytest.mark.parametrize(
    "native",
    [
        spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, np.inf], np.float32)),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiBinary((2, 2)),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple((spaces.Box(0, 1, (1,)),))),
    ],
    ids=str,
)
def test_from_native_undoes_to_native(native):
    native.seed(0)
    for _ in range(5):
        action = native.sample()
        canonical = from_native(native, action)
        shapes = jax.tree.map(lambda s: s.shape, abstract(canonical_action_space(native)))
        assert jax.tree.map(lambda x: np.shape(x), canonical) == shapes
        batch = jax.tree.map(lambda x: np.asarray(x)[None], canonical)
        for x, y in zip(jax.tree.leaves(to_native(native, batch)), jax.tree.leaves(action), strict=True):
            np.testing.assert_allclose(x[0], y, rtol=1e-5)


def test_json_nested_without_end_is_refused():
    data = {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"}
    for _ in range(200):
        data = {"type": "Tuple", "spaces": [data]}
    with pytest.raises(UsageError, match="deeper"):
        space_from_json(data)
    with pytest.raises(UsageError, match="Cannot save"):
        space_to_json(spaces.Text(3))


def test_the_random_policy_knows_its_probabilities():
    """Against SciPy for each entry; of a masked Discrete space, one over the legal actions."""
    box = spaces.Box(np.float32([-1, 0, -np.inf, -np.inf]), np.float32([3, np.inf, 2, np.inf]))
    action = sample_action(box, jax.random.key(0), 50)
    x = np.asarray(action, np.float64)
    expected = stats.uniform(-1, 4).logpdf(x[:, 0]) + stats.expon().logpdf(x[:, 1])
    expected += stats.expon().logpdf(2 - x[:, 2]) + stats.norm().logpdf(x[:, 3])
    np.testing.assert_allclose(random_log_prob(box, action), expected, rtol=1e-5)
    several = spaces.Dict(a=spaces.MultiDiscrete([2, 5]), b=spaces.Tuple([spaces.MultiBinary(3), spaces.Discrete(7)]))
    action = sample_action(several, jax.random.key(1), 4)
    np.testing.assert_allclose(random_log_prob(several, action), np.full(4, -np.log(2 * 5 * 8 * 7)), rtol=1e-6)
    mask = np.array([[1, 0, 1], [0, 1, 0]])
    action = sample_action(spaces.Discrete(3), jax.random.key(2), 2, mask)
    np.testing.assert_allclose(random_log_prob(spaces.Discrete(3), action, mask), [-np.log(2), 0], atol=1e-6)
