"""``steersman tabular solve|learn|draw PROBLEM``: exact and sampled answers on named finite problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table as Rows

from steersman.cli.display import number, print_json, print_table
from steersman.cli.flags import parsed
from steersman.cli.tabular import learn, solve
from steersman.errors import UsageError, nearest
from steersman.run.disk.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Common:
    """What solving and learning have."""

    problem: Annotated[str, tyro.conf.Positional]
    """A named problem, a Gymnasium toy-text id such as FrozenLake-v1, a .MDP file, or (solve) a .POMDP file."""
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

    method: str | None = None
    """Of an MDP: policy-iteration (the default), value-iteration, modified-policy-iteration, gauss-seidel,
    prioritized-sweeping, linear-program, average-reward or uniform-policy (its evaluation); of a POMDP: pbvi (the
    default), qmdp or fast-informed-bound."""
    tol: float | None = None
    """The error asked for; none: 1e-8, and 1e-2 for a POMDP."""


@dataclass(frozen=True)
class Learn(Common):
    """Learn a problem from experience and compare with the exact answer."""

    method: tuple[str, ...] = ("q-learning",)
    """One or more, drawn on one axis. To act: sarsa, expected-sarsa, q-learning, double-q-learning, n-step-sarsa,
    tree-backup, sarsa-lambda, watkins-q-lambda, dyna-q, dyna-q-plus or r-learning. Values of the uniform policy:
    monte-carlo, td0, n-step-td, lambda-return, td-lambda or true-online-td-lambda."""
    episodes: int = 500
    """Episodes of each seed."""
    steps: int | None = None
    """Steps of each seed instead of episodes, for tasks that never end."""
    seeds: int = 10
    """Runs in one compiled program."""
    seed: int = 0
    """Of all of them."""
    alpha: float = 0.1
    """Step size."""
    epsilon: float = 0.1
    """Exploration."""
    n: int = 4
    """Steps of the n-step methods and tree-backup."""
    lambda_: Annotated[float, tyro.conf.arg(name="lambda")] = 0.9
    """Trace decay of the lambda methods."""
    planning_steps: int = 10
    """Of the Dyna methods, per real step."""


@dataclass(frozen=True)
class Draw:
    """Draw the optimal values, where the optimal policy goes, or the backup diagram of a method."""

    problem: Annotated[str, tyro.conf.Positional]
    """A named problem, or a Gymnasium toy-text id."""
    picture: Annotated[Path, tyro.conf.Positional]
    """The file: .png, .svg or .pdf."""
    what: str = "value"
    """value, occupancy or backup."""
    gamma: float | None = None
    """Discount factor; none: the problem's own."""
    method: str = "v-star"
    """Of a backup: v-pi, v-star, q-pi, q-star, td0, n-step-td, monte-carlo, lambda-return, td-lambda, sarsa,
    q-learning, tree-backup ..."""
    state: str | None = None
    """Of a backup: its number, or row,column of a gridworld; none: the likeliest start."""
    action: str = "0"
    """Of a backup: its number or its name."""
    steps: int = 3
    """Of an n-step backup."""


KINDS = {"solve": Solve, "learn": Learn, "draw": Draw}


def run(arguments: list[str]) -> int:
    """-> exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            "usage: steersman tabular solve|learn PROBLEM [--help] [--json] [--method NAME] [--picture FILE] ...\n"
            "       steersman tabular draw PROBLEM FILE [--help] [--what NAME] ...\n"
        )
        print_table(
            "what there is",
            [(kind, ", ".join(names)) for kind, names in (solve.names() | learn.names()).items()],
        )
        return 0
    action, *rest = arguments
    if action not in KINDS:
        raise UsageError(
            f"steersman tabular has solve, learn and draw, not {action!r}. {nearest(action, KINDS)}".rstrip()
        )
    chosen = parsed(KINDS[action], rest, f"steersman tabular {action}")
    _check_ranges(vars(chosen))
    names = {"json", "picture", "rows", "problem"}
    if isinstance(chosen, Draw):
        settings = {name: value for name, value in vars(chosen).items() if name not in names}
        _save(solve.drawing(chosen.problem, **settings), chosen.picture)
        print(f"picture: {chosen.picture}")
        return 0
    settings = {name: value for name, value in vars(chosen).items() if name not in names}
    if isinstance(chosen, Learn):
        table = learn.learn(chosen.problem, settings.pop("method"), **settings)
    else:
        table = solve.solve(chosen.problem, **settings)
    if chosen.picture is not None:
        _save(solve.picture(table), chosen.picture)
    if chosen.json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        print_json({"title": table.title, "facts": table.facts, "states": rows})
        return 0
    _show(table, chosen.rows)
    if chosen.picture is not None:
        print(f"\npicture: {chosen.picture}")
    return 0


def _check_ranges(given: Mapping[str, object]) -> None:
    """Raise UsageError for a number that is out of its range."""
    rules = (
        (("episodes", "steps", "seeds", "n"), lambda v: v >= 1, "1 or more"),
        (("seed", "rows", "planning_steps"), lambda v: v >= 0, "0 or more"),
        (("alpha", "tol"), lambda v: v > 0, "above 0"),
        (("epsilon", "lambda_"), lambda v: 0 <= v <= 1, "between 0 and 1"),
    )
    for names, legal, right in rules:
        for name in names:
            if (value := given.get(name)) is not None and not legal(value):
                raise UsageError(f"--{name.strip('_').replace('_', '-')} {value}: it must be {right}.")


def _save(figure: Figure, path: Path) -> None:
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"A picture is a .png, .svg or .pdf file; got {path}.")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _show(table: solve.Table, most: int) -> None:
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
