"""The online actor-critic, compiled whole, beside the same loop in plain Python with a jitted update per step.

    python benchmarks/online.py             5 rounds
    python benchmarks/online.py --quick     1 short round; saved only where --out says

The same algorithm with the same network, optimiser and number of environments, one update per step. The plain loop is
what one writes first: Gymnasium's environment, a jitted function that acts, a jitted function that updates, both
compiled before the clock starts. Rounds alternate, so only ratios within a round are read.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import common
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

import steersman
from steersman import envs
from steersman.agents.policy_gradient.actor_critic import ActorCriticConfig
from steersman.nets.actor_critic import ActorCritic
from steersman.run.events import Trained

SETTINGS = {"learning_rate": 3e-4, "anneal_learning_rate": False, "gamma": 0.99, "hidden_sizes": (64, 64)}
SETTINGS |= {"normalize_observations": False, "scale_rewards": False}
CASES = {  # environments, whether the plain loop's acting is jitted too, the ratio to reach
    "1 environment, the update jitted": (1, False, 50.0),
    "1 environment, acting and update jitted": (1, True, None),
    "64 environments, acting and update jitted": (64, True, None),
}
WHAT = (
    "CartPole-v1, separate 64x64 tanh networks, V critic, one Adam step for every step of the environments, one "
    "device. The plain loop: Gymnasium's environment (its vector environment for many), and a jitted update that is "
    "warm before the clock starts; acting is one more jitted function, or plain JAX operations one after another."
)


def compiled(num_envs: int, steps: int) -> float:
    """Steps per second of ``steersman.train``, from the end of its first chunk to the end of its last."""
    marks: list[tuple[float, int]] = []

    def mark(event: Any) -> None:
        if isinstance(event, Trained):
            marks.append((time.perf_counter(), event.steps))

    steersman.train(
        "actor_critic",
        "CartPole-v1",
        preset=False,
        callbacks=[mark],
        evaluation_episodes=0,
        devices=1,
        num_envs=num_envs,
        steps=steps,
        **SETTINGS,
    )
    (began, first), (ended, last) = marks[0], marks[-1]
    return (last - first) / (ended - began)


def plain(num_envs: int, steps: int, jit_act: bool) -> float:
    """Steps per second of the loop in Python."""
    config = ActorCriticConfig(**SETTINGS)
    params = ActorCritic(envs.make("CartPole-v1", 1).spec, hidden_sizes=config.hidden_sizes, key=jax.random.key(0))
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate, eps=1e-5))
    moments = optimiser.init(params)

    def act(params, obs, key):
        key, sample = jax.random.split(key)
        policy, _ = jax.vmap(params)(obs)
        return policy.sample(sample), key

    act = jax.jit(act) if jit_act else act

    @jax.jit
    def update(params, moments, obs, action, reward, terminated, next_obs):
        def loss(params):
            policy, value = jax.vmap(params)(obs)
            _, next_value = jax.vmap(params)(next_obs)
            target = jax.lax.stop_gradient(reward + config.gamma * (1.0 - terminated) * next_value)
            error = jax.lax.stop_gradient(target - value)
            critic = config.value_coefficient * 0.5 * jnp.square(target - value)
            return (critic - policy.log_prob(action) * error).mean()

        updates, moments = optimiser.update(jax.grad(loss)(params), moments)
        return optax.apply_updates(params, updates), moments

    if num_envs == 1:
        env = gymnasium.make("CartPole-v1")
    else:
        same_step = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        env = gymnasium.make_vec("CartPole-v1", num_envs, "sync", vector_kwargs=same_step)
    obs, _ = env.reset(seed=0)
    key = jax.random.key(1)
    began = 0.0
    warm_up = 20
    for i in range(warm_up + steps // num_envs):
        if i == warm_up:
            jax.block_until_ready(params)
            began = time.perf_counter()
        batch = np.reshape(obs, (num_envs, -1))
        action, key = act(params, batch, key)
        action = np.asarray(action)
        after, reward, terminated, truncated, info = env.step(int(action[0]) if num_envs == 1 else action)
        successor = np.reshape(after, (num_envs, -1))
        if num_envs > 1 and "final_obs" in info:
            for j in np.flatnonzero(info["_final_obs"]):
                successor = np.array(successor)
                successor[j] = info["final_obs"][j]
        flags = np.reshape(np.asarray(terminated, np.float32), num_envs)
        rewards = np.reshape(np.asarray(reward, np.float32), num_envs)
        params, moments = update(params, moments, batch, action, rewards, flags, successor)
        obs = after
        if num_envs == 1 and (terminated or truncated):
            obs, _ = env.reset()
    jax.block_until_ready(params)
    return steps // num_envs * num_envs / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 short round; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    rounds, scale = (1, 0.2) if args.quick else (args.rounds, 1.0)
    origin = common.provenance()
    cases = {}
    for name, (num_envs, jit_act, target) in CASES.items():
        ours, theirs = [], []
        for i in range(rounds):
            ours.append(compiled(num_envs, int((100_000 if num_envs == 1 else 2_000_000) * scale)))
            theirs.append(
                plain(num_envs, int((64_000 if num_envs > 1 else 4_000 if jit_act else 1_000) * scale), jit_act)
            )
            print(f"{name} {i + 1}/{rounds}: compiled {ours[-1]:,.0f}, plain {theirs[-1]:,.0f} steps/s", flush=True)
        each = [a / b for a, b in zip(ours, theirs, strict=True)]
        ratio = {"median": statistics.median(each), "min": min(each), "max": max(each)}
        print(f"{name}: {ratio['median']:.1f} times" + (f", target {target}" if target else ""), flush=True)
        cases[name] = {"compiled": ours, "plain": theirs, "ratio": ratio, "target": target}
    if args.out or not args.quick:
        common.save("online", {"what": WHAT, "cases": cases, "provenance": origin}, args.out)


if __name__ == "__main__":
    main()
