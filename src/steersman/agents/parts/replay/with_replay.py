"""From a learner of batches to an agent: the replay memory is part of its state, so it is saved and resumed with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.memory import Buffer, Sample
from steersman.types import Agent, Key, Metrics, PyTree, Rollout


class BatchLearner(NamedTuple):
    """An off-policy algorithm: pure functions, as an ``Agent``, but it learns from batches of transitions.

    init(key, first_rollout) -> S            the random-policy rollout [T, B, ...] gives shapes, seeds normalisers
    begin(num_envs) -> Carry                 as in ``Agent``
    act(S, carry, obs, first, key, *, explore) -> (action, carry, extras)
    learn(S, sample, key) -> (S, priority [N], metrics)        one gradient step
    observe(S, rollout) -> S                 every later rollout [T, B, ...], once, before the gradient steps: moments
                                             of observations, counts of steps for schedules
    keeps                                    which of the extras that act records replay stores with each transition
    remembers                                whether it has a memory: ``learn`` is then given sequences
    """

    init: Callable[[Key, Rollout], PyTree]
    begin: Callable[[int], PyTree]
    act: Callable[..., tuple[PyTree, PyTree, dict[str, Any]]]
    learn: Callable[[PyTree, Sample, Key], tuple[PyTree, jax.Array, Metrics]]
    observe: Callable[[PyTree, Rollout], PyTree] = lambda state, rollout: state
    keeps: tuple[str, ...] = ()
    remembers: bool = False


class ReplayState(NamedTuple):
    """What the learner has learned, and what it remembers. To act takes the learner alone."""

    learner: PyTree
    memory: PyTree


def with_replay(learner: BatchLearner, buffer: Buffer, *, ratio: float = 1.0) -> Agent:
    """An agent that stores each rollout and then takes ratio * T * B gradient steps, each on a batch of its own.

    ratio: gradient steps per environment step; ratio * T * B is a whole number of 1 or more, or UsageError. ``init``
    puts the whole first rollout into the memory: it is what learning starts from. Metrics are means over the steps.
    What ``learner.keeps`` names is stored too; a first rollout that has not recorded it, of a random policy or of
    recorded data, has zeros there. UsageError, from ``init``, where acting does not record it.
    """

    def init(key: Key, first_rollout: Rollout) -> ReplayState:
        state = learner.init(key, first_rollout)
        return ReplayState(state, buffer.init(first_stored(learner, state, first_rollout, key)))

    def act(state: ReplayState, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        return learner.act(state.learner, carry, obs, first, key, explore=explore)

    def update(state: ReplayState, rollout: Rollout, key: Key) -> tuple[ReplayState, Metrics]:
        state = ReplayState(learner.observe(state.learner, rollout), buffer.add(state.memory, stored(learner, rollout)))

        def step(state: ReplayState, key: Key) -> tuple[ReplayState, Metrics]:
            sample_key, learn_key = jax.random.split(key)
            sample = buffer.sample(state.memory, sample_key)
            learned, priority, metrics = learner.learn(state.learner, sample, learn_key)
            return ReplayState(learned, buffer.update(state.memory, sample.index, priority)), metrics

        return repeated(step, state, key, updates_of(ratio, *rollout.reward.shape))

    return Agent(init, learner.begin, act, update)


def stored(learner: BatchLearner, rollout: Rollout) -> Rollout:
    """A rollout with what is kept of acting; what is made of its carry is the memory's business."""
    return rollout._replace(extras={name: rollout.extras[name] for name in learner.keeps})


def first_stored(learner: BatchLearner, state: PyTree, rollout: Rollout, key: Key) -> Rollout:
    """A first rollout likewise; what it has not recorded is zeros of what acting records. state: the learner's."""
    length, num_envs = rollout.reward.shape
    carry = learner.begin(num_envs)  # a random policy has none, recorded data neither
    if not learner.keeps:
        return rollout._replace(extras={}, carry=carry)
    obs = jax.tree.map(lambda x: x[0], rollout.obs)
    _, _, acted = jax.eval_shape(partial(learner.act, explore=True), state, carry, obs, rollout.first[0], key)
    if unknown := [name for name in learner.keeps if name not in acted]:
        raise UsageError(
            f"The learner keeps {unknown[0]!r}, but its act records {', '.join(sorted(acted)) or 'nothing'}. Let "
            "act return it among its extras, or leave it out of keeps."
        )
    zeros = partial(jax.tree.map, lambda x: jnp.zeros((length, *x.shape), x.dtype))
    had = rollout.extras
    kept = {name: had[name] if name in had else zeros(acted[name]) for name in learner.keeps}
    return rollout._replace(extras=kept, carry=carry)


def repeated(
    step: Callable[[Any, Key], tuple[Any, Metrics]], state: Any, key: Key, updates: int
) -> tuple[Any, Metrics]:
    """``step(state, key)`` so often, each with a key of its own: -> (the state after them, the means of the metrics)"""
    if updates == 1:
        return step(state, key)
    state, metrics = jax.lax.scan(step, state, jax.random.split(key, updates))
    return state, jax.tree.map(lambda x: x.mean(0), metrics)


def updates_of(ratio: float, length: int, num_envs: int) -> int:
    """Gradient steps after a rollout: ratio * length * num_envs; raises UsageError unless it is whole, 1 or more."""
    steps = length * num_envs
    updates = round(ratio * steps)
    if updates < 1 or not math.isclose(updates, ratio * steps, rel_tol=1e-6):
        near = max(1, updates) / steps
        raise UsageError(
            f"update_ratio = {ratio:g} gradient steps per environment step makes {ratio * steps:g} after a rollout of "
            f"unroll_length {length} x num_envs {num_envs} = {steps} steps; it must be a whole number of 1 or more. "
            f"Set update_ratio to {near:g}, or unroll_length to another length."
        )
    return updates


def check_replay(ratio: float, length: int, num_envs: int, capacity: int) -> None:
    """Raise UsageError unless a rollout fits the memory and can be followed by a whole number of gradient steps."""
    updates_of(ratio, length, num_envs)
    if capacity >= 2**30:
        raise UsageError(f"replay_capacity = {capacity:,} is more than a memory counts; it must be below {2**30:,}.")
    if capacity < length * num_envs:
        raise UsageError(
            f"replay_capacity = {capacity:,} transitions is less than one rollout of unroll_length {length} x num_envs "
            f"{num_envs} = {length * num_envs:,}. Raise it, or lower the other two."
        )


def first_rows(learning_starts: int, num_envs: int) -> int:
    """Steps of each environment in the random-policy rollout that holds at least ``learning_starts`` transitions."""
    return max(1, -(-learning_starts // num_envs))
