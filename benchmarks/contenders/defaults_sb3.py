"""Stable-Baselines3's (and sb3-contrib's) defaults on one environment and seed: 100 episodes after each budget.

Prints one JSON object.

Runs in the peer's own environment. As many copies of the environment as ours have; what the peer states for one copy is
kept for all of them together: PPO's and TRPO's rollout is 2048 steps, an agent with replay takes a gradient step for
each step of a copy (DQN: one for four).
"""

import argparse
import json
import sys
from pathlib import Path

import gymnasium
import torch
from sb3_contrib import TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

sys.path.insert(0, str(Path(__file__).resolve().parent))

KINDS = {"ppo": PPO, "a2c": A2C, "trpo": TRPO, "dqn": DQN, "ddpg": DDPG, "td3": TD3, "sac": SAC}
KINDS |= {"tqc": TQC, "crossq": CrossQ}


def maker(name: str):
    if name.startswith("tasks:"):
        import tasks

        return getattr(tasks, name.removeprefix("tasks:"))
    return lambda: gymnasium.make(name)


def arguments(algorithm: str, copies: int) -> dict:
    if algorithm in ("ppo", "trpo"):
        return {"n_steps": 2048 // copies}
    if algorithm == "a2c":
        return {}
    if algorithm == "dqn":  # train_freq counts steps of all copies at once
        return {"train_freq": max(1, 4 // copies), "gradient_steps": max(1, copies // 4)}
    return {"gradient_steps": -1}


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    kind = KINDS[args.algorithm]
    make = maker(args.environment)
    policy = "MultiInputPolicy" if isinstance(make().observation_space, gymnasium.spaces.Dict) else "MlpPolicy"
    found, model, done = {}, None, 0
    for budget in args.budgets:
        if model is None or args.algorithm == "dqn":  # whose exploration is a share of the budget
            envs = make_vec_env(make, args.copies, seed=args.seed)
            model, done = kind(policy, envs, seed=args.seed, device="cpu", **arguments(args.algorithm, args.copies)), 0
        model.learn(budget - done, reset_num_timesteps=done == 0)
        done = model.num_timesteps
        played = make_vec_env(make, 20, seed=1_000_000 + args.seed)
        returns, _ = evaluate_policy(model, played, n_eval_episodes=100, return_episode_rewards=True)
        found[budget] = {"mean": sum(returns) / len(returns), "steps": done}
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithm")
    parser.add_argument("environment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--budgets", type=int, nargs="+")
    main(parser.parse_args())
