import jax
import jax.numpy as jnp
import numpy as np

from steersman.run.loops.packing import Bundle, Packing

TREE = {
    "obs": (np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5, np.arange(2, dtype=np.uint8)),
    "flag": np.array([True, False, True]),
    "count": np.int32(-7),
    "none": np.zeros((2, 0), np.float32),
}


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_compiled_code_and_the_host_read_each_other():
    packing = Packing(TREE)
    row = np.asarray(jax.jit(packing.pack)(TREE))
    assert row.shape == (packing.size,)
    assert_same(packing.tree(packing.views(row)), TREE)
    assert_same(jax.jit(packing.unpack)(row), TREE)


def test_views_write_through_and_rows_stack():
    packing = Packing(TREE)
    rows = np.zeros((4, packing.size + 3), np.uint8)  # rows may be longer than what is in them
    for view, leaf in zip(packing.views(rows[:, : packing.size]), jax.tree.leaves(TREE), strict=True):
        view[:] = leaf
    assert_same(packing.unpack(rows[:, : packing.size]), jax.tree.map(lambda x: np.stack([x] * 4), TREE))


def test_a_tree_without_leaves():
    packing = Packing(())
    assert packing.size == 0
    assert packing.unpack(packing.pack(())) == ()


def test_small_arrays_of_one_dtype_travel_as_one_and_large_ones_as_they_are():
    large = jnp.arange(Bundle.SMALL // 4 + 1, dtype=jnp.float32)
    state = {
        "layers": [(jnp.ones((3, 4)), jnp.zeros(4)), (jnp.full((4, 2), 2.0), jnp.arange(2.0))],
        "memory": large,
        "steps": jnp.int32(7),
        "counts": jnp.arange(3),
        "flag": jnp.array(True),
        "key": jax.random.key(1),
    }
    bundle = Bundle(state)
    arrays = bundle.pack(state)
    assert len(arrays) == len(bundle) == 5  # floats, the memory, whole numbers, the flag, the key
    assert any(x is large for x in arrays)
    compiled = jax.jit(lambda given: bundle.pack(bundle.unpack(given)))(arrays)
    for back in (bundle.unpack(arrays), bundle.unpack(compiled)):
        assert jax.tree.structure(back) == jax.tree.structure(state)
        for x, y in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert bool(jnp.all(x == y))


def test_what_is_left_out_of_a_bundle_has_nothing_in_its_place():
    bundle = Bundle({"a": jnp.ones(2), "b": jnp.zeros(3), "n": jnp.int32(4)})
    floats, _ = bundle.pack({"a": jnp.ones(2), "b": jnp.zeros(3), "n": jnp.int32(4)})
    got = bundle.unpack([floats, None])
    assert (got["a"].tolist(), got["b"].tolist(), got["n"]) == ([1, 1], [0, 0, 0], None)
