"""Constrained policy optimisation, CPO (Achiam et al. 2017, arXiv:1705.10528): TRPO with the limit in its step.

One update, from a rollout collected by pi_old with parameters theta:

    maximise  L_r(theta')   subject to   J_c + h [L_c(theta') - L_c(theta)] <= d,   mean_s KL(pi_old || pi') <= delta

L_r and L_c are the surrogates mean[ratio A] of reward and cost, per step; h is the mean length of an episode, which
makes of a gain per step one per episode: c = (J_c - d) / h is in the surrogate's own unit. (Without it c^2 / s would
dwarf 2 delta, and every update be either TRPO's or a recovery.) J_c is of the episodes that ended in the rollout.

1. Advantages of both, by one recursion; the reward's standardised, the cost's centred: its unit is the limit's.
2. x = H^-1 g and p = H^-1 b by conjugate gradient, H = F + damping I, and of them the step in closed form
   (``theory.constraints.constrained_step``), in one of three cases: free, both limits bind, recovery.
3. Line search: the step shrinks until the exact KL is at most delta, the cost's surrogate has risen by less than -c
   (has fallen, where the limit is broken), and, where the limit holds, the reward's has risen.
4. The critics, as TRPO's.

No multiplier is learned: each update solves for its own. One cost; for several the step has no closed form.

Three things decide whether the limit holds. The sign of r = g.H^-1 b: where reward and cost rise together, as at a
limit that binds, the other sign makes the second case the free step, and the policy breaks the limit and recovers by
turns. Damping: in states where the policy is nearly certain F vanishes, and with little of it H^-1 spends the whole
trust region on the noise of the gradients there, so that recoveries do not recover. And the size of a rollout: where it
ends few episodes, the noise of J_c decides which case an update is, free steps taken by it make the policy certain, and
then the actions that would recover are in no sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.constraint import CostLimits, CostState, LimitConfig, check_limits
from steersman.agents.parts.minibatches import standardise
from steersman.agents.policy_gradient import common
from steersman.agents.policy_gradient.trpo import Local, TrustRegionConfig, trust_region_agent
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCriticFactory
from steersman.theory import constraints, natural
from steersman.types import Agent, EnvSpec, Metrics


@dataclass(frozen=True)
class CPOConfig(LimitConfig, TrustRegionConfig):
    """Settings of CPO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.cost_limit) > 1:
            raise UsageError(
                f"CPO: {len(self.cost_limit)} limits; its step keeps one. Train ppo with these cost_limit."
            )


def cpo(
    config: CPOConfig, spec: EnvSpec, *, budget: int | None = None, network: ActorCriticFactory | None = None
) -> Agent:
    """CPO as an agent for an environment.

    network: ``(key, spec) -> module``, the module mapping one observation to ``(distribution, value [2])``, the two
    without common parameters. Raises UsageError for an action space that no policy head serves, and without a limit.
    """
    if not config.cost_limit:
        raise UsageError("CPO has no cost_limit. Give one, --cost-limit 25, or train trpo.")
    check_limits("CPO", config, spec)
    limits = CostLimits(config, spec.cost_names)
    make_network = common.network_maker("CPO", config, spec, network, kl=True, heads=limits.heads)

    def improve(local: Local, signals: jax.Array, costs: CostState) -> tuple[jax.Array, Metrics]:
        """Steps 1 to 3."""
        reward = standardise(signals[..., 0])
        cost = signals[..., 1] - shards.cross_mean(signals[..., 1].mean())
        over = limits.scaled(costs.cost - limits.limits)[0] / jnp.maximum(costs.length, 1.0)  # c
        (reward_before, g), (cost_before, b) = local.gradient(reward), local.gradient(cost)
        fisher = natural.fisher_product(local.policy_of, local.vector)
        damped = lambda v: fisher(v) + config.damping * v
        x, p = (natural.conjugate_gradient(damped, v, config.cg_iterations).x for v in (g, b))
        solved = constraints.constrained_step(
            jnp.vdot(x, damped(x)), jnp.vdot(x, damped(p)), jnp.vdot(p, damped(p)), over, config.max_kl
        )

        def gain_and_kl(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
            reward_after, cost_after, kl = local.judged(vector, reward, cost)
            room = jnp.maximum(-over, 0.0) - (cost_after - cost_before)
            return jnp.where(over > 0, room, jnp.minimum(room, reward_after - reward_before)), kl

        step = solved.reward_weight * x + solved.cost_weight * p
        found = natural.line_search(
            gain_and_kl, local.vector, step, config.max_kl, backtracks=config.backtracks, shrink=config.backtrack_ratio
        )
        metrics = {
            "case_free": solved.case == constraints.FREE,
            "case_both": solved.case == constraints.BOTH,
            "recovery": solved.case == constraints.RECOVERY,
            "step_accepted": found.accepted,
            "backtracks": found.backtracks,
            "kl": found.kl,
        }
        return found.params, metrics

    return trust_region_agent(config, make_network, limits, improve, budget)


ALGORITHM = on_policy(
    "cpo", CPOConfig, cpo, "constrained policy optimisation: trust region steps that keep a limit", whole_minibatches
)
