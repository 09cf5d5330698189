"""Continuous control on MuJoCo: the return at 100,000 steps, 300,000 and 1,000,000 of one and the same training.

    python benchmarks/continuous.py sac Hopper-v5            three seeds to 300,000 steps, most of an hour on a core
    python benchmarks/continuous.py sac HalfCheetah-v5 --seeds 0 --at 100000 300000 1000000
    python benchmarks/continuous.py crossq Hopper-v5 --at 100000 --set critic_sizes=1024,1024
    python benchmarks/continuous.py ppo Hopper-v5 --at 1000000
    python benchmarks/continuous.py sac Hopper-v5 --quick                  a trial of the machinery; nothing is saved

By the preset: with replay one environment, one update of batch 256 a step. A run stops at each of the steps, its
deterministic policy plays 100 episodes of environments of its own, and the run is resumed: learner and replay as they
were, the environment at the start of an episode. PPO's learning rate falls to its run's end: it is asked for that end
alone. Each seed is written as soon as it is there; seeds that the result has already, under the same settings, stay in
it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import common

import steersman
from steersman.run.compare.entries import settings_in
from steersman.run.settings import presets
from steersman.theory.statistics import bootstrap_interval

TARGETS = {("sac", "HalfCheetah-v5"): (300_000, 5000.0), ("td3", "HalfCheetah-v5"): (300_000, 4500.0)}
PUBLISHED = {  # at 1M steps; the versions of MuJoCo's tasks and the protocols of evaluation differ from ours
    ("sac", "HalfCheetah-v5"): "9535 (SB3-zoo), 9635 (CleanRL)",
    # Tianshou: the best mean on the way, v2 and v3, ten seeds; SB3-zoo: one run's end, v3; CleanRL: training, v4
    ("ppo", "Hopper-v5"): "2609 +- 701 (Tianshou), 2410 (SB3-zoo), 2383 +- 272 (CleanRL)",
    ("ppo", "Walker2d-v5"): "3589 +- 757 (Tianshou), 3479 (SB3-zoo), 2288 +- 572 (CleanRL)",
    ("ppo", "InvertedDoublePendulum-v5"): "9231 +- 270 (Tianshou)",
    ("ppo", "Reacher-v5"): "-4.1 +- 0.3 (Tianshou)",
    ("ppo", "Swimmer-v5"): "66.7 +- 99.1 (Tianshou), 282 (SB3-zoo)",
    ("ppo", "Ant-v5"): "3258 +- 1079 (Tianshou), 1327 (SB3-zoo)",
    ("ppo", "Humanoid-v5"): "787 +- 194 (Tianshou), 716 +- 49 (CleanRL)",
}
KEPT = ("episodes", "mean", "median", "iqm", "ci95", "std", "min", "max", "mean_length")


def measure(algorithm: str, environment: str, seed: int, at: list[int], **settings: Any) -> dict[str, Any]:
    """Train one seed, stopping at each of the steps to evaluate; -> its row."""
    origin, began, seen = common.provenance(), time.perf_counter(), []
    with tempfile.TemporaryDirectory() as place:
        for steps in at:
            if not seen:
                settings = {"steps": steps, "seed": seed, "evaluation_episodes": 100} | settings
                result = steersman.train(algorithm, environment, out=f"{place}/run", **settings)
            else:
                result = steersman.resume(f"{place}/run", steps=steps)
            found = result.summary["evaluation"]
            print(f"{algorithm} {environment} seed {seed}, {steps:,} steps: {found['mean']:.1f}", flush=True)
            seen.append({"steps": steps} | {k: found[k] for k in KEPT})
    return {
        "seed": seed,
        "at": seen,
        "curve": common.curve(result.history, 25),
        "steps_per_second": result.summary["steps_per_second"],
        "wall_seconds": time.perf_counter() - began,
        "provenance": origin,
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over the seeds at each of the steps, with the 95 % bootstrap interval of that mean."""
    found = []
    for steps in sorted({stage["steps"] for row in rows for stage in row["at"]}):
        means = [stage["mean"] for row in rows for stage in row["at"] if stage["steps"] == steps]
        interval = list(bootstrap_interval(means)) if len(means) > 1 else None
        found.append({"steps": steps, "mean": statistics.mean(means), "ci95": interval, "each": means})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm")
    parser.add_argument("environment")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at", nargs="+", type=int, default=[100_000, 300_000], metavar="STEPS")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings other than the preset's")
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    preset = presets(args.algorithm).get(args.environment)
    if preset is None:
        parser.error(f"no preset for {args.environment}. Presets: {', '.join(presets(args.algorithm))}")
    other = settings_in(args.set, " ".join(args.set))
    name = "-".join(["continuous", args.algorithm, args.environment, *args.set])
    name = re.sub("[^a-zA-Z0-9]+", "-", name)
    settings = common.rounded({k: v for k, v in preset.items() if k != "steps"} | other)
    at = [steps // 100 for steps in sorted(args.at)] if args.quick else sorted(args.at)
    for seed in args.seeds:
        trial = {"learning_starts": 500} if args.quick else {}
        row = measure(args.algorithm, args.environment, seed, at, **other, **trial)
        if args.quick and not args.out:
            continue
        old = common.load(name, args.out)
        kept = old["each"] if old is not None and old["settings"] == settings else []
        rows = sorted([r for r in kept if r["seed"] != seed] + [row], key=lambda r: r["seed"])
        content = {
            "algorithm": args.algorithm,
            "environment": args.environment,
            "settings": settings,
            "target": TARGETS.get((args.algorithm, args.environment)) if not other else None,
            "published": PUBLISHED.get((args.algorithm, args.environment)) if not other else None,
            "at": summary(rows),
            "each": rows,
        }
        common.save(name, content, args.out)


if __name__ == "__main__":
    main()
