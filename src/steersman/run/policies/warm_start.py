"""A warm start: a run that begins with what another has learned. What it took is kept in its own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.agents.parts.config import NetworkConfig, ObservationGroupsConfig, ObservationNormConfig
from steersman.agents.parts.warm_start import taken_over
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, run_folder
from steersman.run.disk.spec_json import spec_from_json
from steersman.run.plugins import check_plays
from steersman.run.policy import check_same_spaces, load_seeds
from steersman.run.settings import reopened, values_of
from steersman.types import Algorithm, EnvSpec, PyTree

FILE = "initial.safetensors"
# What belongs to the run it was, and not to one that begins with its parameters.
_ITS_OWN = ("seed", "seeds", "schedule_steps", "checkpoint_every", "evaluate_every", "devices")
_SAME = tuple(
    name
    for group in (NetworkConfig, ObservationNormConfig, ObservationGroupsConfig)
    for name in group.__annotations__  # what parameters mean
)


@dataclass(frozen=True)
class InitFrom:
    """Which run to begin with."""

    run: Path
    best: bool = False  # with its best policy, instead of its newest
    optimiser: bool = False  # and with the optimiser's moments


class Start(NamedTuple):
    """What a run begins with."""

    leaves: dict[str, np.ndarray]  # of the agent's state, by name
    origin: dict[str, Any]  # what ``config.json`` says of where they are from

    def note(self) -> str:
        """For people to read."""
        which = "best" if self.origin["best"] else "newest"
        also = ", with its optimiser" if self.origin["optimiser"] else ""
        sha256 = self.origin["parameters_sha256"][:12]
        run, steps = self.origin["run"], self.origin["steps"]
        return f"starts from {run}: its {which} parameters, at {steps:,} steps ({sha256}){also}"

    def save(self, run: Path) -> None:
        checkpoint.save(run / FILE, {"agent": self.leaves}, {"origin": self.origin})


def again(run: Path, origin: dict[str, Any]) -> Start:
    """What a run began with, out of its own folder: it is resumed from before its first checkpoint."""
    saved = checkpoint.read(run / FILE)
    return Start({name.removeprefix("agent/"): array for name, array in saved.arrays.items()}, origin)


def inherited(entry: Algorithm, run: Path) -> dict[str, Any]:
    """The settings of a run that one which begins with its parameters keeps, unless it is given others."""
    opened = run_folder.open_run(run)
    _check_algorithm(entry, opened.config, run)
    settings = reopened(entry, opened.config)
    own = _ITS_OWN if entry.data == "only" else (*_ITS_OWN, "from_data")
    return {name: value for name, value in settings.items() if name not in own}


def read(asked: InitFrom, entry: Algorithm, config: Any, spec: EnvSpec, like: PyTree, network: Any = None) -> Start:
    """What a new run takes from another. like: the shapes of its agent's state; network: its own, if it has one.

    Raises UsageError for another algorithm, other spaces, another network: the first difference is named.
    """
    opened = run_folder.open_run(asked.run)
    _check_algorithm(entry, opened.config, asked.run)
    check_same_spaces(spec_from_json(opened.config["spec"]), spec)
    if network is not None and not opened.config["run"].get("network"):
        raise UsageError(
            f"{asked.run} was trained with {entry.name}'s own networks, not with yours. Leave network out."
        )
    then, now = reopened(entry, opened.config), values_of(config)
    alike = lambda a, b: (tuple(a) if isinstance(a, list) else a) == b
    other = {name: (then.get(name), now[name]) for name in now if not alike(then.get(name, now[name]), now[name])}
    for name in _SAME:
        if name in other:
            raise _unfit(asked, f"{name} is {other[name][0]} there, and {other[name][1]} here")
    policy = load_seeds(asked.run, [0], best=asked.best, algorithm=entry, network=network)[0]
    try:
        leaves = taken_over(like, policy.state, optimiser=asked.optimiser)
    except UsageError as error:
        changed = ", ".join(f"{name} ({a} there, {b} here)" for name, (a, b) in list(other.items())[:4])
        raise _unfit(asked, f"{error}" + (f". Settings that differ: {changed}" if changed else "")) from None
    inside = lambda path: (checkpoint.read_header(path), checkpoint.stored_sha256(path, under="agent"))
    header, sha256 = checkpoint.latest(opened.best if asked.best else opened.checkpoints, inside).content
    which = {"run": asked.run.resolve().name, "best": asked.best, "optimiser": asked.optimiser}
    return Start(leaves, {**which, "steps": header["steps"], "parameters_sha256": sha256})


def _check_algorithm(entry: Algorithm, config: Mapping[str, Any], run: Path) -> None:
    check_plays(config, run)
    if config["algorithm"] != entry.name:
        raise UsageError(
            f"{run} was trained by {config['algorithm']}; its parameters do not start {entry.name}. Name the same "
            f"algorithm: steersman train {config['algorithm']} ENVIRONMENT --init-from {run}"
        )


def _unfit(asked: InitFrom, what: str) -> UsageError:
    return UsageError(
        f"The parameters of {asked.run} do not fit the new run: {what}. Settings that are left out are those of "
        f"{asked.run}."
    )
