"""RLOO, GRPO and PPO on answers drawn, and on all answers in their proportions: a step's gradient is then exact."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from steersman.agents.language import METHODS, method
from steersman.agents.language.on_policy import Sampled, observed, policy, token_weights
from steersman.agents.language.ppo import advantages
from steersman.errors import UsageError
from steersman.language import enumerated as known
from steersman.language.completions import Completions
from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial, token_log_probs
from steersman.language.generation import Sampling, generate
from steersman.shards import sharded_over
from steersman.theory.alignment.preferences import value_near

NAMES = [name for name in METHODS if method(name).learns_from == "prompts"]
WORLD = DecoderConfig(vocab_size=3, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=12, context=8)
LONGEST = 2
ALL = known.answers(3, LONGEST)
BETA = 0.3
PROMPT = np.array([1, 2], np.int32)
# Of a policy to which all tokens are alike the answers 0, and two tokens long, in proportion to their probabilities.
EACH = np.repeat(np.arange(len(ALL.tokens)), np.where(ALL.mask.sum(1) == 1, 3, 1))
EARNED = np.linspace(-1.0, 1.5, len(ALL.tokens)).astype(np.float32) ** 2
SETTINGS = {"warmup": 0.0, "decay": "none", "beta": BETA, "max_grad_norm": None, "chunk": 0}
WHOLE = SETTINGS | {"batch_size": 1, "group": len(EACH)}
UNBIASED = {"advantage_scale": "none", "reduction": "constant"}


@pytest.fixture(scope="module")
def reference():
    return jax.jit(lambda: initial(WORLD, jax.random.key(1), scale=0.8))()


@cache
def trainer(name, **settings):
    what = method(name)
    config = what.config(**settings)
    made = what.trainer(config, 10)
    return config, made._replace(init=jax.jit(made.init), update=jax.jit(made.update))


@pytest.fixture(scope="module")
def proportions(reference):
    """A policy to which all tokens are alike, and every answer as often as it gives it."""
    model = dataclasses.replace(reference, norm=jax.tree.map(jnp.zeros_like, reference.norm))
    of = Completions(*known.Answers.to(ALL, PROMPT, jnp.where(ALL.mask, -jnp.log(3.0), 0.0)))
    return model, Sampled(jax.tree.map(lambda x: jnp.asarray(x)[EACH], of), jnp.asarray(EARNED[EACH]))


def slope(name, model, batch, reference, **settings):
    """The gradient of the first step, of the norm's weights: those through which this policy leaves its place."""
    _, made = trainer(name, **WHOLE | settings)
    start = made.init(reference, jax.random.key(0))
    start = start._replace(params=start.params | {"decoder": model})
    moments = made.update(start, reference, batch, jax.random.key(0))[0].moments
    adam = next(s for s in jax.tree.leaves(moments, is_leaf=is_adam) if is_adam(s))
    return 10.0 * np.asarray(adam.mu["decoder"].norm.weight)


def is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


def gradient(model, reference, of):
    """That of ``of(log-probs [N, C], log-ratios)``, of all answers, in the same weights."""

    def at(weight):
        norm = type(model.norm)(weight, None, model.norm.epsilon)
        lp = known.log_probs(dataclasses.replace(model, norm=norm), PROMPT, ALL)
        return of(lp, lp - known.log_probs(reference, PROMPT, ALL))

    return np.asarray(jax.jit(jax.grad(at))(model.norm.weight))


def mean(term):
    """Over answers as the policy gives them, as it stands."""
    return lambda lp, d: jnp.sum(jax.lax.stop_gradient(jnp.exp(lp.sum(-1))) * term(lp, d))


@pytest.fixture(scope="module")
def exact(proportions, reference):
    """The gradient of J = E[r] - beta KL(pi || ref), by enumeration."""
    worth = lambda lp, d: -value_near(lp.sum(-1), (lp - d).sum(-1), jnp.asarray(EARNED), BETA)
    return gradient(proportions[0], reference, worth)


def apart(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_rloo_has_the_gradient_of_what_is_written_down(proportions, reference, exact):
    n = len(EACH)  # one group of all: the others' mean is without the answer itself
    assert apart(slope("rloo", *proportions, reference) * (n - 1) / n, exact) < 1e-4


@pytest.mark.parametrize("kl", ["reward", "k2"])
def test_so_has_grpo_where_the_divergence_is_of_whole_answers(proportions, reference, exact, kl):
    got = slope("grpo", *proportions, reference, kl=kl, **UNBIASED)
    assert apart(got * LONGEST, exact) < 1e-4  # a constant of the whole run


def test_so_has_ppo_but_for_the_scale_of_its_advantages(proportions, reference, exact):
    got = slope("ppo", *proportions, reference, gae_lambda=1.0, num_epochs=1)
    assert got @ exact / np.linalg.norm(got) / np.linalg.norm(exact) > 1 - 1e-6


def test_losses_of_tokens_have_another_and_it_is_theirs(proportions, reference, exact):
    away = jnp.asarray(EARNED - EARNED[EACH].mean())
    each = {
        "k3": lambda d: jnp.expm1(-d) + d,
        "k3_ratio": lambda d: 0.5 * d * d,  # that of k2 of tokens: with pi = pi_old they are the same
    }
    for kl, term in each.items():
        own = gradient(proportions[0], reference, mean(lambda lp, d: -away * lp.sum(-1) + BETA * term(d).sum(-1)))  # noqa: B023
        got = slope("grpo", *proportions, reference, kl=kl, **UNBIASED) * LONGEST
        assert apart(got, own) < 1e-4, kl
        assert apart(got, exact) > 0.02, kl


def test_of_a_conversation_only_what_was_said_is_learned(proportions, reference):
    """The gradient is that of the model's own tokens, each after all that stands before it, replies too."""
    rows = ["ssrs.", "sr.s.", "srrss", "ssss."]  # said, replied, nothing
    own, reply = (np.array([[c == what for c in row] for row in rows]) for what in "sr")
    own[1, 2:], reply[1, 2:] = [True, False, False], False
    rng = np.random.default_rng(0)
    tokens, prompt = rng.integers(0, 3, own.shape).astype(np.int32), rng.integers(1, 3, (4, 2)).astype(np.int32)
    log_prob = np.where(own, -1.0, 0.0).astype(np.float32)
    talk = Completions(prompt, prompt > 0, tokens, own, log_prob, np.ones(4, bool), reply)
    earned = np.where(own, rng.random(own.shape), 0.0).astype(np.float32)
    model, text = proportions[0], jax.tree.map(jnp.asarray, talk.text)
    of = lambda model: jnp.where(own, token_log_probs(model, *text, 2), 0.0)
    ref, pairs = of(reference), earned.sum(1).reshape(2, 2)
    away = ((pairs - pairs[:, ::-1]) / 2).reshape(4, 1)

    def loss(weight):
        found = of(dataclasses.replace(model, norm=type(model.norm)(weight, None, model.norm.epsilon)))
        apart = found - ref
        each = BETA * (jnp.expm1(-apart) + apart) - jnp.exp(found - log_prob) * away
        return jnp.where(own, each, 0.0).sum() / own.size

    settings = UNBIASED | {"kl": "k3", "clip_low": 9.0, "clip_high": 9.0, "batch_size": 2, "group": 2}
    got = slope("grpo", model, Sampled(talk, jnp.asarray(earned)), reference, **settings)
    assert apart(got, np.asarray(jax.jit(jax.grad(loss))(model.norm.weight))) < 1e-4


def test_the_variants_by_hand(proportions, reference):
    """What each answer weighs, without a divergence."""
    length, away = ALL.mask.sum(1)[EACH], EARNED[EACH] - EARNED[EACH].mean()
    std = np.sqrt(np.square(away).sum() / (len(EACH) - 1)) + 1e-4
    n = len(EACH)
    weights = {
        "grpo": away / std / length / n,
        "dr-grpo": away / n / LONGEST,
        "dapo": away / std / length.sum(),
        "gspo": away / std / length**2 / n * length,  # the mean over tokens of a mean over tokens, of each token
    }
    for variant, weight in weights.items():
        right = gradient(proportions[0], reference, lambda lp, d: -jnp.sum(jnp.asarray(weight) * lp[EACH].sum(-1)))  # noqa: B023
        got = slope("grpo", *proportions, reference, variant=variant, beta=0.0)
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-6, err_msg=variant)


def test_switches_stand_over_their_variant():
    config = method("grpo").config(variant="dapo", reduction="sequence", clip_low=0.1)
    assert config.switches == ("group", "sequence", "token", 0.1, 0.28)


def test_weights_of_tokens_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    hand = {"sequence": [1 / 6, 1 / 2], "token": [1 / 4, 1 / 4], "constant": [1 / 8, 1 / 8], "answer": [1 / 2, 1 / 2]}
    for reduction, weight in hand.items():
        np.testing.assert_allclose(token_weights(mask, reduction), weight, rtol=1e-6)


def test_advantages_of_tokens_by_hand():
    mask = np.array([[1, 1, 0]], bool)
    none = np.zeros((1, 3), np.float32)
    c = Completions(np.array([[1]]), np.array([[True]]), none.astype(np.int32), mask, none, np.array([True]))
    got = jax.jit(advantages)(
        c, np.array([[1.0, 2.0, 9.0]], np.float32), np.array([[0.5, 1.5, 9.0]], np.float32), 0.9, 0.5
    )
    last = 2.0 - 1.5
    np.testing.assert_allclose(got, [[1.0 + 0.9 * 1.5 - 0.5 + 0.9 * 0.5 * last, last, 0.0]], rtol=1e-6)


# On answers that are drawn.

DRAWN = SETTINGS | {"batch_size": 4, "group": 2, "temperature": 0.8, "learning_rate": 1e-2, "lora": 2}
DRAWN |= {"kl_target": 6.0, "kl_horizon": 80}


@pytest.fixture(scope="module")
def drawn(reference):
    """Eight answers of up to four tokens, and what they earned."""
    prompt = np.repeat(np.array([[1, 2], [2, 2], [1, 1], [2, 1]], np.int32), 2, 0)
    sampling = Sampling(DRAWN["temperature"])
    say = jax.jit(partial(generate, max_new=4, stop=(0,), sampling=sampling))
    answers = say(reference, prompt, prompt > 0, jax.random.split(jax.random.key(5), 8))
    assert len(set(np.asarray(answers.mask).sum(1))) > 1
    return Sampled(answers, np.asarray(answers.tokens == 1).mean(1).astype(np.float32))


def learned(name, batch, reference, times=1, **settings):
    _, made = trainer(name, **DRAWN | settings)
    learner = made.init(reference, jax.random.key(0))
    for _ in range(times):
        learner, told = made.update(learner, reference, batch, jax.random.key(1))
    return learner, told


@pytest.mark.parametrize("name", NAMES)
def test_an_update_of_drawn_answers(name, drawn, reference):
    learner, told = learned(name, drawn, reference)
    assert float(told["log_prob_gap"]) < 5e-6  # sampler and trainer agree
    assert (float(told["kl"]), float(told["beta"])) == (pytest.approx(0.0, abs=1e-6), pytest.approx(BETA))
    mask = np.asarray(drawn.completions.mask)
    assert told["length"] == pytest.approx(mask.sum() / 8)
    assert told["entropy"] == pytest.approx(-np.asarray(drawn.completions.log_prob).sum() / mask.sum(), rel=1e-5)
    assert told["ended"] == pytest.approx(np.asarray(drawn.completions.ended).mean())
    pairs = drawn.reward.reshape(4, 2)
    assert told["equal_groups"] == pytest.approx((pairs[:, 0] == pairs[:, 1]).mean())
    assert learner.kl_coefficient == pytest.approx(BETA * (1 - 0.2 * 8 / 80))  # nothing diverges yet: the bound of -0.2
    assert int(learner.updates) == 1  # several steps are one update
    assert told.get("clip_fraction", 0.0) == 0 or name == "ppo"  # which alone goes over them again
    assert float(told["gradient_norm"]) > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learner))


@pytest.mark.parametrize("name", NAMES)
def test_parts_shards_and_what_stands_behind_an_end_change_nothing(name, drawn, reference):
    whole = learned(name, drawn, reference)
    close = lambda a, b: jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), a, b)
    c = drawn.completions
    other = c._replace(tokens=np.where(c.mask, c.tokens, 2).astype(np.int32))
    jax.tree.map(np.testing.assert_array_equal, learned(name, drawn._replace(completions=other), reference), whole)
    _, made = trainer(name, **DRAWN, accumulate=2)

    def one(batch):
        with sharded_over("s"):
            return made.update.__wrapped__(
                made.init.__wrapped__(reference, jax.random.key(0)), reference, batch, jax.random.key(1)
            )

    cut = jax.tree.map(lambda x: jnp.asarray(x).reshape(2, 4, *x.shape[1:]), drawn)
    close(jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(one, axis_name="s"))(cut)), whole)


def test_minibatches_of_one_update(drawn, reference):
    after, told = learned("ppo", drawn, reference, num_minibatches=2)
    assert float(told["clip_fraction"]) > 0
    assert int(after.updates) == 1
    assert float(told["log_prob_gap"]) < 5e-6  # of the first step alone


def test_the_penalty_of_answers_without_an_end(drawn, reference):
    config, _ = trainer("rloo", **DRAWN, missing_end_penalty=0.5)
    seen = jax.jit(partial(observed, config))(reference, drawn)
    told = jax.jit(partial(trainer("rloo", **DRAWN)[1].evaluate, None))(reference, drawn)
    assert (float(told["reward"]), float(told["count"])) == (pytest.approx(drawn.reward.mean()), 8)
    np.testing.assert_allclose(seen.reward, drawn.reward - 0.5 * ~np.asarray(drawn.completions.ended), rtol=1e-6)
    assert seen.told["reward"] == pytest.approx(drawn.reward.mean())  # the log keeps the reward's own


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("rloo", {"group": 1}, "group = 1: an answer is compared with the others"),
        ("grpo", {"group": 1}, "align with ppo"),
        (
            "ppo",
            {"batch_size": 6, "num_minibatches": 4},
            "of group = 1 answers are 6, which do not go into 4",
        ),
        ("rloo", {"temperature": 0.0}, "at 0 all to a prompt would be the likeliest one"),
        ("rloo", {"beta": -0.1}, "beta = -0.1 is out of range"),
        ("grpo", {"variant": "drgrpo"}, "Did you mean dr-grpo"),
        ("grpo", {"kl": "k1"}, "reward or k2 or k3 or k3_ratio"),
    ],
)
def test_settings_that_are_refused(name, settings, says):
    with pytest.raises(UsageError, match=says):
        method(name).config(**settings)


def test_rloo_climbs_to_the_optimum(reference):
    """A hundred and fifty updates from answers drawn, near the optimum that is known."""
    config, made = trainer("rloo", **SETTINGS | {"batch_size": 4, "group": 8, "learning_rate": 3e-2, "decay": "linear"})
    prompt = jnp.tile(jnp.asarray(PROMPT), (32, 1))

    def step(learner, key):
        keys = jax.random.split(key, 32)
        model = policy(config, reference, learner.params)
        answers = generate(model, prompt, prompt > 0, keys, max_new=2, stop=(0,))
        which = jnp.argmax((answers.tokens[:, None] == ALL.tokens[None]).all(-1), -1)
        return made.update.__wrapped__(learner, reference, Sampled(answers, jnp.asarray(EARNED)[which]), key)

    run = jax.jit(lambda learner: jax.lax.scan(step, learner, jax.random.split(jax.random.key(2), 10))[0])
    learner = made.init(reference, jax.random.key(0))
    for _ in range(15):
        learner = run(learner._replace(updates=learner.updates * 0))
    of_all = jax.jit(lambda model: known.log_probs(model, PROMPT, ALL).sum(-1)[None])
    log_p, log_ref = map(of_all, (jax.jit(partial(policy, config))(reference, learner.params), reference))
    stands = known.standing(log_p, log_ref, EARNED[None], BETA)
    assert stands.gain > 0.9
    assert stands.variation < 0.1
