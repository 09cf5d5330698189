"""``steersman train ALGORITHM ENVIRONMENT [--flags]``, ``train --resume DIR``, ``train --config RUN/config.json``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from steersman import agents
from steersman.cli import resumed
from steersman.cli.display import TrainingDisplay, evaluation_rows, limit_rows, number, print_json, print_table
from steersman.cli.flags import parse, parsed, repeated
from steersman.cli.main import TRAIN_USAGE
from steersman.errors import UsageError
from steersman.run import plugins
from steersman.run.callbacks import StopAtReturn
from steersman.run.disk import checkpoint, run_folder
from steersman.run.events import Callback
from steersman.run.policies.warm_start import inherited
from steersman.run.settings import environment_of, fitted, known_settings, preset_for, reopened, translated, whose
from steersman.run.train import Result, resume, train


@dataclass(frozen=True)
class Output:
    """Where results go, what is shown, and what else the run is given."""

    out: Path | None = None
    """The run folder; none: a new one in runs/."""
    replace: tyro.conf.FlagCreatePairsOff[bool] = False
    """Put the run in the place of the one that --out holds, whose files are removed."""
    network: str | None = None
    """package.module:factory, a function (key, spec) -> module, in place of the algorithm's own networks."""
    init_from: Path | None = None
    """A run by the same algorithm, on the same spaces: begin with its parameters and normalisers, and with its settings
    where no others are given."""
    init_best: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of --init-from, the best policy of the evaluations on the way, instead of the newest."""
    init_optimiser: tyro.conf.FlagCreatePairsOff[bool] = False
    """Of --init-from, the optimiser's moments too."""
    stop_at_return: float | None = None
    """Stop early, once the mean return of training episodes reaches this."""
    stop_at_evaluation: float | None = None
    """Stop early, once the mean return of an evaluation on the way reaches this."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the summary as one JSON object."""


@dataclass(frozen=True)
class Resume:
    """Go on with a run; it ends bit for bit where it would have without the stop."""

    resume: Path
    """The run folder."""
    steps: int | None = None
    """A new budget of environment steps."""
    environment: str | None = None
    """package.module:factory, named again for a run on an environment of your own."""
    algorithm: str | None = None
    """package.module:ALGORITHM, named again for a run by an algorithm of your own."""
    network: str | None = None
    """package.module:factory, named again for a run with a network of your own."""
    stop_at_return: float | None = None
    """Stop early, once the mean return of training episodes reaches this."""
    stop_at_evaluation: float | None = None
    """Stop early, once the mean return of an evaluation on the way reaches this."""
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

    @property
    def given(self) -> set[str]:
        """The settings that flags name."""
        names = (re.sub("^--(no-)?", "", flag).partition("=")[0] for flag in self.flags if flag.startswith("--"))
        return {name.replace("-", "_") for name in names}

    @property
    def named(self) -> set[str]:
        """The settings that are asked for: by flags, or as another run's; those of a preset are defaults."""
        return self.given if self.source.startswith("preset") else self.given | self.base.keys()


def run(arguments: list[str]) -> int:
    """-> exit code: 0 done, 130 interrupted."""
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        resumed.check(arguments, *([f.name for f in fields(kind)] for kind in (Resume, Output)))
        again = parsed(Resume, arguments, "steersman train")
        own = {"environment": again.environment, "algorithm": again.algorithm, "network": again.network}
        work = lambda callbacks: resume(again.resume, steps=again.steps, callbacks=callbacks, **own)
        return _finish(_shown(again, work), own, again)
    asked = _asked(repeated(arguments))
    named, environment = asked.algorithm, asked.environment
    entry = plugins.algorithm(named)
    _check_names(asked.flags, known_settings(entry), entry.name)
    title = f"steersman train {named} {environment or 'ENVIRONMENT'}"
    output, settings, defaults = parse(entry, Output, asked.base, asked.flags, title)
    settings = fitted(entry, settings, asked.named)
    if environment is None:
        raise UsageError(f"Name an environment: steersman train {named} CartPole-v1. Known ones: steersman list")
    out = output.out or run_folder.default_path(entry.name, environment, settings["seed"])
    rest: dict[str, Any] = {"network": output.network, "out": out, "replace": output.replace, "preset": False}
    rest |= {name: getattr(output, name) for name in ("init_from", "init_best", "init_optimiser")}
    work = lambda callbacks: train(named, environment, callbacks=callbacks, **rest, **settings)
    own = {"environment": environment if ":" in environment.partition(",")[0] else None, "network": output.network}
    own["algorithm"] = None if named in agents.ALGORITHMS else named
    return _finish(_shown(output, work, _notes(asked, settings, defaults)), own, output)


def _check_names(flags: list[str], known: Mapping[str, Any], algorithm: str = "") -> None:
    """Say what a setting of another library is called here, and who has one of another algorithm; all else the parser
    of flags says."""
    for flag in (f.partition("=")[0] for f in flags if f.startswith("--")):
        if flag in ("--env", "--environment", "--algo", "--algorithm"):
            raise UsageError(f"{flag}: the two are named without flags: steersman train ALGORITHM ENVIRONMENT")
        name = flag.removeprefix("--").replace("-", "_")
        if name not in known and (ours := translated(name)) in known:
            raise UsageError(f"There is no {flag}. Here it is called --{ours.replace('_', '-')}.")
        if known and name not in known and (having := whose(name)):
            raise UsageError(f"{algorithm} has no {flag}. {having}")


def _asked(arguments: list[str]) -> Asked:
    names = []
    while arguments and not arguments[0].startswith("-") and len(names) < 2:
        names.append(arguments[0])
        arguments = arguments[1:]
    file, flags = _taken("--config", arguments)
    if file is not None:
        return _repeated(file, names, flags)
    if not names:
        _check_names(flags, {})
        raise UsageError(f"Name an algorithm and an environment.\n\n{TRAIN_USAGE}")
    name, environment = names[0], names[1] if len(names) == 2 else None
    named = name in agents.ALGORITHMS or ":" in name
    if not named and (environment in agents.ALGORITHMS or re.search(r"/|-v\d+$", name)):
        raise UsageError(f"The algorithm comes first: steersman train {environment or 'ppo'} {name}")
    entry = plugins.algorithm(name)
    if flags and not flags[0].startswith("-"):
        raise UsageError(
            f"{flags[0]!r} is one word too many: steersman train ALGORITHM ENVIRONMENT, then settings as flags, "
            "--gamma 0.98. Several algorithms at once: steersman compare"
        )
    if any(flag.startswith("--no-preset=") for flag in flags):
        raise UsageError("--no-preset takes no value: it leaves the environment's preset aside.")
    if "--no-preset" in flags:
        return Asked(name, environment, {}, "", [f for f in flags if f != "--no-preset"])
    start, _ = _taken("--init-from", flags)
    if start is not None:
        return Asked(name, environment, inherited(entry, Path(start)), start, flags)
    preset = preset_for(entry, environment)
    return Asked(name, environment, preset, f"preset of {environment}" if preset else "", flags)


def _repeated(file: str, names: list[str], flags: list[str]) -> Asked:
    """The settings of another run, by its config.json or its folder; names, where given, win."""
    path = Path(file) / "config.json" if Path(file).is_dir() else Path(file)
    saved = run_folder.read_config(path)
    own = saved["run"].get("foreign")
    if own and not names:
        again = own if isinstance(own, str) else "PACKAGE.MODULE:ALGORITHM"
        raise UsageError(
            f"{path} is of a run by an algorithm of your own, {saved['algorithm']}, and a file does not decide what is "
            f"imported. Name it: steersman train {again} --config {path}"
        )
    if "init" in saved and not any(f.partition("=")[0] == "--init-from" for f in flags):
        raise UsageError(
            f"{path} is of a run that began with the parameters of another, {saved['init']['run']}. Name that: "
            "--init-from RUN, or repeat that run itself."
        )
    if saved["run"].get("network") and not any(f.partition("=")[0] == "--network" for f in flags):
        raise UsageError(f"{path} is of a run with a network of your own. Name it: --network PACKAGE.MODULE:FACTORY")
    name = names[0] if names else saved["algorithm"]
    entry = plugins.algorithm(name)
    if entry.name != saved["algorithm"]:
        raise UsageError(f"{path} is of a run of {saved['algorithm']}, not of {name}.")
    if len(names) == 2:
        environment = names[1]
    else:
        try:
            environment = environment_of(saved, None, path)
        except UsageError:
            raise UsageError(
                f"{path} is of a run on an environment of your own, {saved['environment']}, and a file does not decide "
                f"what is imported. Name it: steersman train {name} PACKAGE.MODULE:FACTORY "
                f"--config {path}"
            ) from None
    return Asked(name, environment, reopened(entry, saved), str(path), flags)


def _taken(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """-> (the value of a flag, or None; the arguments without it)"""
    for at, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), arguments[:at] + arguments[at + 1 :]
        if argument == flag:
            if at + 1 == len(arguments):
                what = "a file: steersman train --config RUN/config.json" if flag == "--config" else "a run folder."
                raise UsageError(f"{flag} needs {what}")
            return arguments[at + 1], arguments[:at] + arguments[at + 2 :]
    return None, arguments


def _notes(asked: Asked, settings: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What differs from the defaults, and why, for people to read."""
    show = lambda names: ", ".join(f"{name}={settings[name]}" for name in names)
    changed = [name for name in settings if settings[name] != before[name]]
    fitting = [name for name in changed if name not in asked.named]
    yours = [name for name in settings if name in asked.given or (name in changed and name not in fitting)]
    kept = [name for name in asked.base if settings[name] == before[name] and name not in yours]
    notes = []
    if asked.source.startswith("preset") and kept:
        notes.append(f"{asked.source}: {show(kept)}")
    elif asked.source:
        notes.append(f"settings of {asked.source}")
    if yours:
        notes.append(f"given: {show(yours)}")
    why = {"learning_starts": "so few steps", "scale_rewards": "a cost limit"}
    for reason in dict.fromkeys(why.get(name, "a memory") for name in fitting):
        notes.append(f"for {reason}: {show(name for name in fitting if why.get(name, 'a memory') == reason)}")
    return notes


def _shown(output: Output | Resume, work: Callable[[list[Callback]], Result], notes: list[str] | None = None) -> Result:
    display = None if output.quiet or output.json else TrainingDisplay(notes or [])
    callbacks: list[Callback] = [] if display is None else [display]
    if output.stop_at_return is not None:
        callbacks.append(StopAtReturn(output.stop_at_return))
    if output.stop_at_evaluation is not None:
        callbacks.append(StopAtReturn(output.stop_at_evaluation, of="evaluation_return"))
    with display or nullcontext():
        return work(callbacks)


def _finish(result: Result, own: Mapping[str, str | None], output: Output | Resume) -> int:
    summary = result.summary
    if output.json:
        print_json({**summary, "run": str(result.run) if result.run else None})
    elif not output.quiet:
        print_table(f"{summary['algorithm']} on {summary['environment']}: {summary['status']}", _rows(result))
    if not result.interrupted:
        return 0
    if not output.quiet and result.run:
        print(_how_to_go_on(result.run, summary["steps"], own), file=sys.stderr)
    return 130


def _rows(result: Result) -> list[tuple[str, str]]:
    summary = result.summary
    seeds = f" x {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else ""
    rows = [
        ("steps", number(summary["steps"]) + seeds),
        ("time", f"{summary['wall_seconds']:.1f} s, {summary['compile_seconds']:.1f} s of it compiling"),
        ("speed", f"{number(summary['steps_per_second'], 0)} steps/s while training"),
    ]
    if summary["status"] == "stopped early":
        rows.insert(1, ("stopped by", ": ".join(filter(None, summary["stopped"].values()))))
    if summary["evaluation"]:
        rows += evaluation_rows(summary["evaluation"])
    rows += limit_rows(summary.get("limits", []))
    if best := summary.get("best"):
        each = zip(*(np.atleast_1d(best[name]) for name in ("return", "steps")), strict=True)
        shown = "; ".join(f"{number(float(r))} at {number(int(s))} steps" for r, s in each)
        rows.append(("best on the way", f"mean return {shown}"))
    for seed, evaluation in zip(summary["seeds"], summary["evaluations"], strict=False):
        rows.append((f"  seed {seed}", f"mean return {number(evaluation['mean'])}"))
    if result.run:
        rows.append(("run folder", str(result.run)))
        curve = result.run / "curve.png"
        rows += [("curve", str(curve))] if curve.exists() else []
    return rows


def _how_to_go_on(path: Path, steps: int, own: Mapping[str, str | None]) -> str:
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
    again = "".join(f" --{what} {name}" for what, name in own.items() if name)
    return f"{what}\nGo on with: steersman train --resume {path}{again}"
