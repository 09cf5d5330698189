"""Algorithms side by side: runs `steersman compare`, keeps its results, and its picture for the documents.

python benchmarks/compare.py                      the ladder of policy gradients on CartPole-v1, ten seeds
python benchmarks/compare.py --folder runs/x      in a folder that is kept: an interrupted one goes on
python benchmarks/compare.py --quick              a fiftieth of the steps, two seeds; nothing is saved
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import common
from PIL import Image

COMPARISONS: dict[str, tuple[list[str], list[str]]] = {  # name -> entries, flags
    "ladder": (
        ["reinforce", "a2c", "trpo", "ppo-penalty=ppo:objective=penalty", "ppo"],
        ["--env", "CartPole-v1", "--steps", "500000"],
    ),
}
PICTURES = common.ROOT / "docs" / "img"


def measure(name: str, folder: Path, quick: bool) -> dict[str, Any]:
    entries, flags = COMPARISONS[name]
    size = ["--seeds", "2", "--steps", "10000"] if quick else ["--seeds", "10"]
    line = ["compare", *entries, *flags, *size, "--out", str(folder), "--json"]
    found = common.run_json([*common.STEERSMAN, *line], timeout=3600)
    command = " ".join(["steersman", *line[: line.index("--out")]])
    return {"name": name, "command": command, "compared": {k: v for k, v in found.items() if k != "out"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=COMPARISONS, help="one of them")
    parser.add_argument("--folder", type=Path, help="where the comparisons' folders are; by default a temporary place")
    parser.add_argument("--quick", action="store_true", help="a trial; nothing is saved")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for name in [args.only] if args.only else COMPARISONS:
            folder = (args.folder or Path(place)) / (f"{name}-quick" if args.quick else name)
            provenance = common.provenance() | {"command": f"python benchmarks/compare.py --only {name}"}
            result = measure(name, folder, args.quick)
            for label, outcome in result["compared"]["results"].items():
                print(f"{label}: {outcome['mean']['value']:.1f} {outcome['mean']['ci95']}", flush=True)
            if not args.quick:
                common.save(f"compare-{name}", result | {"provenance": provenance})
                picture = Image.open(folder / "comparison.png").convert("RGB").quantize(128)  # a third of the bytes
                picture.save(PICTURES / f"compare-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
