"""Hindsight experience replay (Andrychowicz et al. 2017, arXiv:1707.01495): what was reached counts as what was wanted.

Observations are Dicts with ``achieved_goal`` and ``desired_goal``, as Gymnasium's goal environments give them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.memory import stream
from steersman.memory.buffer import Buffer, Sample
from steersman.memory.uniform import uniform
from steersman.theory.trees import where
from steersman.types import Array, Key, Rollout

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"


def hindsight(
    capacity: int,
    batch_size: int,
    reward: Callable[[Array, Array], Array],
    *,
    horizon: int,
    fraction: float | Array = 0.8,
    gamma: float | Array = 0.99,
) -> Buffer:
    """Uniform replay that replaces the goal of a ``fraction`` of what it draws: the strategy *future*, k = f / (1 - f).

    The new goal of a transition at time t is what was achieved after step t, t + 1 ... or the episode's last, each as
    likely, drawn anew at every draw; its reward is ``reward(achieved [G], desired [G])`` of the true successor, a pure
    function. Termination and discount stay: these tasks end by the clock.

    horizon: steps of the longest episode. Raises UsageError, from ``init``, where an observation has no goals.
    """
    plain = uniform(capacity, batch_size, gamma=gamma)

    def init(first_rollout: Rollout) -> stream.Stream:
        obs = first_rollout.obs
        if not (isinstance(obs, dict) and ACHIEVED in obs and DESIRED in obs):
            raise UsageError(
                f"Hindsight needs Dict observations with {ACHIEVED!r} and {DESIRED!r}; these are "
                + (f"Dicts of {', '.join(sorted(obs))}." if isinstance(obs, dict) else "not Dicts.")
            )
        return plain.init(first_rollout)

    def sample(memory: stream.Stream, key: Key) -> Sample:
        draw_key, when_key, whether_key = jax.random.split(key, 3)
        drawn = plain.sample(memory, draw_key)
        steps, batch = memory.steps, drawn.batch
        rows, num_envs = steps.reward.shape
        row, env = jnp.divmod(jnp.asarray(drawn.index), num_envs)
        ahead = jnp.arange(horizon, dtype=jnp.int32)[None]
        path, across = (row[:, None] + ahead) % rows, jnp.broadcast_to(env[:, None], (batch_size, horizon))
        ended = (steps.terminated[path, across] | steps.truncated[path, across]).astype(jnp.int32)
        age = (memory.head - 1 - row) % rows
        left = ((jnp.cumsum(ended, axis=1) - ended == 0) & (ahead <= age[:, None])).sum(1, dtype=jnp.int32)
        later = jax.random.randint(when_key, (batch_size,), 0, left, jnp.int32)
        goal = stream.successor(memory, (row + later) % rows, env)[ACHIEVED]
        chosen = jax.random.bernoulli(whether_key, fraction, (batch_size,))
        goal = where(chosen, goal, batch.obs[DESIRED])
        earned = jax.vmap(reward)(batch.next_obs[ACHIEVED], goal)
        batch = batch._replace(
            obs={**batch.obs, DESIRED: goal},
            next_obs={**batch.next_obs, DESIRED: goal},
            reward=jnp.where(chosen, earned, batch.reward),
        )
        return drawn._replace(batch=batch)

    return plain._replace(init=init, sample=sample)
