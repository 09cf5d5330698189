"""How good a model's answers are: rewards with intervals, the chance that one of several passes, the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from steersman.errors import UsageError
from steersman.language.decoder import Decoder, log_probs
from steersman.language.generation import Sampling, before_answers
from steersman.language.tokenizer import left_padded
from steersman.run.language.answering import ROWS, Said, answers, generating
from steersman.run.language.answers.conversing import Conversations
from steersman.run.language.answers.scores import Reward, prompt_text
from steersman.run.language.data import Prompt
from steersman.run.language.models import LanguageModel
from steersman.theory.alignment.best_of import best_of, best_of_kl, pass_at
from steersman.theory.statistics import bootstrap_interval, wilson_interval

CHUNK = 512  # tokens whose logits are made at a time


def judge(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    reward: Reward | Conversations,
    *,
    samples: int = 1,
    max_new: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    passing: float = 1.0,
    reference: Decoder | None = None,
) -> dict[str, Any]:
    """What ``samples`` answers to each prompt earn, by name, with 95 % intervals over prompts: the bootstrap's, or of
    one answer each that passes or not, Wilson's.

    An answer passes that earns ``passing`` or more. pass_at_k and best_of_k are for k up to ``samples``, doubling, and
    best_of_k_kl is the most that choosing so diverges from the model. reference: what the answers' divergence is
    estimated from, at the temperature they are drawn with. With ``Conversations`` in the place of a reward, prompts
    begin episodes of an environment, and what is said of an answer is of a whole conversation. Raises UsageError:
    several answers at temperature 0 are one, and a reward that is none.
    """
    if samples < 1 or (samples > 1 and temperature == 0):
        raise UsageError(
            f"samples = {samples} at temperature {temperature:g}: 1 or more, and several want a temperature above 0, "
            "or they are all the same. Give --temperature 1."
        )
    asked = [row for row in prompts for _ in range(samples)]
    encoded, sampling = [row.tokens for row in prompts], Sampling(temperature)
    if isinstance(reward, Conversations):
        said, total, terms = _conversed(model, asked, reward, sampling, seed)
        reference = None  # the tokens of several answers are no answer's
    else:
        said = answers(*model, encoded, group=samples, max_new=max_new, sampling=sampling, seed=seed)
        total, terms = reward(
            [prompt_text(row.content) for row in asked], [s.text for s in said], [row.row for row in asked]
        )
        terms = {f"reward_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
    earned = total.astype(np.float64).reshape(len(prompts), samples)
    found = _with_interval("reward", earned.mean(1))
    found |= {name: float(term.mean()) for name, term in terms.items()}
    found |= {"mean_tokens": float(np.mean([s.tokens for s in said])), "ended": float(np.mean([s.ended for s in said]))}
    for k in (2**i for i in range(samples.bit_length())):
        passed = pass_at(earned >= passing, k)
        found |= _rate(f"pass_at_{k}", passed) if samples == 1 else _with_interval(f"pass_at_{k}", passed)
        if k > 1:
            found |= _with_interval(f"best_of_{k}", best_of(earned, k)) | {f"best_of_{k}_kl": best_of_kl(k)}
    if reference is not None and temperature > 0:
        apart = _log_ratios(model, reference, encoded, said, max_new, temperature)
        found |= _with_interval("kl", apart.reshape(earned.shape).mean(1))
    rows = zip(asked, said, total, strict=True)
    return found | {"answers": [_row(p, s, r) for p, s, r in rows]}


def _conversed(
    model: LanguageModel, asked: Sequence[Prompt], talk: Conversations, sampling: Sampling, seed: int
) -> tuple[list[Said], np.ndarray, dict[str, np.ndarray]]:
    """-> (whole conversations, what each earned, how many turns it took)"""
    draw = generating(talk.max_new, model.tokenizer.stop, sampling)
    answer = lambda *batch: jax.tree.map(np.asarray, draw(model.decoder, *batch))
    said, earned, turns = [], [], []
    for begin in range(0, len(asked), ROWS):
        judged = talk(answer, asked[begin : begin + ROWS], jax.random.fold_in(jax.random.key(seed), begin))
        c = judged.completions
        assert judged.turns is not None
        said += map(Said, judged.texts, c.mask.sum(1).tolist(), c.ended.tolist())
        earned, turns = [*earned, *judged.reward], [*turns, *judged.turns]
    return said, np.asarray(earned), {"turns": np.asarray(turns)}


def _row(prompt: Prompt, said: Any, reward: float) -> dict[str, Any]:
    return {"prompt": prompt.content, "answer": said.text, "ended": said.ended, "reward": float(reward)}


def _with_interval(name: str, of_prompts: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(of_prompts)
    return {name: float(of_prompts.mean()), f"{name}_low": low, f"{name}_high": high}


def _rate(name: str, passed: np.ndarray) -> dict[str, float]:
    """Of independent trials: Wilson's interval has a width where all pass, too."""
    low, high = wilson_interval(float(passed.mean()), len(passed))
    return {name: float(passed.mean()), f"{name}_low": low, f"{name}_high": high}


def _log_ratios(
    model: LanguageModel,
    reference: Decoder,
    prompts: Sequence[Sequence[int]],
    said: Sequence[Any],
    max_new: int,
    t: float,
) -> np.ndarray:
    """log pi(y) - log ref(y) of each answer, float [N], as many side by side to each prompt; its mean over answers
    drawn from pi is the divergence."""
    pad, length, group = model.tokenizer.pad, max(map(len, prompts)), len(said) // len(prompts)

    @jax.jit
    def apart(model: Decoder, reference: Decoder, *rows: Any) -> jax.Array:
        of = lambda d: log_probs(d, before_answers(d, *rows), *rows[2:], temperature=t, chunk=CHUNK).sum(-1)
        return of(model) - of(reference)

    found = []
    rows = min(max(1, ROWS // group), len(prompts))
    for begin in range(0, len(prompts), rows):
        places = np.minimum(np.arange(begin, begin + rows), len(prompts) - 1)
        asked = left_padded([prompts[i] for i in places], pad, length)
        answers = [said[i * group + j].ids for i in places for j in range(group)]
        tokens, mask = np.full((len(answers), max_new), pad, np.int32), np.zeros((len(answers), max_new), bool)
        for row, ids in enumerate(answers):
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
        some = np.asarray(apart(model.decoder, reference, *asked, tokens, mask))
        found.append(some[: (len(prompts) - begin) * group])
    return np.concatenate(found)
