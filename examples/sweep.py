"""A sweep in one program: whole trainings, vmapped over seeds and learning rates.

The agent is built inside vmap, so a setting may be an array. Run it: python examples/sweep.py
"""

from functools import partial

import jax
import jax.numpy as jnp

from steersman.agents.policy_gradient.ppo import PPOConfig, ppo
from steersman.envs import make_env, vectorize
from steersman.unroll import Episodes, begin, random_policy, unroll

NUM_ENVS, LENGTH = 16, 32


def train(learning_rate: jax.Array, key: jax.Array, updates: int) -> Episodes:
    """One whole training; -> count and summed returns of the episodes that ended in each update, [updates]."""
    envs = vectorize(make_env("CartPole-v1"), NUM_ENVS)
    # learning_rate is a traced number here: no Python branch may read it
    config = PPOConfig(unroll_length=LENGTH, num_minibatches=2, learning_rate=learning_rate, gae_lambda=0.8)
    agent = ppo(config, envs.spec)

    def update(carry, key):
        state, acting = carry
        act_key, update_key = jax.random.split(key)
        acting, rollout, ended = unroll(partial(agent.act, state, explore=True), envs, acting, act_key, LENGTH)
        state, _ = agent.update(state, rollout, update_key)
        return (state, acting), ended

    env_key, play_key, init_key, key = jax.random.split(key, 4)
    acting = begin(agent, envs, env_key)
    acting, rollout, _ = unroll(random_policy(envs.spec), envs, acting, play_key, 1)
    return jax.lax.scan(update, (agent.init(init_key, rollout), acting), jax.random.split(key, updates))[1]


def main(updates: int = 100, seeds: int = 4, learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)) -> jax.Array:
    keys = jax.random.split(jax.random.key(0), seeds)
    over_seeds = jax.vmap(partial(train, updates=updates), in_axes=(None, 0))
    over_both = jax.vmap(over_seeds, in_axes=(0, None))
    ended = jax.jit(over_both)(jnp.asarray(learning_rates), keys)  # [learning rates, seeds, updates]
    last = slice(-max(1, updates // 5), None)
    returns = ended.returns[..., last].sum(-1) / ended.count[..., last].sum(-1).astype(float)
    for rate, row in zip(learning_rates, returns, strict=True):
        print(
            f"learning rate {rate:g}: mean return {row.mean():.1f}, of the seeds {', '.join(f'{x:.0f}' for x in row)}"
        )
    return returns


if __name__ == "__main__":
    main()
