"""``steersman tabular solve|learn PROBLEM``: exact and sampled answers on named finite problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as Rows

from steersman.cli.display import number, print_json, print_table
from steersman.errors import UsageError, nearest
from steersman.run.files import replacing
from steersman.tabular import cli_spec


@dataclass(frozen=True)
class Common:
    """What both have."""

    problem: Annotated[str, tyro.conf.Positional]
    """A named problem, or a Gymnasium toy-text id such as FrozenLake-v1."""
    gamma: float | None = None
    """Discount factor; none: the problem's own."""
    picture: Path | None = None
    """Draw the answer here: .png, .svg or .pdf."""
    rows: int = 25
    """States shown at most; 0: all."""
    json: bool = False
    """Print one JSON object, with every state."""


@dataclass(frozen=True)
class Solve(Common):
    """Solve a problem exactly, with a bound on the error."""

    method: str = "policy-iteration"
    """value-iteration, policy-iteration, modified-policy-iteration, gauss-seidel, prioritized-sweeping or
    linear-program."""
    tol: float = 1e-8
    """The error asked for."""


@dataclass(frozen=True)
class Learn(Common):
    """Learn a problem from experience and compare with the exact answer."""

    method: str = "q-learning"
    """sarsa, expected-sarsa, q-learning, double-q-learning, n-step-sarsa, tree-backup, sarsa-lambda,
    watkins-q-lambda, dyna-q or dyna-q-plus."""
    episodes: int = 500
    """Episodes of each seed."""
    seeds: int = 10
    """Runs in one compiled program."""
    seed: int = 0
    """Of all of them."""
    alpha: float = 0.1
    """Step size."""
    epsilon: float = 0.1
    """Exploration."""
    n: int = 4
    """Steps of n-step-sarsa and tree-backup."""
    lambda_: float = 0.9
    """Trace decay of the lambda methods."""
    planning_steps: int = 10
    """Of the Dyna methods, per real step."""


KINDS = {"solve": Solve, "learn": Learn}


def run(arguments: list[str]) -> int:
    """-> exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: steersman tabular solve|learn PROBLEM [--help] [--json] [--method NAME] [--picture FILE] ...\n")
        print_table("what there is", [(kind, ", ".join(names)) for kind, names in cli_spec.names().items()])
        return 0
    action, *rest = arguments
    if action not in KINDS:
        raise UsageError(f"steersman tabular has solve and learn, not {action!r}. {nearest(action, KINDS)}".rstrip())
    chosen = tyro.cli(KINDS[action], args=rest, prog=f"steersman tabular {action}")
    names = {"json", "picture", "rows", "problem"}
    settings = {name: value for name, value in vars(chosen).items() if name not in names}
    table = getattr(cli_spec, action)(chosen.problem, **settings)
    if chosen.picture is not None:
        figure = cli_spec.picture(table)
        with replacing(chosen.picture) as temporary:
            figure.savefig(temporary)
    if chosen.json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        print_json({"title": table.title, "facts": table.facts, "states": rows})
        return 0
    _show(table, chosen.rows)
    if chosen.picture is not None:
        print(f"\npicture: {chosen.picture}")
    return 0


def _show(table: cli_spec.Table, most: int) -> None:
    facts = [(k, _text(v)) for k, v in table.facts.items()]
    print_table(table.title, facts)
    print()
    shown = Rows(box=None, pad_edge=False)
    for column in table.columns:
        shown.add_column(column, style="cyan" if column == "state" else None)
    for row in table.rows[: most or None]:
        shown.add_row(*(_text(cell) for cell in row))
    Console().print(shown)
    if most and len(table.rows) > most:
        print(f"... and {len(table.rows) - most} more states (--rows 0 shows all)")


def _text(value: object) -> str:
    return number(value, 4) if isinstance(value, float) else str(value)
