"""The decoder against transformers, and what must make no difference to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language import decoder as d
from steersman.language.decoder import hidden, initial, logits, stacked, token_log_probs, unstacked

log_probs = jax.jit(token_log_probs, static_argnames=("start", "chunk"))


def test_padding_on_the_left_changes_nothing(small, texts):
    """0, 7 and 31 more slots, whatever is in them."""
    tokens, mask = texts
    seen = log_probs(small, tokens, mask, start=5)
    for more in (7, 31):
        filled = np.concatenate([np.full((4, more), 3, np.int32), tokens], 1)
        wider = np.pad(mask, ((0, 0), (more, 0)))
        np.testing.assert_allclose(log_probs(small, filled, wider, start=5 + more), seen, atol=2e-5)


def test_a_row_does_not_see_the_others(small, texts):
    tokens, mask = texts
    together = log_probs(small, tokens, mask, start=5)
    for i in range(4):
        np.testing.assert_allclose(
            log_probs(small, tokens[i : i + 1], mask[i : i + 1], start=5)[0], together[i], atol=5e-6
        )


def test_the_future_is_not_seen(small, texts):
    tokens, mask = texts
    later = tokens.copy()
    later[:, 8:] = (later[:, 8:] + 1) % 11
    before, after = (log_probs(small, t, mask, start=1) for t in (tokens, later))
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 8:] - after[:, 8:]).max() > 0.01


def test_chunks_scan_and_remat_are_the_same(small, texts):
    tokens, mask = texts
    loss = lambda model, chunk: token_log_probs(model, tokens, mask, 5, temperature=0.7, chunk=chunk).sum()
    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, gradient = both(small, 0)
    other, slope = both(dataclasses.replace(stacked(small), remat=True), 7)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), unstacked(slope).blocks, gradient.blocks)
    np.testing.assert_allclose(slope.embedding, gradient.embedding, atol=2e-5)
    np.testing.assert_array_equal(log_probs(small, tokens, mask, start=5, chunk=7).shape, (4, 6))


def test_what_is_masked_changes_no_bit_of_loss_and_gradient(small, texts):
    """Not even in a row that has no token at all, whose attention sees nothing."""
    tokens, mask = texts[0], texts[1] & (np.arange(4) != 2)[:, None]
    both = jax.jit(jax.value_and_grad(lambda model, t: token_log_probs(model, t, mask, 1).sum()))
    other = np.where(mask, tokens, (tokens + 5) % 11)
    assert (other != tokens).any()
    seen = both(small, tokens)
    jax.tree.map(np.testing.assert_array_equal, seen, both(small, other))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(seen))


def test_log_probs_by_hand(small, texts):
    tokens, mask = texts
    z = np.asarray(jax.jit(lambda m: logits(m, hidden(m, tokens, mask)))(small), np.float64) / 0.7
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    by_hand = np.log(np.take_along_axis(p[:, 4:-1], tokens[:, 5:, None], -1)[..., 0]) * mask[:, 5:]
    np.testing.assert_allclose(log_probs(small, tokens, mask, start=5, temperature=0.7), by_hand, atol=1e-5)
    with pytest.raises(UsageError, match="none before it"):
        token_log_probs(small, tokens, mask, 0)


def test_half_precision_weights_have_logits_in_float32(small, texts):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small)
    z = jax.eval_shape(lambda: logits(half, hidden(half, *texts)))
    assert z.dtype == jnp.float32


def test_every_leaf_is_an_inexact_array(small):
    assert all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(small))
    tied = jax.eval_shape(lambda: initial(small.config, jax.random.key(0)))
    loose = jax.eval_shape(lambda: initial(dataclasses.replace(small.config, tied=False), jax.random.key(0)))
    assert len(jax.tree.leaves(loose)) == len(jax.tree.leaves(tied)) + 1


def test_positions_are_counted_within_the_text():
    mask = np.array([[False, False, True, True, True, False]])
    np.testing.assert_array_equal(d.positions_of(mask), [[0, 0, 0, 1, 2, 2]])


@pytest.mark.parametrize(
    ("change", "match"),
    [({"kv_heads": 3}, "cannot share"), ({"head_size": 5}, "left over"), ({"layers": 0}, "1 or more")],
)
def test_sizes_that_do_not_fit_are_refused(small, change, match):
    with pytest.raises(UsageError, match=match):
        dataclasses.replace(small.config, **change)
