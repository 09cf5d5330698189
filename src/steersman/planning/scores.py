"""What sequences of actions are worth: their return in an environment, the true one or a learned one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.planning.planner import Plan, Planner, Score
from steersman.types import Array, Env, Key, PyTree

Value = Callable[[PyTree], Array]  # obs -> what can still be had from there, a scalar


class StatePlanner(NamedTuple):
    """A planner in one environment: begin() -> warm; plan(state of the environment, warm, key) -> Plan."""

    begin: Callable[[], PyTree]
    plan: Callable[[PyTree, PyTree, Key], Plan]


def action_size(space: spaces.Space) -> int:
    """A, the entries of a flat action that a planner searches over: those of a Box, or one logit for each action.

    Raises UsageError for a Box with an entry that has no bounds, and for spaces other than Box and Discrete.

    >>> action_size(spaces.Box(-1, 1, (2, 3))), action_size(spaces.Discrete(4))
    (6, 4)
    """
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.Box():
            low, high = space.low.ravel(), space.high.ravel()
            free = np.flatnonzero((low != -1) | (high != 1))
            if free.size:
                at = int(free[0])
                raise UsageError(
                    f"A planner searches actions within [-1, 1], canonical ones; entry {at} of {space} has the bounds "
                    f"{low[at]:g} and {high[at]:g}. Give every entry two finite bounds in the environment's own action "
                    "space; steersman.spaces.canonical_action_space makes the canonical one of that."
                )
            return int(low.size)
    raise UsageError(f"A planner searches the actions of a Box or a Discrete space; got {space}.")


def action_of(space: spaces.Space, flat: jax.Array) -> PyTree:
    """A flat action [A] as the environment takes it: a canonical Box action, or the largest of the logits.

    >>> action_of(spaces.Discrete(3), jnp.array([0.1, 2.0, -1.0]))
    Array(1, dtype=int32)
    """
    if isinstance(space, spaces.Discrete):
        return jnp.argmax(flat).astype(jnp.int32)
    return jnp.clip(flat, -1.0, 1.0).reshape(space.shape or ())


def score_of(
    env: Env, state: PyTree, *, gamma: float | Array = 1.0, value: Value | None = None, particles: int = 1
) -> Score:
    """The return of sequences that begin in a ``state`` of ``env``, the true environment or ``models.model_env``.

        sum_{k < H} gamma^k alive_k r_k  +  gamma^H alive_H value(obs_H),    alive_k: nothing has terminated before k

    A truncation ends nothing: it is the clock's, not the task's. particles: draws of the environment's randomness that
    are averaged; all sequences meet the same draws, so that they are compared and not their luck. Raises UsageError as
    ``action_size`` does.
    """
    space = env.spec.action_space
    action_size(space)

    def advance(one: tuple[PyTree, Array], flat: jax.Array, key: Key):
        inner, alive = one
        inner, seen = env.step(inner, action_of(space, flat), key)
        return (inner, alive & ~seen.terminated), jnp.where(alive, seen.reward, 0.0), seen.final_obs

    def of_particle(sequences: jax.Array, key: Key) -> jax.Array:
        n, horizon = sequences.shape[:2]
        copies = lambda x: jnp.broadcast_to(x, (n, *jnp.shape(x)))
        start = (jax.tree.map(copies, state), jnp.ones((n,), bool))
        step = jax.vmap(advance, (0, 0, None))
        keys = jax.random.split(key, horizon)
        seen = jax.eval_shape(step, start, sequences[:, 0], keys[0])[2] if value else ()
        obs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)

        def body(carry, given):
            now, total, discount, _ = carry
            flat, key = given
            now, reward, obs = step(now, flat, key)
            return (now, total + discount * reward, discount * gamma, obs if value else ()), None

        begin = (start, jnp.zeros((n,), jnp.float32), jnp.float32(1), obs)
        ((_, alive), total, discount, obs), _ = jax.lax.scan(body, begin, (jnp.swapaxes(sequences, 0, 1), keys))
        return total + discount * jnp.where(alive, jax.vmap(value)(obs), 0.0) if value else total

    def score(sequences: jax.Array, key: Key) -> jax.Array:
        keys = jax.random.split(key, particles)
        return jax.vmap(of_particle, (None, 0))(sequences, keys).mean(0)

    return score


def planner_in(
    env: Env, planner: Planner, *, gamma: float | Array = 1.0, value: Value | None = None, particles: int = 1
) -> StatePlanner:
    """A planner that searches by the returns of ``score_of``: from a state of ``env`` instead of a score."""

    def plan(state: PyTree, warm: PyTree, key: Key) -> Plan:
        return planner.plan(score_of(env, state, gamma=gamma, value=value, particles=particles), warm, key)

    return StatePlanner(planner.begin, plan)
