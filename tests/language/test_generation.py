"""Answers: the cache against the whole forward pass, the distribution drawn from, when they end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language import decoder as d
from steersman.language.decoder import stacked, token_log_probs
from steersman.language.generation import Sampling, before_answers, generate

STOP = (3, 7)


@pytest.fixture(scope="module")
def prompts(texts):
    tokens, mask = texts
    return tokens[:, :5], mask[:, :5]


@pytest.fixture(scope="module")
def answered(small, prompts):
    """Programs by their settings, compiled once each."""
    programs = {}

    def run(temperature=1.0, seed=0, rows=slice(None), model=small, **settings):
        sampling = Sampling(temperature, **{k: settings.pop(k) for k in ("top_k", "top_p", "min_p") if k in settings})
        said = {"max_new": 8, "stop": STOP, "sampling": sampling, **settings}
        key = repr(said)
        programs.setdefault(key, jax.jit(partial(generate, **said)))
        keys = jax.random.split(jax.random.key(seed), 4)
        return programs[key](model, prompts[0][rows], prompts[1][rows], keys[rows])

    return run


def whole(out):
    return np.concatenate([out.prompt, out.tokens], 1), np.concatenate([out.prompt_mask, out.mask], 1)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_log_probs_are_those_of_the_whole_forward_pass(small, answered, temperature):
    out = answered(temperature)
    again = jax.jit(token_log_probs, static_argnums=3)(small, *whole(out), 5, temperature=temperature)
    np.testing.assert_allclose(out.log_prob, again, atol=5e-6)
    assert np.asarray(out.log_prob)[np.asarray(out.mask)].max() < 0


def test_greedy_is_the_likeliest_token_of_the_whole_forward_pass(small, answered):
    out = answered(0.0)
    z = np.asarray(jax.jit(lambda m, *text: d.logits(m, d.hidden(m, *text)))(small, *whole(out)))[:, 4:-1]
    mask = np.asarray(out.mask)
    np.testing.assert_array_equal(z.argmax(-1)[mask], np.asarray(out.tokens)[mask])
    p = np.exp(z - z.max(-1, keepdims=True))
    np.testing.assert_allclose(np.asarray(out.log_prob)[mask], -np.log(p.sum(-1))[mask], atol=5e-6)


def test_an_answer_is_up_to_its_end(answered):
    out = answered(seed=1)
    for tokens, mask, ended in zip(out.tokens, out.mask, out.ended, strict=True):
        ends = np.flatnonzero(np.isin(tokens, STOP) & mask)
        length = ends[0] + 1 if len(ends) else 8
        np.testing.assert_array_equal(mask, np.arange(8) < length)  # the token that ends it is in the mask
        assert ended == bool(len(ends))
    lengths = np.asarray(out.mask).sum(1)
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(np.asarray(out.log_prob)[~np.asarray(out.mask)], 0)


def test_a_row_says_the_same_whoever_its_neighbours_are(answered):
    together = answered(seed=2)
    for i in (0, 3):
        one = answered(seed=2, rows=slice(i, i + 1))
        np.testing.assert_array_equal(one.tokens[0], together.tokens[i])
        np.testing.assert_allclose(one.log_prob[0], together.log_prob[i], atol=5e-6)


def test_padding_and_stacked_layers_change_no_answer(small, prompts, answered):
    wider = np.pad(prompts[0], ((0, 0), (7, 0))), np.pad(prompts[1], ((0, 0), (7, 0)))
    run = jax.jit(partial(generate, max_new=8, stop=STOP))
    out = run(stacked(small), *wider, jax.random.split(jax.random.key(2), 4))
    np.testing.assert_array_equal(out.tokens, answered(seed=2).tokens)


def test_tokens_are_drawn_as_often_as_they_are_likely(small, prompts):
    """The first token of 4,000 answers to one prompt, within four standard errors of its probability."""
    rows = 4000
    repeat = lambda x: jnp.broadcast_to(x[:1], (rows, 5))
    run = jax.jit(partial(generate, max_new=1, stop=STOP, sampling=Sampling(1.4)))
    out = run(small, repeat(prompts[0]), repeat(prompts[1]), jax.random.split(jax.random.key(5), rows))
    first = jax.jit(lambda m, *text: jax.nn.softmax(d.logits(m, d.hidden(m, *text))[0, -1] / 1.4))
    p = np.asarray(first(small, prompts[0][:1], prompts[1][:1]))
    seen = np.bincount(np.asarray(out.tokens[:, 0]), minlength=11) / rows
    assert np.all(np.abs(seen - p) <= 4 * np.sqrt(p * (1 - p) / rows) + 1e-9)
    assert (p > 0.02).sum() > 3


def test_what_is_cut_for_reading_by_hand():
    z = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    p = lambda **said: np.asarray(jax.nn.softmax(Sampling(**said).distribution(z)))[0]
    np.testing.assert_allclose(p(), [0.4, 0.3, 0.2, 0.1], rtol=1e-5)
    np.testing.assert_allclose(p(top_k=2), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(p(top_p=0.6), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(p(top_p=0.3), [1, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(p(min_p=0.45), [4 / 9, 3 / 9, 2 / 9, 0], rtol=1e-5)
    np.testing.assert_allclose(p(temperature=0.5)[0], 16 / 30, rtol=1e-5)
    assert Sampling(0.7).exact
    assert not any(s.exact for s in (Sampling(0.0), Sampling(top_k=2), Sampling(top_p=0.9), Sampling(min_p=0.1)))


def test_settings_that_make_no_sense_are_refused(small, prompts):
    for name, value in (("temperature", -1.0), ("top_k", -1), ("top_p", 0.0), ("min_p", 1.0)):
        with pytest.raises(UsageError, match=f"{name} is {value}"):
            Sampling(**{name: value})
    keys = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(UsageError, match="5 tokens and 60 new ones are 65; the model's context is 64"):
        generate(small, *prompts, keys, max_new=60, stop=STOP)
    with pytest.raises(UsageError, match="stop names no token"):
        generate(small, *prompts, keys, max_new=6, stop=())


def test_answers_to_one_prompt_are_those_to_copies_of_it(small, prompts):
    tokens, mask = (x[:2] for x in prompts)
    keys = jax.random.split(jax.random.key(4), 6)
    run = jax.jit(partial(generate, max_new=8, stop=STOP))
    right = run(small, np.repeat(tokens, 3, axis=0), np.repeat(mask, 3, axis=0), keys)
    for model in (small, stacked(small)):
        got = run(model, tokens, mask, keys)
        for name in ("prompt", "prompt_mask", "tokens", "mask", "ended"):
            np.testing.assert_array_equal(getattr(got, name), getattr(right, name), err_msg=name)
        np.testing.assert_allclose(got.log_prob, right.log_prob, atol=5e-6)
    with pytest.raises(UsageError, match="5 keys for 2 prompts"):
        generate(small, tokens, mask, keys[:5], max_new=8, stop=STOP)


def test_a_prompt_that_goes_through_once_says_the_same_of_its_answers(small, texts):
    """Forward and backward: the hidden vectors before each token of two answers to a prompt, and their gradient."""
    tokens, mask = (x[np.array([1, 1, 2, 2])] for x in texts)
    other = np.array([3, 1, 0, 2])
    tokens, mask = (np.concatenate([x[:, :5], of[other, 5:]], 1) for x, of in zip((tokens, mask), texts, strict=True))
    weight = np.where(mask[:, 5:], np.cos(np.arange(24.0)).reshape(4, 6), 0.0).astype(np.float32)[..., None]
    apart = lambda m: before_answers(m, tokens[::2, :5], mask[::2, :5], tokens[:, 5:], mask[:, 5:])
    whole = lambda m: d.hidden(m, tokens, mask)[:, 4:-1]
    told = jax.jit(lambda m, of: jax.value_and_grad(lambda m: jnp.sum(weight * jnp.sin(of(m))))(m), static_argnums=1)
    for model in (small, stacked(small)):
        there = mask[:, 5:]
        np.testing.assert_allclose(jax.jit(apart)(model)[there], jax.jit(whole)(model)[there], atol=2e-5)
        jax.tree.map(partial(np.testing.assert_allclose, atol=2e-4), told(model, apart), told(model, whole))
