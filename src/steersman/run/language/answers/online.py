"""Learning from answers of one's own: prompts are answered, the host judges the texts, and that is a batch.

One program answers and one updates: prompts are padded to the longest of the run, answers to ``max_new``. A batch is a
function of the seed, its number and the learner alone, so a run that goes on ends bit for bit as one that was not
stopped. The sampler runs the adapters beside their base, as the update does, not merged: so that the log-probabilities
of both agree, and serve as log pi_old.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from steersman.agents.language.on_policy import OnPolicyLearner, Sampled, policy
from steersman.agents.language.on_policy_config import OnPolicyConfig
from steersman.errors import UsageError, warn_once
from steersman.language.completions import Completions
from steersman.language.decoder import Decoder
from steersman.language.generation import Sampling, generate
from steersman.language.rewards import group_shown
from steersman.language.tokenizer import left_padded
from steersman.run.language.answers.scores import Reward, prompt_text
from steersman.run.language.data import Prompt
from steersman.run.language.models import LanguageModel
from steersman.run.language.programs import Programs
from steersman.run.language.settings import AlignConfig
from steersman.run.language.training import Fed
from steersman.run.loops.devices import AXIS, mesh_of

ALIKE = 3  # batches without a difference in what answers earn, after which nothing can be learned
CUT = 0.5  # share of answers that may be cut off before that is worth a warning


class PromptBatches:
    """Prompts by the number of their batch: the epochs' shuffled orders, one after another, cut into equal batches."""

    def __init__(self, rows: Sequence[Prompt], batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.per_epoch = -(-len(rows) // batch_size)

    def __call__(self, index: int) -> list[Prompt]:
        places = range(index * self.batch_size, (index + 1) * self.batch_size)
        return [self.rows[self._order(place // len(self.rows))[place % len(self.rows)]] for place in places]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))


class Judged(NamedTuple):
    """Answers as texts, and what they earned."""

    completions: Completions  # of numpy arrays
    texts: Any  # B
    reward: np.ndarray
    terms: dict[str, np.ndarray]
    seconds: tuple[float, ...]  # of answering, of judging


class Answering:
    """Prompts in, judged answers out: the sampler's program and the reward."""

    def __init__(
        self, config: OnPolicyConfig, run: AlignConfig, model: LanguageModel, rows: Sequence[Prompt], programs: Programs
    ):
        """rows: all prompts that will ever be asked; their longest says the shape. Raises UsageError."""
        self.config, self.run, self.model, self.programs = config, run, model, programs
        self.reward = Reward(config.reward)
        self.length = max(len(row.tokens) for row in rows)
        context = model.decoder.config.context
        if self.length + run.max_new > context:
            raise UsageError(
                f"The longest prompt has {self.length} tokens, and max_new = {run.max_new} more are "
                f"{self.length + run.max_new}; the model's context is {context}. Lower --max-new, or leave out prompts "
                f"that are longer than --max-length {context - run.max_new}: --unusable drop."
            )
        self.alike = 0  # batches, one after another
        self._made: dict[Any, Any] = {}

    def __call__(self, learner: OnPolicyLearner, asked: Sequence[Prompt], key: jax.Array, group: int = 1) -> Judged:
        """Judged answers to prompts, ``group`` side by side to each; the same to the same key."""
        tokenizer = self.model.tokenizer
        tokens, mask = left_padded([row.tokens for row in asked], tokenizer.pad, self.length)
        asked = [row for row in asked for _ in range(group)]
        keys = jax.vmap(partial(jax.random.fold_in, key))(np.arange(len(asked)))
        answer = self._program(learner, tokens, mask, keys)
        begun = time.perf_counter()
        c = jax.tree.map(np.asarray, answer(learner.params, self.model.decoder, tokens, mask, keys))
        said = time.perf_counter()
        texts = [tokenizer.decode(row[there]) for row, there in zip(c.tokens, c.mask, strict=True)]
        prompts = [prompt_text(row.content) for row in asked]
        reward, terms = self.reward(prompts, texts, [row.row for row in asked])
        return Judged(c, texts, reward, terms, (said - begun, time.perf_counter() - said))

    def _program(self, learner: OnPolicyLearner, *batch: Any) -> Any:
        rows = tuple(map(len, batch))
        if rows not in self._made:
            begun = time.perf_counter()
            args = (learner.params, self.model.decoder, *batch)
            self._made[rows] = jax.jit(self._shared).lower(*args).compile()
            self.programs.compile_seconds += time.perf_counter() - begun
        return self._made[rows]

    def _shared(self, params: Any, decoder: Decoder, *batch: Any) -> Completions:
        """Over the devices, each with its share of the rows: what a row says depends on no other."""
        how = {"max_new": self.run.max_new, "stop": self.model.tokenizer.stop}
        sampling = Sampling(self.config.temperature)
        answer = lambda params, decoder, *batch: generate(
            policy(self.config, decoder, params), *batch, **how, sampling=sampling
        )
        if self.programs.devices == 1:
            return answer(params, decoder, *batch)
        whole, cut = PartitionSpec(), PartitionSpec(AXIS)
        specs = (whole, whole, *(cut for _ in batch))
        shared = jax.shard_map(
            answer, mesh=mesh_of(self.programs.devices), in_specs=specs, out_specs=cut, check_vma=False
        )
        return shared(params, decoder, *batch)

    def feed(self, learner: OnPolicyLearner, asked: Sequence[Prompt], index: int) -> Fed:
        """The batch of update number ``index``: every prompt answered ``group`` times.

        Raises UsageError where the reward is none, and where it told nothing apart in the first batches.
        """
        key = jax.random.fold_in(jax.random.key(self.run.seed), index)
        judged = self(learner, asked, key, self.config.group)
        self._look_at(judged, prompt_text(asked[0].content), index)
        told = self.reward.apart(judged.terms)
        told |= {"answer_seconds": judged.seconds[0], "reward_seconds": judged.seconds[1]}
        return Fed(Sampled(judged.completions, judged.reward), int(judged.completions.mask.sum()), told)

    def _look_at(self, judged: Judged, prompt: str, index: int) -> None:
        size = self.config.group
        groups = judged.reward.reshape(-1, size) if size > 1 else judged.reward[None]
        self.alike = 0 if np.ptp(groups, axis=1).any() else self.alike + 1
        if self.alike == ALIKE == index + 1:
            shown = group_shown(prompt, judged.texts[: groups.shape[1]], groups[0].tolist())
            raise UsageError(
                f"In the first {ALIKE} batches all answers to a prompt earned the same: there is nothing to learn "
                "from. Train on texts first (steersman align sft), give easier prompts, a higher --temperature or a "
                f"larger --group, or look at the reward. One group of the last batch:\n{shown}"
            )
        if self.alike == ALIKE:
            warn_once(
                "answers alike",
                f"In {ALIKE} batches one after another all answers to a prompt earned the same, {groups.mean():.3g} in "
                "the mean: there is nothing left to learn, or the answers have become one.",
            )
        cut = 1.0 - float(judged.completions.ended.mean())
        if cut > CUT:
            warn_once(
                "answers cut off",
                f"{cut:.0%} of a batch's answers were cut off at {self.run.max_new} tokens. Raise --max-new, or let "
                "an end be worth something: --missing-end-penalty.",
            )

    def held_out(self, learner: OnPolicyLearner, rows: Sequence[Prompt]) -> list[Judged]:
        """Answers to prompts that are not learned from, in batches of the training's shape, of the same draws."""
        count, found = self.config.answers, []
        for begin in range(0, len(rows), count):
            some = list(rows[begin : begin + count])
            key = jax.random.fold_in(jax.random.key(self.run.seed), 2**31 - 1 - begin)
            judged = self(learner, some + [some[0]] * (count - len(some)), key)
            judged = judged._replace(texts=np.asarray(judged.texts, object), seconds=())
            found.append(jax.tree.map(itemgetter(slice(len(some))), judged))
        return found

    def evaluate(self, rows: Sequence[Prompt], learner: OnPolicyLearner) -> dict[str, float]:
        """What answers to these prompts earn, drawn as those that are learned from; {} of none."""
        if not rows:
            return {}
        judged = self.held_out(learner, rows)
        whole = lambda of: np.concatenate([of(one) for one in judged])
        told = {"reward": float(whole(lambda j: j.reward).mean())}
        told |= self.reward.apart({name: whole(lambda j: j.terms[name]) for name in judged[0].terms})  # noqa: B023
        told["length"] = float(whole(lambda j: j.completions.mask.sum(1)).mean())
        told["ended"] = float(whole(lambda j: j.completions.ended).mean())
        return {f"held_out_{name}": value for name, value in told.items()}

    def sample(self, rows: Sequence[Prompt], learner: OnPolicyLearner) -> list[dict[str, Any]]:
        """Some prompts with an answer each and what it earned, for samples.jsonl."""
        return [
            {"prompt": prompt_text(row.content), "text": text, "ended": bool(ended), "reward": float(reward)}
            for one in self.held_out(learner, rows)
            for row, text, ended, reward in zip(rows, one.texts, one.completions.ended, one.reward, strict=False)
        ]
