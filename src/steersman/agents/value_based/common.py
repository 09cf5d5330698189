"""What the value-based agents share: behaviour made of action values, with its schedule, among the legal actions."""

from __future__ import annotations

from typing import Any

import jax

from steersman.agents.parts.config import ExplorationConfig
from steersman.spaces import MASK
from steersman.theory import exploration
from steersman.theory.distributions import Categorical, masked
from steersman.types import PyTree


def exploration_level(config: ExplorationConfig, budget: int | None, steps: jax.Array) -> jax.Array:
    """Epsilon, or the temperature, after so many environment steps."""
    over = config.exploration_fraction * float(budget or 0)
    return exploration.linear(steps, config.exploration_start, config.exploration_end, over)


def explorer(config: ExplorationConfig, q: jax.Array, obs: PyTree, level: jax.Array) -> Categorical:
    """The exploring policy over the legal actions, of values q ``[..., A]``."""
    policy = exploration.boltzmann if config.exploration == "boltzmann" else exploration.epsilon_greedy
    return policy(q, level, mask_of(obs))


def mask_of(obs: PyTree) -> Any:
    """The legal actions of an observation that says them, ``[..., A]``; else None: all are."""
    return obs[MASK] if isinstance(obs, dict) and MASK in obs else None


def legal(q: jax.Array, obs: PyTree) -> jax.Array:
    """Action values with those of illegal actions made impossible."""
    mask = mask_of(obs)
    return q if mask is None else masked(q, mask)
