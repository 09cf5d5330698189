"""One measurement of Stable-Baselines3's or SBX's SAC on a Gymnasium environment. Prints one JSON object.

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
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(args.threads)
    settings = {
        "learning_rate": shape["learning_rate"],
        "buffer_size": shape["replay_capacity"],
        "learning_starts": shape["learning_starts"],
        "batch_size": shape["batch_size"],
        "tau": shape["tau"],
        "gamma": shape["gamma"],
        "train_freq": 1,
        "gradient_steps": int(shape["update_ratio"] * shape["num_envs"]),
        "ent_coef": "auto",
        "seed": 0,
    }
    environment = shape["environment"].removeprefix("gymnasium/")
    envs = make_vec_env(environment, n_envs=shape["num_envs"], seed=0, vec_env_cls=DummyVecEnv)
    hidden = list(shape["hidden_sizes"])
    if args.library == "sb3":
        from stable_baselines3 import SAC

        model = SAC("MlpPolicy", envs, device="cpu", policy_kwargs={"net_arch": hidden}, **settings)
        parameters = sum(p.numel() for net in (model.actor, model.critic) for p in net.parameters())
    else:
        import jax
        from sbx import SAC

        model = SAC("MlpPolicy", envs, policy_kwargs={"net_arch": hidden}, **settings)
        nets = (model.policy.actor_state.params, model.policy.qf_state.params)
        parameters = sum(p.size for p in jax.tree.leaves(nets))

    def learn(steps: int) -> tuple[int, float]:
        """-> (steps taken, seconds)."""
        before, tick = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return model.num_timesteps - before, time.perf_counter() - tick

    learn(shape["learning_starts"])
    few = 20 * shape["num_envs"]
    first, second = learn(few)[1], learn(few)[1]
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
                    "updates_per_step": model.gradient_steps / model.n_envs,
                    "minibatch_size": model.batch_size,
                    "parameters": parameters,
                    "learning_rate": model.learning_rate,
                    "gamma": model.gamma,
                    "tau": model.tau,
                    "replay_capacity": model.buffer_size,
                },
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
    main(parser.parse_args())
