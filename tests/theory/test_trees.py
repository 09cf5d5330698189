"""Selection between trees, and the mean shards share: one collective, whatever the tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from steersman import shards
from steersman.errors import UsageError
from steersman.theory import trees
from steersman.theory.statistics import RunningMoments, across_shards, batch_moments

BATCH, WHOLE = PartitionSpec("shard"), PartitionSpec()


def sharded(f, *, out=WHOLE, check_vma=False):
    """f over two shards of the leading axis of its one argument, as run/ does it."""
    assert len(jax.devices()) == 2

    def inside(*args):
        with shards.sharded_over("shard"):
            return f(*args)

    mesh = Mesh(np.array(jax.devices()), ("shard",))
    return jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=(BATCH,), out_specs=out, check_vma=check_vma))


def all_reduces(f, *args):
    """How many collectives the program has as written and as compiled; XLA may join some of many, at its pleasure."""
    lowered = f.lower(*args)
    compiled = lowered.compile().as_text().splitlines()  # an asynchronous one is two lines: its start counts
    ran = sum(" all-reduce(" in line or " all-reduce-start(" in line for line in compiled)
    return lowered.as_text().count("stablehlo.all_reduce"), ran


def tree_of(x):
    """Leaves of many shapes from x [B, 3]; on the whole batch it gives the mean of what the shards give."""
    return {
        "a": jnp.mean(x, axis=0),
        "b": (jnp.mean(x), jnp.mean(x[:, :2] * 2.0, axis=0)[None]),
        "none": jnp.zeros((0, 4)),
    }


def test_take_picks_and_does_not_multiply():
    x = jnp.array([[1.0, -jnp.inf, 3.0], [4.0, 5.0, jnp.inf]])
    np.testing.assert_array_equal(trees.take(x, jnp.array([2, 1])), [3.0, 5.0])
    np.testing.assert_array_equal(
        trees.take(jnp.arange(24).reshape(2, 3, 4), jnp.array([[0, 1, 2], [3, 0, 1]])), [[0, 5, 10], [15, 16, 21]]
    )
    gradient = jax.grad(lambda z: jnp.sum(trees.take(z, jnp.array([2, 1]))))(x)
    np.testing.assert_array_equal(gradient, [[0, 0, 1], [0, 1, 0]])


def test_where_selects_members_of_every_leaf():
    mask = np.array([True, False])
    a = {
        "x": jnp.ones((2, 3)),
        "n": jnp.array([1, 2]),
        "key": jax.random.split(jax.random.key(0)),
        "none": jnp.ones((2, 0)),
    }
    b = {
        "x": jnp.zeros((2, 3)),
        "n": jnp.array([8, 9]),
        "key": jax.random.split(jax.random.key(1)),
        "none": jnp.ones((2, 0)),
    }
    got = trees.where(mask, a, b)
    np.testing.assert_array_equal(got["x"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(got["n"], [1, 9])
    data = jax.random.key_data
    np.testing.assert_array_equal(data(got["key"]), jnp.stack([data(a["key"])[0], data(b["key"])[1]]))
    assert got["none"].shape == (2, 0)


def test_where_does_not_broadcast_by_luck():
    square = jnp.zeros((2, 2))
    np.testing.assert_array_equal(trees.where(jnp.array([True, False]), square + 1.0, square), [[1, 1], [0, 0]])
    with pytest.raises(UsageError, match="must start with the mask's axes"):
        trees.where(jnp.array([True, False]), jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(UsageError, match="must start"):
        trees.where(jnp.array([True, False]), jnp.zeros((2, 1)), jnp.zeros((2, 3)))


def test_cross_mean_is_the_identity_with_one_shard():
    tree = tree_of(jnp.ones((4, 3)))
    assert shards.cross_mean(tree) is tree
    assert shards.shard_count() == 1


def test_cross_mean_is_one_collective_and_the_mean_of_every_leaf():
    x = jax.random.normal(jax.random.key(0), (8, 3))
    f = sharded(lambda x: shards.cross_mean(tree_of(x)))
    expected = tree_of(x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), f(x), expected)
    assert jax.tree.structure(f(x)) == jax.tree.structure(expected)
    assert all_reduces(f, x) == (1, 1)
    # Leaf by leaf is the same mean, from one collective each.
    per_leaf = sharded(lambda x: jax.tree.map(lambda y: jax.lax.pmean(y, "shard"), tree_of(x)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), f(x), per_leaf(x))
    assert all_reduces(per_leaf, x)[0] > 1


def test_cross_mean_keeps_dtypes_and_refuses_integers():
    f = sharded(lambda x: shards.cross_mean({"half": x[0].astype(jnp.bfloat16), "full": x[0]}))
    got = f(jnp.array([[1.0], [2.0]]))
    assert (got["half"].dtype, got["full"].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(got["half"].astype(jnp.float32), [1.5])
    with pytest.raises(UsageError, match=r"leaf \['n'\] is int32"):
        sharded(lambda x: shards.cross_mean({"n": jnp.int32(1), "x": x}))(jnp.ones((2, 1)))


def test_a_tree_without_numbers_needs_no_collective():
    f = sharded(lambda x: shards.cross_mean({"costs": x[:, :0], "none": ()}), out=BATCH)
    assert all_reduces(f, jnp.ones((4, 3))) == (0, 0)


def test_the_axis_is_active_inside_only_and_survives_an_error():
    seen = []
    sharded(lambda x: seen.append(shards.shard_count()) or x, out=BATCH)(jnp.ones((4, 1)))
    assert seen[0] == 2
    with pytest.raises(RuntimeError), shards.sharded_over("shard"):
        raise RuntimeError
    assert shards.shard_count() == 1


def test_a_function_compiled_before_is_traced_anew_inside():
    """jit's cache does not know the context, but it knows the mesh: no stale identity is reused."""
    inner = jax.jit(lambda x: shards.cross_mean(jnp.mean(x, axis=0)))
    x = jnp.array([[0.0], [0.0], [4.0], [4.0]])
    np.testing.assert_array_equal(inner(x[:2]), [0.0])  # the shape a shard has
    np.testing.assert_array_equal(sharded(inner)(x), [2.0])
    np.testing.assert_array_equal(inner(x[:2]), [0.0])


def test_it_works_under_a_named_vmap():
    def f(x):
        with shards.sharded_over("shard"):
            return shards.cross_mean(x), jnp.int32(shards.shard_count())

    mean, count = jax.vmap(f, axis_name="shard")(jnp.array([1.0, 2.0, 6.0]))
    np.testing.assert_array_equal(mean, [3.0, 3.0, 3.0])
    np.testing.assert_array_equal(count, [3, 3, 3])


def test_gradients_of_replicated_parameters():
    """The mean over two shards of B/2 is the gradient on B, given check_vma=False as the docstring says.

    Without it JAX has summed already. Should that change, this test and the docstring go together.
    """
    x, w = jax.random.normal(jax.random.key(0), (8, 3)), jnp.ones(3)
    loss = lambda w, x: jnp.mean(jnp.square(x @ w))
    gradient = lambda x: shards.cross_mean(jax.grad(loss)(w, x))
    whole = jax.grad(loss)(w, x)
    np.testing.assert_allclose(sharded(gradient)(x), whole, rtol=1e-5)
    np.testing.assert_allclose(sharded(gradient, check_vma=True)(x), 2 * whole, rtol=1e-5)


@pytest.mark.parametrize("given_shift", [False, True])
def test_moments_of_all_shards(given_shift):
    """Two shards of B/2 have seen what one shard of B sees, far from zero as well."""
    x = 3.0 * jax.random.normal(jax.random.key(0), (16, 5)) + 1000.0
    x = x.at[8:].add(4.0)
    shift = jnp.full(5, 1001.0) if given_shift else None
    f = sharded(lambda x: across_shards(batch_moments(x), shift))
    got, whole = f(x), batch_moments(x)
    assert all_reduces(f, x) == ((1, 1) if given_shift else (2, 2))
    assert got.weight == whole.weight == 16
    np.testing.assert_allclose(got.mean, np.mean(np.asarray(x, np.float64), axis=0), rtol=1e-6)
    np.testing.assert_allclose(got.variance, np.var(np.asarray(x, np.float64), axis=0), rtol=1e-4)


def test_running_moments_update_under_sharding():
    seen = RunningMoments.init({"a": jnp.zeros(2), "image": jnp.zeros((2, 2), jnp.uint8)})
    batch = lambda x: {"a": x, "image": jnp.zeros((*x.shape[:-1], 2, 2), jnp.uint8)}
    update = lambda x: seen.update(batch(x)).update(batch(x + 1.0))
    x = jax.random.normal(jax.random.key(0), (4, 3, 2))  # [B, T, 2]: any leading axes
    for got, expected in zip(jax.tree.leaves(sharded(update)(x)), jax.tree.leaves(update(x)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_sums_indices_and_keys_of_members():
    """A member's key is the same whether the batch is whole or cut; sums keep integers."""
    key, x = jax.random.key(3), jnp.arange(6, dtype=jnp.int32)

    def f(x):
        index = jnp.full(x.shape, shards.shard_index(), jnp.int32)
        return jax.random.key_data(shards.member_keys(key, len(x))), index, shards.cross_sum({"sum": jnp.sum(x)})

    out = (BATCH, BATCH, WHOLE)
    keys, index, total = sharded(f, out=out)(x)
    whole_keys, whole_index, whole_total = f(x)
    np.testing.assert_array_equal(keys, whole_keys)
    assert len(np.unique(keys, axis=0)) == 6
    np.testing.assert_array_equal(index, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(whole_index, np.zeros(6))
    assert total["sum"] == whole_total["sum"] == 15


def test_polyak_goes_a_part_of_the_way():
    target, online = {"a": jnp.array([0.0, 1.0])}, {"a": jnp.array([1.0, 3.0])}
    np.testing.assert_allclose(trees.polyak(target, online, 0.25)["a"], [0.25, 1.5])
    np.testing.assert_array_equal(trees.polyak(target, online, 1.0)["a"], online["a"])
    np.testing.assert_array_equal(trees.polyak(target, online, 0.0)["a"], target["a"])


def test_member_orders():
    orders = np.asarray(shards.member_orders(jax.random.key(0), 500, 6))
    assert orders.shape == (6, 500)
    assert orders.dtype == np.int32
    np.testing.assert_array_equal(np.sort(orders, axis=0), np.broadcast_to(np.arange(6)[:, None], (6, 500)))
    counts = np.stack([(orders == i).sum(1) for i in range(6)])  # each thing is as often in each place
    assert (np.abs(counts - 500 / 6) < 5 * np.sqrt(500 / 6)).all()
    assert len(np.unique(orders.T, axis=0)) > 250  # of 720
    np.testing.assert_array_equal(shards.member_orders(jax.random.key(0), 3, 6), orders[:, :3])
    np.testing.assert_array_equal(shards.member_orders(jax.random.key(0), 2, 1), np.zeros((1, 2)))


def test_aligned_refuses_what_would_grow():
    column, row, one = jnp.zeros((3, 1)), jnp.zeros((1, 3)), jnp.zeros(3)
    for a, b in [(one, column), (column, one), (column, row), (jnp.zeros(2), one), (jnp.zeros((2, 3)), one)]:
        with pytest.raises(UsageError, match=r"do not belong together: a \["):
            trees.aligned(a=a, b=b, c=1.0)
    got = trees.aligned(a=jnp.zeros((2, 3)), b=row, c=1.0)  # an ensemble's values beside a batch's
    assert [x.shape for x in got] == [(2, 3), (1, 3), ()]


def test_kept_drops_what_is_not_a_number_of_no_weight_and_leaves_gradients():
    x = jnp.array([jnp.nan, jnp.inf, 2.0, jnp.nan])
    np.testing.assert_array_equal(trees.kept(jnp.array([0.0, 0.0, 0.0, 1.0]), x), [0.0, 0.0, 2.0, jnp.nan])
    product = lambda w, y: w * trees.kept(w, y)
    assert jax.grad(product)(0.0, 2.0) == 2.0
    assert jax.grad(product, 1)(0.0, jnp.nan) == 0.0
