"""One measurement of Stable-Baselines3 (torch; PPO or A2C) or SBX (JAX; PPO). Prints one JSON object.

Runs in the peers' own environment. ``--threads``: torch's threads (sb3), or the cores that the process may use (sbx).
"""

import argparse
import importlib.metadata
import json
import os
import time


def main(args: argparse.Namespace) -> None:
    shape = args.shape
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.library == "sbx":  # XLA takes its number of threads from the cores that it may use, when it starts
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    torch.set_num_threads(args.threads)
    a2c = shape.get("algorithm", "ppo") == "a2c"
    settings = {
        "n_steps": shape["rollout_length"],
        "learning_rate": shape["learning_rate"],
        "gamma": shape["gamma"],
        "gae_lambda": shape["gae_lambda"],
        "vf_coef": shape["value_coefficient"],
        "ent_coef": shape["entropy_coefficient"],
        "max_grad_norm": shape["max_grad_norm"],
    }
    if a2c:
        settings |= {"use_rms_prop": False}
    else:
        batch_size = shape["num_envs"] * shape["rollout_length"] // shape["minibatches"]
        settings |= {"batch_size": batch_size, "n_epochs": shape["epochs"], "clip_range": shape["clip"]}
    environment = shape["environment"].removeprefix("gymnasium/")
    # One process is what the library picks by itself.
    kind = SubprocVecEnv if args.processes else DummyVecEnv
    envs = make_vec_env(environment, n_envs=shape["num_envs"], seed=0, vec_env_cls=kind)
    hidden = list(shape["hidden_sizes"])
    if args.library == "sb3":
        from stable_baselines3 import A2C, PPO

        network = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": torch.nn.Tanh}
        algorithm = A2C if a2c else PPO
        model = algorithm("MlpPolicy", envs, device="cpu", seed=0, policy_kwargs=network, **settings)
        parameters = sum(p.numel() for p in model.policy.parameters())
    else:
        import flax.linen
        import jax
        from sbx import PPO

        network = {"net_arch": hidden, "activation_fn": flax.linen.tanh}
        model = PPO("MlpPolicy", envs, seed=0, policy_kwargs=network, **settings)
        trained = (model.policy.actor_state.params, model.policy.vf_state.params)
        parameters = sum(p.size for p in jax.tree.leaves(trained))

    def learn(steps: int) -> tuple[int, float]:
        """-> (steps taken, seconds)."""
        before, tick = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return model.num_timesteps - before, time.perf_counter() - tick

    of_ppo = {}
    if not a2c:
        clip = model.clip_range(1.0) if callable(model.clip_range) else model.clip_range
        of_ppo = {"epochs": model.n_epochs, "minibatch_size": model.batch_size, "clip": clip}
    rollout = shape["num_envs"] * shape["rollout_length"]
    first, second = learn(rollout)[1], learn(rollout)[1]
    steps, seconds = learn(args.steps)
    packages = ("stable-baselines3", "torch") + (("sbx-rl", "jax") if args.library == "sbx" else ())
    print(
        json.dumps(
            {
                "steps": steps,
                "seconds": seconds,
                "steps_per_second": steps / seconds,
                "compile_seconds": max(0.0, first - second) if args.library == "sbx" else 0.0,
                "settings": {
                    "num_envs": model.n_envs,
                    "rollout_length": model.n_steps,
                    "parameters": parameters,
                    "learning_rate": model.learning_rate,
                    "gamma": model.gamma,
                    "gae_lambda": model.gae_lambda,
                    "value_coefficient": model.vf_coef,
                    "entropy_coefficient": model.ent_coef,
                    "max_grad_norm": model.max_grad_norm,
                    "normalize_observations": False,
                    "normalize_rewards": False,
                }
                | of_ppo,
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
