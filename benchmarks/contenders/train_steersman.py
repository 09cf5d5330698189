"""One measurement of steersman: PPO or A2C through ``steersman.train``, as a user calls it. Prints one JSON object.

The clock is this script's own, not the library's: it runs from the end of the first update, by which all is compiled,
to the end of the last. Everything between (the Python loop, logging rows) counts.
"""

import argparse
import importlib.metadata
import json
import time

import jax

import steersman

parser = argparse.ArgumentParser()
parser.add_argument("--shape", type=json.loads, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--workers", type=int, help="processes that step the environments")
args = parser.parse_args()
shape = args.shape

algorithm = shape.get("algorithm", "ppo")
settings = {
    "num_envs": shape["num_envs"],
    "unroll_length": shape["rollout_length"],
    "learning_rate": shape["learning_rate"],
    "anneal_learning_rate": False,
    "gamma": shape["gamma"],
    "gae_lambda": shape["gae_lambda"],
    "value_coefficient": shape["value_coefficient"],
    "entropy_coefficient": shape["entropy_coefficient"],
    "max_grad_norm": shape["max_grad_norm"],
    "hidden_sizes": tuple(shape["hidden_sizes"]),
    "activation": "tanh",
    "normalize_observations": False,
    "scale_rewards": False,
}
of_ppo = {}
if algorithm == "ppo":
    settings |= {"num_epochs": shape["epochs"], "num_minibatches": shape["minibatches"], "clip": shape["clip"]}
    minibatch = shape["num_envs"] * shape["rollout_length"] // shape["minibatches"]
    of_ppo = {"epochs": shape["epochs"], "minibatch_size": minibatch, "clip": shape["clip"]}
marks: list[tuple[float, int]] = []


def report(phase: str, numbers: dict) -> None:
    if phase == "training":
        marks.append((time.perf_counter(), numbers["steps"]))


result = steersman.train(
    algorithm,
    shape["environment"],
    preset=False,
    report=report,
    evaluation_episodes=0,
    seeds=args.seeds,
    workers=args.workers,
    steps=args.steps // args.seeds,
    **settings,
)
(began, first), (ended, last) = marks[0], marks[-1]
steps, seconds = (last - first) * args.seeds, ended - began
print(
    json.dumps(
        {
            "steps": steps,
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "compile_seconds": result.summary["compile_seconds"],
            "summary_steps_per_second": result.summary["steps_per_second"],
            "settings": {
                "num_envs": settings["num_envs"],
                "rollout_length": settings["unroll_length"],
                "parameters": sum(p.size for p in jax.tree.leaves(result.policy.state.params)),
                "learning_rate": settings["learning_rate"],
                "gamma": settings["gamma"],
                "gae_lambda": settings["gae_lambda"],
                "value_coefficient": settings["value_coefficient"],
                "entropy_coefficient": settings["entropy_coefficient"],
                "max_grad_norm": settings["max_grad_norm"],
                "normalize_observations": settings["normalize_observations"],
                "normalize_rewards": settings["scale_rewards"],
            }
            | of_ppo,
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "gymnasium")}
            | {"steersman": steersman.__version__},
        }
    )
)
