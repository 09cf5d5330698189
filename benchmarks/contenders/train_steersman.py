"""One measurement of steersman through ``steersman.train``, as a user calls it. Prints one JSON object.

The clock is this script's own, not the library's: it runs from the end of the first chunk of updates, by which all is
compiled, to the end of the last. Everything between (the Python loop, logging rows) counts.
"""

import argparse
import importlib.metadata
import json
import os
import time
from typing import Any

import jax

import steersman
from steersman.run.events import Trained
from steersman.run.settings import RunConfig

ON_POLICY = {  # the shape's name of a setting -> ours
    "num_envs": "num_envs",
    "rollout_length": "unroll_length",
    "learning_rate": "learning_rate",
    "gamma": "gamma",
    "gae_lambda": "gae_lambda",
    "value_coefficient": "value_coefficient",
    "entropy_coefficient": "entropy_coefficient",
    "max_grad_norm": "max_grad_norm",
}
OFF_POLICY = {
    "num_envs": "num_envs",
    "update_ratio": "update_ratio",
    "learning_rate": "learning_rate",
    "gamma": "gamma",
    "minibatch_size": "batch_size",
    "replay_capacity": "replay_capacity",
}
NAMES = {
    "a2c": ON_POLICY,
    "ppo": ON_POLICY | {"epochs": "num_epochs", "clip": "clip"},
    "sac": OFF_POLICY | {"tau": "tau"},
    "dqn": OFF_POLICY | {"target_period": "target_period", "epsilon": "exploration_end"},
}
TRAINED = {"sac": ("actor", "critics"), "dqn": ("params",)}  # of the learner's state; the on-policy agents: its params

parser = argparse.ArgumentParser()
parser.add_argument("--shape", type=json.loads, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--workers", type=int, help="processes that step the environments, beside this one")
parser.add_argument("--compiled", action="store_true", help="the environment's compiled twin")
parser.add_argument("--overlap", action="store_true")
parser.add_argument("--cores", type=int, help="run on so many; default all")
args = parser.parse_args()
if args.cores:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
shape = args.shape
algorithm = shape.get("algorithm", "ppo")
environment = shape["environment"].removeprefix("gymnasium/") if args.compiled else shape["environment"]
settings = {ours: shape[name] for name, ours in NAMES[algorithm].items()}
found = dict(zip(NAMES[algorithm], settings.values(), strict=True))
settings |= {"hidden_sizes": tuple(shape["hidden_sizes"])}
steps = args.steps // args.seeds
if "update_ratio" in shape:
    found["updates_per_step"] = found.pop("update_ratio")
    settings |= {"unroll_length": 1, "learning_starts": shape["learning_starts"]}
    steps += shape["learning_starts"]
    if algorithm == "dqn":
        settings |= {"exploration_start": shape["epsilon"], "max_grad_norm": shape["max_grad_norm"]}
else:
    found |= {"normalize_observations": False, "normalize_rewards": False}
    settings |= {"normalize_observations": False, "scale_rewards": False}
    settings |= {"anneal_learning_rate": False, "activation": "tanh"}
    if algorithm == "ppo":
        found["minibatch_size"] = shape["minibatch_size"]
        settings["num_minibatches"] = shape["num_envs"] * shape["rollout_length"] // shape["minibatch_size"]
marks: list[tuple[float, int]] = []


def mark(event: Any) -> None:
    if isinstance(event, Trained):
        marks.append((time.perf_counter(), event.steps))


if "evaluate_every" in RunConfig.__dataclass_fields__:  # an earlier version has none
    settings |= {"evaluate_every": 0}  # nobody evaluates
result = steersman.train(
    algorithm,
    environment,
    preset=False,
    callbacks=[mark],
    evaluation_episodes=0,
    seeds=args.seeds,
    workers=args.workers,
    overlap=args.overlap,
    steps=steps,
    **settings,
)
(began, first), (ended, last) = marks[0], marks[-1]
state = result.policy.state
nets = [getattr(state.learner, name) for name in TRAINED[algorithm]] if algorithm in TRAINED else [state]
trained = [getattr(net, "params", net) for net in nets]
steps, seconds = (last - first) * args.seeds, ended - began
print(
    json.dumps(
        {
            "steps": steps,
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "compile_seconds": result.summary["compile_seconds"],
            "summary_steps_per_second": result.summary["steps_per_second"],
            "settings": found | {"parameters": sum(p.size for p in jax.tree.leaves(trained))},
            "versions": {name: importlib.metadata.version(name) for name in ("jax", "gymnasium")}
            | {"steersman": steersman.__version__},
        }
    )
)
