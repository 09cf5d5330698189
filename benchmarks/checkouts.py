"""Two checkouts of steersman side by side: the rows of speed.py that are ours, and wide networks, in turn in one run.

    python benchmarks/checkouts.py ../before                          all rows, 5 rounds
    python benchmarks/checkouts.py ../before --rows ppo-256-wide --rounds 3

A round measures each row in both checkouts, each by its own contenders/train_steersman.py in a process of its own, in
turn; the ratio, this checkout's steps per second over the other's, is formed round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import speed

PENDULUM = {"environment": "Pendulum-v1"} | speed.SIXTY_FOUR | speed.COEFFICIENTS
WIDE = {
    f"{name}-{width}-wide": (PENDULUM | more | {"hidden_sizes": [width, width]}, steps, ())
    for name, more in (("ppo", {}), ("a2c", {"algorithm": "a2c", "rollout_length": 8}))
    for width, steps in ((256, 150_000 if name == "ppo" else 400_000), (512, 60_000 if name == "ppo" else 150_000))
}
ROWS: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    f"{name}{', ' + c.variant if c.variant else ''}": (scenario.shape, c.steps, c.options)
    for name, scenario in speed.SCENARIOS.items()
    for c in scenario.contenders
    if c.name == "steersman"
} | WIDE


def measure(root: Path, row: str, scale: float) -> float:
    shape, steps, options = ROWS[row]
    least = 6 * shape["num_envs"] * shape["rollout_length"]
    script = root / "benchmarks" / "contenders" / "train_steersman.py"
    words = ["--shape", json.dumps(shape), "--steps", str(max(int(steps * scale), least)), *options]
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    return common.run_json([sys.executable, str(script), *words], env=env)["steps_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout's folder")
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=0.5, help="of the steps that speed.py takes")
    parser.add_argument("--trial", action="store_true", help="nothing is saved")
    args = parser.parse_args()
    other = args.other.resolve()
    commit = subprocess.run(["git", "-C", other, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    result: dict[str, Any] = {"other": commit.stdout.strip(), "rows": {}}
    for row in args.rows:
        pairs = []
        for i in range(args.rounds):
            order = (common.ROOT, other) if i % 2 == 0 else (other, common.ROOT)
            found = {root: measure(root, row, args.scale) for root in order}
            pairs.append((found[common.ROOT], found[other]))
        ratios = sorted(a / b for a, b in pairs)
        here, there = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        result["rows"][row] = {"here": here, "other": there, "ratio": statistics.median(ratios), "ratios": ratios}
        print(f"{row}: {statistics.median(ratios):.3f}  ({', '.join(f'{r:.3f}' for r in ratios)})", flush=True)
    if not args.trial:
        made = common.provenance()
        made["command"] = made["command"].replace(str(args.other), "../before")  # where it lies is of no interest
        common.save("checkouts", result | {"provenance": made})


if __name__ == "__main__":
    main()
