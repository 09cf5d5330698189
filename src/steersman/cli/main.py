"""``steersman COMMAND ...``: finds the command, and turns how it ended into an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from steersman import __version__
from steersman.errors import EnvironmentFault, TrainingFault, UsageError, nearest

COMMANDS = {  # name -> (module of steersman.cli, what it does)
    "train": ("train", "train an agent, or go on with a run (--resume DIR)"),
    "evaluate": ("evaluate", "play whole episodes with a run's policy and report the return"),
    "record": ("record", "film a run's policy: mp4 or gif"),
    "plot": ("plot", "draw learning curves of one or several runs, with intervals over seeds"),
    "list": ("listing", "the algorithms, the environments, the presets"),
    "info": ("info", "versions and devices; with DIR, what a run folder holds"),
}

USAGE = f"""steersman {__version__}: reinforcement learning, from a Bellman equation to a policy that runs on the machine

usage: steersman COMMAND ...

{chr(10).join(f"  {name:<10}{summary}" for name, (_, summary) in COMMANDS.items())}

steersman COMMAND --help tells a command's options; --json makes any command print JSON.
First steps:  steersman train ppo CartPole-v1 --out runs/cartpole
              steersman evaluate runs/cartpole
exit codes:   0 done, 2 your mistake, 1 a failure of ours, 130 interrupted and saved"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``steersman`` script."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; -> its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    name, *rest = arguments
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        print(f"steersman has no command {name!r}. {nearest(name, COMMANDS)}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return import_module(f"steersman.cli.{COMMANDS[name][0]}").run(rest)
    except (UsageError, EnvironmentFault) as error:
        print(f"steersman: {error}", file=sys.stderr)
        return 2
    except TrainingFault as error:
        print(f"steersman: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("steersman: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        sys.stderr.close()
        return 0
