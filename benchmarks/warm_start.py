"""What the cache of compiled programs brings: the same command with an empty cache and with a filled one, in turn.

    python benchmarks/warm_start.py             five rounds; some two minutes
    python benchmarks/warm_start.py --quick     one round; nothing is saved

The command is README's first, PPO on CartPole-v1 with its preset, from its start to its end; its state is compared bit
for bit. Each round has a folder of its own, so the first run of it is cold and the second is not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from steersman.run.disk import checkpoint

COMMAND = ["train", "ppo", "CartPole-v1", "--json"]


def one(cache: Path, out: Path) -> dict[str, Any]:
    env = {**os.environ, "STEERSMAN_CACHE": str(cache)}
    began = time.perf_counter()
    summary = common.run_json([*common.STEERSMAN, *COMMAND, "--out", str(out)], env=env)
    seconds = time.perf_counter() - began
    digest = checkpoint.stored_sha256(checkpoint.saved(out / "checkpoints")[-1][1], "agent")
    return {"compile_seconds": summary["compile_seconds"], "process_seconds": seconds, "sha256": digest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; nothing is saved")
    args = parser.parse_args()
    result: dict[str, Any] = {"rounds": [], "provenance": common.provenance()}
    for _ in range(1 if args.quick else 5):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            cold, warm = (one(place / "cache", place / name) for name in ("cold", "warm"))
        same = cold.pop("sha256") == warm.pop("sha256")
        result["rounds"].append({"cold": cold, "warm": warm, "same bits": same})
        print(result["rounds"][-1], flush=True)
    for name in ("compile_seconds", "process_seconds"):
        ratio = statistics.median(r["warm"][name] / r["cold"][name] for r in result["rounds"])
        result[f"{name} warm / cold"] = ratio
        print(f"{name}: {ratio:.2f}")
    if not args.quick:
        common.save("warm-start", result)


if __name__ == "__main__":
    main()
