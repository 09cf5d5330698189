"""Algorithms side by side: each trained by ``train.run`` over the same seeds, then what these say of which is better.

A comparison's folder::

    comparison.json   what is compared, the results, the versions       comparison.png   the same as a picture
    LABEL/            the run folder of an entry; on host environments, one for each seed: LABEL/seed-0 ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from steersman import envs
from steersman.envs.families import reward_threshold
from steersman.errors import TrainingFault, UsageError
from steersman.run import plugins
from steersman.run.compare.entries import Entry, check_same, from_json, listed, read_entries, resolve, to_json
from steersman.run.compare.picture import comparison_picture
from steersman.run.compare.results import Compared, Comparison, Failed, Outcome, improvement_of, limited, outcome_of
from steersman.run.disk import compile_cache, run_folder
from steersman.run.disk.files import TEMPORARY, explained, lock, read_json, write_json
from steersman.run.evaluate import close, fixed_size
from steersman.run.events import FINISHED, Callback, Within
from steersman.run.loops.devices import use_all_cores
from steersman.run.plan import Plan
from steersman.run.prepare import prepare
from steersman.run.progress import history_of
from steersman.run.session import tell_all
from steersman.run.settings import environment_of, renewed, reopened, split, values_of
from steersman.run.train import resumption, run
from steersman.types import DeviceEnvs

FORMAT = "1.1"
FILE, PICTURE = "comparison.json", "comparison.png"


def compare(
    entries: Sequence[str] | Mapping[str, Any] | str = (),
    environment: Any = None,
    *,
    steps: int | None = None,
    seeds: int | None = None,
    seed: int | None = None,
    threshold: float | None = None,
    evaluation_episodes: int | None = None,
    out: str | Path | None = None,
    preset: bool = True,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Comparison:
    """Train several algorithms, or variants of one, over the same seeds, and say which is better and how surely.

    entries: texts ``[LABEL=]ALGORITHM[:SETTING=VALUE,...]``, or a mapping label -> such a text, an ``Algorithm``, or
    ``{"algorithm": name or Algorithm, setting: value, "network": factory}``. environment, callbacks: as for ``train``;
    an event's ``training.within`` says of which entry it is. steps: the budget of each seed; without
    it the largest of the entries' presets, the same for all. seeds: how many, 10 by default; side by side on compiled
    environments, one after another on host ones. threshold: the return that counts as solved, by default the one that
    Gymnasium registers. settings: for all entries, under their own. out: the comparison's folder; without one nothing
    is written.

    A folder that holds a comparison already goes on: finished runs are kept, interrupted ones resumed, new entries
    added, and without entries it goes on as it was. Ctrl-C ends it early: ``result.interrupted``. An entry whose
    training fails (a NaN) is in ``result.failures``; the others go on.

    Raises UsageError before anything is trained: an unknown algorithm, one that does not serve the environment's
    actions, entries of one label, a folder that is not a comparison, other settings than it was made with.

    >>> result = compare(["ppo", "ppo:objective=penalty"], "CartPole-v1", seeds=5)  # doctest: +SKIP
    >>> result.outcomes["ppo"].mean.value, result.ranked[0]  # doctest: +SKIP
    """
    use_all_cores()
    compile_cache.enable()
    path = None if out is None else Path(out)
    before = _opened(path)
    asked = {"seeds": seeds, "seed": seed, "evaluation_episodes": evaluation_episodes}
    shared = {name: value for name, value in asked.items() if value is not None}
    if before is None:
        if environment is None:
            raise UsageError("Name an environment to compare on, such as CartPole-v1 (--env on the command line).")
        shared = {"seeds": 10} | shared
    else:
        environment = environment_of(before | {"run": before}, environment, path)
        if isinstance(environment, str) and environment != before["environment"]:
            raise UsageError(f"{path} compares on {before['environment']}, not on {environment}. Give another --out.")
    size = fixed_size(environment)
    settings = ({} if size is None else {"num_envs": size}) | settings
    chosen = _chosen(read_entries(entries), before, environment, shared, settings, steps, preset)
    compiled, name = _look(environment) if before is None else (before["compiled"], before["environment"])
    if threshold is None:
        threshold = before["threshold"] if before else reward_threshold(name)
    jobs = [_plans(entry, i, len(chosen), environment, path, compiled, callbacks) for i, entry in enumerate(chosen)]
    _check(jobs)
    with ExitStack() as stack:
        content: dict[str, Any] = {}
        if path is not None:
            with explained("creating the folder", path):
                path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(path))
            objects = {} if isinstance(environment, str) else {"object": True}
            content = {"format": FORMAT, "environment": name, **objects, "compiled": compiled, "threshold": threshold}
            content["entries"] = {entry.label: to_json(entry) for entry in chosen}
            write_json(path / FILE, content | {"status": "running", "versions": run_folder.versions()})
        outcomes, failures = _trained(list(zip(chosen, jobs, strict=True)), threshold, callbacks)
        outcomes = limited(outcomes)
        result = Comparison(
            name,
            compiled,
            _seeds(chosen[0]),
            chosen[0].run.evaluation_episodes,
            threshold,
            outcomes,
            improvement_of(outcomes),
            failures,
            [entry.label for entry in chosen if entry.label not in outcomes and entry.label not in failures],
            path,
        )
        if path is not None:
            write_json(path / FILE, content | result.summary() | {"versions": run_folder.versions()})
            if outcomes:
                comparison_picture(result, path / PICTURE)
    return result


def _opened(path: Path | None) -> dict[str, Any] | None:
    """The comparison that a folder holds; None for a folder that is to be made."""
    if path is None or not path.exists():
        return None
    if path.is_file():
        raise UsageError(f"{path} is a file. Give --out a new folder, or one that holds a comparison.")
    if (path / FILE).is_file():
        found = read_json(path / FILE)
        if str(found.get("format")).split(".")[0] != FORMAT.split(".")[0] or not isinstance(found.get("entries"), dict):
            raise UsageError(f"{path / FILE} is not a comparison that this steersman reads. Give --out another folder.")
        return _renewed(found) if found["format"] == "1.0" else found
    held = sorted(p.name for p in path.iterdir() if p.name != ".lock" and not TEMPORARY.fullmatch(p.name))
    if held:
        what = "a run" if "config.json" in held else f"not a comparison ({', '.join(held[:3])})"
        raise UsageError(f"{path} is {what}. Give --out a new or an empty folder, or one that holds a comparison.")
    return None


def _renewed(found: dict[str, Any]) -> dict[str, Any]:
    """A comparison of format 1.0 with its entries' settings as they are today."""
    for content in found["entries"].values():
        algorithm = plugins.algorithm(content["algorithm"])
        parts = split(algorithm, renewed(algorithm, content["settings"]))
        content |= {"settings": listed(values_of(*parts)), "given": renewed(algorithm, content["given"])}
    return found


def _chosen(
    entries: list[Entry],
    before: dict[str, Any] | None,
    environment: Any,
    shared: dict[str, Any],
    settings: dict[str, Any],
    steps: int | None,
    preset: bool,
) -> list[Entry]:
    """Every entry with all its settings: those the folder has, as they were, and the new ones."""
    kept = dict((before or {}).get("entries", {}))
    if not entries and not kept:
        raise UsageError("Name at least one algorithm to compare: steersman compare a2c ppo --env CartPole-v1")
    if kept:
        one = next(iter(kept.values()))["settings"]
        shared = {name: one[name] for name in ("seeds", "seed", "evaluation_episodes")} | shared
        budgets = [content["settings"]["steps"] for content in kept.values() if "steps" not in content["given"]]
        steps = max(budgets, default=None) if steps is None else steps
    found = resolve(entries, environment, shared | settings, steps=steps, preset=preset)
    new = {entry.label: entry for entry in found}
    everyone = shared | settings | ({} if steps is None else {"steps": steps})
    for label, content in kept.items():
        asked = {"settings": content["settings"] | listed(everyone) | content["given"]}
        check_same(label, content, to_json(new[label]) if label in new else content | asked)
    again = {label: new.get(label) or from_json(label, content) for label, content in kept.items()}
    chosen = list((again | new).values())
    if chosen[0].run.evaluation_episodes < 1:
        raise UsageError("evaluation_episodes = 0; a comparison is made of final evaluations. The usual number is 100.")
    return chosen


def _look(environment: Any) -> tuple[bool, str]:
    """-> (is it compiled, its name)"""
    made = envs.make(environment, fixed_size(environment) or 1)
    try:
        return isinstance(made, DeviceEnvs), environment if isinstance(environment, str) else made.spec.id
    finally:
        close(environment, made)


def _seeds(entry: Entry) -> list[int]:
    return [entry.run.seed + i for i in range(entry.run.seeds)]


def _plans(
    entry: Entry,
    index: int,
    entries: int,
    environment: Any,
    path: Path | None,
    compiled: bool,
    callbacks: Sequence[Callback],
) -> list[Plan]:
    """The runs of an entry: one of all seeds side by side, or one for each, which share their compiled programs."""
    place = None if path is None else path / entry.folder
    runs = [(place, entry.run)]
    if not compiled:
        inside = lambda seed: None if place is None else place / f"seed-{seed}"
        runs = [(inside(seed), replace(entry.run, seed=seed, seeds=1)) for seed in _seeds(entry)]
    plan = Plan(entry.algorithm, environment, entry.run, entry.config, entry.network, entry.origins)
    within = lambda number: Within(entry.label, index, entries, number, len(runs))
    return [replace(plan, run=run, out=out, within=within(i), callbacks=callbacks) for i, (out, run) in enumerate(runs)]


def _check(jobs: list[list[Plan]]) -> None:
    """Make the parts of every training that is still to come, and let them go: what is wrong is said now."""
    for plans in jobs:
        plan = next((plan for plan in plans if _finished(plan) is None), None)
        if plan is not None:
            try:
                prepare(plan).close()
            except UsageError as error:
                raise UsageError(f"{plan.within.entry if plan.within else ''}: {error}") from None


def _finished(plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The summary and the log of a run that is done; None where it is to be trained or resumed."""
    if plan.out is None or not (plan.out / "config.json").is_file():
        return None
    run = run_folder.open_run(plan.out)
    wanted = {k: v for k, v in listed(values_of(plan.run, plan.config)).items() if v is not None}
    saved = values_of(*split(plan.algorithm, reopened(plan.algorithm, run.config)))
    saved = {k: v for k, v in listed(saved).items() if v is not None}
    if plan.algorithm.data == "only":
        del wanted["num_envs"]  # it steps none, and its folder says so
    other = [f"{k} is {saved.get(k)!r}, not {v!r}" for k, v in wanted.items() if saved.get(k) != v]
    if other:
        raise UsageError(
            f"{plan.out} holds a run of other settings than its comparison: {'; '.join(other[:3])}. Remove that folder "
            "to train it again."
        )
    summary = run_folder.read_summary(run)
    return (summary, history_of(run)) if summary is not None and summary.get("status") in FINISHED else None


def _trained(
    jobs: list[tuple[Entry, list[Plan]]], threshold: float | None, callbacks: Sequence[Callback]
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Train what is not done yet; -> (outcomes, failures), both without what an interruption left undone."""
    outcomes, failures = {}, {}
    for entry, plans in jobs:
        done = []
        for plan in plans:
            try:
                found = _finished(plan) or _train(plan)
            except TrainingFault as error:
                failures[entry.label] = str(error)
                tell_all(callbacks, Failed(entry.label, str(error)))
                break
            if found is None:
                return outcomes, failures
            done.append(found)
        if len(done) == len(plans):
            places = [plan.out for plan in plans if plan.out is not None]
            outcomes[entry.label] = outcome = outcome_of(entry, done, threshold, places)
            tell_all(callbacks, Compared(entry.label, outcome))
    return outcomes, failures


def _train(plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Train or resume one run; -> its summary and log, None if it was interrupted."""
    if plan.out is not None and (plan.out / "config.json").is_file():
        shared: dict[str, Any] = {"callbacks": plan.callbacks, "within": plan.within, "programs": plan.programs}
        shared["chosen"] = plan.chosen
        opened = run_folder.open_run(plan.out)
        plan = resumption(opened, plan.environment, plan.algorithm, plan.network, **shared)
    result = run(plan)
    return None if result.interrupted else (result.summary, result.history)
