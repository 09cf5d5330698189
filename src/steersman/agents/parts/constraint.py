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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.config import Config, Rules
from steersman.episodes import cost_suffixes
from steersman.errors import UsageError
from steersman.theory import constraints, returns
from steersman.types import Array, EnvSpec, Metrics, PerEnv, Rollout

Scalar = float | jax.Array


@dataclass(frozen=True)
class LimitConfig(Config):
    """Limits on costs."""

    cost_limit: tuple[float, ...] = ()
    """Most that an episode may cost in the mean, for each of the environment's costs; none: they are only counted."""
    cost_criterion: str = "episode"
    """What the limit is on: the cost of an episode, summed (episode) or discounted by cost_gamma (discounted)."""
    cost_gamma: float = 0.99
    """Discount factor of the costs' critics, and of the discounted criterion."""

    rules = Rules(fraction=("cost_gamma",), choices={"cost_criterion": ("episode", "discounted")})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers("cost_limit", self.cost_limit, "limit, on the mean cost of an episode,")


@dataclass(frozen=True)
class ConstraintConfig(LimitConfig):
    """Limits on costs, kept by a price on each."""

    multiplier: str = "pid"
    """What moves the price of a cost: pid (a controller) or dual (gradient steps)."""
    pid_gains: tuple[float, ...] = (1.0, 0.02, 0.0)
    """Proportional, integral and derivative gain, on the error relative to the limit."""
    dual_rate: float = 0.05
    """Step size of the multiplier (dual), on the same error."""
    multiplier_cap: float = 10.0
    """Largest multiplier: the price, in scaled reward, of as much cost as the limit allows."""

    rules = Rules(positive=("dual_rate", "multiplier_cap"), choices={"multiplier": ("pid", "dual")})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers("pid_gains", self.pid_gains, "gain")
        if len(self.pid_gains) != 3:
            raise UsageError(
                f"pid_gains = {_listed(self.pid_gains)}; they are three numbers: proportional, integral, derivative. "
                f"Default: {_listed(ConstraintConfig.pid_gains)}."
            )


def _check_numbers(name: str, values: Sequence[Any], what: str) -> None:
    if any(isinstance(v, int | float) and not 0 <= v < math.inf for v in values):
        raise UsageError(f"{name} = {_listed(values)}; each {what} must be a number of 0 or more.")


def _listed(numbers: Sequence[Any]) -> str:
    return " ".join(f"{x:g}" if isinstance(x, int | float) else "?" for x in numbers)


class Running(NamedTuple):
    """Each environment's episode up to now."""

    cost: jax.Array  # [B, C]
    length: jax.Array  # [B]: of its steps, the sum of their weights
    weight: jax.Array  # [B]: of the next step, gamma^t

    @classmethod
    def init(cls, num_envs: int, size: int) -> Running:
        return cls(jnp.zeros((num_envs, size)), jnp.zeros((num_envs,)), jnp.ones((num_envs,)))


class CostState(NamedTuple):
    """What episodes have cost."""

    cost: jax.Array  # [C], the mean of those that ended in the last rollout in which some did, or of more
    length: jax.Array  # their mean length, a scalar: discounted where the costs are
    running: PerEnv  # Running


class ConstraintState(NamedTuple):
    """The multipliers, and what they are moved by."""

    multiplier: jax.Array  # [C], within [0, multiplier_cap]
    controller: constraints.PID
    costs: CostState


@dataclass(frozen=True)
class CostLimits:
    """What an agent does for its limits. Signals are [..., 1 + C], the reward's first; without a limit they are
    [...]."""

    config: Any  # LimitConfig
    names: tuple[str, ...] = ()  # of the costs
    episodes: int = 1  # about how many the mean cost is over, where a rollout ends fewer

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

    def begin(self, first_rollout: Rollout) -> Any:
        """The state before the first update: nothing has ended, running episodes as ``first_rollout`` leaves them."""
        if not self.limited:
            return ()
        _, running = self._episodes(Running.init(first_rollout.reward.shape[1], len(self.names)), first_rollout)
        return CostState(jnp.zeros((len(self.names),)), jnp.zeros(()), PerEnv(running))

    def moved(self, state: Any, rollout: Rollout) -> tuple[Any, Metrics]:
        """-> (the state with what has been seen in a rollout [T, B, ...] as it was acted, metrics); before the policy's
        step."""
        if not self.limited:
            return state, {}
        after, _ = self.counted(state, rollout)
        return after, self.told(after)

    def counted(self, state: CostState, rollout: Rollout) -> tuple[CostState, jax.Array]:
        """-> (the state with the mean over the n episodes, of all shards, that ended in a rollout, or the last one
        where none did; whether there were some)

        Over several ``episodes``, E, the mean fades: J <- J + (1 - (1 - 1/E)^n) (mean - J), from the first that ended.
        """
        sums, running = self._episodes(state.running.value, rollout)
        cost, length, count = shards.cross_sum(sums)
        some, share = count > 0, 1.0 / jnp.maximum(count, 1.0)
        mean = share * cost, share * length
        if self.episodes > 1:
            weight = jnp.where(state.length > 0, 1.0 - (1.0 - 1.0 / self.episodes) ** count, 1.0)
            mean = tuple(old + weight * (new - old) for old, new in zip(state[:2], mean, strict=True))
        kept = (jnp.where(some, new, old) for old, new in zip(state[:2], mean, strict=True))
        return CostState(*kept, PerEnv(running)), some

    def told(self, state: CostState) -> Metrics:
        """The costs that the limits are on, as metrics, where they are not what is counted of episodes anyway."""
        if not self.limited or self.config.cost_criterion == "episode":
            return {}
        return self._named("discounted_cost", state.cost)

    def scaled(self, costs: Array) -> jax.Array:
        """Costs [..., C] as agents count them, in units of their limits."""
        return jnp.asarray(costs) / jnp.broadcast_to(constraints.limit_scales(self.limits), costs.shape)

    def signals(self, rollout: Rollout, gamma: Scalar, lambda_: Scalar) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-> (r_t, discount_t, lambda_t), as ``theory.returns`` takes them: of the reward and, beside it, the costs."""
        every = rollout.reward, rollout.terminated, rollout.truncated
        reward, terminated, truncated = map(jnp.asarray, every)
        if not self.limited:
            return reward, returns.discounts(terminated, gamma), returns.trace_decays(truncated, lambda_)
        r_t = jnp.concatenate([reward[..., None], self.scaled(rollout.costs)], -1)
        each = jnp.stack([jnp.asarray(g, jnp.float32) for g in (gamma, *[self.config.cost_gamma] * len(self.names))])
        over, cut = (jnp.broadcast_to(flag[..., None], r_t.shape) for flag in (terminated, truncated))
        return r_t, returns.discounts(over, jnp.broadcast_to(each, r_t.shape)), returns.trace_decays(cut, lambda_)

    def summed(self, losses: jax.Array) -> jax.Array:
        """The losses of all heads -> [...]."""
        return losses.sum(-1) if self.limited else losses

    def _episodes(self, running: Running, rollout: Rollout) -> tuple[tuple[jax.Array, ...], Running]:
        """-> (summed cost [C] and length of the episodes that ended in a rollout, their number; the running ones)"""
        gamma = self.config.cost_gamma if self.config.cost_criterion == "discounted" else 1.0

        def step(now: tuple[Running, Any], row: tuple[jax.Array, ...]):
            (cost, length, weight), (costs, lengths, count) = now
            here, first, ended = row
            weight = jnp.where(first, 1.0, weight)
            cost = jnp.where(first[:, None], 0.0, cost) + weight[:, None] * here
            length = jnp.where(first, 0.0, length) + weight
            costs = costs + jnp.where(ended[:, None], cost, 0.0).sum(0)
            sums = costs, lengths + jnp.where(ended, length, 0.0).sum(), count + ended.sum(dtype=jnp.float32)
            return (Running(cost, length, gamma * weight), sums), None

        flags = jnp.asarray(rollout.first), jnp.asarray(rollout.terminated) | jnp.asarray(rollout.truncated)
        start = jnp.zeros((len(self.names),)), jnp.zeros(()), jnp.zeros(())
        (running, sums), _ = jax.lax.scan(step, (running, start), (jnp.asarray(rollout.costs), *flags))
        return sums, running

    def _named(self, what: str, numbers: jax.Array) -> Metrics:
        return {what + end: numbers[i] for i, end in enumerate(cost_suffixes(self.names))}


@dataclass(frozen=True)
class Constraint(CostLimits):
    """Limits kept by multipliers; config: ConstraintConfig."""

    def begin(self, first_rollout: Rollout) -> Any:
        """The state before the first update: multipliers of 0."""
        if not self.limited:
            return ()
        size = len(self.names)
        return ConstraintState(jnp.zeros((size,)), constraints.PID.init(size), super().begin(first_rollout))

    def moved(self, state: Any, rollout: Rollout) -> tuple[Any, Metrics]:
        """-> (the state with the multipliers moved, metrics): by the mean cost of the episodes, of all shards, that
        ended in a rollout [T, B, ...] as it was acted; where none did they stay. Before the policy's step."""
        if not self.limited:
            return state, {}
        config, (costs, some) = self.config, self.counted(state.costs, rollout)
        error, controller = constraints.limit_errors(costs.cost, self.limits), state.controller
        if config.multiplier == "pid":
            multiplier, controller = constraints.pid_step(controller, error, config.pid_gains, config.multiplier_cap)
        else:
            multiplier = constraints.dual_step(state.multiplier, error, config.dual_rate, config.multiplier_cap)
        new, old = (multiplier, controller), (state.multiplier, state.controller)
        multiplier, controller = jax.tree.map(lambda a, b: jnp.where(some, a, b), new, old)
        after = ConstraintState(multiplier, controller, costs)
        return after, self.told(after)

    def told(self, state: Any) -> Metrics:
        """The multipliers, as metrics, and what ``CostLimits`` tells."""
        return self._named("multiplier", state.multiplier) | super().told(state.costs) if self.limited else {}

    def mixed(self, state: Any, signals: jax.Array) -> jax.Array:
        """Advantages, or action values, of all signals -> [...]: what the policy is to raise."""
        return constraints.mixed(signals, state.multiplier) if self.limited else signals


UNLIMITED = Constraint(ConstraintConfig())


def constraint_of(algorithm: str, config: ConstraintConfig, spec: EnvSpec) -> Constraint:
    """The limits that a config sets to the costs of an environment. Raises UsageError as ``check_limits``."""
    check_limits(algorithm, config, spec)
    return Constraint(config, spec.cost_names)


def check_limits(algorithm: str, config: LimitConfig, spec: EnvSpec) -> None:
    """Raise UsageError where limits are set and the environment has no costs, or not as many."""
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
