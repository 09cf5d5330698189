"""What learning inside a model brings: MBPO, branched and in batch, beside SAC at one update per step and at as many;
on discrete actions deep Dyna beside DQN.

    python benchmarks/mbpo.py                          all but Hopper-v5, what is not there yet
    python benchmarks/mbpo.py Hopper-v5                25,000 steps, three seeds; hours
    python benchmarks/mbpo.py Pendulum-v1 --only SAC

The second SAC is the control: it has MBPO's gradient steps and no model. All have the settings of MBPO's preset, SAC
those of them that it has; Dyna and DQN those of ``DYNA``. The greedy policy of each seed plays the same 20 episodes
every few hundred steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from typing import Any, NamedTuple

import common

import steersman
from steersman.agents.off_policy.sac import SACConfig
from steersman.agents.value_based.dqn import DQNConfig
from steersman.run.settings import RunConfig, presets


class Case(NamedTuple):
    """A task, the steps on it, and how often policies are looked at."""

    steps: int
    every: int
    seeds: int = 5
    asked: bool = False  # run only where it is named
    learner: str = "SAC"


CASES = {
    "Pendulum-v1": Case(2_500, 500),
    "InvertedPendulum-v5": Case(5_000, 500),
    "Hopper-v5": Case(25_000, 2_500, 3, asked=True),
    "CartPole-v1": Case(10_000, 2_000, learner="DQN"),
}
HALF = {"imagination": "in_batch", "real_share": 0.5}
AGENTS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {  # "as many": the updates per step of the one with a model
    "SAC": {
        "SAC, 1 update per step": ("sac", {"update_ratio": 1.0}),
        "SAC, as many updates": ("sac", {}),
        "MBPO, branched": ("mbpo", {}),
        "MBPO, in batch": ("mbpo", HALF),
    },
    "DQN": {
        "DQN, 1 update per step": ("dqn", {"update_ratio": 1.0}),
        "DQN, as many updates": ("dqn", {}),
        "Dyna, branched": ("dyna", {}),
        "Dyna, in batch": ("dyna", HALF),
    },
}
DYNA = {
    "num_envs": 1, "unroll_length": 1, "update_ratio": 4.0, "learning_starts": 500, "learning_rate": 1e-3,
    "batch_size": 64, "double": True, "target_period": 1, "tau": 0.01, "exploration_fraction": 0.2,
    "exploration_end": 0.05, "max_grad_norm": 1.0, "hidden_sizes": (64, 64), "replay_capacity": 10_000,
    "normalize_observations": False, "scale_rewards": False, "model_hidden_sizes": (64, 64),
    "imagined_steps": 4_000, "imagined_capacity": 16_000,
}  # fmt: skip
EPISODES = 20


def measured(environment: str, case: Case, agent: str) -> dict[str, Any]:
    """The mean return of each seed, [looks][seeds], and after how many steps."""
    algorithm, settings = AGENTS[case.learner][agent]
    learner = {"SAC": SACConfig, "DQN": DQNConfig}[case.learner]
    known = {field.name for config in (RunConfig, learner) for field in dataclasses.fields(config)}
    shared = DYNA if case.learner == "DQN" else {"update_ratio": 10.0} | presets("mbpo")[environment]
    settings, models = shared | settings, algorithm in ("mbpo", "dyna")
    given = {k: v for k, v in settings.items() if models or k in known}
    run = {"steps": case.steps, "seeds": case.seeds, "evaluate_every": case.every, "evaluate_episodes": EPISODES}
    began = time.process_time()
    result = steersman.train(algorithm, environment, preset=False, evaluation_episodes=0, **{**given, **run})
    seconds = round(time.process_time() - began)
    looks = [row for row in result.history if "evaluation_return" in row]
    looks = [row for row in looks if all(map(math.isfinite, row["evaluation_return"]))]
    row: dict[str, Any] = {"agent": agent, "update_ratio": given["update_ratio"], "cpu_seconds": seconds}
    row |= {"steps": [row["steps"] for row in looks], "returns": [list(row["evaluation_return"]) for row in looks]}
    if models:
        row["nrmse"] = list(result.history[-1]["model/nrmse"])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", help=" ".join(CASES))
    parser.add_argument("--only", help="agents whose name begins so")
    args = parser.parse_args()
    saved = common.load("mbpo") or {"cases": {}}
    for name in args.environments or [name for name, case in CASES.items() if not case.asked]:
        case = CASES[name]
        kept = saved["cases"].setdefault(name, {"rows": []})
        for agent in AGENTS[case.learner]:
            had = any(row["agent"] == agent for row in kept["rows"])
            if had or (args.only and not agent.startswith(args.only)):
                continue
            kept["rows"].append(measured(name, case, agent))
            kept["provenance"] = common.provenance()
            common.save("mbpo", {"cases": saved["cases"]})
            print(name, kept["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
