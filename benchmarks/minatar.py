"""What PQN (5M steps) and DQN (2M) reach on MinAtar, through gymnax, beside published figures.

    python benchmarks/minatar.py                               PQN: four games, three seeds each, half an hour on a core
    python benchmarks/minatar.py --algorithm dqn               DQN: an hour
    python benchmarks/minatar.py --only Breakout --seeds 0 1   one of them; seeds that are there already stay
    python benchmarks/minatar.py --quick                       a hundredth of the steps; nothing is saved

Needs the extra ``gymnax``. Each seed is a run of its own, written as soon as it is there, with its learning curve.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import common

import steersman
from steersman.run.settings import presets

GAMES = ("Breakout", "Asterix", "Freeway", "SpaceInvaders")
PUBLISHED = {  # mean return; protocols differ from ours as said in the table
    "gymnax README, PPO": {"Breakout": 28, "Asterix": 15, "Freeway": 58, "SpaceInvaders": 131},
}


def measure(algorithm: str, game: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one seed and evaluate it; -> its row."""
    environment = f"gymnax/{game}-MinAtar"
    began = time.perf_counter()
    result = steersman.train(algorithm, environment, steps=steps, seed=seed, evaluation_episodes=100)
    evaluation = result.summary["evaluation"]
    return {
        "seed": seed,
        "steps": steps,
        "mean": evaluation["mean"],
        "ci95": evaluation["ci95"],
        "std": evaluation["std"],
        "curve": common.curve(result.history, 25),
        "steps_per_second": result.summary["steps_per_second"],
        "wall_seconds": time.perf_counter() - began,
        "provenance": common.provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="pqn")
    parser.add_argument("--only", nargs="+", choices=GAMES, default=GAMES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery; saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    for seed in args.seeds:
        for game in args.only:
            steps = args.steps or presets(args.algorithm)[f"gymnax/{game}-MinAtar"]["steps"]
            row = measure(args.algorithm, game, seed, steps // 100 if args.quick else steps)
            line = f"mean {row['mean']:.1f}, {row['wall_seconds']:.0f} s, {row['steps_per_second']:,.0f} steps/s"
            print(f"{args.algorithm} {game} seed {seed}: {line}", flush=True)
            if args.quick and not args.out:
                continue
            name = f"minatar-{args.algorithm}-{game}"
            folder = args.out or common.RESULTS
            old, settings = common.load(name, folder), common.rounded(presets(args.algorithm)[f"gymnax/{game}-MinAtar"])
            same = old["each"] if old is not None and old["settings"] == settings else []
            rows = [r for r in same if r["seed"] != seed and r["steps"] == row["steps"]] + [row]
            rows.sort(key=lambda r: r["seed"])
            content = {
                "algorithm": args.algorithm,
                "game": game,
                "settings": settings,
                "mean": statistics.mean(r["mean"] for r in rows),
                "published": {source: figures[game] for source, figures in PUBLISHED.items()},
                "each": rows,
            }
            common.save(name, content, folder)


if __name__ == "__main__":
    main()
