"""A task from scratch: digits are sorted. A short imitation of answers, then RLOO, PPO and GRPO from an exact reward.

    python benchmarks/align_tasks.py            three seeds of each; some ten minutes of one core
    python benchmarks/align_tasks.py --seeds 1

A decoder of a quarter of a million weights learns from batches of answered prompts (``steersman align sft``), and is
then aligned on prompts alone, by the same commands that people use. Its accuracy is that of the likeliest answer to 500
prompts that neither has seen, beside that of answers drawn at temperature 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

from steersman.language.config import DecoderConfig
from steersman.run.language import models
from steersman.run.language.align import align
from steersman.run.language.measuring import measure

DIGITS = 4
FROM_SCRATCH = DecoderConfig(
    vocab_size=97, width=80, layers=3, heads=4, kv_heads=4, head_size=20, hidden_size=208, context=32
)  # in the place of ``tiny``, whose tokenizer it has: 0.24 million weights
SFT: dict[str, Any] = {
    "updates": 66,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "held_out": 0.0,
    "evaluations": 0,
    "samples": 0,
}
ONLINE: dict[str, Any] = {
    "updates": 150,
    "batch_size": 32,
    "group": 8,
    "max_new": DIGITS + 2,
    "temperature": 0.6,
    "beta": 0.01,
    "learning_rate": 5e-4,
    "warmup": 0.0,
    "decay": "linear",
    "held_out": 0.05,
    "evaluations": 5,
    "samples": 2,
    "reward": ("sorted",),
}
METHODS: dict[str, dict[str, Any]] = {"rloo": {}, "grpo": {}, "ppo": {"num_epochs": 2, "updates": 100}}


def texts(folder: Path, seed: int = 0) -> None:
    """Answered prompts, prompts to learn from and prompts to be judged on: none is in two of them."""
    drawn = [f"{i:0{DIGITS}d}" for i in np.random.default_rng(seed).permutation(10**DIGITS)]
    said = lambda digits: {"prompt": f"{digits}>", "answer": "".join(sorted(digits))}
    asked = lambda digits: {"prompt": f"{digits}>"}
    for name, rows, of in (
        ("sft", drawn[500:4500], said),
        ("rl", drawn[4500:8500], asked),
        ("held", drawn[:500], asked),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(of(row)) + "\n" for row in rows))


def accuracy(run: Path, folder: Path) -> dict[str, float]:
    """On the prompts of neither, with Wilson's 95 % interval."""
    how: dict[str, Any] = {"reward": ("sorted",), "max_new": DIGITS + 2}
    likeliest = measure(run, folder / "held.jsonl", **how)
    drawn = measure(run, folder / "held.jsonl", temperature=1.0, **how)
    found = {name: likeliest[f"pass_at_1{end}"] for name, end in (("accuracy", ""), ("low", "_low"), ("high", "_high"))}
    return found | {"accuracy of drawn answers": drawn["pass_at_1"]}


def measure_all(folder: Path, seeds: int) -> None:
    models.TINY = FROM_SCRATCH
    texts(folder)
    results: dict[str, Any] = {}
    for seed in range(seeds):
        begun = align("sft", "tiny", folder / "sft.jsonl", out=folder / f"sft{seed}", seed=seed, **SFT)
        start = accuracy(folder / f"sft{seed}", folder)
        print(f"sft  seed {seed}  {start}  {begun.summary['training_seconds']:.0f} s", flush=True)
        for name, more in METHODS.items():
            tick, out = time.process_time(), folder / f"{name}{seed}"
            done = align(name, folder / f"sft{seed}", folder / "rl.jsonl", out=out, seed=seed, **ONLINE | more)
            took = time.process_time() - tick
            rows = [row for row in done.history if "held_out_reward" in row]
            last = done.history[-1]
            found = accuracy(out, folder) | {
                "before": start,
                "curve": [[row["steps"], row["held_out_reward"]] for row in rows],
                "processor seconds": took,
                "answering seconds": sum(row.get("answer_seconds", 0.0) for row in done.history),
                "kl": last["kl"],
                "largest gap of log-probs": max(row.get("log_prob_gap", 0.0) for row in done.history),
            }
            results.setdefault(name, []).append(found)
            print(
                f"{name:4s} seed {seed}  {found['accuracy']:.3f}  drawn {found['accuracy of drawn answers']:.3f}",
                end="",
            )
            print(f"  {took:.0f} s", flush=True)
            common.save("align-tasks", {"provenance": common.provenance(), "methods": results})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory() as place:
        measure_all(Path(place), seeds)
