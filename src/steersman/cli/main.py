"""``steersman COMMAND ...``: finds the command, and turns how it ended into an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from steersman import __version__
from steersman.errors import EnvironmentFault, TrainingFault, UsageError, nearest

COMMANDS = {  # name -> (module of steersman.cli, what it does)
    "train": ("train", "train an agent, or go on with a run (--resume DIR)"),
    "compare": ("compare", "algorithms over the same seeds: which is better, how surely"),
    "evaluate": ("evaluate", "play whole episodes with a run's policy, report the return"),
    "record": ("record", "film a run's policy: mp4 or gif"),
    "collect": ("collect", "record transitions of a run's policy, to train from"),
    "export": ("deploy.export", "write a run's policy for a robot: a contract, numpy, C, ONNX"),
    "deploy": ("deploy.command", "a control loop in real time: a policy against a simulator"),
    "saliency": ("saliency", "lay what a run's value and choices hang on over what it sees"),
    "model": ("models.model", "how good a learned model is: numbers, pictures, a film"),
    "plan": ("models.plan", "the ceiling: what a planner gets that knows the environment"),
    "align": ("align.command", "language models: fine-tune, learn from preferences, generate, merge"),
    "plot": ("plot", "draw learning curves of runs, with intervals over seeds"),
    "tabular": ("tabular.command", "solve or learn a finite problem: gridworlds, the classics"),
    "list": ("listing", "the algorithms, the environments, the presets"),
    "info": ("info", "versions and devices; with DIR, what a run folder holds"),
}

USAGE = f"""steersman {__version__}: reinforcement learning for robots, games and language models

usage: steersman COMMAND ...

{chr(10).join(f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items())}

steersman COMMAND --help tells a command's options; --json makes it print JSON.

first steps   steersman train ppo CartPole-v1 --out runs/cartpole
              steersman evaluate runs/cartpole
exit codes    0 done, 2 your mistake, 1 a failure of ours, 130 interrupted"""

TRAIN_USAGE = """usage: steersman train ALGORITHM ENVIRONMENT [--SETTING VALUE ...]
       steersman train --resume DIR [--steps N]
       steersman train --config RUN/config.json [--SETTING VALUE ...]

  ALGORITHM       a name (steersman list), or package.module:ALGORITHM
  ENVIRONMENT     a name (steersman list), or package.module:factory
  --steps N       environment steps to train for
  --seed N        the seed; --seeds N trains N of them side by side
  --num-envs N    environments stepped side by side
  --out DIR       the run folder (default: a new one in runs/)
  --replace       put the run in the place of the one that DIR holds
  --from-data D   learn, or start, from recorded data (steersman collect)
  --network F     your own network, package.module:factory
  --init-from DIR begin with the parameters of another run, with new settings
  --resume DIR    go on with a run that was stopped, or train it for longer
  --config FILE   repeat a run, in a new folder
  --no-preset     leave the environment's preset aside
  --quiet         show nothing but errors
  --json          print the summary as one JSON object

Every setting of an algorithm is a flag:  steersman train ppo CartPole-v1 --help
Names of algorithms and environments:     steersman list"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``steersman`` script."""
    if not sys.warnoptions:
        warnings.showwarning = _show_warning
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; -> its exit code."""
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        print(f"steersman: There is no command {name!r}. {near}".rstrip() + f"\n\n{USAGE}", file=sys.stderr)
        return 2
    if name == "train" and rest in ([], ["-h"], ["--help"]):  # known without JAX, which takes a second
        print(TRAIN_USAGE, file=sys.stdout if rest else sys.stderr)
        return 0 if rest else 2
    try:
        command = import_module(f"steersman.cli.{COMMANDS[name][0]}").run
        if "--json" not in rest or {"-h", "--help"} & set(rest):
            return command(rest)
        with import_module("steersman.cli.display").json_alone():
            return command(rest)
    except (UsageError, EnvironmentFault) as error:
        print(f"steersman: {error}", file=sys.stderr)
        return 2
    except TrainingFault as error:
        print(f"steersman: {error}", file=sys.stderr)
        return 1
    except SystemExit as error:  # the parser of flags has said what is wrong
        return error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt as error:
        print(f"steersman: interrupted. {error}".rstrip(), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return 0
    except Exception as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):  # numpy's, and XLA's
            raise
        said = next(iter(str(error).splitlines()), "").rstrip(".")
        less = "fewer environments or episodes side by side, a smaller network, population, horizon or replay memory"
        print(f"steersman: There is not enough memory ({said}). Ask for less: {less}.", file=sys.stderr)
        return 2


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Our own notes as one line; what libraries say to programmers is not for a user of the command line."""
    if category.__module__.startswith("steersman."):
        print(f"steersman: {message}", file=sys.stderr)
