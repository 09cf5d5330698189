"""What the classic environments share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman.types import PyTree, TimeStep


def outcome(obs: PyTree, reward: jax.Array, terminated: jax.Array) -> TimeStep:
    """The TimeStep of an environment without costs, without info, that never truncates by itself."""
    return TimeStep(obs, reward, terminated, jnp.zeros_like(terminated), obs, jnp.zeros((0,), jnp.float32), {})
