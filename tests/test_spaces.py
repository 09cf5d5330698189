import json
import warnings
from fractions import Fraction

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
    alike,
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


def box(low, high, dtype, shape=(1,)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's, of precision
        return spaces.Box(low, high, shape, dtype)


INTEGERS = [box(-100, 100, np.int8), box(-128, 127, np.int8), box(0, 255, np.uint8), box(-32768, 32767, np.int16)]
INTEGERS += [box(0, 65535, np.uint16), box(-5, 2**22, np.int32), box(-10, 10, np.int64), box(0, 1, np.bool_)]


@pytest.mark.parametrize("native", INTEGERS, ids=str)
def test_whole_numbers_come_back_as_they_were(native):
    """Each of them, on the host and compiled; int8's 200 = 100 - -100 does not fit int8."""
    low, high = int(native.low[0]), int(native.high[0])
    numbers = np.unique(np.linspace(low, high, 2000).round().astype(np.int64))[:, None].astype(native.dtype)
    canonical = from_native(native, numbers)
    assert canonical.dtype == np.float32
    np.testing.assert_array_equal(canonical[[0, -1], 0], [-1, 1])
    np.testing.assert_array_equal(to_native(native, canonical), numbers)
    np.testing.assert_array_equal(to_native(native, jnp.asarray(canonical)), numbers.astype(np.int32))


WIDE = [box(-(2**31), 2**31 - 1, np.int32), box(0, 16777219, np.int32), box(0, 2**32 - 1, np.uint32)]
WIDE += [box(-(2**63), 2**63 - 1, np.int64), box(0, 2**64 - 1, np.uint64), box(2**60, 2**60 + 1, np.int64)]
WIDE += [box(-3e38, 3e38, np.float32), box(0, np.finfo(F).max, np.float32), box(-1e-3, 3e38, np.float32)]
WIDE += [box(-1e300, 1e300, np.float64), box(-1.7e308, 1.7e308, np.float64), box(-0.1, 0.3, np.float64)]


@pytest.mark.parametrize("native", WIDE, ids=str)
def test_very_wide_bounds(native):
    """The ends are the bounds themselves, the middle is where it should be, all is within and finite."""
    action = np.array([[-1.0], [-7.0], [0.5], [0.999999], [1.0], [7.0]], F)
    mapped = to_native(native, action)
    assert mapped.dtype == native.dtype
    assert mapped[:, 0].tolist()[:2] == [native.low[0]] * 2
    assert mapped[:, 0].tolist()[4:] == [native.high[0]] * 2
    assert ((mapped >= native.low) & (mapped <= native.high)).all()
    low, high = Fraction(native.low[0].item()), Fraction(native.high[0].item())
    unit = 0 if native.dtype.kind == "f" else 1
    assert abs(Fraction(mapped[2, 0].item()) - (low + high * 3) / 4) <= unit + (high - low) / 10**6
    back = from_native(native, mapped)
    assert np.isfinite(back).all()
    if high - low > 1:
        np.testing.assert_allclose(back, np.clip(action, -1, 1), atol=1e-6)
    on_device = np.asarray(to_native(native, jnp.asarray(action)))
    kind, held = (int, np.iinfo(np.int32)) if unit else (float, np.finfo(F))
    ends = [min(max(kind(x), kind(held.min)), kind(held.max)) for x in (native.low[0], native.high[0])]
    assert np.isfinite(on_device).all()
    np.testing.assert_array_equal(on_device[[0, 1, 4, 5], 0], np.repeat(np.asarray(ends, on_device.dtype), 2))
    assert ((on_device >= ends[0]) & (on_device <= ends[1])).all()


@pytest.mark.parametrize("native", [box(1, 1, np.float32), box(3, 3, np.int16), box(-2, -2, np.float64, ())], ids=str)
def test_bounds_that_are_one_point(native):
    action = np.full((3, *native.shape), 0.7, F)
    assert (to_native(native, action) == native.low).all()
    assert (np.asarray(to_native(native, jnp.asarray(action))) == native.low).all()
    np.testing.assert_array_equal(from_native(native, to_native(native, action)), np.zeros_like(action))


def test_one_bound_beyond_float32():
    canonical = canonical_action_space(box(-1e300, np.inf, np.float64))
    assert canonical.low.item() == np.finfo(F).min


def test_actions_beyond_the_bounds_are_read_as_the_bounds():
    native = spaces.Box(np.array([-2, 0], F), np.array([6, np.inf], F))
    np.testing.assert_array_equal(from_native(native, np.array([[9, -3], [2, 5]], F)), [[1, 0], [0, 5]])


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


def test_bounds_that_noise_took_away_make_no_other_space():
    box, free = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-np.inf, np.inf, (2,))
    assert alike(box, free)
    assert alike(spaces.Dict(a=box, b=spaces.Discrete(2)), spaces.Dict(a=free, b=spaces.Discrete(2)))
    assert alike(spaces.Tuple([box]), spaces.Tuple([free]))
    others = [spaces.Box(-1.0, 2.0, (2,)), spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1, 1, (2,), np.float64)]
    for other in [*others, spaces.Discrete(2), spaces.Dict(a=box)]:
        assert not alike(box, other)
    assert not alike(spaces.Dict(a=box), spaces.Dict(b=box))
    assert not alike(spaces.Tuple([box]), spaces.Tuple([box, box]))
