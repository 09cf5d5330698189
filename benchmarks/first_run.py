"""A newcomer's first minute: README's first command with nothing cached, and ten seeds of the same preset.

    python benchmarks/first_run.py
    python benchmarks/first_run.py --quick      3 seeds; nothing is saved

"Nothing cached" is a process with an empty home, empty caches (JAX, matplotlib, Python's bytecode) and no settings of
JAX or XLA from the shell. The second time is of the same command with the bytecode there, as pip leaves it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import common


def first_command() -> list[str]:
    """The first ``steersman train`` of README.md, without its ``--out``; -> its arguments."""
    text = (common.ROOT / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    found = re.search(r"\bsteersman (train [^\n#&|]*)", code)
    if found is None:
        raise SystemExit("README.md shows no `steersman train` command.")
    words = shlex.split(found[1])
    if "--out" in words:
        at = words.index("--out")
        words = words[:at] + words[at + 2 :]
    return words


def fresh(home: Path, *, bytecode: bool) -> dict[str, str]:
    """The environment variables of a machine on which nothing has run yet."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "XDG_", "MPL", "PYTHONPYCACHE"))}
    env = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "JAX_PLATFORMS": "cpu"}
    return env if bytecode else env | {"PYTHONPYCACHEPREFIX": str(home / "bytecode")}


def timed(words: list[str], *, bytecode: bool) -> dict[str, Any]:
    """Run the command in a fresh process; -> its times and its result."""
    with tempfile.TemporaryDirectory() as home:
        env = fresh(Path(home), bytecode=bytecode)
        tick = time.perf_counter()
        summary = common.run_json([*common.STEERSMAN, *words, "--out", f"{home}/run", "--json"], env=env)
        seconds = time.perf_counter() - tick
    evaluation = summary["evaluation"]
    return {
        "process_seconds": seconds,  # all: the interpreter, imports, training, evaluation, the curve
        "wall_seconds": summary["wall_seconds"],  # training and its evaluation
        "training_and_compiling_seconds": summary["compile_seconds"] + summary["training_seconds"],
        "compile_seconds": summary["compile_seconds"],
        "steps": summary["steps"],
        "mean": evaluation["mean"],
        "min": evaluation["min"],
        "episodes": evaluation["episodes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="default 10")
    parser.add_argument("--repeats", type=int, default=3, help="of the first run")
    parser.add_argument("--quick", action="store_true", help="saved only where --out says")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    origin, words = common.provenance(), first_command()
    runs: dict[str, list[dict[str, Any]]] = {"nothing cached": [], "bytecode there": []}
    for _ in range(1 if args.quick else args.repeats):
        for name, all_ in runs.items():
            all_.append(timed(words, bytecode=name == "bytecode there"))
            times = ", ".join(f"{k} {v:.1f}" for k, v in all_[-1].items())
            print(f"{name}: {times}", flush=True)
    seeds = args.seeds or (3 if args.quick else 10)
    with tempfile.TemporaryDirectory() as home:
        many = [*common.STEERSMAN, *words, "--seeds", str(seeds), "--out", f"{home}/run", "--json"]
        summary = common.run_json(many, env=fresh(Path(home), bytecode=True))
    means = [e["mean"] for e in summary["evaluations"] or [summary["evaluation"]]]
    solved = sum(m >= 500.0 for m in means)
    print(f"{seeds} seeds: {solved} reach 500; means {means}")
    result = {
        "readme": shlex.join(["steersman", *words]),
        "runs": runs,
        "seeds": {
            "count": seeds,
            "solved": solved,
            "means": means,
            "wall_seconds": summary["wall_seconds"],
            "steps_per_second": summary["steps_per_second"],
        },
    }
    if args.out or not args.quick:
        common.save("first_run", result | {"provenance": origin}, args.out)


if __name__ == "__main__":
    main()
