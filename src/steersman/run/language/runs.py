"""Run folders of language models: what they record, and what is made of them: a model, an assistant, a reward model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from steersman.agents.language import method as method_of
from steersman.agents.language.common import Learner, Method, Trainer
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, run_folder
from steersman.run.disk.files import read_json
from steersman.run.language.answering import Assistant, RewardModel
from steersman.run.language.models import LanguageModel, load_model
from steersman.types import PyTree


class Opened(NamedTuple):
    """A run, open: what it was made with."""

    run: run_folder.Run
    method: Method
    config: Any
    trainer: Trainer
    base: LanguageModel  # what it started from

    @property
    def about(self) -> dict[str, Any]:
        """What the folder says of texts: model, data, their digests, plain, total."""
        return self.run.config["spec"]["language"]


def is_run(path: str | Path) -> bool:
    """Whether this is the folder of a run, of whatever kind."""
    file = Path(path).expanduser() / "config.json"
    return file.is_file() and "algorithm" in read_json(file)


def opened(path: str | Path, base: LanguageModel | None = None) -> Opened:
    """A run of a language model; base: its model, where that is in memory. Raises UsageError for any other folder."""
    run = run_folder.open_run(Path(path).expanduser())
    if "language" not in run.config["spec"]:
        raise UsageError(
            f"{path} is a run of {run.config['algorithm']} on {run.config['environment']}, no language model."
        )
    about = run.config["spec"]["language"]
    method = method_of(run.config["algorithm"])
    known = {field.name for field in dataclasses.fields(method.config)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in run.config["config"].items() if k in known}
    config = method.config(**values)
    model = open_model(about["model"]) if base is None else base
    digest = model_sha256(about["model"], model)
    if digest != about["model_sha256"]:
        raise UsageError(
            f"{path} was trained from {about['model']}, which holds other weights now (SHA-256 {digest[:12]}, not "
            f"{about['model_sha256'][:12]}). Put those back."
        )
    return Opened(run, method, config, method.trainer(config, about["total"]), model)


def shapes(trainer: Trainer, base: LanguageModel) -> Learner:
    """What a learner looks like; nothing is made."""
    return jax.eval_shape(trainer.init, base.decoder, jax.eval_shape(lambda: jax.random.key(0)))


def params_of(one: Opened) -> PyTree:
    """What was trained, of the newest whole checkpoint; raises UsageError where nothing was saved."""
    like = {"agent": shapes(one.trainer, one.base)._replace(moments=())}
    newest = checkpoint.latest(one.run.checkpoints, lambda path: checkpoint.read(path, like))
    run_folder.warn(newest.note)
    if newest.path is None:
        raise UsageError(f"{one.run.path} has no checkpoint yet: nothing was saved.")
    return newest.content.state(like, partial=True)["agent"].params


def open_model(name: str | Path) -> LanguageModel:
    """The model of a name, as ``load_model``'s, or of a run folder: its base with what was trained merged into it.

    Raises UsageError as ``load_model`` does, and for the run of a reward model, which says nothing.
    """
    return merged(opened(name)) if is_run(name) else load_model(name)


def merged(one: Opened) -> LanguageModel:
    """What an open run learned, as a model of its own. Raises UsageError for a reward model."""
    if one.method.name == "reward":
        raise UsageError(f"{one.run.path} is a reward model: it gives numbers for answers, and has none of its own.")
    return LanguageModel(jax.jit(one.trainer.model)(params_of(one), one.base.decoder), one.base.tokenizer)


def load(path: str | Path) -> Assistant | RewardModel:
    """What a run folder learned: to talk to, or of a reward model, to be asked what an answer is worth."""
    one = opened(path)
    if one.method.name == "reward":
        return RewardModel(*one.base, params_of(one), one.config, plain=bool(one.about["plain"]))
    return Assistant(*merged(one), plain=bool(one.about["plain"]))


def assistant(name: str | Path, plain: bool = False) -> Assistant:
    """A run's, or that of a model of another name. plain: prompts stand as they are, also where a run's did not."""
    if not is_run(name):
        return Assistant(*load_model(name), plain=plain)
    one = opened(name)
    return Assistant(*merged(one), plain=plain or bool(one.about["plain"]))


def model_sha256(name: str, model: LanguageModel) -> str:
    """What tells whether a model is the same: of its weights, or where it is a run's, of what was trained there.

    Merging rounds, and not alike on every machine.
    """
    if not is_run(name):
        return checkpoint.parameters_sha256(model.decoder)
    use = lambda path: checkpoint.stored_sha256(path, under="agent/params")
    return checkpoint.latest(run_folder.open_run(name).checkpoints, use).content


def named(model: str | Path) -> str:
    """A model's name as a run keeps it: of a folder or a file, where it is on this machine."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else str(model)
