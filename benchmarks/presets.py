"""What the presets reach: each trained over several seeds, each seed evaluated over 100 episodes.

    python benchmarks/presets.py                                 every preset that has a target
    python benchmarks/presets.py --only Pendulum-v1 --seeds 5    one of them
    python benchmarks/presets.py --only HalfCheetah-v5 --seed 2 --seeds 1     one seed more, joined to its result
    python benchmarks/presets.py --quick                         a hundredth of the steps; nothing is saved

Compiled environments train all seeds in one run; host environments one seed after another, each written as soon as it
is there. Seeds that the result file has already, under the same settings, stay in it: a long session can be cut up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

import steersman
from steersman import envs
from steersman.run.settings import presets
from steersman.types import DeviceEnvs

TARGETS: dict[str, dict[str, tuple[float, int]]] = {  # -> (what the mean over the seeds is to reach, seeds)
    "ppo": {
        "CartPole-v1": (500.0, 10),
        "Acrobot-v1": (-90.0, 5),
        "Pendulum-v1": (-200.0, 10),
        "MountainCarContinuous-v0": (90.0, 5),
        "LunarLander-v3": (200.0, 5),
        "HalfCheetah-v5": (4000.0, 3),
    },
    "dqn": {
        "CartPole-v1": (500.0, 5),
        "Acrobot-v1": (-90.0, 5),
        "MountainCar-v0": (-110.0, 5),
        "LunarLander-v3": (200.0, 5),
    },
    "pqn": {"CartPole-v1": (500.0, 5), "Acrobot-v1": (-90.0, 5)},
    "sac": {"Pendulum-v1": (-180.0, 5)},  # MuJoCo: continuous.py
    "td3": {"Pendulum-v1": (-180.0, 5)},
}
LADDER = {"CartPole-v1": (475.0, 5), "Pendulum-v1": (-250.0, 5)}
TARGETS |= dict.fromkeys(("reinforce", "actor_critic", "a2c", "impala"), LADDER)
TARGETS["trpo"] = LADDER | {"HalfCheetah-v5": (1785.0, 3)}
KEPT = ("episodes", "mean", "median", "iqm", "ci95", "std", "min", "max", "mean_length")


def is_compiled(environment: str) -> bool:
    made = envs.make(environment, 1)
    if isinstance(made, DeviceEnvs):
        return True
    made.close()
    return False


def measure(
    algorithm: str, environment: str, groups: list[range], fraction: float, budget: int | None
) -> Iterator[dict[str, Any]]:
    """Train a preset over groups of seeds side by side and evaluate each seed; -> each group's result."""
    settings = presets(algorithm)[environment]
    steps = budget or max(1, int(settings["steps"] * fraction))
    for seeds in groups:
        began = time.perf_counter()
        result = steersman.train(
            algorithm, environment, steps=steps, seed=seeds.start, seeds=len(seeds), evaluation_episodes=100
        )
        found = result.summary["evaluations"] or [result.summary["evaluation"]]
        for seed, evaluation in zip(seeds, found, strict=True):
            print(f"{algorithm} {environment} seed {seed}: {evaluation['mean']:.1f}", flush=True)
        yield {
            "algorithm": algorithm,
            "environment": environment,
            "steps": result.summary["steps"],
            "target": TARGETS.get(algorithm, {}).get(environment, (None, 0))[0],
            "settings": settings,
            "each": [{"seed": seed} | {k: e[k] for k in KEPT} for seed, e in zip(seeds, found, strict=True)],
            "steps_per_second": result.summary["steps_per_second"],
            "wall_seconds": time.perf_counter() - began,
        }


def joined(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """A result with the seeds that an older one of the same settings has beside it, and what they come to."""
    same = old is not None and all(old.get(k) == common.rounded(new[k]) for k in ("algorithm", "settings", "steps"))
    mine = {e["seed"] for e in new["each"]}
    kept = [e for e in old["each"] if e["seed"] not in mine] if old is not None and same else []
    each = sorted(new["each"] + kept, key=lambda e: e["seed"])
    means, target = [e["mean"] for e in each], new["target"]
    return new | {
        "each": each,
        "seeds": len(each),
        "episodes": each[0]["episodes"],
        "mean": statistics.mean(means),
        "worst_seed": min(means),
        "best_seed": max(means),
        "seeds_at_target": None if target is None else sum(m >= target for m in means),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--only", nargs="+", metavar="ENVIRONMENT", help="default: every preset that has a target")
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, help="default: the number that the target is stated for")
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    known, targets = presets(args.algorithm), TARGETS.get(args.algorithm, {})
    chosen = args.only or [name for name in targets if name in known]
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no preset for {', '.join(unknown)}. Presets: {', '.join(known)}")
    for environment in chosen:
        origin, result = common.provenance(), None
        name = f"preset-{args.algorithm}-{environment}"
        count = args.seeds or (2 if args.quick else targets.get(environment, (None, 5))[1])
        seeds = range(args.seed, args.seed + count)
        groups = [seeds] if is_compiled(environment) else [range(seed, seed + 1) for seed in seeds]
        for new in measure(args.algorithm, environment, groups, 0.01 if args.quick else 1.0, args.steps):
            if args.out or not args.quick:
                result = joined(new, common.load(name, args.out))
                common.save(name, result | {"provenance": origin}, args.out)
            else:
                result = joined(new, result)
        assert result is not None
        line = f"mean {result['mean']:.1f}, worst seed {result['worst_seed']:.1f}, target {result['target']}"
        print(f"{args.algorithm} {environment}: {result['seeds']} seeds, {line}", flush=True)


if __name__ == "__main__":
    main()
