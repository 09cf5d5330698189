"""SFT, the reward model and DPO: their losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.agents.language.common import Pairs, Texts
from steersman.agents.language.dpo import DPOConfig, dpo
from steersman.agents.language.reward_model import Head, RewardModelConfig, RewardParams, last, reward_model, rewards
from steersman.agents.language.sft import SFTConfig, sft
from steersman.errors import UsageError
from steersman.language.decoder import hidden, token_log_probs


def test_sft_is_the_mean_over_tokens_that_are_learned(decoder, batches, key):
    texts: Texts = batches["texts"]
    trainer = sft(SFTConfig(), 10)
    learner = trainer.init(decoder, key)
    found = jax.jit(trainer.evaluate)(learner, decoder, texts)
    each = np.asarray(jax.jit(token_log_probs)(decoder, texts.tokens, texts.mask))
    learned = texts.weight[:, 1:] > 0
    assert float(found["count"]) == learned.sum()
    np.testing.assert_allclose(found["loss"], -each[learned].mean(), rtol=1e-5)


def test_a_reward_is_read_at_the_last_token(decoder, batches, key):
    texts: Texts = batches["texts"]
    h = jnp.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    np.testing.assert_array_equal(
        last(h, texts.mask), [row[n - 1] for row, n in zip(h, texts.mask.sum(1), strict=True)]
    )
    left = np.array([[False, True, True]])
    np.testing.assert_array_equal(last(h[:1, :3], left), h[:1, 2])
    config = RewardModelConfig(lora=1)
    params = reward_model(config, 1).init(decoder, key).params
    of = jax.jit(lambda params: rewards(config, decoder, params, texts.tokens, texts.mask))
    assert not np.any(of(params))  # zero at the start
    params = RewardParams(params.decoder, Head(jnp.ones(8), jnp.float32(0.5)))
    whole = jax.jit(hidden)(decoder, texts.tokens, texts.mask)
    ends = [np.asarray(row)[n - 1].sum() + 0.5 for row, n in zip(whole, texts.mask.sum(1), strict=True)]
    np.testing.assert_allclose(of(params), ends, rtol=1e-5, atol=1e-5)


def test_pairs_at_the_start(decoder, batches, key):
    """No reward and no divergence yet: log 2 each, and IPO's (1 / 2 tau)^2."""
    pairs: Pairs = batches["pairs"]
    for trainer, start in [
        (reward_model(RewardModelConfig(), 5), np.log(2.0)),
        (dpo(DPOConfig(), 5), np.log(2.0)),
        (dpo(DPOConfig(smoothing=0.2), 5), np.log(2.0)),
        (dpo(DPOConfig(loss="ipo", beta=0.5), 5), 1.0),
    ]:
        found = jax.jit(trainer.evaluate)(trainer.init(decoder, key), decoder, pairs)
        np.testing.assert_allclose(found["loss"], start, rtol=1e-5)
        assert found["count"] == 4.0


def test_dpo_is_of_the_answers_alone(decoder, batches, key):
    """Against log-ratios made one text at a time, of a model that has moved."""
    pairs: Pairs = batches["pairs"]
    trainer = dpo(DPOConfig(lora=1, beta=0.3, learning_rate=0.05, warmup=0.0), 5)
    learner, _ = jax.jit(trainer.update)(trainer.init(decoder, key), decoder, pairs, key)
    model = trainer.model(learner.params, decoder)

    alone = jax.jit(token_log_probs)

    def ratio(texts):
        one = lambda i: (texts.tokens[i : i + 1], texts.mask[i : i + 1])
        of = lambda d, i: float(alone(d, *one(i))[0, 1 : texts.mask[i].sum() - 1].sum())
        return np.array([of(model, i) - of(decoder, i) for i in range(4)])

    h = 0.3 * (ratio(pairs.chosen) - ratio(pairs.rejected))
    found = jax.jit(trainer.evaluate)(learner, decoder, pairs)
    np.testing.assert_allclose(found["loss"], np.log1p(np.exp(-h)).mean(), rtol=1e-4)
    np.testing.assert_allclose(found["margin"], h.mean(), rtol=1e-3, atol=1e-5)
    assert float(found["loss"]) < np.log(2.0)


def test_smoothing_is_of_dpo_alone():
    with pytest.raises(UsageError, match="below 0.5"):
        DPOConfig(loss="ipo", smoothing=0.1)
    with pytest.raises(UsageError, match="below 0.5"):
        DPOConfig(smoothing=0.5)
