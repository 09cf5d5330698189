"""Ways to align a language model side by side, over the same seeds, from one model on one set of prompts or pairs.

The folder is that of every comparison (``compare``), with a run folder for each entry and seed. A seed's score is what
the last look at rows that are held out found: what answers to them earn, or how many pairs are told right.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.agents.language import METHODS, method
from steersman.errors import TrainingFault, UsageError
from steersman.run.compare.compare import FILE, FORMAT, PICTURE
from steersman.run.compare.entries import FORM, listed, settings_in
from steersman.run.compare.picture import comparison_picture
from steersman.run.compare.results import Compared, Comparison, Failed, Outcome, height, improvement_of
from steersman.run.disk import run_folder
from steersman.run.disk.files import explained, lock, plain, read_json, write_json
from steersman.run.disk.logs import read_metrics
from steersman.run.events import FINISHED, Callback, Within
from steersman.run.language.align import AlignPlan, align, planned, resume, rewards_of
from steersman.run.language.answers.own import own_names
from steersman.run.policies.limits import Limits
from steersman.run.session import tell_all
from steersman.theory import comparison as theory
from steersman.theory.statistics import iqm

MEASURES = {"prompts": "held_out_reward", "pairs": "held_out_accuracy"}  # by what is learned from; more is better
SCORED = ", ".join(name for name in METHODS if name != "sft")


class Contender(NamedTuple):
    """One of those compared, of every seed."""

    label: str
    plan: AlignPlan  # of the first seed
    given: dict[str, Any]  # settings of its own
    settings: dict[str, Any]  # with those of all

    @property
    def folder(self) -> str:
        return "".join(c if c.isalnum() or c in "_.+" else "-" for c in self.label).strip("-.")


def compare_texts(
    entries: Sequence[str],
    model: str | Path,
    data: str | Path,
    *,
    out: str | Path,
    seeds: int = 3,
    seed: int = 0,
    threshold: float | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Comparison:
    """Align a model in several ways over the same seeds, and say which is better and how surely.

    entries: texts ``[LABEL=]METHOD[:SETTING=VALUE,...]``. model, data, settings: as for ``align``, of all entries,
    under their own. threshold: a score whose first update is noted. A folder that holds this comparison goes on:
    finished runs are kept, interrupted ones resumed.

    Raises UsageError before anything is trained: an unknown method or setting, entries of one label, methods that learn
    from different data, nothing held out, a folder with something else in it.
    """
    chosen = [_contender(text, model, data, {"seed": seed} | settings) for text in entries]
    name = _name(chosen[0].plan) if chosen else ""
    _check(chosen)
    measure, path = MEASURES[chosen[0].plan.method.learns_from], Path(out)
    if path.exists() and not (path / FILE).is_file() and any(path.iterdir()):
        raise UsageError(f"{path} holds something else than a comparison. Give --out a new folder.")
    if (path / FILE).is_file() and (there := read_json(path / FILE).get("environment")) != name:
        raise UsageError(f"{path} compares on {there}, not on {name}. Give another --out.")
    outcomes, failures = {}, {}
    with ExitStack() as stack:
        with explained("creating the folder", path):
            path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock(path))
        about = {c.label: _to_json(c) for c in chosen}
        content = {"format": FORMAT, "environment": name, "compiled": True, "threshold": threshold, "entries": about}
        write_json(path / FILE, content | {"status": "running", "versions": run_folder.versions()})
        for i, c in enumerate(chosen):
            places = [path / c.folder / f"seed-{seed + k}" for k in range(seeds)]
            try:
                found = []
                for k, place in enumerate(places):
                    within = Within(c.label, i, len(chosen), k, seeds)
                    found.append(_trained(c, seed + k, place, callbacks, within))
                    if found[-1] is None:
                        break
            except TrainingFault as error:
                failures[c.label] = str(error)
                tell_all(callbacks, Failed(c.label, str(error)))
                continue
            if found[-1] is None:
                break
            outcomes[c.label] = outcome_of(c, places, threshold, measure)
            tell_all(callbacks, Compared(c.label, outcomes[c.label]))
        unfinished = [c.label for c in chosen if c.label not in outcomes and c.label not in failures]
        every = [seed + k for k in range(seeds)]
        improvement = improvement_of(outcomes)
        result = Comparison(name, True, every, 1, threshold, outcomes, improvement, failures, unfinished, path)
        write_json(path / FILE, content | result.summary() | {"versions": run_folder.versions()})
        if outcomes:
            comparison_picture(result, path / PICTURE)
    return result


def _name(plan: AlignPlan) -> str:
    return f"{Path(plan.model).name} on {Path(plan.data).name}"


def _contender(text: str, model: str | Path, data: str | Path, shared: Mapping[str, Any]) -> Contender:
    head, _, tail = text.partition(":")
    label, labelled, name = head.rpartition("=")
    if not name or (labelled and not label) or "," in name:
        raise UsageError(f"{text!r} names no method. {FORM}")
    if name not in METHODS:
        raise UsageError(f"{text!r}: of a language model these are compared: {', '.join(METHODS)}.")
    given = settings_in(tail.split(",") if tail else [], text)
    if "seed" in given:
        raise UsageError(f"{text}: seed is the same for all entries; give it once, as --seed.")
    shown = ", ".join(f"{k}={v}" for k, v in given.items())
    settings = {k: _fitted(name, k, v) for k, v in {**shared, **given}.items()}
    plan = planned(name, model, data, settings)
    return Contender(label or (f"{name} {shown}" if shown else name), plan, given, settings)


def _fitted(name: str, setting: str, value: Any) -> Any:
    """A setting's value as its field has it: none, and one or several words of a tuple."""
    if value == "none":
        return None
    default = next((f.default for f in dataclasses.fields(method(name).config) if f.name == setting), None)
    several = isinstance(default, tuple)
    return tuple(value.split(",")) if several and isinstance(value, str) else value


def _check(chosen: Sequence[Contender]) -> None:
    if not chosen:
        raise UsageError("Name at least one method to compare: steersman compare rloo ppo --model runs/sft --data ...")
    for i, one in enumerate(chosen):
        if one.folder in [other.folder for other in chosen[:i]] or not one.folder:
            raise UsageError(f"{one.label!r} cannot name a folder beside the others. Give it a label: a={one.label}")
        if (kind := one.plan.method.learns_from) not in MEASURES:
            raise UsageError(f"{one.label} learns from {kind}, and has no score to compare by: give {SCORED}.")
        if kind != chosen[0].plan.method.learns_from:
            raise UsageError(f"{chosen[0].label} and {one.label} learn from different data, and are not compared.")
        if not one.plan.run.held_out:
            raise UsageError("held_out = 0: what is compared is what becomes of rows that are held out. Give 0.05.")


def _to_json(one: Contender) -> dict[str, Any]:
    about = {"algorithm": one.plan.method.name, "folder": one.folder, "given": listed(one.given)}
    return plain(about | {"model": one.plan.model, "data": one.plan.data, "settings": listed(one.settings)})


def _trained(
    one: Contender, seed: int, place: Path, callbacks: Sequence[Callback], within: Within
) -> Mapping[str, Any] | None:
    """The summary of a run that is trained, resumed or done already; None where it was interrupted."""
    what = (one.plan.method.name, one.plan.model, one.plan.data)
    settings: dict[str, Any] = one.settings | {"seed": seed}
    if not (place / "config.json").is_file():
        done = align(*what, out=place, callbacks=callbacks, within=within, **settings)
        return None if done.interrupted else done.summary
    run = run_folder.open_run(place)
    plan = planned(*what, settings)
    wanted = json.loads(json.dumps({**dataclasses.asdict(plan.config), **dataclasses.asdict(plan.run)}))
    had = {**run.config["config"], **run.config["run"]}
    if other := [f"{k} is {had[k]!r}, not {v!r}" for k, v in wanted.items() if k in had and had[k] != v]:
        raise UsageError(f"{place} holds a run of other settings: {'; '.join(other[:3])}. Remove it to train it again.")
    summary = run_folder.read_summary(run)
    if summary is not None and summary.get("status") in FINISHED:
        return summary
    named = own_names(plan.data, rewards_of(plan))  # by the command line
    again = {"environment": next(iter(named["environment"]), None), "reward": named["reward"]}
    done = resume(place, **again, callbacks=callbacks, within=within)
    return None if done.interrupted else done.summary


def outcome_of(one: Contender, places: Sequence[Path], threshold: float | None, measure: str) -> Outcome:
    """What the runs of an entry say, one of each seed."""
    runs = [run_folder.open_run(place) for place in places]
    summaries = [run_folder.read_summary(run) or {} for run in runs]
    total = lambda name: float(sum(summary[name] for summary in summaries))
    series = []
    for run in runs:
        rows = [row for row in read_metrics(run.metrics) if measure in row]
        series.append((np.asarray([row["steps"] for row in rows], float), np.asarray([row[measure] for row in rows])))
    scores = np.asarray([values[-1] for _, values in series])
    first = lambda steps, values: next((s for s, v in zip(steps, values, strict=True) if v >= threshold), math.inf)
    solved = np.asarray([first(*one) for one in series] if threshold is not None else [])
    steps = int(summaries[0]["steps"])
    return Outcome(
        one.label,
        one.plan.method.name,
        one.settings,
        steps,
        scores,
        theory.stratified_bootstrap(scores),
        theory.stratified_bootstrap(scores, iqm),
        theory.stratified_bootstrap([height(*curve) for curve in series]),
        solved,
        theory.censored_median(solved) if len(solved) else None,
        total("wall_seconds"),
        total("compile_seconds"),
        total("training_seconds"),
        steps * len(scores) / max(total("training_seconds"), 1e-9),
        series,
        list(places),
        [],
        np.zeros((len(scores), 0)),
        Limits(()),
        measure.replace("_", " "),
    )
