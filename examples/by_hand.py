"""Training by hand: an agent is four functions, a rollout is a scan, and the loop is yours.

Run it: python examples/by_hand.py
"""

from functools import partial

import jax

from steersman.agents.policy_gradient.ppo import PPOConfig, ppo
from steersman.envs import make_env, vectorize
from steersman.run.evaluate import device_evaluator
from steersman.unroll import begin, random_policy, unroll

NUM_ENVS, LENGTH = 16, 32


def main(updates: int = 300, episodes: int = 100) -> float:
    envs = vectorize(make_env("CartPole-v1"), NUM_ENVS)
    steps = updates * NUM_ENVS * LENGTH  # the learning rate falls to zero over these
    config = PPOConfig(unroll_length=LENGTH, num_epochs=10, num_minibatches=2, learning_rate=1e-3)
    agent = ppo(config, envs.spec, budget=steps)

    @jax.jit
    def start(key):
        env_key, play_key, init_key = jax.random.split(key, 3)
        acting = begin(agent, envs, env_key)
        acting, rollout, _ = unroll(random_policy(envs.spec), envs, acting, play_key, 1)  # gives init its shapes
        return agent.init(init_key, rollout), acting

    @jax.jit
    def step(state, acting, key):
        act_key, update_key = jax.random.split(key)
        act = partial(agent.act, state, explore=True)
        acting, rollout, ended = unroll(act, envs, acting, act_key, LENGTH)
        state, metrics = agent.update(state, rollout, update_key)
        return state, acting, ended, metrics

    start_key, key = jax.random.split(jax.random.key(0))
    state, acting = start(start_key)
    returns = count = 0
    for update in range(1, updates + 1):
        state, acting, ended, metrics = step(state, acting, jax.random.fold_in(key, update))
        returns, count = returns + ended.returns, count + ended.count
        if update % 50 == 0:
            print(f"update {update}: mean return {float(returns) / float(count):.1f}, entropy {metrics['entropy']:.2f}")
            returns = count = 0

    played = device_evaluator(agent, vectorize(make_env("CartPole-v1"), episodes))(state, seed=1)
    print(f"{played.episodes} episodes: mean return {played.mean:.1f}, 95% interval {played.ci95}")
    return played.mean


if __name__ == "__main__":
    main()
