"""What the presets reach: each trained over several seeds, each seed evaluated over 100 episodes.

    python benchmarks/presets.py                                 every preset that has a target
    python benchmarks/presets.py --only Pendulum-v1 --seeds 5    one of them
    python benchmarks/presets.py --quick                         a hundredth of the steps; nothing is saved

Compiled environments train all seeds in one run; host environments one seed after another. Each environment's result
is written as soon as it is there, so a long session can be stopped and taken up by ``--only``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import common

import steersman
from steersman import envs
from steersman.run.settings import presets
from steersman.types import DeviceEnvs

TARGETS = {  # environment -> (what the mean over the seeds is to reach, seeds)
    "CartPole-v1": (500.0, 5),
    "Acrobot-v1": (-90.0, 5),
    "Pendulum-v1": (-200.0, 5),
    "MountainCarContinuous-v0": (90.0, 5),
    "LunarLander-v3": (200.0, 5),
    "HalfCheetah-v5": (4000.0, 3),
}
KEPT = ("mean", "median", "iqm", "ci95", "std", "min", "max", "mean_length")


def is_compiled(environment: str) -> bool:
    made = envs.make(environment, 1)
    if isinstance(made, DeviceEnvs):
        return True
    made.close()
    return False


def measure(algorithm: str, environment: str, seeds: int, fraction: float) -> dict[str, Any]:
    """Train a preset over seeds 0, 1 ... and evaluate each; -> its result."""
    settings = presets(algorithm)[environment]
    steps = max(1, int(settings["steps"] * fraction))
    groups = [(0, seeds)] if is_compiled(environment) else [(seed, 1) for seed in range(seeds)]
    evaluations, speeds, began = [], [], time.perf_counter()
    for first, count in groups:
        result = steersman.train(algorithm, environment, steps=steps, seed=first, seeds=count, evaluation_episodes=100)
        found = result.summary["evaluations"] or [result.summary["evaluation"]]
        evaluations += found
        speeds.append(result.summary["steps_per_second"])
        for seed, evaluation in enumerate(found, first):
            print(f"{algorithm} {environment} seed {seed}: {evaluation['mean']:.1f}", flush=True)
    target = TARGETS.get(environment, (None, 0))[0]
    means = [e["mean"] for e in evaluations]
    return {
        "algorithm": algorithm,
        "environment": environment,
        "steps": steps,
        "seeds": seeds,
        "episodes": evaluations[0]["episodes"],
        "mean": statistics.mean(means),
        "worst_seed": min(means),
        "best_seed": max(means),
        "target": target,
        "seeds_at_target": None if target is None else sum(m >= target for m in means),
        "each": [{k: e[k] for k in KEPT} for e in evaluations],
        "steps_per_second": statistics.median(speeds),
        "wall_seconds": time.perf_counter() - began,
        "settings": settings,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--only", nargs="+", metavar="ENVIRONMENT", help="default: every preset that has a target")
    parser.add_argument("--seeds", type=int, help="default: the number that the target is stated for")
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    known = presets(args.algorithm)
    chosen = args.only or [name for name in TARGETS if name in known]
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no preset for {', '.join(unknown)}. Presets: {', '.join(known)}")
    for environment in chosen:
        origin = common.provenance()
        seeds = args.seeds or (2 if args.quick else TARGETS.get(environment, (None, 5))[1])
        result = measure(args.algorithm, environment, seeds, 0.01 if args.quick else 1.0)
        line = f"mean {result['mean']:.1f}, worst seed {result['worst_seed']:.1f}, target {result['target']}"
        print(f"{args.algorithm} {environment}: {line}, {result['wall_seconds']:.0f} s", flush=True)
        if args.out or not args.quick:
            common.save(f"preset-{args.algorithm}-{environment}", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
