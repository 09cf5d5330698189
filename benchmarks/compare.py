"""Algorithms side by side: runs `steersman compare`, keeps its results, and its picture for the documents.

python benchmarks/compare.py --only ladder              policy gradients on CartPole-v1, ten seeds
python benchmarks/compare.py --only switches-breakout   DQN's switches on MinAtar, three seeds (extra gymnax)
python benchmarks/compare.py --folder runs/x            in a folder that is kept: an interrupted one goes on
python benchmarks/compare.py --quick                    a fiftieth of the steps, two seeds; nothing is saved
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import common
from PIL import Image

SWITCHES = {  # of DQN, one at a time on the plain agent; noise in the weights explores by itself
    "double": "double=true",
    "dueling": "dueling=true",
    "n-step": "n_step=3",  # cut at the first action that is not greedy
    "n-step-uncorrected": "n_step=3,n_step_correction=none",
    "prioritized": "prioritized=true",
    "noisy": "noisy=true,exploration_start=0,exploration_end=0",
    "categorical": "distribution=categorical,loss=huber,v_min=-1,v_max=20",
    "quantile": "distribution=quantile,loss=huber",
}
ALL = "double=true,dueling=true,n_step=3,prioritized=true"
ABLATION = ["dqn", *(f"{name}=dqn:{setting}" for name, setting in SWITCHES.items())]
ABLATION += [f"rainbow=dqn:{ALL},{SWITCHES['noisy']},{SWITCHES['categorical']}"]
COMPARISONS: dict[str, tuple[list[str], dict[str, str]]] = {  # name -> entries, flags
    "ladder": (
        ["reinforce", "a2c", "trpo", "ppo-penalty=ppo:objective=penalty", "ppo"],
        {"--env": "CartPole-v1", "--steps": "500000", "--seeds": "10"},
    ),
    **{
        f"switches-{game.lower()}": (
            ABLATION,
            {
                "--env": f"gymnax/{game}-MinAtar",
                "--steps": "500000",
                "--seeds": "3",
                "--threshold": threshold,
                "--set": "exploration_fraction=0.5",  # epsilon falls over 250,000 steps, as in the presets of 2M
            },
        )
        for game, threshold in (("Breakout", "10"), ("Asterix", "5"))
    },
}
PICTURES = common.ROOT / "docs" / "img"


def measure(name: str, folder: Path, quick: bool) -> dict[str, Any]:
    entries, flags = COMPARISONS[name]
    flags = flags | ({"--seeds": "2", "--steps": "10000"} if quick else {})
    line = ["compare", *entries, *(word for flag in flags.items() for word in flag), "--out", str(folder), "--json"]
    found = common.run_json([*common.STEERSMAN, *line], timeout=6 * 3600)
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
