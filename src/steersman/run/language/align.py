"""Aligning a language model, from names to a result: ``align`` begins a run, ``resume`` goes on with one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.agents.language import method as method_of
from steersman.agents.language.common import Method
from steersman.agents.language.on_policy import prompts_once
from steersman.agents.language.on_policy_config import OnPolicyConfig
from steersman.errors import UsageError, nearest
from steersman.language.adapters import parameters
from steersman.language.decoder import Decoder
from steersman.language.tokenizer import Tokenizer
from steersman.run.disk import checkpoint, compile_cache, run_folder
from steersman.run.disk.files import lock
from steersman.run.events import FINISHED, AlreadyDone, Callback, Within
from steersman.run.language import memory
from steersman.run.language.answers import procedural
from steersman.run.language.answers.asking import Asking
from steersman.run.language.answers.conversing import Conversations
from steersman.run.language.answers.looks import evaluating, prompts_of, sampling
from steersman.run.language.answers.online import Answering, PromptBatches
from steersman.run.language.answers.own import check_named, own_names
from steersman.run.language.batches import Batches, size_of
from steersman.run.language.data import READERS, Data, Pair, Prompt, Reader
from steersman.run.language.models import LanguageModel
from steersman.run.language.programs import Programs
from steersman.run.language.reading import data_sha256, is_environment, is_task
from steersman.run.language.runs import model_sha256, named, open_model, opened, shapes
from steersman.run.language.settings import LONGEST, MOST_HELD_OUT, AlignConfig
from steersman.run.language.training import Aligned, Fed, Job, fit
from steersman.run.session import tell_all

CUTTING = ("top_k", "top_p", "min_p")  # settings of ``Sampling``


class AlignPlan(NamedTuple):
    """What is to be done, with settings that are checked."""

    method: Method
    model: str
    data: str
    config: Any
    run: AlignConfig


def align(
    method: str,
    model: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    replace: bool = False,
    callbacks: Sequence[Callback] = (),
    within: Within | None = None,
    **settings: Any,
) -> Aligned:
    """Align a language model.

    method: sft, reward, dpo, rloo, grpo or ppo. model: a name, as ``load_model`` takes it, or a run folder, whose
    result it starts from. data: JSON lines or parquet (``run.language.data``); for rloo, grpo and ppo also a task of
    reasoning-gym or an environment of texts, by name (``run.language.reading``). settings: fields of the method's
    config and of ``AlignConfig``, by name. out: the run folder; without one nothing is written. replace: put the run in
    the place of the one that ``out`` holds. within: where in a comparison this is, for callbacks.

    Raises UsageError: a setting, name, file or row is wrong, or the memory would not do; nothing has been trained or
    written then. TrainingFault: a loss became NaN.

    >>> done = align("sft", "smollm2", "texts.jsonl", lora=8, out="runs/sft")  # doctest: +SKIP
    >>> done.summary["after"]["held_out_perplexity"]  # doctest: +SKIP
    23.1
    """
    plan = planned(method, model, data, settings)
    compile_cache.enable()
    job = prepare(plan)
    with ExitStack() as stack:
        run = None
        if out is not None:
            if replace:
                run_folder.remove(out)
            run = run_folder.create(out, config_json(plan, job))
            stack.enter_context(lock(run.path))
        return fit(job, run, callbacks, within=within)


def resume(
    out: str | Path,
    *,
    environment: str | None = None,
    reward: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    within: Within | None = None,
) -> Aligned:
    """Go on with a run where its newest whole checkpoint is; it ends bit for bit where it would have without the stop.

    environment, reward: needed where these are the user's own, ``package.module:name``, which a run folder alone never
    causes to be imported; by the names that the run has.

    Raises UsageError as ``align`` does, and where model or data are not what the run began with.
    """
    compile_cache.enable()
    one = opened(out)
    about, saved = one.about, one.run.config
    known = {field.name for field in dataclasses.fields(AlignConfig)}
    run = AlignConfig(**{name: value for name, value in saved["run"].items() if name in known})
    plan = AlignPlan(one.method, about["model"], about["data"], one.config, run)
    check_named(one.run.path, own_names(about["data"], rewards_of(plan)), environment, reward)
    if data_sha256(about["data"]) != about["data_sha256"]:
        raise UsageError(
            f"{out} learns from {about['data']}, which holds other texts than when it began. Put them back."
        )
    with lock(one.run.path):
        newest = checkpoint.latest(one.run.checkpoints, checkpoint.read)
        run_folder.warn(one.run.warning, newest.note)
        job = prepare(plan, one.base)
        summary = run_folder.read_summary(one.run) or {}
        if summary.get("status") in FINISHED and newest.path is not None:
            tell_all(callbacks, AlreadyDone(summary))
            learner = newest.content.state({"agent": shapes(job.trainer, job.model)})["agent"]
            model = lambda: LanguageModel(job.programs.model(learner), one.base.tokenizer)
            return Aligned(learner, model, [], summary, one.run.path, False)
        return fit(job, one.run, callbacks, newest, within)


def planned(method: str, model: str | Path, data: str | Path, settings: Mapping[str, Any]) -> AlignPlan:
    """A plan of settings by name; raises UsageError for one that is none, or out of its range."""
    what = method_of(method)
    refuse_cut(what, settings)
    own, run = ({field.name for field in dataclasses.fields(kind)} for kind in (what.config, AlignConfig))
    for name in settings:
        if name not in own | run:
            raise UsageError(f"{method} has no setting {name!r}. {nearest(name, own | run)}".rstrip())
    if what.learns_from == "prompts" and is_task(data) and not settings.get("reward"):
        settings = {**settings, "reward": (procedural.PREFIX,)}
    config = what.config(**{name: value for name, value in settings.items() if name in own})
    return AlignPlan(
        what, named(model), named(data), config, AlignConfig(**{n: v for n, v in settings.items() if n in run})
    )


def refuse_cut(what: Method, names: Iterable[str]) -> None:
    """Raise UsageError where a setting would cut the distribution that answers are drawn from."""
    cut = [name for name in names if name in CUTTING]
    if cut and what.learns_from == "prompts":
        raise UsageError(
            f"{what.name} has no {cut[0]}: tokens are drawn from the whole distribution, whose log-probabilities are "
            "learned. Those of a distribution that is cut are others, and the ratio of both would be wrong from the "
            "first step. Give --temperature below 1 to draw likelier tokens; align generate cuts."
        )


def prepare(plan: AlignPlan, model: LanguageModel | None = None) -> Job:
    """The parts of a training on texts or pairs, made and checked. model: the base, where it is in memory already."""
    method, config, run = plan.method, plan.config, plan.run
    if is_environment(plan.data) and method.learns_from != "prompts":
        raise UsageError(
            f"{plan.data} is to be talked to (rloo, grpo, ppo); {method.name} learns from a file of texts."
        )
    model = open_model(plan.model) if model is None else model
    data = READERS[method.learns_from](plan.data, reader_of(*model, run), run.unusable)
    learned, held = split(data, run)
    asks = method.learns_from == "prompts"
    if asks:
        asking = asking_of(plan, model, [*learned, *held])
        batches: Any = PromptBatches(learned, config.batch_size, run.seed)
        texts = read_by(config, asking)
    else:
        asking = None
        batches = Batches(learned, config.batch_size, model.tokenizer.pad, run.seed)
        rows = config.batch_size * (2 if method.learns_from == "pairs" else 1)
        texts = [memory.Texts(rows // config.accumulate, batches.lengths()[-1])]
    total = run.updates or max(1, math.ceil(run.epochs * batches.per_epoch))
    trainer = method.trainer(config, total)
    merged = bool(run.samples) and not asks
    parts = memory.estimate(model.decoder, trainer, config, texts, samples=merged)
    if asking is not None:
        parts |= memory.cache(model.decoder, config.answers, asking.longest)
    memory.check(parts, "lower --batch-size or --group" if asks else "")
    programs = Programs(trainer, model.decoder, run.devices)
    if config.batch_size % (config.accumulate * run.devices):
        raise UsageError(
            f"A batch_size of {config.batch_size} does not go over devices = {run.devices} in accumulate = "
            f"{config.accumulate} parts each."
        )

    answering = None if asking is None else Answering(config, run, model, asking, programs)
    if answering is not None:
        evaluate: Any = partial(answering.evaluate, held)
        sample: Any = partial(answering.sample, (held or learned)[: run.samples])
    else:
        speaks = 0 if method.name == "reward" else run.samples
        evaluate = evaluating(programs, held, config, model, method)
        sample = sampling(programs, prompts_of(held or learned, speaks), model, run)

    def feed(learner: Any, index: int) -> Fed:
        batch, epoch = batches(index), {"epoch": (index + 1) / batches.per_epoch}
        if answering is not None:
            fed = answering.feed(learner, batch, index)
            return fed._replace(told=fed.told | epoch)
        texts = batch if method.learns_from == "texts" else batch.chosen
        more = 0 if method.learns_from == "texts" else int(batch.rejected.mask.sum())
        return Fed(batch, int(texts.mask.sum()) + more, epoch)

    trained = parameters(shapes(trainer, model).params)
    about = f"{method.name} of {plan.model} on {plan.data}: {_counted(learned, held)}, {total:,} updates of up to "
    about += f"{config.answers} answers, " if asks else f"{config.batch_size} rows, "
    about += f"{trained:,} of {parameters(model.decoder):,} parameters trained"
    lengths = [size_of(row) for row in learned]
    each = config.said if asks else "one text each (none are packed together)"
    notes = (
        *data.notes,
        f"{'prompts' if asks else 'rows'} of {min(lengths)} to {max(lengths)} tokens, {each}",
        f"memory {memory.said(parts)}",
    )
    digests = {
        "model": plan.model,
        "model_sha256": model_sha256(plan.model, model),
        "data": plan.data,
        "data_sha256": data_sha256(plan.data),
        "plain": data.plain,
        "total": total,
        "own": own_names(plan.data, rewards_of(plan)),
    }
    return Job(method, config, run, model, trainer, programs, total, feed, evaluate, sample, about, notes, digests)


def rewards_of(plan: AlignPlan) -> tuple[str, ...]:
    """What answers earn, of a method that learns from prompts."""
    return plan.config.reward if plan.method.learns_from == "prompts" else ()


def read_by(config: OnPolicyConfig, asking: Asking | Conversations) -> list[memory.Texts]:
    """What goes through the model in one pass of an update over answers."""
    rows = config.answers // config.minibatches // config.accumulate
    if not prompts_once(config, rows, isinstance(asking, Conversations)):
        return [memory.Texts(rows, asking.longest)]
    prompts = memory.Texts(rows // config.group, asking.length)
    return [prompts, memory.Texts(rows, asking.longest - asking.length, asking.length)]


def asking_of(plan: AlignPlan, model: LanguageModel, rows: Sequence[Prompt]) -> Asking | Conversations:
    """Who asks, and says what answers earn. Raises UsageError."""
    run = plan.run
    if not is_environment(plan.data):
        return Asking(plan.config.reward, model, rows, run.max_new)
    if plan.config.reward:
        raise UsageError(f"{plan.data} rewards answers itself. Leave --reward {' '.join(plan.config.reward)} out.")
    reader = reader_of(*model, run)
    return Conversations(plan.data, reader, rows, run.max_new, run.turns, reader.max_length)


def _counted(learned: Sequence[Any], held: Sequence[Any]) -> str:
    what = {Pair: "pairs", Prompt: "prompts"}.get(type(learned[0]), "texts")
    return f"{len(learned):,} {what}" + (f" and {len(held):,} held out" if held else "")


def reader_of(decoder: Decoder, tokenizer: Tokenizer, run: AlignConfig, new: int = 0) -> Reader:
    """How rows become tokens, with room for ``new`` ones after them; raises UsageError where the context is shorter."""
    context = decoder.config.context
    if (run.max_length or 0) > context:
        raise UsageError(f"max_length = {run.max_length}; the model's context is {context}. Lower it.")
    if new >= context:
        raise UsageError(f"max_new = {new}; the model's context is {context}, of prompt and answer together. Lower it.")
    return Reader(tokenizer, min(run.max_length or LONGEST, context - new), run.plain)


def split(data: Data, run: AlignConfig) -> tuple[list[Any], list[Any]]:
    """-> (rows to learn from, rows held out), chosen by the seed; pieces of one text stay together where there are
    several texts. At least one is learned from."""
    lines = data.lines if len(set(data.lines)) > 1 else list(range(len(data.rows)))
    each = list(dict.fromkeys(lines))
    count = min(MOST_HELD_OUT, round(run.held_out * len(each)), len(each) - 1)
    order = np.random.default_rng([run.seed, 2**31]).permutation(len(each))
    aside = {each[i] for i in order[:count]}
    both = list(zip(lines, data.rows, strict=True))
    return [row for line, row in both if line not in aside], [row for line, row in both if line in aside]


def config_json(plan: AlignPlan, job: Job) -> dict[str, Any]:
    """What ``config.json`` holds of a run."""
    return {
        "algorithm": plan.method.name,
        "environment": plan.model,
        "config": dataclasses.asdict(plan.config),
        "run": dataclasses.asdict(plan.run) | {"steps": job.total},
        "spec": {"language": job.about},
    }
