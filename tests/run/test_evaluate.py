"""Evaluation, on an agent that does what a test says and on environments whose returns are known."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.run.evaluate import Evaluation, device_evaluator, evaluator, host_evaluator, pooled, summarise
from steersman.types import Agent, EnvSpec, TimeStep

SPACE = spaces.Box(0.0, 100.0, (1,))
CHOICE = spaces.Discrete(2)


def act(state, carry, obs, first, key, *, explore):
    """The state, or where it explores a coin."""
    chosen = jax.random.bernoulli(key, 0.5, first.shape).astype(jnp.int32)
    return (chosen if explore else jnp.full(first.shape, state, jnp.int32)), carry, {}


AGENT = Agent(lambda key, rollout: (), lambda num: (), act, lambda state, rollout, key: (state, {}))


def countdown(limit=None):
    """An episode's length, 1 to 9, is drawn at its start; the reward of every step is 1 + action. No time limit."""

    def reset(key):
        left = jax.random.randint(key, (), 1, 10).astype(jnp.float32)
        return left, left[None]

    def step(left, action, key):
        left = left - 1.0
        reward = 1.0 + action.astype(jnp.float32)
        never, none = jnp.zeros((), bool), jnp.zeros((0,), jnp.float32)
        return left, TimeStep(left[None], reward, left <= 0, never, left[None], none, {})

    return PureEnv(EnvSpec("Countdown", SPACE, CHOICE, CHOICE, limit), reset, step)


class Countdown(gymnasium.Env):
    """The same on the host. ``open`` counts those that are not closed."""

    observation_space, action_space = SPACE, CHOICE
    open = 0

    def __init__(self):
        type(self).open += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 10))
        return np.array([self.left], np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.array([self.left], np.float32), 1.0 + float(action), self.left <= 0, False, {}

    def close(self):
        type(self).open -= 1


@pytest.fixture(scope="module")
def on_device():
    return device_evaluator(AGENT, envs.vectorize(countdown(), 200))


def test_whole_episodes_and_short_ones_are_not_favoured(on_device):
    one, two = on_device(np.int32(0), 0), on_device(np.int32(1), 0)
    assert one.episodes == 200
    assert one.returns == tuple(map(float, one.lengths))
    assert two.returns == tuple(2.0 * n for n in two.lengths)
    # Lengths 1 to 9, uniform. Episodes counted as they end, over a fixed time, would have a mean of 3.4 or less.
    assert one.mean == pytest.approx(5.0, abs=0.6)
    assert one.unfinished == 0


def test_seeds_decide(on_device):
    assert on_device(np.int32(0), 1) == on_device(np.int32(0), 1)
    assert on_device(np.int32(0), 1).returns != on_device(np.int32(0), 2).returns


def test_rounds_of_a_fixed_batch():
    made = envs.vectorize(countdown(), 4)
    seven = evaluator(AGENT, made, 7)(np.int32(0), 0)
    assert seven.episodes == len(seven.returns) == 7
    assert seven.returns[:4] == device_evaluator(AGENT, made, 8)(np.int32(0), 0).returns[:4]
    assert seven.returns[:3] != seven.returns[4:]


def test_an_episode_that_does_not_end_is_cut_and_said():
    cut = evaluator(AGENT, lambda: countdown(limit=3), 50)(np.int32(0), 0)  # the spec's limit is where we stop
    assert max(cut.lengths) == 3
    assert cut.unfinished == sum(n == 3 for n in cut.lengths) - sum(
        n == 3 for n in evaluator(AGENT, countdown, 50)(np.int32(0), 0).lengths
    )
    assert cut.unfinished > 0


def test_explore_samples(on_device):
    sampled = device_evaluator(AGENT, envs.vectorize(countdown(), 200), explore=True)(np.int32(0), 0)
    ratio = sum(sampled.returns) / sum(sampled.lengths)
    assert ratio == pytest.approx(1.5, abs=0.1)


def test_host_episodes_are_whole_too_and_environments_are_closed():
    seen = evaluator(AGENT, Countdown, 25)(np.int32(1), 0)
    assert seen.episodes == 25
    assert seen.returns == tuple(2.0 * n for n in seen.lengths)
    assert len(set(seen.lengths)) > 4
    assert Countdown.open == 0
    assert seen == evaluator(AGENT, Countdown, 25)(np.int32(1), 0)
    assert seen.returns != evaluator(AGENT, Countdown, 25)(np.int32(1), 1).returns


def test_a_made_environment_is_used_as_it_is_and_left_open():
    mine = Countdown()
    seen = evaluator(AGENT, mine, 3)(np.int32(0), 0)
    assert seen.episodes == 3
    assert Countdown.open == 1
    mine.close()


@pytest.mark.parametrize("place", [countdown, Countdown])
def test_the_policies_of_several_seeds_are_played_by_one_program(place):
    traced = []

    def counted(*given, **how):
        traced.append(1)
        return act(*given, **how)

    play = evaluator(AGENT._replace(act=counted), place, 3)
    zero = play(jnp.int32(0), 0)
    begun = len(traced)
    one = play(jnp.int32(1), 0)
    assert len(traced) == begun > 0
    assert one.returns == tuple(2 * x for x in zero.returns)


def test_a_fault_closes_host_environments():
    class Breaks(Countdown):
        def step(self, action):
            raise RuntimeError("motor on fire")

    with pytest.raises(Exception, match="motor on fire"):
        evaluator(AGENT, Breaks, 3)(np.int32(0), 0)
    assert Breaks.open == 0


def test_what_does_not_fit_is_refused_before_playing():
    def refuse(spec):
        raise UsageError(f"not {spec.observation_space}")

    with pytest.raises(UsageError, match="not Box"):
        evaluator(AGENT, Countdown, 3, fits=refuse)(np.int32(0), 0)
    assert Countdown.open == 0
    with pytest.raises(UsageError, match="0 evaluation episodes"):
        evaluator(AGENT, Countdown, 0)


def test_the_host_evaluator_plays_on_what_it_is_given():
    made = envs.make(Countdown, 3)
    try:
        assert host_evaluator(AGENT, made, 7)(np.int32(0), 0).episodes == 7
    finally:
        made.close()


def test_the_numbers_by_hand():
    returns = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0])
    e = summarise(returns, np.arange(8), unfinished=2)
    assert (e.mean, e.median, e.iqm, e.min, e.max) == (15.125, 3.5, 3.5, 0.0, 100.0)  # iqm: of 2, 3, 4, 5
    assert e.std == pytest.approx(np.sqrt(np.mean((returns - 15.125) ** 2)))
    assert e.ci95[0] < e.mean < e.ci95[1]
    assert (e.mean_length, e.unfinished, e.episodes) == (3.5, 2, 8)


def test_seeds_pooled():
    a, b = (summarise(np.full(5, x), np.full(5, 3)) for x in (1.0, 3.0))
    both = pooled([a, b])
    assert (both.episodes, both.mean, both.mean_length) == (10, 2.0, 3.0)
    assert both.ci95 == (1.0, 3.0)  # over the two seeds, not over the ten episodes


def test_a_summary_can_be_read_back():
    e = summarise(np.array([1.0, 5.0]), np.array([1, 2]))
    again = Evaluation.from_summary(e.summary())
    assert again.summary() == e.summary()
    assert again.returns == ()
