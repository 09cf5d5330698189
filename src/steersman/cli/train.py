"""``steersman train ALGORITHM ENVIRONMENT [--flags]``, ``train --resume DIR``, ``train --config RUN/config.json``."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from steersman import agents
from steersman.cli.display import TrainingDisplay, evaluation_rows, number, print_json, print_table
from steersman.cli.main import TRAIN_USAGE
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, run_folder
from steersman.run.settings import RunConfig, environment_of, preset_for, saved_settings, split, translated
from steersman.run.train import Report, Result, resume, train

C = TypeVar("C")


@dataclass(frozen=True)
class Output:
    """Where results go and what is shown."""

    out: Path | None = None
    """The run folder; none: a new one in runs/."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the summary as one JSON object."""


@dataclass(frozen=True)
class Train(Generic[C]):
    """Every setting of a training; what is not given keeps the default shown, which is the environment's preset where
    there is one (--no-preset leaves it aside, --config RUN/config.json takes another run's settings)."""

    output: Output
    run: RunConfig
    algorithm: C


@dataclass(frozen=True)
class Resume:
    """Go on with a run; it ends bit for bit where it would have without the stop."""

    resume: Path
    """The run folder."""
    steps: int | None = None
    """A new budget of environment steps."""
    environment: str | None = None
    """package.module:factory, named again for a run on an environment of your own."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the summary as one JSON object."""


@dataclass(frozen=True)
class Asked:
    """What a command line asks for, before its flags are parsed."""

    algorithm: str
    environment: str | None
    base: dict[str, Any]  # settings that flags start from
    source: str  # where those are from
    flags: list[str]


def run(arguments: list[str]) -> int:
    """-> exit code: 0 done, 130 interrupted."""
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        again = _parse(Resume, arguments, prog="steersman train")
        work = lambda report: resume(again.resume, steps=again.steps, environment=again.environment, report=report)
        return _finish(_shown(again.quiet or again.json, work), again.environment, again.quiet, again.json)
    asked = _asked(arguments)
    name, environment = asked.algorithm, asked.environment
    entry = agents.algorithm(name)
    run_config, config = split(entry, asked.base)
    default = Train(Output(), run_config, config)
    _check_names(asked.flags, {**_fields(run_config), **_fields(config)})
    title = f"steersman train {name} {environment or 'ENVIRONMENT'}"
    chosen = _parse(Train[entry.config], asked.flags, default=default, prog=title)
    if environment is None:
        raise UsageError(f"Name an environment: steersman train {name} CartPole-v1. Known ones: steersman list")
    out = chosen.output.out or run_folder.default_path(name, environment, chosen.run.seed)
    settings = {**_fields(chosen.run), **_fields(chosen.algorithm)}
    notes = _notes(asked, settings, {**_fields(run_config), **_fields(config)})
    work = lambda report: train(name, environment, out=out, preset=False, report=report, **settings)
    silent = chosen.output.quiet or chosen.output.json
    return _finish(_shown(silent, work, notes), environment, chosen.output.quiet, chosen.output.json)


def _check_names(flags: list[str], known: dict[str, Any]) -> None:
    """Say what a setting of another library is called here; all else the parser of flags says."""
    for flag in (f.partition("=")[0] for f in flags if f.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        if name not in known and (ours := translated(name)) in known:
            raise UsageError(f"There is no {flag}. Here it is called --{ours.replace('_', '-')}.")


def _fields(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _asked(arguments: list[str]) -> Asked:
    names = []
    while arguments and not arguments[0].startswith("-") and len(names) < 2:
        names.append(arguments[0])
        arguments = arguments[1:]
    file, flags = _taken("--config", arguments)
    if file is not None:
        return _repeated(file, names, flags)
    if not names:
        raise UsageError(f"Name an algorithm and an environment.\n\n{TRAIN_USAGE}")
    name, environment = names[0], names[1] if len(names) == 2 else None
    if name not in agents.ALGORITHMS and (environment in agents.ALGORITHMS or re.search(r"/|:|-v\d+$", name)):
        raise UsageError(f"The algorithm comes first: steersman train {environment or 'ppo'} {name}")
    agents.algorithm(name)
    if "--no-preset" in flags:
        return Asked(name, environment, {}, "", [f for f in flags if f != "--no-preset"])
    preset = preset_for(name, environment or "")
    return Asked(name, environment, preset, f"preset of {environment}" if preset else "", flags)


def _repeated(file: str, names: list[str], flags: list[str]) -> Asked:
    """The settings of another run, by its config.json or its folder; names, where given, win."""
    path = Path(file) / "config.json" if Path(file).is_dir() else Path(file)
    saved = run_folder.read_config(path)
    if saved["run"].get("network"):
        raise UsageError(
            f"{path} is of a run with a network of your own, which the command line cannot give. Repeat it in Python: "
            "steersman.train(..., network=...)."
        )
    if names and names[0] != saved["algorithm"]:
        raise UsageError(f"{path} is of a run of {saved['algorithm']}, not of {names[0]}.")
    if len(names) == 2:
        environment = names[1]
    else:
        try:
            environment = environment_of(saved, None, path)
        except UsageError:
            raise UsageError(
                f"{path} is of a run on an environment of your own, {saved['environment']}, and a file does not decide "
                f"what is imported. Name it: steersman train {saved['algorithm']} PACKAGE.MODULE:FACTORY "
                f"--config {path}"
            ) from None
    return Asked(saved["algorithm"], environment, saved_settings(saved), str(path), flags)


def _taken(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """-> (the value of a flag, or None; the arguments without it)"""
    for at, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:at] + arguments[at + 1 :]
        if argument == flag:
            if at + 1 == len(arguments):
                raise UsageError(f"{flag} needs a file: steersman train {flag} RUN/config.json")
            return arguments[at + 1], arguments[:at] + arguments[at + 2 :]
    return None, arguments


def _notes(asked: Asked, settings: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What differs from the defaults, and why, for people to read."""
    show = lambda names: ", ".join(f"{name}={settings[name]}" for name in names)
    kept = [name for name in asked.base if settings[name] == before[name]]
    yours = [name for name in settings if settings[name] != before[name]]
    notes = []
    if asked.source.startswith("preset") and kept:
        notes.append(f"{asked.source}: {show(kept)}")
    elif asked.source:
        notes.append(f"settings of {asked.source}")
    if yours:
        notes.append(f"given: {show(yours)}")
    return notes


def _parse(kind: Any, arguments: list[str], **options: Any) -> Any:
    return tyro.cli(kind, args=[_whole(a) for a in arguments], config=(tyro.conf.OmitArgPrefixes,), **options)


def _whole(argument: str) -> str:
    """A count as people write it, in digits: ``1e6`` and ``--steps=2.5e5`` too."""
    found = re.fullmatch(r"(--[\w-]+=)?(\d+(?:\.\d+)?[eE]\+?\d)", argument)
    if not found or not float(found[2]).is_integer():
        return argument
    return (found[1] or "") + str(int(float(found[2])))


def _shown(silent: bool, work: Callable[[Report | None], Result], notes: list[str] | None = None) -> Result:
    display = None if silent else TrainingDisplay(notes or [])
    with display or nullcontext():
        return work(display)


def _finish(result: Result, environment: str | None, quiet: bool, as_json: bool) -> int:
    summary = result.summary
    if as_json:
        print_json({**summary, "run": str(result.run) if result.run else None})
    elif not quiet:
        print_table(f"{summary['algorithm']} on {summary['environment']}: {summary['status']}", _rows(result))
    if not result.interrupted:
        return 0
    if not quiet and result.run:
        print(_how_to_go_on(result.run, summary["steps"], environment), file=sys.stderr)
    return 130


def _rows(result: Result) -> list[tuple[str, str]]:
    summary = result.summary
    seeds = f" x {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else ""
    rows = [
        ("steps", number(summary["steps"]) + seeds),
        ("time", f"{summary['wall_seconds']:.1f} s, {summary['compile_seconds']:.1f} s of it compiling"),
        ("speed", f"{number(summary['steps_per_second'], 0)} steps/s while training"),
    ]
    if summary["evaluation"]:
        rows += evaluation_rows(summary["evaluation"])
    for seed, evaluation in zip(summary["seeds"], summary["evaluations"], strict=False):
        rows.append((f"  seed {seed}", f"mean return {number(evaluation['mean'])}"))
    if result.run:
        rows.append(("run folder", str(result.run)))
        curve = result.run / "curve.png"
        rows += [("curve", str(curve))] if curve.exists() else []
    return rows


def _how_to_go_on(path: Path, steps: int, environment: str | None) -> str:
    saved = checkpoint.saved(path / "checkpoints")
    at = saved[-1][0] if saved else 0
    if at == steps:
        what = f"Interrupted, and saved at {steps:,} steps."
    elif at:
        what = (
            f"Interrupted at {steps:,} steps. Host environments cannot be saved midway: the run goes on from its last "
            f"checkpoint, at {at:,} steps."
        )
    else:
        what = f"Interrupted at {steps:,} steps, before the first checkpoint: the run starts anew."
    again = f" --environment {environment}" if environment and ":" in environment else ""
    return f"{what}\nGo on with: steersman train --resume {path}{again}"
