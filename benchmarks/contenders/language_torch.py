"""transformers on torch, one thread: what it makes of a GGUF, and how fast. Run by ``benchmarks/language.py``."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from tokenizers import pre_tokenizers


def parity(model: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast, given: dict, out: Path) -> dict:
    ids = {"as opened": [tokenizer(line, split_special_tokens=True)["input_ids"] for line in given["lines"]]}
    chats = [[{"role": "user", "content": prompt}] for prompt in given["prompts"]]
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    arrays = {}
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            arrays[f"logits_{i}"] = model(torch.tensor([prompt])).logits[0].numpy()
            answer = model.generate(torch.tensor([prompt]), max_new_tokens=given["new"], do_sample=False)
        arrays[f"greedy_{i}"] = answer[0, len(prompt) :].numpy()
    np.savez(out, **arrays)
    # Opened from a GGUF it does not cut text as its metadata says, digits first (tokenizer.ggml.pre = smollm).
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ids["cut as its metadata says"] = [tokenizer(x, split_special_tokens=True)["input_ids"] for x in given["lines"]]
    return {"ids": ids, "prompts": prompts}


def speed(model: tf.PreTrainedModel, given: dict) -> dict:
    rng, rates = np.random.default_rng(0), {}
    draw = lambda *shape: torch.tensor(rng.integers(100, 40_000, shape))
    for rows in given["rows"]:
        prompt = draw(rows, given["prompt"])
        said = {"max_new_tokens": 1 + given["new"], "min_new_tokens": 1 + given["new"], "do_sample": True, "top_k": 0}

        def answer(new: int, prompt: torch.Tensor = prompt, said: dict = said) -> None:
            with torch.no_grad():
                model.generate(prompt, **{**said, "max_new_tokens": new, "min_new_tokens": new})

        answer(2)
        both = clocked(lambda: answer(1 + given["new"])) - clocked(lambda: answer(1))
        rates[f"decode {rows}"] = rows * given["new"] / both
    tokens = draw(*given["train"])
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, labels=tokens).loss.backward()

    step()
    rates["train full"] = tokens.numel() / min(clocked(step) for _ in range(2))
    return rates


def clocked(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("parity", "speed"))
    parser.add_argument("gguf", type=Path)
    parser.add_argument("given", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tf.utils.logging.set_verbosity_error()
    given = json.loads(args.given.read_text())
    model = tf.AutoModelForCausalLM.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name, dtype=torch.float32)
    model.eval()
    if args.mode == "parity":
        tokenizer = tf.AutoTokenizer.from_pretrained(args.gguf.parent, gguf_file=args.gguf.name)
        result = parity(model, tokenizer, given, args.out)
    else:
        result = {"rates": speed(model, given)}
    versions = {"torch": torch.__version__, "transformers": tf.__version__}
    print(json.dumps({**result, "versions": versions}))
