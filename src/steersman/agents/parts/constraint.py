"""Limits on costs: the settings, the multipliers that an agent keeps, what moves them, the signals that they mix.

An agent asks ``constraint_of`` for its ``Constraint`` and keeps the state of it as ``constraint``. Without a limit that
is ``()`` and every method here does nothing: the same program as if there were none.

Inside an agent a cost is counted in units of its limit, as rewards are in units of their spread: so critics, gains and
multipliers are of one order whatever the task, and a multiplier is (scaled) reward per limit of cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts.checks import Rules
from steersman.agents.parts.config import Config
from steersman.episodes import cost_suffixes
from steersman.errors import UsageError
from steersman.theory import constraints, returns
from steersman.types import EnvSpec, Metrics, PerEnv, PyTree, Rollout

Scalar = float | jax.Array


@dataclass(frozen=True)
class ConstraintConfig(Config):
    """Limits on costs, and how they are kept."""

    cost_limit: tuple[float, ...] = ()
    """Most that an episode may cost in the mean, for each of the environment's costs; none: they are only counted."""
    multiplier: str = "pid"
    """What moves the price of a cost: pid (a controller) or dual (gradient steps)."""
    pid_gains: tuple[float, ...] = (1.0, 0.02, 0.0)
    """Proportional, integral and derivative gain, on the error relative to the limit."""
    dual_rate: float = 0.05
    """Step size of the multiplier (dual), on the same error."""
    multiplier_cap: float = 10.0
    """Largest multiplier: the price, in scaled reward, of as much cost as the limit allows."""
    cost_criterion: str = "episode"
    """What the limit is on: the cost of an episode, summed (episode) or discounted by cost_gamma (discounted)."""
    cost_gamma: float = 0.99
    """Discount factor of the costs' critics, and of the discounted criterion."""

    rules = Rules(
        positive=("dual_rate", "multiplier_cap"),
        fraction=("cost_gamma",),
        choices={"multiplier": ("pid", "dual"), "cost_criterion": ("episode", "discounted")},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what in (("cost_limit", "limit, on the mean cost of an episode,"), ("pid_gains", "gain")):
            values = getattr(self, name)
            if any(isinstance(v, Real) and not 0 <= v < math.inf for v in values):
                raise UsageError(f"{name} = {_listed(values)}; each {what} must be a number of 0 or more.")
        if len(self.pid_gains) != 3:
            raise UsageError(
                f"pid_gains = {_listed(self.pid_gains)}; they are three numbers: proportional, integral, derivative. "
                f"Default: {_listed(ConstraintConfig.pid_gains)}."
            )


class ConstraintState(NamedTuple):
    """The multipliers, and what they are moved by."""

    multiplier: jax.Array  # [C], within [0, multiplier_cap]
    controller: constraints.PID
    cost: jax.Array  # [C], what they were last moved by
    running: PerEnv  # Running [B]


class Running(NamedTuple):
    """Each environment's episode up to now."""

    cost: jax.Array  # [B, C]
    weight: jax.Array  # [B]: of the next cost, gamma^t


@dataclass(frozen=True)
class Constraint:
    """What an agent does for its limits. Signals are [..., 1 + C], the reward's first; without a limit they are
    [...]."""

    config: ConstraintConfig
    names: tuple[str, ...] = ()  # of the costs

    @property
    def limited(self) -> bool:
        return bool(self.config.cost_limit)

    @property
    def heads(self) -> tuple[int, ...]:
        """The shape of a state's value: (1 + C,), () without a limit."""
        return (1 + len(self.names),) if self.limited else ()

    @property
    def limits(self) -> jax.Array:
        return jnp.stack([jnp.asarray(limit, jnp.float32) for limit in self.config.cost_limit])

    def begin(self, first_rollout: Rollout) -> PyTree:
        """The state before the first update: multipliers of 0, running episodes as ``first_rollout`` leaves them."""
        if not self.limited:
            return ()
        zero, num = jnp.zeros((len(self.names),)), first_rollout.reward.shape[1]
        start = Running(jnp.zeros((num, len(self.names))), jnp.ones((num,)))
        _, running = self._episodes(start, first_rollout)
        return ConstraintState(zero, constraints.PID.init(len(self.names)), zero, PerEnv(running))

    def moved(self, state: Any, rollout: Rollout) -> tuple[Any, Metrics]:
        """-> (the state with the multipliers moved, metrics): by the mean cost of the episodes, of all shards, that
        ended in a rollout [T, B, ...] as it was acted; where none did they stay. Before the policy's step."""
        if not self.limited:
            return state, {}
        config, (sums, running) = self.config, self._episodes(state.running.value, rollout)
        total, count = shards.cross_sum(sums)
        cost = total / jnp.maximum(count, 1.0)
        error, controller = constraints.limit_errors(cost, self.limits), state.controller
        if config.multiplier == "pid":
            multiplier, controller = constraints.pid_step(controller, error, config.pid_gains, config.multiplier_cap)
        else:
            multiplier = constraints.dual_step(state.multiplier, error, config.dual_rate, config.multiplier_cap)
        moved = multiplier, controller, cost
        moved = jax.tree.map(lambda new, old: jnp.where(count > 0, new, old), moved, tuple(state[:3]))
        after = ConstraintState(*moved, PerEnv(running))
        return after, self.told(after)

    def told(self, state: Any) -> Metrics:
        """The multipliers, as metrics; and what last moved them, where it is not what is counted of episodes anyway."""
        if not self.limited:
            return {}
        numbers = {"multiplier": state.multiplier}
        if self.config.cost_criterion == "discounted":
            numbers["discounted_cost"] = state.cost
        ends = cost_suffixes(self.names)
        return {what + end: each[i] for what, each in numbers.items() for i, end in enumerate(ends)}

    def scaled(self, costs: jax.Array) -> jax.Array:
        """Costs [..., C] as agents count them, in units of their limits."""
        return jnp.asarray(costs) / jnp.broadcast_to(constraints.limit_scales(self.limits), costs.shape)

    def signals(self, rollout: Rollout, gamma: Scalar, lambda_: Scalar) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> (r_t, discount_t, lambda_t), as ``theory.returns`` takes them: of the reward and, beside it, the costs."""
        terminated, truncated = jnp.asarray(rollout.terminated), jnp.asarray(rollout.truncated)
        if not self.limited:
            return rollout.reward, returns.discounts(terminated, gamma), returns.trace_decays(truncated, lambda_)
        r_t = jnp.concatenate([jnp.asarray(rollout.reward)[..., None], self.scaled(rollout.costs)], -1)
        each = jnp.stack([jnp.asarray(g, jnp.float32) for g in (gamma, *[self.config.cost_gamma] * len(self.names))])
        over, cut = (jnp.broadcast_to(flag[..., None], r_t.shape) for flag in (terminated, truncated))
        return r_t, returns.discounts(over, jnp.broadcast_to(each, r_t.shape)), returns.trace_decays(cut, lambda_)

    def mixed(self, state: Any, signals: jax.Array) -> jax.Array:
        """Advantages, or action values, of all signals -> [...]: what the policy is to raise."""
        return constraints.mixed(signals, state.multiplier) if self.limited else signals

    def summed(self, losses: jax.Array) -> jax.Array:
        """The losses of all heads -> [...]."""
        return losses.sum(-1) if self.limited else losses

    def _episodes(self, running: Running, rollout: Rollout) -> tuple[tuple[jax.Array, jax.Array], Running]:
        """-> (summed cost [C] of the episodes that ended in a rollout and their number, the running ones after it)"""
        gamma = self.config.cost_gamma if self.config.cost_criterion == "discounted" else 1.0

        def step(now: tuple[Running, Any], row: tuple[jax.Array, ...]):
            (cost, weight), (total, count) = now
            costs, first, ended = row
            weight = jnp.where(first, 1.0, weight)
            cost = jnp.where(first[:, None], 0.0, cost) + weight[:, None] * costs
            total = total + jnp.where(ended[:, None], cost, 0.0).sum(0)
            return (Running(cost, gamma * weight), (total, count + ended.sum(dtype=jnp.float32))), None

        flags = jnp.asarray(rollout.first), jnp.asarray(rollout.terminated) | jnp.asarray(rollout.truncated)
        start = jnp.zeros((len(self.names),)), jnp.zeros(())
        (running, sums), _ = jax.lax.scan(step, (running, start), (jnp.asarray(rollout.costs), *flags))
        return sums, running


UNLIMITED = Constraint(ConstraintConfig())


def constraint_of(algorithm: str, config: ConstraintConfig, spec: EnvSpec) -> Constraint:
    """The limits that a config sets to the costs of an environment.

    Raises UsageError where the environment has no costs, or not as many.
    """
    limits, names = config.cost_limit, spec.cost_names
    given = f"{algorithm}: cost_limit = {_listed(limits)}"
    if limits and not names:
        raise UsageError(
            f'{given}; {spec.id} has no costs. Say what costs, --cost "NAME > NUMBER" on the command line or '
            "steersman.envs.with_costs(env, function, names) in Python, take one of the safe/ environments, or leave "
            "cost_limit out."
        )
    if limits and len(limits) != len(names):
        costs = "1 cost" if len(names) == 1 else f"{len(names)} costs"
        raise UsageError(
            f"{given}; {spec.id} has {costs}: {', '.join(names)}. Give one for each, in this order; a large one (1e9) "
            "for a cost that is only to be counted."
        )
    return Constraint(config, names)


def _listed(limits: Sequence[Any]) -> str:
    return " ".join(f"{limit:g}" if isinstance(limit, Real) else "?" for limit in limits)
