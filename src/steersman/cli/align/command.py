"""``steersman align METHOD MODEL DATA``, ``align --resume RUN``; ``align generate|evaluate|merge``."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from steersman.agents.language import METHODS, method
from steersman.cli.align.display import AlignmentDisplay
from steersman.cli.display import number, print_json, print_table
from steersman.cli.flags import composed, parsed
from steersman.errors import UsageError, nearest
from steersman.run.disk import run_folder
from steersman.run.events import Callback
from steersman.run.language.settings import AlignConfig

VERBS = {"generate": "asking", "evaluate": "measuring", "merge": "merging"}  # name -> module of this folder

USAGE = f"""usage: steersman align METHOD MODEL DATA [--SETTING VALUE ...]
       steersman align --resume RUN   (what is your own named again: --environment, --reward)
       steersman align generate RUN|MODEL PROMPT
       steersman align evaluate RUN|MODEL DATA
       steersman align merge RUN --to FOLDER

  METHOD          {", ".join(METHODS)}
  MODEL           a folder of Hugging Face's, a file .gguf, smollm2, tiny, or a run
  DATA            JSON lines, or parquet: text | messages | prompt with answer (sft),
                  prompt with chosen and rejected (reward, dpo)
                  prompt, perhaps with answer (rloo, grpo, ppo); for these also reasoning_gym:NAME,
                  or an environment of texts, text/guess or package.module:make
  --lora 8        train adapters of this rank, in place of all weights
  --reward NAME   what answers earn (rloo, grpo, ppo): number, length:40, a reward model's run,
                  package.module:function; several are added up, 0.1*length:40
  --epochs N      how often the data is gone through
  --out DIR       the run folder (default: a new one in runs/)
  --json          print what came of it as JSON, and nothing else

Every setting of a method is a flag:  steersman align dpo --help"""

ALL = "Every setting of a training on texts; what is not given keeps the default shown."


@dataclass(frozen=True)
class Output:
    """What is trained on what, and where results go."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A folder, a file .gguf, smollm2, tiny, or a run."""
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """JSON lines, or parquet; reasoning_gym:NAME; or an environment of texts, package.module:make."""
    out: Path | None = None
    """The run folder; none: a new one in runs/."""
    replace: tyro.conf.FlagCreatePairsOff[bool] = False
    """Put the run in the place of the one that --out holds, whose files are removed."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the summary as one JSON object."""


@dataclass(frozen=True)
class Resume:
    """Go on with a run; it ends bit for bit where it would have without the stop."""

    resume: Path
    """The run folder."""
    environment: str | None = None
    """Its environment again, where that is your own: a run folder does not decide what is imported."""
    reward: tuple[str, ...] = ()
    """Its rewards again that are your own."""
    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show nothing but errors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the summary as one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code: 0 done, 130 interrupted."""
    if arguments in ([], ["-h"], ["--help"]):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    first, *rest = arguments
    if first in VERBS:
        return import_module(f"steersman.cli.align.{VERBS[first]}").run(rest)
    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        again = parsed(Resume, arguments, "steersman align")
        from steersman.run.language.align import resume

        own = {"environment": again.environment, "reward": again.reward}
        return _finish(_shown(again, [], lambda callbacks: resume(again.resume, callbacks=callbacks, **own)), again)
    if first not in METHODS:
        near = nearest(first, [*METHODS, *VERBS])
        raise UsageError(f"There is nothing called {first!r} to align by. {near}".rstrip() + f"\n\n{USAGE}")
    return _train(first, rest)


def _train(name: str, flags: list[str]) -> int:
    from steersman.run.language.align import align, refuse_cut

    refuse_cut(method(name), [flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in flags])
    config = method(name).config
    defaults = {field.name: field.default for kind in (config, AlignConfig) for field in dataclasses.fields(kind)}
    title = f"steersman align {name}"
    output, settings = composed(Output, (config, AlignConfig), defaults, flags, title, 2, ALL)
    out = output.out or Path("runs") / f"{name}-{Path(output.model).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    given = {n: value for n, value in settings.items() if value != defaults[n]}
    notes = [f"given: {', '.join(f'{n}={value}' for n, value in given.items())}"] if given else []
    start = lambda callbacks: align(
        name, output.model, output.data, out=out, replace=output.replace, callbacks=callbacks, **given
    )
    return _finish(_shown(output, notes, start), output)


def _shown(output: Output | Resume, notes: list[str], work: Callable[[Sequence[Callback]], Any]) -> Any:
    display = None if output.quiet or output.json else AlignmentDisplay(notes)
    with display or nullcontext():
        return work([] if display is None else [display])


def _finish(done: Any, output: Output | Resume) -> int:
    summary = done.summary
    if output.json:
        print_json({**summary, "run": str(done.run)})
    elif not output.quiet:
        title = f"{summary['algorithm']} of {summary['environment']}: {summary['status']}"
        print_table(title, _rows(summary, done.run))
    if not done.interrupted:
        return 0
    if not output.quiet:
        print(
            f"Interrupted, and saved. Go on with: {run_folder.to_resume(run_folder.open_run(done.run))}",
            file=sys.stderr,
        )
    return 130


def _rows(summary: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    rows = [
        ("updates", f"{number(summary['steps'])}, of {number(summary['tokens'])} tokens"),
        ("time", f"{summary['wall_seconds']:.1f} s, {summary['compile_seconds']:.1f} s of it compiling"),
        ("speed", f"{number(summary['tokens_per_second'], 0)} tokens/s while training"),
    ]
    before, after = summary["before"] or {}, summary["after"] or {}
    for name, value in after.items():
        rows.append((name.replace("_", " "), f"{number(value, 3)}   (before: {number(before.get(name), 3)})"))
    rows.append(("run folder", str(folder)))
    curve = folder / "curve.png"
    return rows + ([("curve", str(curve))] if curve.exists() else [])
