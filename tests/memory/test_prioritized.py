"""The sum tree under any operations, and how often prioritized replay draws what."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steersman.memory import prioritized, sum_tree
from steersman.types import Rollout

put = jax.jit(sum_tree.put)


def assert_sums(tree, leaves):
    """Every node is the sum of its children, and the leaves are those wanted."""
    np.testing.assert_array_equal(np.asarray(tree[0])[: len(leaves)], leaves)
    assert (np.asarray(tree[0])[len(leaves) :] == 0).all()
    for below, level in itertools.pairwise(tree):
        sums = np.asarray(below).reshape(-1, sum_tree.WIDTH).sum(1)
        np.testing.assert_allclose(np.asarray(level)[: len(sums)], sums, rtol=1e-6)
        assert (np.asarray(level)[len(sums) :] == 0).all()
    np.testing.assert_allclose(sum_tree.total(tree), leaves.sum(), rtol=1e-5)


VALUES = st.floats(0, 1e6, width=32, allow_subnormal=False)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from([1, 16, 17, 300]),
    operations=st.lists(
        st.lists(
            st.tuples(st.integers(0, 299), st.floats(0, 1e6, width=32, allow_subnormal=False)), min_size=4, max_size=4
        ),
        max_size=6,
    ),
)
def test_invariants_under_any_operations(size, operations):
    tree, leaves = sum_tree.empty(size), np.zeros(size, np.float32)
    for operation in operations:
        index = np.array([i % size if i < 280 else sum_tree.NOWHERE for i, _ in operation], np.int32)
        value = np.array([v for _, v in operation], np.float32)
        tree = put(tree, index, value)
        for i in set(index.tolist()) - {sum_tree.NOWHERE}:
            leaves[i] = value[index == i].max()
        assert_sums(tree, leaves)
    if leaves.sum() > 0:
        drawn, held = map(np.asarray, sum_tree.stratified(tree, jax.random.key(0), 64))
        np.testing.assert_array_equal(held, np.asarray(tree[0])[drawn])
        assert (leaves[drawn] > 0).all()  # what weighs nothing is never drawn


@pytest.mark.parametrize("leaves", [40, 70_000], ids=["two levels", "five levels"])
def test_frequencies_against_theory(leaves):
    """Chi-square over bins of leaves. Stratified draws spread more evenly than independent ones: 0.999 is generous."""
    rng = np.random.default_rng(0)
    weight = (rng.random(leaves) ** 3).astype(np.float32)
    weight[rng.random(leaves) < 0.1] = 0
    tree = put(sum_tree.empty(leaves), np.arange(leaves, dtype=np.int32), weight)
    assert len(tree) == (2 if leaves == 40 else 5)
    keys = jax.random.split(jax.random.key(1), 500)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: sum_tree.stratified(tree, k, 128)[0]))(keys))
    bins = 40
    of_bin = lambda i: i * bins // leaves
    chance = np.bincount(of_bin(np.arange(leaves)), weight.astype(np.float64), bins) / weight.astype(np.float64).sum()
    counts = np.bincount(of_bin(drawn.ravel()), minlength=bins)
    kept = chance > 0
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], chance[kept] * drawn.size).pvalue > 1e-3
    # within one node of the last level too, where a deep tree draws anew
    few = np.arange(16)
    inside = np.bincount(drawn.ravel(), minlength=16)[:16]
    if leaves == 40:
        assert stats.chisquare(inside[weight[few] > 0], None).pvalue < 1e-3  # the test can tell: these are not uniform


def test_strata():
    """Equal weights, as many draws as leaves: each leaf exactly once."""
    tree = put(sum_tree.empty(64), np.arange(64, dtype=np.int32), np.ones(64, np.float32))
    np.testing.assert_array_equal(sum_tree.stratified(tree, jax.random.key(3), 64)[0], np.arange(64))


def compiled(buffer):
    return SimpleNamespace(**{name: jax.jit(function) for name, function in buffer._asdict().items()})


def rollout(length, start=0):
    x = np.arange(start, start + length, dtype=np.float32)[:, None]
    no = np.zeros((length, 1), bool)
    return Rollout(x, x, x, no, no, x + 1, no, np.zeros((length, 1, 0), np.float32), {})


def test_priorities_and_weights_by_hand():
    """p = 1, 4, 9 at alpha 1/2: P = 1/6, 2/6, 3/6; beta 1: w = (3 P)^-1 over its largest."""
    buffer = compiled(prioritized(3, 600, alpha=0.5, beta=1.0, epsilon=0.0))
    memory = buffer.init(rollout(3))
    memory = buffer.update(memory, jnp.arange(3), jnp.array([-1.0, 4.0, 9.0]))
    sample = buffer.sample(memory, jax.random.key(0))
    counts = np.bincount(np.asarray(sample.index), minlength=3)
    np.testing.assert_allclose(counts, [100, 200, 300], atol=1)  # strata: no more than one off
    np.testing.assert_allclose(sample.weight, np.array([1.0, 0.5, 1 / 3])[np.asarray(sample.index)], rtol=1e-5)


def test_new_items_get_the_largest_priority_and_old_ones_lose_theirs():
    buffer = compiled(prioritized(4, 8, alpha=1.0, epsilon=0.0))
    memory = buffer.init(rollout(2))
    np.testing.assert_array_equal(memory.tree[0][:4], [1, 1, 0, 0])
    memory = buffer.update(memory, jnp.array([0, 1]), jnp.array([5.0, 0.5]))
    memory = buffer.add(memory, rollout(1, 2))
    np.testing.assert_array_equal(memory.tree[0][:4], [5, 0.5, 5, 0])
    memory = buffer.add(memory, rollout(2, 3))
    np.testing.assert_array_equal(memory.tree[0][:4], [5, 0.5, 5, 5])  # the oldest has been written over


def test_rows_that_leave_early_weigh_nothing():
    """Every step ends its episode: a transition takes two frames, so fewer than the capacity are held."""
    buffer = compiled(prioritized(64, 256))
    one = rollout(8)._replace(terminated=np.ones((8, 1), bool), first=np.ones((8, 1), bool))
    memory = buffer.init(one)
    add = buffer.add
    for _ in range(12):
        memory = add(memory, one)
        held = (memory.stream.head - 1 - jnp.arange(64)) % 64 < memory.stream.count
        np.testing.assert_array_equal(np.asarray(memory.tree[0][:64]) > 0, held)
    assert 64 // 2 <= int(memory.stream.count) < 64


def test_beta_rises_over_the_steps():
    buffer = compiled(prioritized(8, 200, beta=0.0, beta_steps=16, alpha=1.0, epsilon=0.0))
    memory = buffer.init(rollout(4))
    memory = buffer.update(memory, jnp.arange(4), jnp.array([1.0, 1.0, 1.0, 4.0]))
    for added, beta in ((0, 0.25), (4, 0.5), (8, 1.0), (8, 1.0)):
        for _ in range(added // 4):
            memory = memory._replace(rows=memory.rows + 4)
        weight = buffer.sample(memory, jax.random.key(0)).weight
        np.testing.assert_allclose(np.asarray(weight).min(), 4.0**-beta, rtol=1e-5)
