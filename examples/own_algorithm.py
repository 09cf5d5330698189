"""An algorithm of one's own in one file: advantage-weighted regression, on-policy (Peng et al. 2019, arXiv:1910.00177).

The policy imitates its own actions, each weighted by exp(A / beta): those that did better than V expected, more.

    python examples/own_algorithm.py
    cd examples && steersman train own_algorithm:ALGORITHM CartPole-v1 --temperature 0.5
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import steersman
from steersman.agents.parts import training
from steersman.agents.parts.algorithms import on_policy, whole_minibatches
from steersman.agents.parts.config import EpochsConfig
from steersman.agents.parts.minibatches import epochs, shuffled_minibatches, standardise
from steersman.agents.policy_gradient import common
from steersman.types import Agent


@dataclass(frozen=True)
class AWRConfig(EpochsConfig, common.OnPolicyConfig):
    """Settings of AWR."""

    temperature: float = 1.0
    """Beta: the smaller, the more the best actions count."""


def awr(config, spec, *, budget=None, network=None):
    make, adam = common.network_maker("AWR", config, spec, network), common.adam(config)

    def init(key, first_rollout):
        return common.start(config, make(key))

    def loss(params, obs, action, weight, target):
        policy, value = jax.vmap(params)(obs)
        total = (jnp.square(value - target) / 2 - weight * policy.log_prob(action)).mean()
        return total, {"loss": total, "entropy": policy.entropy().mean()}

    def update(state, rollout, key):
        _, value, next_value = common.evaluate(state.params, rollout)
        target = common.lambda_targets(rollout, next_value, config.gamma, 0.95)
        weight = jnp.minimum(jnp.exp(standardise(target - value) / config.temperature), 20.0)
        batch, rate = (rollout.obs, rollout.action, weight, target), training.annealed(config, budget, state.steps)

        def step(net, minibatch):
            net, metrics, _ = training.descend(adam, loss, net, rate, *minibatch)
            return net, metrics

        minibatches = lambda net, key: shuffled_minibatches(key, batch, config.num_minibatches)
        begun = training.packed(adam, training.Trained(state.params, state.optimiser))
        net, metrics = epochs(step, begun, minibatches, key, config.num_epochs)
        after = common.LearnerState(*training.unpacked(net), training.counted(state.steps, rollout))
        return after, jax.tree.map(jnp.mean, metrics)

    return Agent(init, lambda num_envs: (), common.act, update)


PRESETS = {"CartPole-v1": {"steps": 150_000, "unroll_length": 32, "learning_rate": 1e-3}}
ALGORITHM = on_policy("awr", AWRConfig, awr, "advantage-weighted regression", whole_minibatches, PRESETS)


def main(environment="CartPole-v1", **settings):
    result = steersman.train(ALGORITHM, environment, **settings)
    print(f"mean return {result.evaluation.mean:.1f}")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
