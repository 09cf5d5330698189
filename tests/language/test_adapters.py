"""Adapters: nothing at the start, what is trained and what is not, and merging."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language.adapters import FEW, MATRICES, full, last_layers, low_rank, parameters
from steersman.language.decoder import initial, stacked, token_log_probs

RANK_2 = low_rank(2)


@pytest.fixture(scope="module")
def both(texts):
    """Loss and gradient of what is trained, the base an argument; a program for each part, once."""
    tokens, mask = texts

    @cache
    def make(part):
        loss = lambda params, base: -token_log_probs(part.join(base, params), tokens, mask, 5).mean()
        return jax.jit(jax.value_and_grad(loss))

    return make


@pytest.fixture(scope="module")
def run(texts):
    return jax.jit(lambda model: token_log_probs(model, *texts, 5))


@pytest.mark.parametrize("part", [full(), last_layers(1), RANK_2], ids=["full", "last", "low rank"])
def test_at_the_start_it_is_the_base_to_the_bit(small, run, part):
    params = part.init(small, jax.random.key(1))
    np.testing.assert_array_equal(run(part.join(small, params)), run(small))


def moved(params):
    return jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), params)


def test_merged_is_adapted(small, run):
    part = low_rank(2, alpha=3.0)
    params = moved(part.init(small, jax.random.key(1)))
    merged = part.merge(small, params)
    assert jax.tree.structure(merged) == jax.tree.structure(small)
    np.testing.assert_allclose(run(merged), run(part.join(small, params)), atol=1e-5)
    assert np.abs(run(merged) - run(small)).max() > 0.01


@pytest.mark.parametrize("rank", [2, FEW + 1])
def test_its_gradient_is_that_of_what_is_merged(small, texts, rank):
    """By the chain rule through W + scale b a, where the adapters' own gradients have no part."""
    part = low_rank(rank, matrices=("q", "down"))
    params = moved(part.init(small, jax.random.key(1)))
    loss = lambda how: jax.jit(jax.grad(lambda p: -token_log_probs(how(small, p), *texts, 5).mean()))
    own, right = loss(part.join)(params), loss(part.merge)(params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(right)) > 0.01
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), own, right)


def test_stacked_layers_have_stacked_adapters(small, texts):
    one, all_ = (jax.eval_shape(lambda m: RANK_2.init(m, jax.random.key(1)), m) for m in (small, stacked(small)))
    assert jax.tree.map(lambda x: (2, *x.shape), one[0]) == jax.tree.map(lambda x: x.shape, all_)
    joined = lambda m, p: token_log_probs(RANK_2.join(m, p), *texts, 5)
    assert jax.eval_shape(joined, stacked(small), all_).shape == (4, 6)


def test_of_low_rank_only_b_moves_at_first(small, both):
    part = RANK_2
    params = part.init(small, jax.random.key(1))
    _, slope = both(part)(params, small)
    assert all(not pair.a.any() and pair.b.any() for layer in slope for pair in layer.values())
    _, later = both(part)(moved(params), small)
    assert all(pair.a.any() and pair.b.any() for layer in later for pair in layer.values())
    assert parameters(params) == 2 * 2 * sum(i + o for i, o in [(12, 16), (12, 8), (12, 8), (16, 12), *[(12, 16)] * 3])


def test_the_last_layer_has_the_gradient_of_the_whole(small, both):
    part = last_layers(1)
    value, (blocks, norm) = both(part)(part.init(small, jax.random.key(0)), small)
    same, slope = both(full())(small, small)
    assert value == same
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (blocks[0], norm), (slope.blocks[1], slope.norm)
    )


def test_the_base_is_an_argument(small, both):
    """A change of the base shows without a new program: it is not compiled in."""
    params, step = RANK_2.init(small, jax.random.key(1)), both(RANK_2)
    first, _ = step(params, small)
    second, _ = step(params, moved(small))
    assert first != second
    assert step._cache_size() == 1


def test_what_is_not_there_is_refused(small):
    with pytest.raises(UsageError, match="rank is 1 or more"):
        low_rank(0)
    with pytest.raises(UsageError, match=rf"'query': a layer's matrices are {', '.join(MATRICES)}"):
        low_rank(4, matrices=["query"])
    with pytest.raises(UsageError, match="'none'"):
        low_rank(4, matrices=[])
    with pytest.raises(UsageError, match="last 3 layers were asked for, of 2"):
        last_layers(3).init(small, jax.random.key(0))


def test_a_decoder_without_gates_has_none_adapted(small):
    config = dataclasses.replace(small.config, mlp="gelu", layers=1)
    shapes = jax.eval_shape(lambda: low_rank(2).init(initial(config, jax.random.key(0)), jax.random.key(0)))
    assert sorted(shapes[0]) == ["down", "k", "o", "q", "up", "v"]
