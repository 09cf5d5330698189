"""Learning from answers of one's own: prompts are answered, the host judges the texts, and that is a batch.

One program answers and one updates: prompts are padded to the longest of the run, answers to ``max_new``.
(Conversations become longer from turn to turn: a few programs answer them.) A batch is a function of the seed, its
number and the learner alone, so a run that goes on ends bit for bit as one that was not stopped. The sampler runs the
adapters beside their base, as the update does, not merged: so that the log-probabilities of both agree, and serve as
log pi_old.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from steersman.agents.language.on_policy import OnPolicyLearner, Sampled
from steersman.agents.language.on_policy_config import OnPolicyConfig
from steersman.errors import UsageError, warn_once
from steersman.language.completions import Completions
from steersman.language.decoder import Decoder
from steersman.language.generation import Sampling, generate
from steersman.language.rewards import group_shown
from steersman.run.language.answers.asking import Asking, Judged
from steersman.run.language.answers.conversing import Conversations
from steersman.run.language.answers.scores import prompt_text
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


class Answering:
    """Prompts in, judged answers out: the sampler's program, and who asks and judges."""

    def __init__(
        self,
        config: OnPolicyConfig,
        run: AlignConfig,
        model: LanguageModel,
        asking: Asking | Conversations,
        programs: Programs,
    ):
        self.config, self.run, self.model, self.asking, self.programs = config, run, model, asking, programs
        self.alike = 0  # batches, one after another
        self._made: dict[Any, Any] = {}

    def __call__(self, learner: OnPolicyLearner, asked: Sequence[Prompt], key: jax.Array, group: int = 1) -> Judged:
        """Judged answers to prompts, ``group`` side by side to each; the same to the same key."""
        compiled = self.programs.compile_seconds
        judged = self.asking(partial(self._answer, learner), asked, key, group)
        answering, judging = judged.seconds
        return judged._replace(seconds=(answering - (self.programs.compile_seconds - compiled), judging))

    def _answer(self, learner: OnPolicyLearner, *batch: Any) -> Completions:
        """To a batch of prompts; each shape has a program of its own."""
        args, shape = (learner.params, self.model.decoder, *batch), tuple(x.shape for x in batch)
        if shape not in self._made:
            begun = time.perf_counter()
            self._made[shape] = jax.jit(self._shared).lower(*args).compile()
            self.programs.compile_seconds += time.perf_counter() - begun
        return jax.tree.map(np.asarray, self._made[shape](*args))

    def _shared(self, params: Any, decoder: Decoder, *batch: Any) -> Completions:
        """Over the devices, each with its share of the rows: what a row says depends on no other."""
        how = {"max_new": self.run.max_new, "stop": self.model.tokenizer.stop}
        sampling = Sampling(self.config.temperature)
        joined = self.config.adaptation.join
        answer = lambda params, decoder, *batch: generate(
            joined(decoder, params["decoder"]), *batch, **how, sampling=sampling
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
        told = judged.told | {"answer_seconds": judged.seconds[0], "reward_seconds": judged.seconds[1]}
        reward = judged.reward if judged.earned is None else judged.earned
        return Fed(Sampled(judged.completions, reward), int(judged.completions.mask.sum()), told)

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
            what, more = f"answers were cut off at {self.run.max_new} tokens", ""
            if judged.turns is not None:
                what, more = f"conversations, or answers in them ({self.run.max_new} tokens), were cut off", ", --turns"
            warn_once(
                "answers cut off",
                f"{cut:.0%} of a batch's {what}. Raise --max-new{more}, or let an end be worth something: "
                "--missing-end-penalty.",
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
        told |= {name: float(np.average([j.told[name] for j in judged], weights=[len(j.reward) for j in judged]))
                 for name in judged[0].told}  # fmt: skip
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
