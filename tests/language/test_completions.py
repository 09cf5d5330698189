"""Answers as experience: there and back, and the token MDP itself, played as an environment."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents.language.ppo import advantages
from steersman.language import decoder as d
from steersman.language.completions import Completions, as_rollout, from_rollout, last_token
from steersman.theory import returns
from steersman.types import EnvSpec, TimeStep

END = 3
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
TOKENS = np.array([[1, 2, 0, 4], [5, END, 0, 0], [END, 9, 9, 9]], np.int32)  # what stands behind an end is nothing


@pytest.fixture(scope="module")
def answers():
    prompt = np.array([[0, 4, 2], [0, 0, 7], [1, 2, 6]], np.int32)
    log_prob = np.where(MASK, -np.arange(1.0, 13.0).reshape(3, 4) / 10, 0.0).astype(np.float32)
    return Completions(prompt, prompt > 0, TOKENS, MASK, log_prob, np.array([False, True, True]))


def test_there_and_back(answers):
    rollout = as_rollout(answers, np.array([1.0, 2.0, 3.0], np.float32))
    np.testing.assert_array_equal(rollout.reward.T, [[0, 0, 0, 1], [0, 2, 0, 0], [3, 0, 0, 0]])
    np.testing.assert_array_equal(rollout.terminated.T, [[0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    assert not rollout.truncated.any()  # the limit is part of the task
    np.testing.assert_array_equal(rollout.obs[:, 0], [2, 1, 2, 0])  # the token before, first the prompt's last
    np.testing.assert_array_equal(rollout.first.T, [[1, 0, 0, 0]] * 3)
    again, reward = from_rollout(rollout)
    jax.tree.map(np.testing.assert_array_equal, again, answers)
    np.testing.assert_array_equal(reward, rollout.reward.T)
    per_token = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(from_rollout(as_rollout(answers, per_token))[1], np.where(MASK, per_token, 0))


def test_the_last_token():
    np.testing.assert_array_equal(last_token(MASK), [[0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]])


def test_a_conversation_is_the_tokens_that_were_said():
    """Two answers with a reply between them, and one answer alone beside it."""
    own = np.array([[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0]], bool)
    reply = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
    tokens = np.array([[5, END, 7, 8, 4, 0], [6, END, 0, 0, 0, 0]], np.int32)
    prompt = np.array([[1], [2]], np.int32)
    log_prob = np.where(own, -0.1 * tokens, 0).astype(np.float32)
    talk = Completions(prompt, prompt > 0, tokens, own, log_prob, np.array([False, True]), reply)
    np.testing.assert_array_equal(talk.text[1], np.concatenate([prompt > 0, own | reply], 1))
    earned = np.array([[0, 0.25, 9, 9, 1, 0], [0, 2, 0, 0, 0, 0]], np.float32)  # what stands at a reply is no reward
    rollout = as_rollout(talk, earned)
    np.testing.assert_array_equal(rollout.action.T[0, :3], [5, END, 4])
    np.testing.assert_array_equal(rollout.obs.T[0, :3], [1, 5, 8])  # the reply's last token, before the second answer
    np.testing.assert_array_equal(rollout.next_obs.T[0, :2], rollout.obs.T[0, 1:3])
    np.testing.assert_array_equal(rollout.reward.T, [[0, 0.25, 1, 0, 0, 0], [0, 2, 0, 0, 0, 0]])
    np.testing.assert_array_equal(rollout.terminated.T, [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(as_rollout(talk, np.array([1.0, 2.0])).reward.sum(0), [1, 2])
    value = np.array([[0.5, 0.1, 7, 7, 0.3, 7], [0.2, 0.4, 7, 7, 7, 7]], np.float32)
    got = advantages(talk, earned, value, 0.9, 0.5)
    last = 1 - 0.3
    second = 0.25 + 0.9 * 0.3 - 0.1 + 0.45 * last
    first = 0.9 * 0.1 - 0.5 + 0.45 * second
    np.testing.assert_allclose(got[0], [first, second, 0, 0, last, 0], rtol=1e-5)
    np.testing.assert_allclose(got[1], [0.9 * 0.4 - 0.2 + 0.45 * 1.6, 1.6, 0, 0, 0, 0], rtol=1e-5)


class Text(NamedTuple):
    tokens: jax.Array  # [P + C]
    mask: jax.Array
    said: jax.Array  # how many of the answer


class TokenMDP:
    """A decode step as an environment: the state is the text so far, an action the next token."""

    def __init__(self, longest):
        self.longest = longest
        space = spaces.Discrete(11)
        self.spec = EnvSpec("tokens", spaces.Box(0, 11, (3 + longest,), np.int32), space, space, longest)

    def begin(self, prompt, mask):
        none = jnp.zeros((self.longest,), jnp.int32)
        return Text(jnp.concatenate([prompt, none]), jnp.concatenate([mask, none > 0]), jnp.zeros((), jnp.int32))

    def step(self, state, action, key):
        at = 3 + state.said
        after = Text(state.tokens.at[at].set(action), state.mask.at[at].set(True), state.said + 1)
        over = (action == END) | (after.said == self.longest)
        reward = jnp.where(over, after.tokens[3:].sum().astype(jnp.float32) / 10, 0.0) - 0.1 * action.astype(
            jnp.float32
        )
        no = jnp.zeros((), bool)
        return after, TimeStep(after, reward, over, no, after, jnp.zeros((0,)), {})


def test_the_token_mdp_has_the_same_advantages(answers, small):
    """Played step by step: rewards, ends and values from an environment that sees whole texts, no batch of answers."""
    env, key = TokenMDP(4), jax.random.key(0)
    value = lambda text: d.hidden(small, text.tokens[None], text.mask[None])[0, 2 + text.said].sum()

    def play(prompt, mask, actions):
        def one(state, action):
            after, step = env.step(state, action, key)
            return after, (step.reward, step.terminated, value(state), value(step.final_obs))

        r_t, terminated, v_tm1, v_t = jax.lax.scan(one, env.begin(prompt, mask), actions)[1]
        advantage = returns.gae(r_t, returns.discounts(terminated, 0.9), v_tm1, v_t, 0.8)
        return r_t, v_tm1, advantage

    reward, v_tm1, expected = jax.jit(jax.vmap(play))(answers.prompt, answers.prompt_mask, TOKENS)
    h = jax.jit(lambda model: d.hidden(model, *answers.text)[:, 2:-1].sum(-1))(small)  # before each token
    np.testing.assert_allclose(h[MASK], v_tm1[MASK], atol=1e-5)
    got = jax.jit(advantages)(answers, reward, h, 0.9, 0.8)
    np.testing.assert_allclose(got[MASK], expected[MASK], atol=1e-5)
    assert not got[~MASK].any()
    assert np.abs(expected[MASK]).min() > 1e-3
