"""A run's settings: how they are split, checked, and filled in from the presets."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from steersman.errors import UsageError, nearest
from steersman.types import Algorithm


@dataclass(frozen=True)
class RunConfig:
    """How a run goes, whatever its algorithm."""

    steps: int = 100_000
    """Environment steps to train for, each seed."""
    seed: int = 0
    """The first seed; with several, the others count up from it."""
    seeds: int = 1
    """Trainings side by side, each with its own seed (compiled environments)."""
    num_envs: int = 8
    """Environments stepped side by side (B)."""
    workers: int | None = None
    """Processes that step host environments; 0: this one; none: chosen by the environment's cost."""
    devices: int | None = None
    """Most devices (CPU cores, GPUs) to share the work; none: all."""
    checkpoint_every: int | None = None
    """Environment steps between two checkpoints; none: a twentieth of the run."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    evaluation_episodes: int = 100
    """Episodes of the final evaluation, per seed."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra: tensorboard)."""
    wandb: str | None = None
    """Log to this Weights & Biases project too (extra: wandb)."""

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "num_envs", "devices", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value}; it must be 1 or more.")
        for name in ("seed", "workers", "evaluation_episodes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} = {value}; it must be 0 or more.")
        if self.seed + self.seeds > 2**32:
            raise UsageError(f"seed = {self.seed}; seeds go up to {2**32 - 1}.")


def presets(algorithm: str) -> dict[str, dict[str, Any]]:
    """Known-good settings of an algorithm, by environment id."""
    file = resources.files("steersman.run") / "presets" / f"{algorithm}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def preset_for(algorithm: str, environment: str) -> dict[str, Any]:
    """The preset of an environment; the original behind ``gymnasium/`` shares its compiled twin's. {} if there is none."""
    known = presets(algorithm)
    return dict(known.get(environment) or known.get(environment.removeprefix("gymnasium/")) or {})


def split(algorithm: Algorithm, settings: dict[str, Any]) -> tuple[RunConfig, Any]:
    """Settings by name -> (the run's, the algorithm's). Raises UsageError for a name that neither has."""
    of_run = {f.name for f in dataclasses.fields(RunConfig)}
    of_algorithm = {f.name for f in dataclasses.fields(algorithm.config)}
    for name in settings:
        if name not in of_run | of_algorithm:
            raise UsageError(
                f"{algorithm.name} has no setting {name!r}. {nearest(name, of_run | of_algorithm)} All settings: "
                f"steersman train {algorithm.name} --help."
            )
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return (
        RunConfig(**{k: v for k, v in settings.items() if k in of_run}),
        algorithm.config(**{k: v for k, v in settings.items() if k in of_algorithm}),
    )
