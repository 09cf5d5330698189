"""One measurement of sb3-contrib's RecurrentPPO on CartPole-v1, one LSTM for policy and value. Prints one JSON object.

Runs in the peer's own environment; what it compiles it does before the clock starts.
"""

import argparse
import importlib.metadata
import json
import time

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    shape = args.shape
    envs = make_vec_env("CartPole-v1", n_envs=shape["num_envs"], seed=0)
    rollout = shape["num_envs"] * shape["unroll_length"]
    network = {"net_arch": {"pi": shape["hidden"], "vf": shape["hidden"]}, "activation_fn": torch.nn.Tanh}
    memory = {"lstm_hidden_size": shape["memory_size"], "shared_lstm": True, "enable_critic_lstm": False}
    model = RecurrentPPO(
        "MlpLstmPolicy",
        envs,
        n_steps=shape["unroll_length"],
        batch_size=rollout // shape["num_minibatches"],
        n_epochs=shape["num_epochs"],
        policy_kwargs=network | memory,
        seed=0,
        device="cpu",
    )
    model.learn(rollout)
    before, tick = model.num_timesteps, time.perf_counter()
    model.learn(args.steps, reset_num_timesteps=False)
    rate = (model.num_timesteps - before) / (time.perf_counter() - tick)
    size = sum(p.numel() for p in model.policy.parameters())
    versions = {name: importlib.metadata.version(name) for name in ("sb3-contrib", "stable-baselines3", "torch")}
    print(json.dumps({"steps_per_second": rate, "parameters": size, "versions": versions}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=json.loads, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    main(parser.parse_args())
