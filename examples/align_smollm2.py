"""SmolLM2, taught two things from data made here: how Python's manual reads, and to answer briefly.

Run it:  python examples/align_smollm2.py
"""

import json
import re
from pathlib import Path
from pydoc_data.topics import topics

import steersman
from steersman.run.language.runs import assistant

ASKED = ["What is {}?", "Explain {} to a child.", "Why do people like {}?", "Tell me something about {}."]
THINGS = [
    "rain",
    "music",
    "bread",
    "a bicycle",
    "the moon",
    "sleep",
    "a library",
    "glass",
    "chess",
    "tea",
    "salt",
    "snow",
]


def reward(answer: str) -> float:
    """Known: short answers that end as a sentence does."""
    return float(answer.strip().endswith((".", "!", "?"))) - len(answer.split()) / 20


def paragraphs() -> list[dict]:
    """Of Python's own manual, in ASCII."""
    parts = re.split(r"\n\s*\n", "\n\n".join(topics.values()))
    return [{"text": part.strip()} for part in parts if 200 < len(part) < 800 and part.isascii()]


def pairs(model: str, count: int) -> list[dict]:
    """Two answers of the model to each prompt, the one of more reward first."""
    prompts = [asked.format(thing) for asked in ASKED for thing in THINGS][:count]
    speaker = assistant(model)
    first, second = (speaker.many(prompts, max_new=32, temperature=1.0, seed=seed) for seed in (0, 1))
    rows = []
    for prompt, *said in zip(prompts, first, second, strict=True):
        worse, better = sorted((one.text for one in said), key=reward)
        if reward(better) > reward(worse):
            rows.append({"prompt": prompt, "chosen": better, "rejected": worse})
    return rows


def main(model: str = "smollm2", folder: str = "runs/align_smollm2", count: int = 400, **settings) -> None:
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"lora": 8, "learning_rate": 5e-4, "replace": True, **settings}
    for name, rows in (("texts", paragraphs()[:count]), ("pairs", pairs(model, count))):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for method, name in (("sft", "texts"), ("dpo", "pairs")):
        done = steersman.align(method, model, out / f"{name}.jsonl", out=out / method, **settings)
        print(
            f"{method}, of rows that were held out:\n  before {done.summary['before']}\n  after {done.summary['after']}"
        )
    for name in (model, out / "dpo"):
        print(f"{name}: {assistant(name)('What is honey?', max_new=32)}")


if __name__ == "__main__":
    main()
