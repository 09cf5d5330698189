"""A run's settings: how they are split, checked, and filled in from the presets."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from steersman.config import usable
from steersman.envs.host.costs import parsed
from steersman.envs.safe.names import original
from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    from steersman.types import Algorithm  # and JAX, for which drawing a run does not wait


@dataclass(frozen=True)
class RunConfig:
    """How a run goes, whatever its algorithm."""

    steps: int = 100_000
    """Environment steps to train for, each seed."""
    schedule_steps: int | None = None
    """Environment steps over which schedules (of a learning rate, of exploration) run; none: steps."""
    seed: int = 0
    """The first seed; with several, the others count up from it."""
    seeds: int = 1
    """Trainings of one run, each with its own seed: side by side on compiled environments, in turn on host ones."""
    num_envs: int = 8
    """Environments stepped side by side (B)."""
    workers: int | None = None
    """Processes that step host environments beside this one; 0: only this one, none: as many as are the fastest."""
    from_data: str | None = None
    """Recorded transitions that replay starts from, or that all is learned from: a folder of steersman collect, or the
    id of a Minari dataset."""
    overlap: bool = False
    """Step host environments while the learner computes; the acting policy is then one update behind."""
    devices: int | None = None
    """Most devices (CPU cores, GPUs) to share the work; none: all."""
    checkpoint_every: int | None = None
    """Environment steps between two checkpoints; none: a twentieth of the run, on host environments up to a quarter."""
    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""
    evaluate_every: int | None = None
    """Environment steps between two evaluations while it trains; 0: none of them; none: about 15 a run, or as many as
    take no more than a few percent of its time."""
    evaluate_episodes: int | None = None
    """Episodes of each of these, per seed; none: 5, or fewer where episodes are long beside the run."""
    evaluation_episodes: int = 100
    """Episodes of the final evaluation, per seed."""
    log_info: tuple[str, ...] = ()
    """Entries of info, numbers, whose values at the end of an episode are logged; is_success always is."""
    costs: tuple[str, ...] = ()
    """Comparisons that make a step cost 1 where they hold, [NAME =] ENTRY [INDEX] > NUMBER, as in 'x_velocity > 3.2' of
    an entry of info, 'abs(obs[0]) > 0.5' of the observation; they come after the environment's own costs."""
    tensorboard: bool = False
    """Write TensorBoard events too (extra: tensorboard)."""
    wandb: str | None = None
    """Log to this Weights & Biases project too (extra: wandb)."""

    def __post_init__(self) -> None:
        counts = ("steps", "schedule_steps", "seeds", "num_envs", "devices", "checkpoint_every", "keep_checkpoints")
        for name in (*counts, "evaluate_episodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value}; it must be 1 or more.")
        for name in ("seed", "workers", "evaluate_every", "evaluation_episodes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} = {value}; it must be 0 or more.")
        taken = [n for n in self.log_info if n in ("return", "length", "cost") or n.startswith("cost_")]
        if taken:
            raise UsageError(f"log_info = {taken[0]}; the {taken[0]} of an episode is in every row already.")
        parsed(self.costs)
        if self.seed + self.seeds > 2**32:
            raise UsageError(f"seed = {self.seed}; seeds go up to {2**32 - 1}.")

    @property
    def budget(self) -> int:
        """The environment steps over which schedules run."""
        return self.steps if self.schedule_steps is None else self.schedule_steps


def presets(algorithm: str | Algorithm) -> dict[str, dict[str, Any]]:
    """Known-good settings of an algorithm, by environment id: of ours, files; somebody else's brings its own."""
    name, own = (algorithm, {}) if isinstance(algorithm, str) else (algorithm.name, algorithm.presets)
    file = resources.files("steersman.agents") / "presets" / f"{name}.toml"
    if file.is_file():
        return tomllib.loads(file.read_text(encoding="utf-8"))
    return {place: dict(settings) for place, settings in own.items()}


def preset_for(algorithm: str | Algorithm, environment: Any) -> dict[str, Any]:
    """The preset of an environment; one of ``gymnasium/`` or ``safe/`` shares its original's. {} if there is none.

    Arguments that follow the name (``,key=value``) are left aside.
    """
    if not isinstance(environment, str):
        return {}
    known, name = presets(algorithm), environment.partition(",")[0]
    return dict(known.get(name) or known.get(original(name) or name.removeprefix("gymnasium/")) or {})


# What other libraries (Stable-Baselines3, CleanRL, rejax) call our settings.
_ELSEWHERE = {
    "buffer_size": "replay_capacity",
    "clip_coef": "clip",
    "clip_range": "clip",
    "ent_coef": "entropy_coefficient",
    "epsilon_end": "exploration_end",
    "epsilon_fraction": "exploration_fraction",
    "epsilon_start": "exploration_start",
    "exploration_final_eps": "exploration_end",
    "exploration_initial_eps": "exploration_start",
    "lr": "learning_rate",
    "n_envs": "num_envs",
    "n_epochs": "num_epochs",
    "n_steps": "unroll_length",
    "net_arch": "hidden_sizes",
    "num_steps": "unroll_length",
    "target_network_frequency": "target_period",
    "target_rate": "tau",
    "target_update_interval": "target_period",
    "timesteps": "steps",
    "total_steps": "steps",
    "total_timesteps": "steps",
    "train_freq": "unroll_length",
    "update_epochs": "num_epochs",
    "vf_coef": "value_coefficient",
}


# What ``train`` takes beside settings, and what of the command line's is a callback in Python.
_NO_SETTINGS = ("preset", "network", "callbacks", "out", "replace")
_BY_CALLBACK = {
    "stop_at_return": "In Python it is a callback: callbacks=[StopAtReturn(475)], of steersman.run.callbacks."
}


# What format 1.0 called settings, by algorithm.
_NOISE = {"exploration": "exploration_noise"}
_RENAMED = {
    "a2c": {"n_steps": "n_step"},
    "dqn": {"target_rate": "tau"},
    "iql": {"target_rate": "tau"},
    "pqn": {f"epsilon_{x}": f"exploration_{x}" for x in ("start", "end", "fraction")},
    **dict.fromkeys(("ddpg", "td3", "sac", "tqc", "crossq"), _NOISE),
}


def translated(name: str) -> str:
    """What a setting of another library is called here; the name itself where we know of none."""
    return _ELSEWHERE.get(name, name)


def whose(name: str) -> str:
    """Which algorithms have a setting that they do not refuse, for a message; empty where none has."""
    from steersman.agents import ALGORITHMS

    having = [n for n, entry in ALGORITHMS.items() if usable(entry.config, name)]
    return f"Those that have it: {', '.join(having)}." if having else ""


def annotation(field: dataclasses.Field[Any]) -> str:
    """A field's annotation as it is written: ``int | None``."""
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


def known_settings(algorithm: Algorithm) -> dict[str, dataclasses.Field[Any]]:
    """The run's settings and the algorithm's, by name; UsageError where one name is both."""
    of_run, of_algorithm = ({f.name: f for f in dataclasses.fields(c)} for c in (RunConfig, algorithm.config))
    both = sorted(of_run.keys() & of_algorithm.keys())
    if both:
        raise UsageError(
            f"{algorithm.name}: {', '.join(both)} is a setting of every run already. Give the algorithm's another name."
        )
    return of_run | of_algorithm


def typed(algorithm: Algorithm, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name as plain values: whole numbers may come as floats (``steps=1e6``), tuples as lists.

    Raises UsageError for a name that neither the run nor the algorithm has, with the nearest, and for another type.
    """
    known = known_settings(algorithm)
    for name in settings:
        if name not in known:
            ours = translated(name)
            near = f"Here it is called {ours}." if ours in known else whose(name)
            near = _BY_CALLBACK.get(name, near) or nearest(name, [*known, *_NO_SETTINGS])
            raise UsageError(
                f"{algorithm.name} has no setting {name!r}. {near + ' ' if near else ''}All settings: "
                f"steersman train {algorithm.name} --help"
            )
    return {name: _plain(known[name], value) for name, value in settings.items()}


def split(algorithm: Algorithm, settings: Mapping[str, Any]) -> tuple[RunConfig, Any]:
    """Settings by name -> (the run's, the algorithm's). UsageError as ``typed``, and for a value out of range."""
    plain, of_run = typed(algorithm, settings), {f.name for f in dataclasses.fields(RunConfig)}
    return (
        RunConfig(**{k: v for k, v in plain.items() if k in of_run}),
        algorithm.config(**{k: v for k, v in plain.items() if k not in of_run}),
    )


WARM_UP = 0.1  # of the budget: the most that a random policy fills replay with, unasked


def fitted(algorithm: Algorithm, settings: Mapping[str, Any], asked: Collection[str]) -> dict[str, Any]:
    """``settings``, with learning_starts lowered to a tenth of the steps, where it is not among those ``asked`` for;
    where a memory is asked for, with the algorithm's defaults for one; where a cost limit is, with scaled rewards, for
    which its multipliers are made.

    The defaults are for budgets of 50,000 steps and more; from there on nothing changes. What is asked for stays, and
    so does a preset that has a memory itself.
    """
    known, found = known_settings(algorithm), dict(settings)
    if "memory" in asked and found.get("memory") != "none":
        found |= {name: value for name, value in algorithm.with_memory.items() if name not in asked}
    limited = "cost_limit" in asked and found["cost_limit"] not in ((), [])
    if limited and "multiplier_cap" in known and "scale_rewards" not in asked:
        found["scale_rewards"] = True
    warms_up = algorithm.data == "start" and not found.get("from_data")
    if warms_up and "learning_starts" in known and "learning_starts" not in asked:
        plain = typed(algorithm, {k: v for k, v in found.items() if k in ("steps", "learning_starts")})
        values = {name: plain.get(name, known[name].default) for name in ("steps", "learning_starts")}
        if values["learning_starts"] > (most := int(WARM_UP * values["steps"])):
            found["learning_starts"] = most
    return found


def values_of(*configs: Any) -> dict[str, Any]:
    """The fields of configs by name, as they are."""
    return {f.name: getattr(config, f.name) for config in configs for f in dataclasses.fields(config)}


def saved_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run by name, from its ``config.json``."""
    both = {**config["run"], **config["config"]}
    return {name: value for name, value in both.items() if name not in ("network", "object", "foreign")}


def reopened(algorithm: Algorithm, config: Mapping[str, Any]) -> dict[str, Any]:
    """``saved_settings`` of a run to be opened again, by today's names and with what was so before it could be set."""
    settings = saved_settings(config)
    settings = renewed(algorithm, settings) if config["format"] == "1.0" else settings
    before: dict[str, Any] = {"channels": "smallest", "evaluate_every": 0, "n_step_correction": "none"}
    before |= {"normalize_observations": False, "scale_rewards": False}
    return {name: value for name, value in before.items() if name in known_settings(algorithm)} | settings


def renewed(algorithm: Algorithm, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of format 1.0 by today's names, without those that nothing has any more."""
    renamed = _RENAMED.get(algorithm.name, {})
    new = {
        renamed.get(name, name): value
        for name, value in settings.items()
        if name in {**known_settings(algorithm), **renamed}
    }
    if new.get("schedule_steps") == 0:  # it was among the algorithm's settings, 0 for the run's steps
        new["schedule_steps"] = None
    return new


def environment_of(config: Mapping[str, Any], given: Any, run: Any) -> Any:
    """Where a saved run's policy belongs: ``given``, or the name in its ``config.json``.

    Raises UsageError where that is the user's own and has to be named again: a run folder alone imports nothing.
    """
    named = config["environment"]
    if given is not None:
        return given
    if config["run"].get("object"):
        raise UsageError(
            f"{run} was trained on an environment given as an object, {named}. Give it again: environment=... in "
            "Python, --environment package.module:factory on the command line."
        )
    if ":" in named.partition(",")[0]:
        raise UsageError(
            f"{run} was trained on an environment of your own, {named}. A run folder does not decide what is imported: "
            f"name it again, --environment {named}"
        )
    return named


def _plain(field: dataclasses.Field[Any], value: Any) -> Any:
    """A value as the field's annotation says (``int``, ``float | None``, ``tuple[int, ...]``), or UsageError.

    The word none is None where the field may be, and else a text as any other.
    """
    written = annotation(field)
    wanted = written.removesuffix(" | None")
    value = value.item() if isinstance(value, np.generic) else value
    if wanted != written and (value is None or value == "none"):
        return None
    match wanted, value:
        case ("bool", bool()) | ("str", str()):
            return value
        case "str", os.PathLike():
            return os.fspath(value)
        case (("int" | "float" | "tuple[float, ...]"), bool()):
            pass
        case ("int", int()) | ("float", int() | float()):
            return value
        case "int", float() if value.is_integer():
            return int(value)
        case "tuple[int, ...]", list() | tuple():
            return tuple(value)
        case "tuple[int, ...]", int():
            return (value,)
        case "tuple[float, ...]", int() | float():
            return (value,)
        case "tuple[float, ...]", list() | tuple() if not any(isinstance(v, str | bool) for v in value):
            return tuple(value)
        case "tuple[str, ...]", str():
            return (value,)
        case "tuple[str, ...]", list() | tuple() if all(isinstance(v, str) for v in value):
            return tuple(dict.fromkeys(value))
    kinds = {
        "tuple[str, ...]": "some names",
        "tuple[float, ...]": "some numbers, as in (25, 10)",
        "int": "a whole number",
        "float": "a number",
        "bool": "True or False",
        "str": "a text",
    }
    optional = " or None" if wanted != written else ""
    raise UsageError(
        f"{field.name} = {value!r}; it must be {kinds.get(wanted, 'some whole numbers, as in (64, 64)')}{optional}."
    )
