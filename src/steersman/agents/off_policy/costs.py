"""Critics of costs beside the reward's, for agents that learn from replay under limits.

Each limited cost i has K critics, and their *mean* is its value: the least of them keeps a reward from being
overestimated, and would have a cost underestimated.

    y_i = c_i + gamma_c (1 - terminated) mean_k Qbar_ik(s', a')            a' the policy's, no gradient
    the actor ascends [J_r - sum_i lambda_i mean_k Q_ik(s, a)] / (1 + sum_i lambda_i)

J_r is what it ascends without limits. Divided so, it is a weighted mean of objectives: a multiplier that rises turns
the step and does not lengthen it.

The multipliers are moved by the episodes of *acting*, in ``observe``, before the gradient steps that follow them. What
replay holds are the steps of older policies, whose episodes cost something else: of a cost the critics learn from them,
the multipliers never. They stay 0 while a random policy fills replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.off_policy import common
from steersman.agents.parts import training
from steersman.agents.parts.constraint import Constraint, constraint_of
from steersman.agents.parts.replay.sequences import Items
from steersman.agents.parts.training import Trained
from steersman.errors import UsageError
from steersman.nets.critics import ensemble
from steersman.theory import trees
from steersman.theory.values import td_error
from steersman.types import EnvSpec, Key, Metrics, PyTree, Rollout

# Of the multipliers: they are moved once an episode as a rule, by the mean of about so many. By one alone they would
# keep another limit: errors are cut to [-1, 1], and of costs of 0 and 4 by turns the mean cut error at a limit of 1 is 0.
GAINS = (0.1, 0.05, 0.0)
EPISODES = 10

Make = Callable[[Key], Any]
Value = Callable[[PyTree, PyTree], jax.Array]  # (critics, what they see) -> [K * C, M]


class CostCritics(NamedTuple):
    """What is learned of costs; () takes its place without a limit."""

    critics: Trained  # leaves [K * C, ...]: the k-th critic of cost i is at k * C + i
    targets: PyTree
    constraint: Any  # the multipliers, and what moves them


@dataclass(frozen=True)
class CostLearner:
    """What an agent does with costs. Without a limit every method does nothing."""

    constraint: Constraint
    config: Any
    make: Make  # key -> a critic

    @property
    def limited(self) -> bool:
        return self.constraint.limited

    def init(self, key: Key, first_rollout: Rollout) -> Any:
        if not self.limited:
            return ()
        size = self.config.num_critics * len(self.constraint.names)
        critics = ensemble(self.make, jax.random.fold_in(key, 1), size)
        net = training.trained(common.adam(self.config), critics)
        return CostCritics(net, training.copied(critics), self.constraint.begin(first_rollout))

    def observe(self, state: Any, rollout: Rollout) -> Any:
        """A learner's ``observe``, for a state with ``steps`` and ``costs``."""
        if self.limited:
            constraint, _ = self.constraint.moved(state.costs.constraint, rollout)
            state = state._replace(costs=state.costs._replace(constraint=constraint))
        return common.observe(state, rollout)

    def learn(self, costs: Any, items: Items, rate: jax.Array, taken: Value, after: Value) -> tuple[Any, Metrics]:
        """One step of the critics. taken: of the actions that were; after: of the policy's in the states after."""
        if not self.limited:
            return (), {}
        q_t = self.mean(after(costs.targets, common.critics_see(costs.targets, items)[1]))
        one = self.config.n_step == 1  # more steps are summed in replay, by gamma: ``cost_learner`` has seen to it
        discount = jnp.where(items.discount > 0, self.config.cost_gamma if one else items.discount, 0.0)[None, None]
        cost = self.constraint.scaled(items.costs).T  # [C, M]

        def loss(critics: PyTree):
            q = taken(critics, common.critics_see(critics, items)[0])
            error = td_error(q.reshape(-1, *cost.shape), cost[None], discount, q_t[None])  # [K, C, M]
            each = items.weight[None, None] * 0.5 * jnp.square(error)
            return each.mean(-1).sum(), each.mean()

        critics, each, _ = training.descend(common.adam(self.config), loss, costs.critics, rate)
        return costs._replace(critics=critics), {"cost_critic_loss": each, **self.constraint.told(costs.constraint)}

    def mean(self, q: jax.Array) -> jax.Array:
        """The value of each cost [C, M], of all its critics'."""
        return q.reshape(-1, len(self.constraint.names), q.shape[-1]).mean(0)

    def weighed(self, costs: Any, items: Items, loss: jax.Array, at: Value) -> jax.Array:
        """What the actor descends [M], of what it would without limits. at: of its own actions."""
        if not self.limited:
            return loss
        critics = costs.critics.params
        q = self.mean(at(critics, common.critics_see(critics, items)[0]))
        return -self.constraint.mixed(costs.constraint, jnp.stack([-loss, *q], -1))

    def averaged(self, costs: Any) -> Any:
        """The targets follow the critics."""
        if not self.limited:
            return ()
        return costs._replace(targets=trees.polyak(costs.targets, costs.critics.params, self.config.tau))


def cost_learner(algorithm: str, config: Any, spec: EnvSpec, make: Make) -> CostLearner:
    """The cost critics of an agent under the limits that its config sets.

    Raises UsageError for limits that do not fit the environment's costs, and for targets of several steps that are not
    theirs.
    """
    constraint = replace(constraint_of(algorithm, config, spec), episodes=EPISODES)
    if constraint.limited and config.n_step > 1:
        if config.n_step_correction != "none":
            raise UsageError(
                f"{algorithm}: n_step_correction {config.n_step_correction} corrects the targets of the reward, and "
                "costs have none of it. Set n_step_correction to none, or n_step to 1."
            )
        both = config.gamma, config.cost_gamma
        if all(isinstance(gamma, Real) for gamma in both) and both[0] != both[1]:
            raise UsageError(
                f"{algorithm}: with n_step = {config.n_step} replay sums costs as it does rewards, by gamma = "
                f"{both[0]:g}. Set cost_gamma, which is {both[1]:g}, to the same, or n_step to 1."
            )
    return CostLearner(constraint, config, make)
