"""Writes tests/data/language: tiny random models of five families, a GGUF, a tokenizer, and what transformers makes of
them. Run it in the peer's environment (``python benchmarks/peers.py setup --only lm``); the files are committed.

python benchmarks/language_goldens.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers as tf

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "language"
V, D = 48, 16
ROWS = np.random.default_rng(0).integers(0, V, (3, 9))
LENGTHS = (9, 6, 2)  # real tokens of each row, on its right: the rest is padding on the left

LLAMA = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.25,
}
MODELS = {
    "gpt2": tf.GPT2Config(
        vocab_size=V,
        n_embd=D,
        n_layer=2,
        n_head=4,
        n_inner=24,
        n_positions=32,
        initializer_range=0.25,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "llama": tf.LlamaConfig(**LLAMA, tie_word_embeddings=False, rms_norm_eps=1e-5),
    "smollm2": tf.LlamaConfig(
        **{**LLAMA, "hidden_size": 18, "num_attention_heads": 3, "num_key_value_heads": 1},
        head_dim=4,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    ),
    "qwen2": tf.Qwen2Config(**LLAMA, tie_word_embeddings=True, rms_norm_eps=1e-6),
    "qwen3": tf.Qwen3Config(
        **{**LLAMA, "num_attention_heads": 2, "num_key_value_heads": 1},
        head_dim=12,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
    ),
}


def logits_of(model: tf.PreTrainedModel, vocab: int) -> np.ndarray:
    """Each row by itself, without padding; NaN where there is no token."""
    out = np.full((*ROWS.shape, vocab), np.nan, np.float32)
    for row, length, line in zip(ROWS, LENGTHS, out, strict=True):
        with torch.no_grad():
            line[-length:] = model(torch.tensor(row[None, -length:])).logits[0].numpy()
    return out


def model(name: str, config: tf.PretrainedConfig) -> None:
    torch.manual_seed(1)
    made = tf.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for key, weight in made.named_parameters():  # biases and norms that could be left out unseen
            if key.endswith("bias") or "norm" in key or ".ln_" in key:
                weight.add_(0.3 * torch.randn_like(weight))
    folder = OUT / name
    made.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.save(folder / "logits.npy", logits_of(made, V))


def quantised() -> None:
    """A llama in GGUF with every type of array that is read, its q and k rows laid out as llama.cpp's are."""
    width, heads, kv_heads, hidden = 32, 4, 2, 64
    rng = np.random.default_rng(2)
    types = gguf.GGMLQuantizationType
    path = OUT / "gguf" / "tiny.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(V)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<e>", "t", "1", "t1", *(f"u{i}" for i in range(4, V))])
    writer.add_token_types([3] + [1] * (V - 1))
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(0)
    head = width // heads
    arrays = {
        "token_embd.weight": ((V, width), types.Q8_0),
        "output_norm.weight": ((width,), types.F32),
        "blk.0.attn_norm.weight": ((width,), types.F32),
        "blk.0.ffn_norm.weight": ((width,), types.F32),
        "blk.0.attn_q.weight": ((heads * head, width), types.Q4_1),
        "blk.0.attn_k.weight": ((kv_heads * head, width), types.Q4_0),
        "blk.0.attn_v.weight": ((kv_heads * head, width), types.F16),
        "blk.0.attn_output.weight": ((width, heads * head), types.BF16),
        "blk.0.ffn_gate.weight": ((hidden, width), types.Q8_0),
        "blk.0.ffn_up.weight": ((hidden, width), types.Q4_1),
        "blk.0.ffn_down.weight": ((width, hidden), types.Q4_0),
    }
    for name, (shape, kind) in arrays.items():
        array = rng.normal(1.0 if len(shape) == 1 else 0.0, 0.3, shape).astype(np.float32)
        raw = gguf.quants.quantize(array, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = tf.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    np.save(path.parent / "logits.npy", logits_of(made, V))


LINES = [
    "Hello world",
    " two leading spaces",
    "12345 67,89 in 2024",
    "emoji \U0001f600 and \U0001f469\u200d\U0001f680, é, 日本語",
    "line one\r\nline two\n\n\tindented",
    "don't  I'll we've   ",
    "<|im_start|>user\nhi<|im_end|>",
    "a<|endoftext|>b",
    "",
    "\x00\x7f",
]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT = [
    {"role": "user", "content": " 1 + 1? "},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Thanks\n"},
    {"role": "assistant", "content": "You're welcome."},
]


def tokenizer() -> None:
    """A byte-level BPE of 300 tokens, built as SmolLM2's; ids that transformers gives."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*LINES, "the hat of the cat in the rain", "user system assistant helpful"] * 3, trainer)
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    folder = OUT / "tokenizer"
    fast.save_pretrained(folder)
    golden = {
        "lines": LINES,
        "as_typed": [fast(line, split_special_tokens=True)["input_ids"] for line in LINES],
        "special": [fast(line)["input_ids"] for line in LINES],
        "chat": CHAT,
        "rendered": fast.apply_chat_template(CHAT, tokenize=False),
        "chat_ids": fast.apply_chat_template(CHAT, tokenize=True, return_dict=False),
        "prompt_ids": fast.apply_chat_template(CHAT[:3], tokenize=True, add_generation_prompt=True, return_dict=False),
    }
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    np.savez(OUT / "tokens.npz", tokens=ROWS.astype(np.int32), lengths=np.array(LENGTHS, np.int32))
    for name, config in MODELS.items():
        model(name, config)
    quantised()
    tokenizer()
    for file in sorted(OUT.rglob("*.*")):
        print(f"{file.stat().st_size:7d} {file.relative_to(OUT)}")
