"""What PETS reaches with so few steps, by its presets: the return of each seed, and how far its model could be trusted.

    python benchmarks/pets.py Pendulum-v1                      seeds 0 to 4
    python benchmarks/pets.py Pendulum-v1 --members 1          one member, for the worth of five
    python benchmarks/pets.py InvertedPendulum-v5 --learned    reward and termination learned, not given

Compiled environments train all seeds in one run; of host environments each seed is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

import steersman
from steersman import envs
from steersman.run.settings import presets
from steersman.types import DeviceEnvs

TARGETS = {"Pendulum-v1": -200.0, "InvertedPendulum-v5": 1000.0}
TOLD = ("model/nrmse", "model/coverage90", "model/reward_r2", "plan/predicted_return", "plan/realised_return")
KEPT = ("episodes", "mean", "ci95", "min", "max")


def trained(environment: str, seeds: range, settings: dict[str, Any]) -> dict[str, Any]:
    """One run: the evaluation of each seed, and rows of what was said on the way, means over the seeds."""
    began = time.perf_counter()
    result = steersman.train("pets", environment, seed=seeds.start, seeds=len(seeds), **settings)
    found = result.summary["evaluations"] or [result.summary["evaluation"]]
    each = [{"seed": s, **{k: e[k] for k in KEPT}} for s, e in zip(seeds, found, strict=True)]
    rows = [[row["steps"], *(float(np.mean(row[name])) for name in TOLD)] for row in result.history if TOLD[0] in row]
    timed = {k: result.summary[k] for k in ("steps", "steps_per_second", "compile_seconds")}
    return {"each": each, "rows": rows, **timed, "wall_seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, help="of the ensemble; default: the preset's")
    parser.add_argument("--learned", action="store_true", help="reward and termination are learned, not known")
    parser.add_argument("--episodes", type=int, help="of each seed's evaluation; default: the preset's")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    settings: dict[str, Any] = presets("pets")[args.environment]
    settings |= {"evaluation_episodes": args.episodes} if args.episodes else {}
    settings |= {"steps": 400} if args.quick else {}
    settings |= {"known": False} if args.learned else {}
    settings |= {"members": args.members} if args.members else {}
    name = f"pets-{args.environment}" + (f"-{args.members}" if args.members else "")
    name += "-learned" if args.learned else ""
    origin, seeds = common.provenance(), range(args.seed, args.seed + args.seeds)
    made = envs.make(args.environment, 1)
    groups = [seeds] if isinstance(made, DeviceEnvs) else [range(s, s + 1) for s in seeds]
    runs = []
    for group in groups:
        runs.append(trained(args.environment, group, settings))
        each = [row for run in runs for row in run["each"]]
        means = [row["mean"] for row in each]
        print(f"{name}: " + ", ".join(f"{m:.1f}" for m in means), flush=True)
        result = {
            "environment": args.environment,
            "members": args.members,
            "known": settings.get("known", False),
            "target": TARGETS[args.environment],
            "steps": runs[0]["steps"],
            "mean": statistics.mean(means),
            "each": each,
            "told": TOLD,
            "runs": runs,
            "provenance": origin,
        }
        if args.out or not args.quick:
            common.save(name, result, args.out)


if __name__ == "__main__":
    main()
