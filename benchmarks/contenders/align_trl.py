"""TRL's RLOO on one thread: processor seconds of each step, and of its parts. Run by ``benchmarks/align_speed.py``."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import datasets
import peft
import torch
import transformers as tf
import trl


class Clocked(trl.RLOOTrainer):
    """The trainer, which notes how long it takes to answer, to do all before a gradient, and for a whole step."""

    def training_step(self, *args, **kwargs):
        self.now = {"began": time.process_time()}
        loss = super().training_step(*args, **kwargs)
        self.now["gradient"] = time.process_time() - self.now["began"] - self.now["scored"]
        return loss

    def _generate(self, *args, **kwargs):
        begun = time.process_time()
        found = super()._generate(*args, **kwargs)
        self.now["answer"] = time.process_time() - begun
        return found

    def _generate_and_score_completions(self, *args, **kwargs):
        begun = time.process_time()
        found = super()._generate_and_score_completions(*args, **kwargs)
        self.now["scored"] = time.process_time() - begun
        self.now["tokens"] = int(found["completion_mask"].sum())
        self.now["prompt"] = list(found["prompt_ids"].shape)
        return found


class Steps(tf.TrainerCallback):
    """A row for each step of the optimiser, its own time included."""

    rows: list[dict] = []  # noqa: RUF012

    def on_step_end(self, args, state, control, **kwargs):
        now = dict(self.trainer.now)
        now["whole"] = time.process_time() - now.pop("began")
        now["reference and the rest"] = now.pop("scored") - now["answer"]
        self.rows.append(now)


def main(gguf: Path, given: dict) -> dict:
    tokenizer = tf.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = tf.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = tf.AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)  # what a GGUF gave is not trained
    model.load_state_dict(read.state_dict())
    prompts = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in given["prompts"]]
    pattern = re.compile(given["pattern"])

    def reward(completions, **rest):
        return [float(pattern.search(answer[0]["content"]) is not None) for answer in completions]

    with tempfile.TemporaryDirectory() as folder:
        config = trl.RLOOConfig(
            folder,
            per_device_train_batch_size=given["batch_size"] * given["group"],
            num_generations=given["group"],
            max_completion_length=given["max_new"],
            max_steps=given["steps"],
            learning_rate=given["learning_rate"],
            beta=given["beta"],
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        adapters = peft.LoraConfig(
            r=given["lora"],
            lora_alpha=2 * given["lora"],
            target_modules=[f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")],
            task_type="CAUSAL_LM",
        )
        steps = Steps()
        trainer = Clocked(
            model, reward, config, datasets.Dataset.from_list(prompts), processing_class=tokenizer,
            peft_config=adapters, callbacks=[steps],
        )  # fmt: skip
        steps.trainer = trainer
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it logs
            trainer.train()
    dtypes = sorted({str(p.dtype) for p in trainer.model.parameters()})
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {"steps": steps.rows, "dtypes": dtypes, "trained": trained}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("given", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = main(args.gguf, json.loads(args.given.read_text()))
    versions = {"torch": torch.__version__, "transformers": tf.__version__, "trl": trl.__version__}
    print(json.dumps({**found, "versions": versions}))
