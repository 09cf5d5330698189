"""One measurement of steersman's DQN through ``steersman.train``, as a user calls it. Prints one JSON object.

``--compiled``: on the compiled twin of the environment. The clock is this script's own, not the library's: it runs from
the end of the first chunk of updates, by which all is compiled, to the end of the last. Everything between (the Python
loop, logging rows) counts.
"""

import argparse
import importlib.metadata
import json
import os
import time

import jax

import steersman

parser = argparse.ArgumentParser()
parser.add_argument("--shape", type=json.loads, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--compiled", action="store_true")
parser.add_argument("--overlap", action="store_true")
parser.add_argument("--cores", type=int, help="run on so many; default all")
args = parser.parse_args()
if args.cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
shape = args.shape
environment = shape["environment"].removeprefix("gymnasium/") if args.compiled else shape["environment"]
names = ("batch_size", "learning_rate", "gamma", "replay_capacity", "learning_starts", "target_period", "max_grad_norm")
settings = {name: shape[name] for name in names} | {
    "num_envs": 1,
    "unroll_length": 1,
    "update_ratio": 1.0,
    "hidden_sizes": tuple(shape["hidden_sizes"]),
    "exploration_start": shape["epsilon"],
    "exploration_end": shape["epsilon"],
}
marks: list[tuple[float, int]] = []


def report(phase: str, numbers: dict) -> None:
    if phase == "training":
        marks.append((time.perf_counter(), numbers["steps"]))


result = steersman.train(
    "dqn",
    environment,
    preset=False,
    report=report,
    evaluation_episodes=0,
    steps=args.steps + shape["learning_starts"],
    **settings,
    **({"overlap": True} if args.overlap else {}),
)
(began, first), (ended, last) = marks[0], marks[-1]
print(
    json.dumps(
        {
            "steps": last - first,
            "seconds": ended - began,
            "steps_per_second": (last - first) / (ended - began),
            "compile_seconds": result.summary["compile_seconds"],
            "summary_steps_per_second": result.summary["steps_per_second"],
            "settings": {
                "num_envs": settings["num_envs"],
                "updates_per_step": settings["update_ratio"],
                "minibatch_size": settings["batch_size"],
                "parameters": sum(p.size for p in jax.tree.leaves(result.policy.state.learner.params)),
                "learning_rate": settings["learning_rate"],
                "gamma": settings["gamma"],
                "target_period": settings["target_period"],
                "replay_capacity": settings["replay_capacity"],
                "epsilon": settings["exploration_end"],
            },
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "gymnasium")}
            | {"steersman": steersman.__version__},
        }
    )
)
