"""How far one Atari game gets in a budget of time on one core: a learning curve and a final evaluation.

    python benchmarks/atari.py                         PQN on atari/Pong by its preset
    python benchmarks/atari.py --steps 300000          a smaller budget
    python benchmarks/atari.py --quick                 a trial of the machinery; nothing is saved

Needs the extra ``atari``. The protocol is that of docs/environments.md: sticky actions, whole games.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import common

import steersman
from steersman.run.settings import presets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="pqn")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--steps", type=int, help="default: the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="keep the run folder here")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    environment = f"atari/{args.game}"
    settings = presets(args.algorithm).get(environment, {})
    steps = 8192 if args.quick else args.steps or settings["steps"]
    origin, began = common.provenance(), time.perf_counter()
    episodes = 1 if args.quick else 10
    result = steersman.train(
        args.algorithm, environment, steps=steps, seed=args.seed, evaluation_episodes=episodes, out=args.run
    )
    evaluation = result.summary["evaluation"]
    content = {
        "algorithm": args.algorithm,
        "environment": environment,
        "seed": args.seed,
        "steps": steps,
        "mean": evaluation["mean"],
        "ci95": evaluation["ci95"],
        "episodes": evaluation["episodes"],
        "curve": common.curve(result.history),
        "steps_per_second": result.summary["steps_per_second"],
        "wall_seconds": time.perf_counter() - began,
        "settings": settings,
        "provenance": origin,
    }
    print(f"{args.algorithm} {environment}: mean {content['mean']:.1f}, {content['wall_seconds']:.0f} s", flush=True)
    if not args.quick:
        common.save(f"atari-{args.algorithm}-{args.game}", content)
        if args.run is not None and (args.run / "curve.png").exists():
            shutil.copy(args.run / "curve.png", common.ROOT / "docs" / "img" / f"atari-{args.game.lower()}.png")


if __name__ == "__main__":
    main()
