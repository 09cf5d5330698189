"""Runs killed by SIGKILL at random moments and taken up again: do they end where the uninterrupted run ends?

    python benchmarks/resume.py                       50 runs on a compiled and 50 on a host environment, 10 on texts
    python benchmarks/resume.py --only host --first 20 --runs 10      ten of these, joined to the result
    python benchmarks/resume.py --only texts --share-programs
    python benchmarks/resume.py --quick               3 of each; nothing is saved

A run is started, killed at moments drawn uniformly over the time an uninterrupted run takes, resumed after each kill,
and let to its end after the last. After every kill all its checkpoints are read and checked. At the end the SHA-256
over its trained state must be the uninterrupted run's. Ten runs share a seed and its uninterrupted run; those on texts
take their methods in turn, and their logs must be equal too, but for the times in them. The moments
of a run's kills, as fractions of the uninterrupted run's time, depend on its number alone, so a long session can be
cut up: the result file keeps the other runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common

from steersman.errors import UsageError
from steersman.run.disk import checkpoint
from steersman.run.disk.logs import read_metrics

# Small enough for a hundred runs, long enough that many kills fall into training and into the writing of checkpoints.
SMALL = {"num_envs": 8, "unroll_length": 64, "num_epochs": 2, "num_minibatches": 4, "evaluation_episodes": 0}
CASES = {
    "compiled": ("CartPole-v1", SMALL | {"steps": 409_600, "checkpoint_every": 8_192}),
    "host": ("gymnasium/CartPole-v1", SMALL | {"steps": 61_440, "checkpoint_every": 1_024}),
}
TEXTS = {"updates": 40, "batch_size": 4, "evaluations": 9, "held_out": 0.2, "learning_rate": 1e-3, "samples": 2}
TEXTS |= {"max_new": 8}
ASKS = {"group": 4, "reward": "regex:[a-m]"}
METHODS = {"sft": {}, "dpo": {}, "rloo": ASKS, "grpo": ASKS, "ppo": ASKS | {"num_epochs": 2}}
CASES["texts"] = ("tiny", TEXTS | {"methods": METHODS})
RUNS = {"compiled": 50, "host": 50, "texts": 10}
RUNS_PER_SEED = 10
COUNTED = ("kills", "kills_before_the_first_checkpoint", "kills_after_a_checkpoint", "unreadable", "refused")
LIMIT = 300.0  # seconds for a run that nobody kills


def command(case: str, folder: Path, seed: int, method: str = "ppo") -> list[str]:
    """Start the run, or go on with it where there is something to go on with."""
    verb = "align" if case == "texts" else "train"
    if (folder / "config.json").exists():
        return [*common.STEERSMAN, verb, "--resume", str(folder), "--quiet"]
    environment, settings = CASES[case]
    settings = {**TEXTS, **METHODS[method]} if case == "texts" else settings
    flags = [part for k, v in settings.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    if case == "texts":
        start = [*common.STEERSMAN, "align", method, environment, str(texts(folder.parent, method))]
        return [*start, "--seed", str(seed), *flags, "--out", str(folder), "--quiet"]
    start = [*common.STEERSMAN, "train", "ppo", environment, "--no-preset", "--seed", str(seed), *flags]
    return [*start, "--out", str(folder), "--quiet"]


def texts(folder: Path, method: str) -> Path:
    """What a method learns from."""
    path = folder / f"{method}.jsonl"
    each = {"sft": {"answer": "a big cat"}, "dpo": {"chosen": "a big cat", "rejected": "no"}}.get(method, {})
    path.write_text("".join(json.dumps({"prompt": f"{i} is"} | each) + "\n" for i in range(100)))
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    """A log, but for its times."""
    timed = lambda name: "second" in name
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(folder / "metrics.jsonl")]


def sit(words: list[str], seconds: float | None) -> bool:
    """Let a process work, and kill it after some seconds; -> whether it ended by itself."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=common.ROOT, env={"JAX_PLATFORMS": "cpu", **os.environ}, **quiet)
    try:
        _, errors = process.communicate(timeout=LIMIT if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if seconds is None:
            raise SystemExit(f"{' '.join(words)}\ndid not end within {LIMIT} s") from None
        return False
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors.strip()[-500:]}")
    return True


def newest(folder: Path) -> int:
    """The steps at the newest checkpoint; -1 without one."""
    return max((steps for steps, _ in checkpoint.saved(folder / "checkpoints")), default=-1)


def unreadable(folder: Path) -> int:
    """Read every byte of every checkpoint of a run."""
    bad = 0
    for _, path in checkpoint.saved(folder / "checkpoints"):
        try:
            checkpoint.check(path)
        except UsageError as error:
            bad += 1
            print(f"unreadable: {error}", flush=True)
    return bad + len(list((folder / "checkpoints").glob("*.damaged")))


def sha256(folder: Path) -> str:
    """Over all arrays of the trained state: the ``parameters_sha256`` of ``steersman info``."""
    path, note, _ = checkpoint.latest(folder / "checkpoints")
    if path is None:
        raise SystemExit(f"{folder} ended without a checkpoint. {note}")
    return checkpoint.stored_sha256(path, under="agent")


def killed(case: str, folder: Path, how: tuple[int, str], expected: float, draw: random.Random) -> Counter[str]:
    """One run with one to three kills; -> counts of what happened. A run that ends before its first kill starts again,
    to be killed sooner."""
    seen: Counter[str] = Counter()
    wanted = draw.randint(1, 3)
    while seen["kills"] < wanted:
        tick = time.perf_counter()
        try:
            ended = sit(command(case, folder, *how), draw.uniform(0.0, expected))
        except RuntimeError as error:
            print(f"cannot go on: {error}", flush=True)
            seen["refused"] += 1
            return seen
        seen["unreadable"] += unreadable(folder)
        if ended and seen["kills"]:
            return seen
        if ended:
            expected = time.perf_counter() - tick
            shutil.rmtree(folder)
            continue
        moment = "after_a_checkpoint" if newest(folder) >= 0 else "before_the_first_checkpoint"
        seen["kills"] += 1
        seen[f"kills_{moment}"] += 1
    try:
        sit(command(case, folder, *how), None)
    except RuntimeError as error:
        print(f"cannot go on: {error}", flush=True)
        seen["refused"] += 1
    return seen


def measure(case: str, numbers: range, moments: int, place: Path) -> Iterator[dict[str, Any]]:
    """Kill and resume the runs of these numbers; -> after each, what happened in all so far."""
    references: dict[tuple[int, str], Any] = {}
    expected, each = 0.0, []
    ends = lambda folder: (sha256(folder), rows(folder) if case == "texts" else None)
    for number in numbers:
        method = list(METHODS)[number % len(METHODS)] if case == "texts" else "ppo"
        how, folder = (number // RUNS_PER_SEED, method), place / f"{case}-{number}"
        if how not in references:
            whole = place / f"{case}-whole-{'-'.join(map(str, how))}"
            fresh = not references or case == "texts"
            if fresh and "JAX_COMPILATION_CACHE_DIR" in os.environ:  # its programs are compiled once, here
                sit(command(case, place / f"{whole.name}-compiling", *how), None)
            tick = time.perf_counter()
            sit(command(case, whole, *how), None)
            expected = max(expected, time.perf_counter() - tick)
            references[how] = ends(whole)
        found = killed(case, folder, how, expected, random.Random(f"{moments} {case} {number}"))
        same = not found["refused"] and ends(folder) == references[how]
        each.append({"run": number, "algorithm": method, "identical": same} | {kind: found[kind] for kind in COUNTED})
        print(f"{case} {number} ({method}): {found['kills']} kills, {'identical' if same else 'DIFFERENT'}", flush=True)
        if same:
            shutil.rmtree(folder)
        about = {"environment": CASES[case][0], "settings": CASES[case][1]}
        yield about | {"seconds_uninterrupted": expected, "each": list(each)}


def joined(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """A result with the runs that an older one of the same settings has beside it, and the totals."""
    same = old is not None and all(old.get(k) == new[k] for k in ("environment", "settings"))
    mine = {run["run"] for run in new["each"]}
    kept = [run for run in old["each"] if run["run"] not in mine] if old is not None and same else []
    each = sorted(new["each"] + kept, key=lambda run: run["run"])
    totals = {kind: sum(run[kind] for run in each) for kind in ("identical", *COUNTED)}
    return new | {"each": each, "runs": len(each), "runs_killed": sum(run["kills"] > 0 for run in each)} | totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="of each kind; default 50, on texts 10")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--quick", action="store_true", help="3 runs; saved only where --out says")
    parser.add_argument("--share-programs", action="store_true", help="compile once for all processes: twice as fast")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that went wrong")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results")
    args = parser.parse_args()
    origin = common.provenance()
    place = Path(tempfile.mkdtemp(prefix="resume-"))
    if args.share_programs:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place / "programs")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    keep, whole = args.out or not args.quick, True
    for case in [args.only] if args.only else list(CASES):
        numbers = range(args.first, args.first + (args.runs or (3 if args.quick else RUNS[case])))
        cases = ((common.load("resume", args.out) or {}) if keep else {}).get("cases", {})
        before, found = cases.get(case), {}
        for new in measure(case, numbers, args.seed, place):
            cases[case] = found = joined(new, before) | {"provenance": origin}
            if keep:
                common.save("resume", {"cases": cases, "provenance": origin}, args.out)
        whole &= found["identical"] == found["runs"] and not found["unreadable"]
        print(f"\n{case}: " + ", ".join(f"{k} {v}" for k, v in found.items() if isinstance(v, int)), flush=True)
    if args.keep and not whole:
        print(f"kept: {place}")
    else:
        shutil.rmtree(place)
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
