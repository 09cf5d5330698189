"""One measurement of Stable-Baselines3 (torch) or SBX (JAX): PPO, A2C, SAC or DQN. Prints one JSON object.

Runs in the peers' own environment. ``--threads``: torch's threads (sb3), or the cores that the process may use (sbx).
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import time
from typing import Any

ON_POLICY = {  # the shape's name of a setting -> the library's, as an argument and as an attribute
    "rollout_length": "n_steps",
    "learning_rate": "learning_rate",
    "gamma": "gamma",
    "gae_lambda": "gae_lambda",
    "value_coefficient": "vf_coef",
    "entropy_coefficient": "ent_coef",
    "max_grad_norm": "max_grad_norm",
}
OFF_POLICY = {
    "learning_rate": "learning_rate",
    "gamma": "gamma",
    "minibatch_size": "batch_size",
    "replay_capacity": "buffer_size",
}
NAMES = {
    "a2c": ON_POLICY,
    "ppo": ON_POLICY | {"epochs": "n_epochs", "minibatch_size": "batch_size", "clip": "clip_range"},
    "sac": OFF_POLICY | {"tau": "tau"},
    "dqn": OFF_POLICY | {"target_period": "target_update_interval", "epsilon": "exploration_final_eps"},
}


def further(algorithm: str, library: str, shape: dict[str, Any]) -> dict[str, Any]:
    """The arguments beside those of ``NAMES``."""
    if algorithm == "a2c":
        return {"use_rms_prop": False}
    if algorithm == "ppo":
        return {}
    every_step = {
        "learning_starts": shape["learning_starts"],
        "train_freq": 1,
        "gradient_steps": int(shape["update_ratio"] * shape["num_envs"]),
    }
    if algorithm == "sac":
        return every_step | {"ent_coef": "auto"}
    clipping = {"max_grad_norm": shape["max_grad_norm"]} if library == "sb3" else {}  # SBX's DQN has none
    return every_step | {"exploration_initial_eps": shape["epsilon"]} | clipping


def network(algorithm: str, library: str, hidden: list[int]) -> dict[str, Any]:
    """``policy_kwargs`` of separate networks of these sizes; the on-policy ones have tanh, the others ReLU."""
    if algorithm in ("sac", "dqn"):
        return {"net_arch": hidden}
    if library == "sb3":
        import torch

        return {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh}
    import flax.linen

    return {"net_arch": hidden, "activation_fn": flax.linen.tanh}


def parameters(algorithm: str, library: str, model: Any) -> int:
    """How many numbers are trained, targets left out."""
    if library == "sb3":
        nets = {"sac": ("actor", "critic"), "dqn": ("q_net",)}.get(algorithm, ("policy",))
        return sum(p.numel() for net in nets for p in getattr(model, net).parameters())
    import jax

    nets = {"sac": ("actor", "qf"), "dqn": ("qf",), "ppo": ("actor", "vf")}[algorithm]
    trained = [getattr(model.policy, f"{net}_state").params for net in nets]
    return sum(p.size for p in jax.tree.leaves(trained))


def main(args: argparse.Namespace) -> None:
    shape, library = args.shape, args.library
    algorithm, num_envs = shape.get("algorithm", "ppo"), shape["num_envs"]
    names = NAMES[algorithm]
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if library == "sbx":  # XLA takes its number of threads from the cores that it may use, when it starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    torch.set_num_threads(args.threads)
    # One process is what the library picks by itself.
    kind = SubprocVecEnv if args.processes else DummyVecEnv
    envs = make_vec_env(shape["environment"].removeprefix("gymnasium/"), n_envs=num_envs, seed=0, vec_env_cls=kind)
    settings = {theirs: shape[ours] for ours, theirs in names.items()} | further(algorithm, library, shape)
    settings |= {"policy_kwargs": network(algorithm, library, list(shape["hidden_sizes"]))}
    settings |= {"device": "cpu"} if library == "sb3" else {}
    package = importlib.import_module("stable_baselines3" if library == "sb3" else "sbx")
    model = getattr(package, algorithm.upper())("MlpPolicy", envs, seed=0, **settings)

    def learn(steps: int) -> tuple[int, float]:
        """-> (steps taken, seconds)."""
        before, tick = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return model.num_timesteps - before, time.perf_counter() - tick

    def reported(name: str) -> Any:
        value = getattr(model, name)
        return value(1.0) if callable(value) else value

    found = {"num_envs": model.n_envs, "parameters": parameters(algorithm, library, model)}
    found |= {ours: reported(theirs) for ours, theirs in names.items()}
    if "update_ratio" in shape:
        found["updates_per_step"] = model.gradient_steps / model.n_envs
        learn(shape["learning_starts"])
        few = 20 * num_envs
    else:
        found |= {"normalize_observations": False, "normalize_rewards": False}
        few = num_envs * shape["rollout_length"]
    first, second = learn(few)[1], learn(few)[1]
    steps, seconds = learn(args.steps)
    packages = ("stable-baselines3", "torch") + (("sbx-rl", "jax") if library == "sbx" else ())
    print(
        json.dumps(
            {
                "steps": steps,
                "seconds": seconds,
                "steps_per_second": steps / seconds,
                "compile_seconds": max(0.0, first - second) if library == "sbx" else 0.0,
                "settings": found,
                "versions": {name: importlib.metadata.version(name) for name in packages},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", choices=("sb3", "sbx"), default="sb3")
    parser.add_argument("--shape", type=json.loads, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", action="store_true", help="a process for each environment")
    main(parser.parse_args())
