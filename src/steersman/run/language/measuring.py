"""How good a language model is on the texts of a file: likelihood, preferences, or answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman.agents.language.common import DescentConfig, Learner
from steersman.agents.language.dpo import answer_log_probs
from steersman.errors import UsageError
from steersman.language.decoder import Decoder
from steersman.language.generation import Sampling
from steersman.run.disk.files import replacing
from steersman.run.language.align import reader_of
from steersman.run.language.answering import Assistant, answers
from steersman.run.language.answers import procedural
from steersman.run.language.answers.conversing import Conversations
from steersman.run.language.answers.judging import judge
from steersman.run.language.answers.looks import means
from steersman.run.language.answers.scores import Reward
from steersman.run.language.batches import Batches
from steersman.run.language.data import READERS, read_prompts
from steersman.run.language.models import LanguageModel
from steersman.run.language.programs import Programs
from steersman.run.language.reading import SEEDS, is_environment, is_task, read_rows
from steersman.run.language.runs import assistant, is_run, merged, opened, params_of
from steersman.run.language.settings import AlignConfig
from steersman.theory.statistics import wilson_interval

MEASURED = 200  # episodes of an environment
CHUNK = 512  # tokens whose logits are made at a time


def measure(
    model: str | Path,
    data: str | Path,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    max_new: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    plain: bool = False,
    unusable: str = "refuse",
    reward: Sequence[str] = (),
    samples: int = 1,
    passing: float = 1.0,
    turns: int = AlignConfig.turns,
    to: str | Path | None = None,
) -> dict[str, Any]:
    """What ``steersman align evaluate`` says, by name: numbers, and ``notes``.

    Of texts, messages, or prompts with answers: loss and perplexity of the tokens that are learned. Of pairs: accuracy
    with its 95 % interval, by rewards of a reward model, by likelihood of another; of a run also by how both have
    changed since its start. Of prompts alone: the answers, written ``to`` a file. With a ``reward``, of prompts of
    either kind: what ``samples`` answers to each earn (``judging.judge``), as of tasks of reasoning-gym, and of
    environments of texts, of up to ``turns`` answers. Raises UsageError.
    """
    size = DescentConfig(batch_size=batch_size).batch_size
    talks = is_environment(data)
    read = read_rows(data, SEEDS, MEASURED) if talks else read_rows(data)  # of seeds that no training has
    columns = set(read[0].content)
    if is_task(data):
        reward = reward or (procedural.PREFIX,)
    if talks and reward:
        raise UsageError(f"{data} rewards answers itself. Leave --reward {' '.join(reward)} out.")
    kind = "pairs" if {"chosen", "rejected"} <= columns else "texts"
    asks = "answer" not in columns or reward
    kind = "prompts" if kind == "texts" and "prompt" in columns and asks else kind
    if reward and kind != "prompts":
        raise UsageError(f"A reward is for answers to prompts, and the rows of {data} have {', '.join(columns)}.")
    if to is not None and kind != "prompts":
        raise UsageError(
            f"Nothing would be written to {to}: answers are, and {data} has no prompts alone. Leave it out."
        )
    one = opened(model) if is_run(model) else None
    scores = one is not None and one.method.name == "reward"
    if scores and kind != "pairs":
        raise UsageError(f"{model} is a reward model: it is measured on pairs, prompt with chosen and rejected.")
    base = one.base if one is not None else assistant(model)
    plain = plain or (one is not None and bool(one.about["plain"]))
    run = AlignConfig(max_length=max_length, max_new=max_new, turns=turns, plain=plain, unusable=unusable)
    reader = reader_of(base.decoder, base.tokenizer, run, max_new if kind == "prompts" and not talks else 0)
    data_of = read_prompts(data, reader, unusable, read) if talks else READERS[kind](data, reader, unusable)
    about: dict[str, Any] = {"rows": len(data_of.rows), "notes": data_of.notes}
    batches = Batches(data_of.rows, size, base.tokenizer.pad, shuffled=False)
    each = [batches(i) for i in range(batches.per_epoch)] if kind != "prompts" else []
    if one is not None and scores:
        programs, learner = Programs(one.trainer, base.decoder), Learner(params_of(one), (), jnp.zeros((), jnp.int32))
        found = means([programs.evaluate(learner, batch) for batch in each])
        return about | _accuracy(found.pop("accuracy"), int(found.pop("count"))) | found
    decoder = merged(one).decoder if one is not None else base.decoder
    if kind == "prompts":
        asked = Assistant(decoder, base.tokenizer, plain=plain)
        if not reward and not talks:
            return about | _answers(asked, data_of.rows, max_new, Sampling(temperature=temperature), seed, to)
        how: dict[str, Any] = {"samples": samples, "max_new": max_new, "temperature": temperature, "seed": seed}
        before = None if one is None else one.base.decoder
        model_now = LanguageModel(decoder, base.tokenizer)
        if talks:
            judging: Any = Conversations(str(data), reader, data_of.rows, max_new, turns, reader.max_length)
        else:
            judging = Reward(reward)
        found = judge(model_now, data_of.rows, judging, passing=passing, reference=before, **how)
        _write(found["answers"], to)
        return about | found
    log_prob = jax.jit(lambda decoder, texts: answer_log_probs(decoder, texts, CHUNK))
    if kind == "texts":
        tokens = sum(int(texts.weight[:, 1:].sum()) for texts in each)
        loss = -sum(float(log_prob(decoder, texts).sum()) for texts in each) / tokens
        return about | {"tokens": tokens, "loss": loss, "perplexity": float(np.exp(loss))}

    def margins(decoder: Decoder) -> np.ndarray:
        """log pi(chosen) - log pi(rejected), of each pair."""
        real = np.concatenate([pairs.chosen.mask.any(1) for pairs in each])
        return np.concatenate([log_prob(decoder, a) - log_prob(decoder, b) for a, b in each])[real]

    now = margins(decoder)
    found = about | _accuracy(float((now > 0).mean()), len(now)) | {"margin": float(now.mean())}
    if one is None:
        return found
    moved = now - margins(base.decoder)
    return found | _accuracy(float((moved > 0).mean()), len(moved), "_since_start")


def _accuracy(share: float, count: int, of: str = "") -> dict[str, Any]:
    low, high = wilson_interval(share, count)
    return {f"accuracy{of}": share, f"accuracy{of}_low": low, f"accuracy{of}_high": high}


def _answers(
    asked: Assistant, prompts: Any, max_new: int, sampling: Sampling, seed: int, to: str | Path | None
) -> dict[str, Any]:
    said = answers(
        asked.decoder, asked.tokenizer, [p.tokens for p in prompts], max_new=max_new, sampling=sampling, seed=seed
    )
    rows = [{"prompt": p.content, "answer": s.text, "ended": s.ended} for p, s in zip(prompts, said, strict=True)]
    _write(rows, to)
    return {
        "mean_tokens": float(np.mean([s.tokens for s in said])),
        "ended": float(np.mean([s.ended for s in said])),
        "answers": rows,
    }


def _write(rows: list[dict[str, Any]], to: str | Path | None) -> None:
    if to is not None:
        with replacing(to) as temporary:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
