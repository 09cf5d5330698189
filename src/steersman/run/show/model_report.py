"""``steersman model``: how good a learned model is on episodes it has not learned from, as numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from steersman import envs
from steersman.errors import UsageError
from steersman.models import report
from steersman.models.data import held_out, of_rollout
from steersman.models.ensemble import EnsembleConfig, EnsembleState, ensemble
from steersman.models.model import Data, Model
from steersman.run import plugins
from steersman.run.collect import play
from steersman.run.disk import checkpoint, compile_cache, dataset, run_folder
from steersman.run.disk.files import explained, plain, write_json
from steersman.run.disk.logs import columns, read_metrics
from steersman.run.disk.spec_json import spec_from_json
from steersman.run.evaluate import close, fixed_size
from steersman.run.policy import Policy, check_same_spaces, load, state_like
from steersman.run.settings import environment_of, reopened, split
from steersman.run.show import model_pictures
from steersman.run.show.model_film import imagined_film
from steersman.types import Algorithm, EnvSpec, PyTree, Rollout

LEAST_R2 = 0.5  # of the reward, below which the report warns
STEPS = 1000  # of each environment, at most
FIT = EnsembleConfig(model_steps=5_000)  # of a model that is fitted here


@dataclass(frozen=True)
class ModelReport:
    """What ``model_run`` made: the numbers of ``report.json``, the files, and what is to worry about."""

    folder: Path
    numbers: Mapping[str, Any]
    pictures: Sequence[Path]
    film: Path | None
    warnings: Sequence[str] = field(default_factory=tuple)


def model_run(
    run: str | Path | None = None,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    horizon: int | None = None,
    episodes: int = 10,
    windows: int = 100,
    film: bool = True,
    seed: int = 4_000_000,
    seed_index: int = 0,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
) -> ModelReport:
    """Measure a model and draw what is found into the folder ``out``: report.json, pictures and a film.

    run: of an algorithm with a model inside (pets, mbpo, dyna): its model is tried on new episodes of its own policy.
    data: recorded transitions (``steersman collect``, or a Minari id): an ensemble is fitted to four fifths of their
    episodes. Without a run it is tried on the others; with one, of any algorithm, on new episodes of that.

    horizon: steps that are imagined ahead, by default 50 or what the episodes allow. episodes: environments side by
    side, one stretch of up to 1,000 steps of each. windows: stretches that are imagined. seed_index: which of a run's
    several seeds. out: RUN/model, or DATA-model beside the data. Raises UsageError where there is no model, too few
    episodes or a horizon past them, and as ``load`` does.
    """
    if run is None and data is None:
        raise UsageError(
            "There is no model to report on. Give a run folder, --data with recorded transitions, or both."
        )
    for name, value in (("episodes", episodes), ("windows", windows), ("horizon", horizon)):
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value}; it must be 1 or more.")
    folder = Path(out) if out is not None else Path(run) / "model" if run is not None else Path(f"{data}-model")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; out is the folder that the report is written to.")
    compile_cache.enable()
    key = jax.random.key(seed)
    fit_key, test_key, film_key = jax.random.split(key, 3)
    recorded = None if data is None else dataset.read_dataset(data)
    promised: dict[str, np.ndarray] = {}
    if recorded is not None:
        model, state, spec, kept = fitted(recorded, fit_key)
    else:
        assert run is not None
        (model, state, spec), kept = of_run(run, seed_index, algorithm), None
    if run is not None:
        if recorded is not None:
            check_same_spaces(load(run, seed_index=seed_index, algorithm=algorithm).spec, spec)
        test = _played(run, episodes, seed, seed_index, environment, algorithm)
        promised = columns(read_metrics(run_folder.open_run(run).path / "metrics.jsonl"))
        tried = "new episodes of the run's policy"
    else:
        assert kept is not None
        test, tried = kept, f"the episodes of {data} that were held out"
    found = report.quality(
        model,
        state,
        test,
        spec.action_space,
        horizon=horizon or min(50, _longest(test)),
        count=windows,
        key=test_key,
    )
    names = entry_names(spec.observation_space)
    worries = _worries(found, spec, [names[i] for i in np.flatnonzero(np.asarray(model.scale(state))[:-1] == 0)])
    run_folder.warn(*worries)
    with explained("writing", folder):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = model_pictures.write(found, names, folder, promised)
    made, why = (None, "not asked for")
    if film:
        made, why = imagined_film(model, state, test, spec.id, folder / "imagined.mp4", film_key)
    numbers = {
        "environment": spec.id,
        "run": None if run is None else str(run),
        "data": None if data is None else str(data),
        "tried_on": tried,
        "transitions": int(np.asarray(test.valid).sum()),
        **summary(found, names),
        "warnings": worries,
        "film": why if made is None else made.name,
    }
    write_json(folder / "report.json", plain(numbers))
    return ModelReport(folder, plain(numbers), pictures, made, worries)


def of_run(run: str | Path, seed_index: int, algorithm: str | Algorithm | None) -> tuple[Model, PyTree, EnvSpec]:
    """The model that an agent learned, out of its newest checkpoint. Raises UsageError where there is none."""
    opened = run_folder.open_run(run)
    entry = plugins.algorithm_of(opened.config, algorithm, run)
    run_config, config = split(entry, reopened(entry, opened.config))
    if not 0 <= seed_index < run_config.seeds:
        raise UsageError(f"{run} has {run_config.seeds} seed(s), counted from 0; there is no number {seed_index}.")
    spec = spec_from_json(opened.config["spec"])
    if not isinstance(config, EnsembleConfig):
        raise UsageError(
            f"{run} is a run of {entry.name}, which learns no model. Record what it does and fit one to that: "
            f"steersman collect {run} --out DATA --explore; steersman model --data DATA"
        )
    model = ensemble(config, spec)
    agent = plugins.make_agent(entry, config, spec, run_config.budget, None)
    is_model = lambda part: isinstance(part, EnsembleState)
    whole = state_like(agent, spec, 1, run_config.num_envs)
    part = jax.tree.map(lambda x: x if is_model(x) else (), whole, is_leaf=is_model)
    rows = (run_config.seeds,) if run_config.seeds > 1 else ()
    like = {"agent": jax.tree.map(lambda x: jax.ShapeDtypeStruct((*rows, *x.shape), x.dtype), part)}
    newest = checkpoint.latest(opened.checkpoints, lambda path: checkpoint.read(path, like))
    run_folder.warn(newest.note)
    if newest.path is None:
        raise UsageError(f"{run} holds no checkpoint yet. Train it for longer: {run_folder.to_resume(opened)}")
    state = newest.content.state(like, partial=True)["agent"]
    state = next(x for x in jax.tree.leaves(state, is_leaf=is_model) if is_model(x))
    return model, jax.tree.map(lambda x: x[seed_index], state) if rows else state, spec


def fitted(data: dataset.Dataset, key: jax.Array) -> tuple[Model, PyTree, EnvSpec, Data]:
    """-> (an ensemble, fitted to four fifths of the episodes of ``data``, its state, the spec, the other episodes)"""
    model = ensemble(FIT, data.spec)
    rollout = jax.tree.map(lambda x: np.asarray(x)[:, None], data.transitions)
    whole = of_rollout(rollout)
    apart = np.asarray(held_out(whole, FIT.held_out_share))
    if not apart.any():
        raise UsageError(
            f"{data.source} holds {int(data.ends.sum())} episodes, and every fifth is held out to try the model on. "
            "Record more of them: steersman collect RUN --out DATA --steps N"
        )
    init_key, fit_key = jax.random.split(key)
    state = jax.jit(model.init)(init_key, jax.tree.map(lambda x: x[:1], rollout))
    state, _ = jax.jit(model.fit)(state, whole, fit_key)
    kept = jax.tree.map(lambda x: np.asarray(x)[apart], whole)
    return model, state, data.spec, kept


def _played(
    run: str | Path, episodes: int, seed: int, seed_index: int, environment: Any, algorithm: str | Algorithm | None
) -> Data:
    """New episodes of a run's policy."""
    opened = run_folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    policy: Policy = load(run, seed_index=seed_index, algorithm=algorithm)
    made = envs.make(place, fixed_size(place) or episodes, costs=opened.config["run"].get("costs", ()))
    try:
        check_same_spaces(policy.spec, made.spec)
        rollout: Rollout = play(policy, made, min(made.spec.max_episode_steps or STEPS, STEPS), seed, False)
    finally:
        close(place, made)
    return jax.tree.map(np.asarray, of_rollout(rollout))


def _longest(data: Data) -> int:
    """Steps of the longest episode."""
    return int(np.bincount(np.unique(np.asarray(data.episode)[np.asarray(data.valid)], return_inverse=True)[1]).max())


def _worries(found: report.Quality, spec: EnvSpec, constant: list[str]) -> list[str]:
    """constant: names of the entries that never varied in what was learned from."""
    worries = []
    if constant:
        worries.append(
            f"{spec.id}: {', '.join(constant)} never varied in what the model learned from. It predicts that they stay "
            "as they are, and they are divided by nothing and count in no error."
        )
    if found.reward_r2 < LEAST_R2:
        worries.append(
            f"{spec.id}: the model explains {max(found.reward_r2, 0.0):.0%} of the reward's variance on episodes that "
            f"it has not learned from (R2 {found.reward_r2:.2f}). Either it has seen too little, or what is observed "
            "does not tell the reward: plans in it, and policies that learn in it, pursue something else."
        )
    return worries


def entry_names(space: spaces.Space) -> list[str]:
    """What the entries of a flat observation and the reward are called, in the order of the tree.

    >>> entry_names(spaces.Dict({"place": spaces.Box(-1, 1, (2,)), "height": spaces.Box(-1, 1, (1,))}))
    ['height', 'place 0', 'place 1', 'reward']
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    named = []
    for name in sorted(parts):
        count = int(np.prod(parts[name].shape or ()))
        named += [name] if count == 1 else [f"{name} {i}" for i in range(count)]
    return [*named, "reward"]


def summary(found: report.Quality, names: Sequence[str]) -> dict[str, Any]:
    """The numbers of a report, by name."""
    middle = lambda x: {"median": np.median(x, 0), "p10": np.percentile(x, 10, 0), "p90": np.percentile(x, 90, 0)}
    error, others = np.median(found.error, 0), (found.persistence, found.linear)
    worse = np.flatnonzero(error > np.min([np.median(x, 0) for x in others], axis=0))
    at = lambda q: found.coverage[int(np.argmin(np.abs(report.NOMINAL - q)))][found.varies].mean()
    ended, held = found.one_step.ended, found.one_step.terminates > 0.5
    share = lambda mask: held[mask].mean() if mask.any() else None
    return {
        "members": len(found.one_step.mean),
        "windows": len(found.windows.row),
        "horizon": found.error.shape[1],
        "one_step": {
            "nrmse": found.nrmse[found.varies].mean(),
            "nrmse_each": dict(zip(names, found.nrmse, strict=True)),
            "reward_r2": found.reward_r2,
            "coverage50": at(0.5),
            "coverage90": at(0.9),
            "rank_correlation": found.rank_correlation,
            "terminations": {"seen": ended.sum(), "foreseen": share(ended), "false_alarms": share(~ended)},
        },
        "over_horizon": {
            "model": middle(found.error),
            "persistence": np.median(found.persistence, 0),
            "linear": np.median(found.linear, 0),
            "better_than_both_for": int(worse[0]) if len(worse) else found.error.shape[1],
        },
    }
