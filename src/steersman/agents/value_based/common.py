"""What the value-based agents share: behaviour made of action values, with its schedule, among the legal actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from steersman.agents.parts import own_networks
from steersman.agents.parts.checks import check_discrete
from steersman.agents.parts.config import ExplorationConfig
from steersman.spaces import MASK
from steersman.theory import exploration
from steersman.theory.distributions import Categorical, masked
from steersman.types import EnvSpec, Key, PyTree


def network_maker(
    algorithm: str,
    spec: EnvSpec,
    network: Any,
    own: Callable[[Key], Any],
    *,
    outputs: int = 0,
    noisy: bool = False,
    remembers: bool = False,
) -> Callable[[Key], Any]:
    """key -> ``own(key)``, or the user's network. Raises UsageError for an action space without a list of actions, and
    for a network that does not do.

    outputs: K of its q [A, K]; 0: q [A]. noisy: whether it takes a key too. remembers: may it have a memory.
    """
    check_discrete(algorithm, spec)
    if network is None:
        return own
    actions = int(spec.action_space.n)  # pyright: ignore[reportAttributeAccessIssue]
    shape = (actions, outputs) if outputs else (actions,)

    def wrong(module: Any, obs: PyTree, key: Key) -> str:
        q, problem = own_networks.called(module, obs, *((key,) if noisy else ()))
        return problem or own_networks.numbers(q, shape, f"its output, with {actions} actions of {spec.id},")

    form = f"{'obs, key' if noisy else 'obs'} -> q {list(shape)}"
    return own_networks.own_network(algorithm, spec, network, form, wrong, remembers=remembers)


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
