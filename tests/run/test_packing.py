import jax
import numpy as np

from steersman.run.packing import Packing

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
