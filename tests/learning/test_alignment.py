"""Preferences over all answers of up to four tokens out of five: where each loss comes to rest is known.

No prompt is one token again and again: rotary attention averages equal values, so after 4, 44 and 444 a decoder without
a first token of its own is in one and the same state, and cannot say different things.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from steersman.agents.language.common import Pairs, Texts, descend, joined
from steersman.agents.language.dpo import DPOConfig, answer_log_probs, dpo
from steersman.agents.language.reward_model import RewardModelConfig, reward_model, rewards
from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial
from steersman.theory.alignment.preferences import dpo_loss, gibbs, ipo_loss
from steersman.theory.statistics import wilson_interval

pytestmark = pytest.mark.learning

BETA, LENGTH, SMOOTHING = 0.25, 4, 0.1
PROMPTS = np.array([[1, 2], [3, 1], [4, 2]], np.int32)
SMALL = DecoderConfig(
    vocab_size=5, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=16
)  # fmt: skip
LOSSES = {
    "dpo": lambda a, b: dpo_loss(a, b, BETA),
    "dpo, smoothed": lambda a, b: dpo_loss(a, b, BETA, SMOOTHING),
    "ipo": lambda a, b: ipo_loss(a, b, BETA),
}


def answers():
    """All of them, int32 [341, 4], and their masks: 0 ends an answer, and is what stands after it."""
    rows = [s for n in range(LENGTH + 1) for s in itertools.product(range(1, 5), repeat=n)]
    tokens = np.array([[*s, *[0] * (LENGTH - len(s))] for s in rows], np.int32)
    return tokens, np.arange(LENGTH) < np.minimum((tokens > 0).sum(1) + 1, LENGTH)[:, None]


def reward(prompt, tokens):
    """Rising tokens, an end in time, the prompt's first token: float32 [341], from 0 to 2."""
    said = tokens > 0
    both = said[:, 1:] & said[:, :-1]
    rising = ((tokens[:, 1:] > tokens[:, :-1]) & both).sum(1) / np.maximum(both.sum(1), 1)
    ended = (said.sum(1) > 0) & (said.sum(1) < LENGTH)
    return (rising + 0.5 * ended + 0.5 * (tokens == prompt[0]).any(1)).astype(np.float32)


TOKENS, MASK = answers()
REWARD = np.stack([reward(prompt, TOKENS) for prompt in PROMPTS])  # [3, 341]


def every_text():
    """Each prompt with each answer, [3, 341, 6]."""
    wide = lambda x, like: np.broadcast_to(x, (3, len(TOKENS), like))
    tokens = np.concatenate([np.repeat(PROMPTS[:, None], len(TOKENS), 1), wide(TOKENS, LENGTH)], 2)
    mask = np.concatenate([wide(True, 2), wide(MASK, LENGTH)], 2)
    return Texts(tokens, mask, (mask & (np.arange(6) >= 2)).astype(np.float32))


TEXTS = every_text()
FLAT = jax.tree.map(lambda x: x.reshape(-1, 6), TEXTS)


@pytest.fixture(scope="module")
def reference():
    return jax.jit(lambda: initial(SMALL, jax.random.key(0), scale=0.35))()


@pytest.fixture(scope="module")
def log_prob():
    of = jax.jit(lambda decoder: answer_log_probs(decoder, FLAT).reshape(3, -1))
    return lambda decoder: np.asarray(of(decoder))


def variation(a, b):
    return 0.5 * np.abs(np.exp(a) - np.exp(b)).sum(-1)


def every_pair(ratio, loss, weight):
    """The expected loss over all pairs; ratio [..., N], weight [..., N, N]."""
    first, second = (jnp.broadcast_to(x, weight.shape) for x in (ratio[..., None], ratio[..., None, :]))
    return jnp.sum(loss(first, second) * weight)


def tabular(ref, weight, name):
    """Where a table of one number for each answer comes to rest, in float64: log-probabilities [N]."""

    def total(u):
        h = u[:, None] - u[None]
        if name == "ipo":
            each, slope = (h - 0.5 / BETA) ** 2, 2 * (h - 0.5 / BETA)
        else:
            wrong = SMOOTHING if name == "dpo, smoothed" else 0.0
            each = (1 - wrong) * np.logaddexp(0, -BETA * h) + wrong * np.logaddexp(0, BETA * h)
            slope = BETA * (special.expit(BETA * h) - 1 + wrong)
        push = weight * slope
        return 1e3 * (weight * each).sum(), 1e3 * (push.sum(1) - push.sum(0))

    found = optimize.minimize(total, np.zeros(len(ref)), jac=True, method="L-BFGS-B", options={"maxiter": 5000})
    return special.log_softmax(ref + found.x)


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_reaches_the_optimum_of_each_loss(name, reference, log_prob):
    """On exact labels of Bradley and Terry. Pairs of what the reference and the optimum say; any that show all would
    do."""
    start = log_prob(reference)
    best = np.asarray(gibbs(start, REWARD, BETA))
    drawn = 0.5 * (np.exp(start) + np.exp(best))
    wins = np.asarray(jax.nn.sigmoid(REWARD[:, :, None] - REWARD[:, None]))
    weight = (drawn[:, :, None] * drawn[:, None] * wins / 3).astype(np.float32)

    optimum = np.stack([tabular(*pair, name) for pair in zip(start, weight, strict=True)])
    print(name, variation(optimum, best))
    if name == "dpo":
        assert variation(optimum, best).max() <= 1e-3
        optimum = best
    else:
        assert variation(optimum, best).min() > 0.05  # each has its own

    config, steps = DPOConfig(beta=BETA, learning_rate=5e-3, warmup=0.02, chunk=0), 400

    def loss(params, decoder, rows):
        texts, weight, start = rows
        ratio = answer_log_probs(joined(config, decoder, params), texts).reshape(3, -1) - start
        total = every_pair(ratio, LOSSES[name], weight)
        return total, {"loss": total}

    def learned(decoder):
        step = lambda learner, _: descend(config, steps, loss, learner, decoder, (FLAT, weight, start))
        return jax.lax.scan(step, dpo(config, steps).init(decoder, jax.random.key(0)), None, length=steps)[0]

    reached = variation(log_prob(jax.jit(learned)(reference).params), optimum)
    print(name, reached)
    assert reached.mean() <= 0.05


def test_a_reward_model_agrees_as_often_as_its_labeller(reference):
    """Labels are drawn from sigmoid(3 (r - r')): nobody can be right about more of them than who knows r."""
    config, steps, size = RewardModelConfig(learning_rate=5e-3, batch_size=128, chunk=0), 2000, 128
    trainer = reward_model(config, steps)
    texts, known = jax.tree.map(jnp.asarray, (TEXTS, 3.0 * REWARD))

    def drawn(key, count):
        """Pairs of answers to a prompt, the preferred one first, and what is known of them."""
        where, first, second, label = jax.random.split(key, 4)
        prompt = jax.random.randint(where, (count,), 0, 3)
        i, j = (jax.random.randint(k, (count,), 0, len(TOKENS)) for k in (first, second))
        won = jax.random.uniform(label, (count,)) < jax.nn.sigmoid(known[prompt, i] - known[prompt, j])
        better, worse = jnp.where(won, i, j), jnp.where(won, j, i)
        one = lambda k: jax.tree.map(lambda x: x[prompt, k], texts)
        return Pairs(one(better), one(worse)), known[prompt, better] - known[prompt, worse]

    def learned(decoder):
        step = lambda learner, key: trainer.update(learner, decoder, drawn(key, size)[0], key)
        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, trainer.init(decoder, jax.random.key(0)), keys)[0].params

    params = jax.jit(learned)(reference)
    pairs, ahead = jax.jit(lambda key: drawn(key, 2000))(jax.random.key(2))
    score = jax.jit(lambda texts: rewards(config, reference, params, texts.tokens, texts.mask))
    told = np.asarray(ahead) != 0.0  # of equal rewards nobody knows anything
    right = float((np.asarray(score(pairs.chosen)) > np.asarray(score(pairs.rejected)))[told].mean())
    labeller = float((np.asarray(ahead) > 0)[told].mean())
    low, high = wilson_interval(labeller, int(told.sum()))
    print("reward model", right, "labeller", labeller, low, high)
    assert low <= right <= high
