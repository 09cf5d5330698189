"""Wrappers around an agent, or around a learner from batches. Each puts what it needs into the state, so it is saved.

An ``Agent`` sees a rollout once and learns from it. A ``BatchLearner`` learns from batches of long ago: there the
moments move in ``observe``, with what has just been played, and a batch is seen under the moments of now.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.memory import Sample
from steersman.spaces import MASK
from steersman.theory.statistics import RunningMoments
from steersman.types import Agent, Key, PerEnv, PyTree, Rollout

A = TypeVar("A", Agent, BatchLearner)


class ObservationNormState(NamedTuple):
    """The wrapped agent's state, and the moments of the observations."""

    agent: PyTree
    moments: RunningMoments


def with_observation_norm(agent: A, *, clip: float = 10.0) -> A:
    """Let an agent see clip((obs - mean) / std, -clip, clip), under the running moments of all observations so far.

    Only floating entries are normalised: not images, categories or action masks. ``init`` seeds the moments from the
    first rollout. An update sees the moments that its rollout was collected under, and then renews them, so a policy's
    ratio to itself is one at the start of every update.
    """
    norm = partial(normalized, clip=clip)

    def normed(moments: RunningMoments, rollout: Rollout) -> Rollout:
        return rollout._replace(obs=norm(moments, rollout.obs), next_obs=norm(moments, rollout.next_obs))

    def init(key: Key, first_rollout: Rollout) -> ObservationNormState:
        events = _numbers(first_rollout.obs)
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), events)
        moments = RunningMoments.init(example).update(events)
        return ObservationNormState(agent.init(key, normed(moments, first_rollout)), moments)

    def act(state: ObservationNormState, carry: PyTree, obs: PyTree, first, key: Key, *, explore: bool = True):
        return agent.act(state.agent, carry, norm(state.moments, obs), first, key, explore=explore)

    def update(agent: Agent, state: ObservationNormState, rollout: Rollout, key: Key):
        inner, metrics = agent.update(state.agent, normed(state.moments, rollout), key)
        return ObservationNormState(inner, state.moments.update(_numbers(rollout.obs))), metrics

    def observe(learner: BatchLearner, state: ObservationNormState, rollout: Rollout):
        inner = learner.observe(state.agent, normed(state.moments, rollout))
        return ObservationNormState(inner, state.moments.update(_numbers(rollout.obs)))

    def learn(learner: BatchLearner, state: ObservationNormState, sample: Sample, key: Key):
        sample = _over(partial(normed, state.moments), sample)
        inner, priority, metrics = learner.learn(state.agent, sample, key)
        return state._replace(agent=inner), priority, metrics

    return _wrapped(agent, init, act, update, observe, learn)


def normalized(moments: RunningMoments, obs: PyTree, clip: float = 10.0) -> PyTree:
    """An observation as the wrapped agent sees it; the action mask is left alone."""
    normed = moments.normalize(_numbers(obs), clip)
    return normed | {MASK: obs[MASK]} if isinstance(obs, dict) and MASK in obs else normed


def _numbers(obs: PyTree) -> PyTree:
    """An observation without its action mask."""
    return {name: part for name, part in obs.items() if name != MASK} if isinstance(obs, dict) else obs


class RewardScalingState(NamedTuple):
    """The wrapped agent's state, the moments of the discounted return, and each environment's running return."""

    agent: PyTree
    moments: RunningMoments
    returns: PerEnv  # [B]


def with_reward_scaling(agent: A, gamma: float | jax.Array, *, clip: float = 10.0) -> A:
    """Let an agent learn from clip(r / std(R), -clip, clip), R_t = gamma R_{t-1} + r_t from 0 in each episode.

    The mean is not subtracted: that would change the task. Reported returns stay in the environment's units. The
    moments include the rollout being learned from: on the first ones a scale from random play would be far off. What
    replay gives may be a sum of several rewards: it is scaled, and not clipped.
    """

    def fit(moments: RunningMoments, returns: jax.Array, rollout: Rollout) -> tuple[RunningMoments, jax.Array]:
        def step(running: jax.Array, inputs: tuple[jax.Array, jax.Array]):
            reward, ended = inputs
            running = gamma * running + reward
            return jnp.where(ended, 0.0, running), running

        ended = jnp.asarray(rollout.terminated | rollout.truncated)
        returns, history = jax.lax.scan(step, returns, (jnp.asarray(rollout.reward), ended))
        return moments.update(history), returns

    def scaled(moments: RunningMoments, rollout: Rollout, clip: float = clip) -> Rollout:
        return rollout._replace(reward=moments.scale(rollout.reward, clip))

    def init(key: Key, first_rollout: Rollout) -> RewardScalingState:
        start = jnp.zeros(first_rollout.reward.shape[1:], jnp.float32)
        moments, returns = fit(RunningMoments.init(jax.ShapeDtypeStruct((), jnp.float32)), start, first_rollout)
        return RewardScalingState(agent.init(key, scaled(moments, first_rollout)), moments, PerEnv(returns))

    def act(state: RewardScalingState, carry: PyTree, obs: PyTree, first, key: Key, *, explore: bool = True):
        return agent.act(state.agent, carry, obs, first, key, explore=explore)

    def update(agent: Agent, state: RewardScalingState, rollout: Rollout, key: Key):
        moments, returns = fit(state.moments, state.returns.value, rollout)
        inner, metrics = agent.update(state.agent, scaled(moments, rollout), key)
        return RewardScalingState(inner, moments, PerEnv(returns)), metrics

    def observe(learner: BatchLearner, state: RewardScalingState, rollout: Rollout):
        moments, returns = fit(state.moments, state.returns.value, rollout)
        return RewardScalingState(learner.observe(state.agent, scaled(moments, rollout)), moments, PerEnv(returns))

    def learn(learner: BatchLearner, state: RewardScalingState, sample: Sample, key: Key):
        sample = _over(lambda rollout: scaled(state.moments, rollout, jnp.inf), sample)
        inner, priority, metrics = learner.learn(state.agent, sample, key)
        return state._replace(agent=inner), priority, metrics

    return _wrapped(agent, init, act, update, observe, learn)


def _over(change: Callable[[Rollout], Rollout], sample: Sample) -> Sample:
    """A sample whose batch, and path where it has one, are changed."""
    path = None if sample.path is None else change(sample.path)
    return sample._replace(batch=change(sample.batch), path=path)


def _wrapped(agent: A, init: Any, act: Any, update: Any, observe: Any, learn: Any) -> A:
    """The agent, or the learner, with these in the place of its own."""
    if isinstance(agent, BatchLearner):
        return agent._replace(init=init, act=act, learn=partial(learn, agent), observe=partial(observe, agent))
    return agent._replace(init=init, act=act, update=partial(update, agent))


class LaggedState(NamedTuple):
    """The wrapped agent's state, and the parameters of its last updates."""

    agent: PyTree
    past: PyTree  # leaves [lag, ...], the oldest first: what act explores with


def with_lag(agent: Agent, lag: int) -> Agent:
    """Let an agent explore with the parameters of ``lag`` updates ago, as an actor does that is sent them late.

    The agent's state must have ``params``. What is recorded (``log_prob``) is the late policy's; acting without
    exploration uses the newest. lag = 0 is the agent itself.
    """
    if lag == 0:
        return agent

    def init(key: Key, first_rollout: Rollout) -> LaggedState:
        state = agent.init(key, first_rollout)
        return LaggedState(state, jax.tree.map(lambda x: jnp.stack([x] * lag), state.params))

    def act(state: LaggedState, carry: PyTree, obs: PyTree, first, key: Key, *, explore: bool = True):
        inner = state.agent
        if explore:
            inner = inner._replace(params=jax.tree.map(lambda x: x[0], state.past))
        return agent.act(inner, carry, obs, first, key, explore=explore)

    def update(state: LaggedState, rollout: Rollout, key: Key):
        inner, metrics = agent.update(state.agent, rollout, key)
        newer = lambda past, now: jnp.concatenate([past[1:], now[None]])
        return LaggedState(inner, jax.tree.map(newer, state.past, state.agent.params)), metrics

    return Agent(init, agent.begin, act, update)


def normalised(agent: A, config: Any) -> A:
    """The agent in the wrappers that its config asks for: scale_rewards (with its gamma), normalize_observations."""
    if config.scale_rewards:
        agent = with_reward_scaling(agent, config.gamma)
    if config.normalize_observations:
        agent = with_observation_norm(agent)
    return agent
