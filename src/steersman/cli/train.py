"""``steersman train ALGORITHM ENVIRONMENT [--flags]``, ``train --resume DIR``, ``train --config RUN/config.json``."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro

from steersman import agents
from steersman.cli.display import TrainingDisplay, evaluation_rows, number, print_json, print_table
from steersman.errors import UsageError
from steersman.run import folder
from steersman.run.settings import RunConfig, preset_for, split
from steersman.run.train import Result, resume, train

C = TypeVar("C")


@dataclass(frozen=True)
class Output:
    """Where results go and what is shown."""

    out: Path | None = None
    """The run folder; by default runs/ALGORITHM-ENVIRONMENT-SEED-TIME."""
    quiet: bool = False
    """Show nothing but errors."""
    json: bool = False
    """Print the summary as one JSON object."""


@dataclass(frozen=True)
class Train(Generic[C]):
    """Every setting of a training. Defaults shown are the environment's preset, where there is one."""

    output: Output
    run: RunConfig
    config: C


@dataclass(frozen=True)
class Resume:
    """Go on with a run; it ends bit for bit where it would have without the stop."""

    resume: Path
    """The run folder."""
    steps: int | None = None
    """A new budget of environment steps."""
    environment: str | None = None
    """package.module:factory, named again for a run on an environment of your own."""
    quiet: bool = False
    """Show nothing but errors."""
    json: bool = False
    """Print the summary as one JSON object."""


USAGE = """usage: steersman train ALGORITHM ENVIRONMENT [--steps N] [--seed N] [--seeds N] [--num-envs N] [--out DIR] [--SETTING VALUE ...]
       steersman train --resume DIR [--steps N]
       steersman train --config RUN/config.json [--out DIR] [--SETTING VALUE ...]

  --no-preset      leave the environment's preset aside; defaults only
  --quiet          show nothing but errors         --json   print the summary as JSON

Every setting of an algorithm is a flag:  steersman train ppo CartPole-v1 --help
Names of algorithms and environments:     steersman list"""


def run(arguments: list[str]) -> int:
    """-> exit code: 0 done, 130 interrupted and saved."""
    if not arguments or arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        again = _parse(Resume, arguments, prog="steersman train")
        result = _shown(
            again.quiet or again.json,
            lambda report: resume(again.resume, steps=again.steps, environment=again.environment, report=report),
        )
        return _finish(result, again.quiet, again.json)
    name, environment, saved, flags = _what(arguments)
    entry = agents.algorithm(name)
    use_preset = "--no-preset" not in flags
    flags = [f for f in flags if f != "--no-preset"]
    base = saved or (preset_for(name, environment or "") if use_preset else {})
    run_config, config = split(entry, base)
    default = Train(Output(), run_config, config)
    chosen = _parse(Train[entry.config], flags, default=default, prog=f"steersman train {name} {environment}")
    if environment is None:  # only help was asked for
        raise UsageError(f"Name an environment: steersman train {name} CartPole-v1. Known ones: steersman list.")
    out = chosen.output.out or folder.default_path(name, environment, chosen.run.seed)
    settings = {**_fields(chosen.run), **_fields(chosen.config)}
    source = "the saved config" if saved else "preset" if base else ""
    result = _shown(
        chosen.output.quiet or chosen.output.json,
        lambda report: train(name, environment, out=out, preset=False, report=report, **settings),
        f"settings from {source}: " + ", ".join(f"{k} {v}" for k, v in base.items()) if source == "preset" else "",
    )
    return _finish(result, chosen.output.quiet, chosen.output.json)


def _fields(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _what(arguments: list[str]) -> tuple[str, str | None, dict[str, Any], list[str]]:
    """-> (algorithm, environment, settings of a saved config, the other flags)."""
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments):
            raise UsageError("--config needs a file: steersman train --config RUN/config.json")
        saved = folder.read_config(arguments[at + 1])
        if ":" in saved["environment"] or saved["run"].get("object"):
            raise UsageError(
                f"{arguments[at + 1]} is of a run on an environment of your own, {saved['environment']}. Name it: "
                f"steersman train {saved['algorithm']} {saved['environment']} --SETTING VALUE ..."
            )
        settings = {k: v for k, v in saved["run"].items() if k not in ("network", "object")} | saved["config"]
        return saved["algorithm"], saved["environment"], settings, arguments[:at] + arguments[at + 2 :]
    names = []
    while arguments and not arguments[0].startswith("-") and len(names) < 2:
        names.append(arguments[0])
        arguments = arguments[1:]
    if not names:
        raise UsageError(f"Name an algorithm and an environment.\n{USAGE}")
    return names[0], names[1] if len(names) == 2 else None, {}, arguments


def _parse(kind: Any, arguments: list[str], **options: Any) -> Any:
    return tyro.cli(kind, args=arguments, config=(tyro.conf.OmitArgPrefixes,), **options)


def _shown(silent: bool, work: Any, note: str = "") -> Result:
    display = None if silent else TrainingDisplay()
    with display or nullcontext():
        if display is None:
            return work(None)

        def report(phase: str, numbers: dict[str, Any]) -> None:
            if phase == "compiling":
                numbers = {"lines": [*_opening(numbers), *([note] if note else [])]}
            display(phase, numbers)

        return work(report)


def _opening(numbers: dict[str, Any]) -> list[str]:
    setup = numbers["setup"]
    return [setup.describe(), f"run folder: {numbers['run']}"]


def _finish(result: Result, quiet: bool, as_json: bool) -> int:
    summary = result.summary
    if as_json:
        print_json({**summary, "run": str(result.run) if result.run else None})
    elif not quiet:
        rows = [
            ("steps", f"{number(summary['steps'])}" + (f" x {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else "")),
            ("time", f"{summary['wall_seconds']:.1f} s, {summary['compile_seconds']:.1f} s of it compiling"),
            ("speed", f"{number(summary['steps_per_second'], 0)} steps/s while training"),
        ]
        if summary["evaluation"]:
            rows += evaluation_rows(summary["evaluation"])
        for seed, evaluation in zip(summary["seeds"], summary["evaluations"], strict=False):
            rows.append((f"  seed {seed}", f"mean return {number(evaluation['mean'])}"))
        if result.run:
            rows += [("run folder", str(result.run)), ("curve", str(result.run / "curve.png"))]
        print_table(f"{summary['algorithm']} on {summary['environment']}: {summary['status']}", rows)
    if result.interrupted:
        if not quiet:
            print(f"Interrupted and saved. Go on with: steersman train --resume {result.run}", file=sys.stderr)
        return 130
    return 0
