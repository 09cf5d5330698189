"""An algorithm of one's own in one file: advantage-weighted regression, on-policy (Peng et al. 2019, arXiv:1910.00177).

The policy imitates its own actions, each weighted by exp(A / beta): those that did better than V expected, more.

    python examples/own_algorithm.py
    cd examples && steersman train own_algorithm:ALGORITHM CartPole-v1 --temperature 0.5
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import steersman
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.minibatches import shuffled_minibatches, standardise
from steersman.agents.parts.training import clipped_adam
from steersman.agents.policy_gradient import common
from steersman.types import Agent


@dataclass(frozen=True)
class AWRConfig(common.OnPolicyConfig):
    """Settings of AWR."""

    temperature: float = 1.0
    """Beta: the smaller, the more the best actions count."""
    num_epochs: int = 4
    """Passes over the rollout in one update."""
    num_minibatches: int = 4
    """Minibatches in one pass."""


def awr(config, spec, *, budget=None, network=None):
    make, adam = common.network_maker("AWR", config, spec, network), clipped_adam(config.max_grad_norm)

    def init(key, first_rollout):
        params = make(key)
        return common.LearnerState(params, adam.init(ravel_pytree(params)[0]), jnp.int32(0))

    def loss(params, obs, action, weight, target):
        policy, value = jax.vmap(params)(obs)
        total = (jnp.square(value - target) / 2 - weight * policy.log_prob(action)).mean()
        return total, {"loss": total, "entropy": policy.entropy().mean()}

    def update(state, rollout, key):
        _, value, next_value = common.evaluate(state.params, rollout)
        target = common.lambda_targets(rollout, next_value, config.gamma, 0.95)
        weight = jnp.minimum(jnp.exp(standardise(target - value) / config.temperature), 20.0)
        batch, (vector, unravel) = (rollout.obs, rollout.action, weight, target), ravel_pytree(state.params)
        step = common.descend(adam, loss, unravel, common.learning_rate(config, budget, state.updates, rollout))

        def learn(learner, minibatch):
            *learner, metrics = step(*learner, *minibatch)
            return learner, metrics

        def epoch(learner, key):
            return jax.lax.scan(learn, learner, shuffled_minibatches(key, batch, config.num_minibatches))

        learner, metrics = jax.lax.scan(epoch, [vector, state.optimiser], jax.random.split(key, config.num_epochs))
        return common.LearnerState(unravel(learner[0]), learner[1], state.updates + 1), jax.tree.map(jnp.mean, metrics)

    return Agent(init, lambda num_envs: (), common.act, update)


PRESETS = {"CartPole-v1": {"steps": 150_000, "unroll_length": 32, "learning_rate": 1e-3}}
ALGORITHM = on_policy("awr", AWRConfig, awr, "advantage-weighted regression", whole_minibatches, PRESETS)


def main(environment="CartPole-v1", **settings):
    result = steersman.train(ALGORITHM, environment, **settings)
    print(f"mean return {result.evaluation.mean:.1f}")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
