"""The newest hundred episodes: the same whatever the pieces that a run comes in, and on however many devices."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from steersman import shards
from steersman.episodes import NEWEST, Episodes, episodes_of, finished

STEPS, B = 60, 4
compiled = jax.jit(finished)


@pytest.fixture(scope="module")
def played():
    """Of 240 places, some 150 ends, each with its number."""
    rng = np.random.default_rng(0)
    number = np.arange(STEPS * B, dtype=np.float32).reshape(STEPS, B)
    said = np.where(rng.random((STEPS, B)) < 0.2, np.nan, number % 2).astype(np.float32)
    over = rng.random((STEPS, B)) < 0.6
    costs = np.stack([number, -number], -1)
    return over, {"return": number, "length": number.astype(np.int32), "cost": costs, "said": said}


def cut(played, start, stop):
    over, numbers = played
    return over[start:stop], {name: x[start:stop] for name, x in numbers.items()}


def ends(played):
    over, numbers = played
    return {name: x[over] for name, x in numbers.items()}


def assert_newest(episodes, played):
    wanted = ends(played)
    count = min(len(wanted["return"]), NEWEST)
    assert episodes.count == len(wanted["return"])
    assert (np.asarray(episodes.newest.when) >= 0).tolist() == [False] * (NEWEST - count) + [True] * count
    for name, values in wanted.items():
        np.testing.assert_array_equal(np.asarray(episodes.newest.numbers[name])[NEWEST - count :], values[-NEWEST:])
        assert np.isnan(np.asarray(episodes.newest.numbers[name])[: NEWEST - count]).all()
    np.testing.assert_allclose(episodes.returns, wanted["return"].sum(), rtol=1e-6)
    assert episodes.lengths == wanted["length"].sum()
    np.testing.assert_allclose(episodes.costs, wanted["cost"].sum(0), rtol=1e-6)
    known = np.isfinite(wanted["said"])
    np.testing.assert_array_equal(episodes.logged["said"], [np.nansum(wanted["said"]), known.sum()])


@pytest.mark.parametrize("steps", [STEPS, 20, 1])
def test_of_one_rollout(played, steps):
    some = cut(played, 0, steps)
    assert_newest(compiled(*some), some)


def test_of_a_rollout_in_which_none_ended(played):
    over, numbers = cut(played, 0, 2)
    none = compiled(np.zeros_like(over), numbers)
    assert none.count == 0
    assert (np.asarray(none.newest.when) == -1).all()


@pytest.mark.parametrize("pieces", [(0, 7, 8, 30, STEPS), (0, 1, 2, 3)])
def test_in_pieces(played, pieces):
    whole = None
    for start, stop in pairwise(pieces):
        new = jax.tree.map(np.asarray, compiled(*cut(played, start, stop)))
        whole = new if whole is None else whole.plus(new)
    assert_newest(whole, cut(played, 0, pieces[-1]))


def test_on_the_host(played):
    """Members one by one, an update for each step."""
    whole = episodes_of([], 2, ["said"])
    for t in range(STEPS):
        over, numbers = cut(played, t, t + 1)
        rows = [{name: x[0, i] for name, x in numbers.items()} for i in np.flatnonzero(over[0])]
        whole = whole.plus(episodes_of(rows, 2, ["said"]))
    assert_newest(whole, played)


def test_shards_have_the_order_of_the_whole(played):
    def local(over, numbers):
        with shards.sharded_over("x"):
            found = finished(over, numbers)
            return shards.cross_sum(found.sums)._replace(newest=shards.cross_rows(found.newest))

    lie = PartitionSpec(None, "x")
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("x",))
    laid = partial(jax.shard_map, mesh=mesh, in_specs=(lie, lie), out_specs=PartitionSpec(), check_vma=False)
    found: Episodes = jax.tree.map(np.asarray, jax.jit(laid(local))(*jax.tree.map(jnp.asarray, played)))
    assert found.newest.when.shape == (2 * NEWEST,)
    assert_newest(found._replace(newest=found.newest.last(ordered=False)), played)


def test_seeds_side_by_side(played):
    """[S, 100]: each seed has its own."""
    parts = [compiled(*cut(played, *ends)) for ends in ((0, 3), (3, 40), (10, 11), (40, STEPS))]
    stack = lambda a, b: jax.tree.map(lambda *x: np.stack(x), a.newest, b.newest)
    both = stack(parts[0], parts[1]).then(stack(parts[2], parts[3]))
    for i, (a, b) in enumerate(((0, 2), (1, 3))):
        alone = parts[a].newest.then(parts[b].newest)
        np.testing.assert_array_equal(both.numbers["cost"][i], alone.numbers["cost"])
