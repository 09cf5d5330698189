"""``steersman list``: what there is."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass

import tyro

from steersman import agents, envs
from steersman.cli.display import print_json
from steersman.cli.flags import parsed
from steersman.run import plugins
from steersman.run.settings import presets

EVERY = "all that the package itself lists"


@dataclass(frozen=True)
class List:
    """The algorithms, the environments and the presets."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(List, arguments, "steersman list")
    found = envs.available()
    known = {name: sorted(presets(name)) for name in agents.ALGORITHMS}
    others = plugins.installed()
    if chosen.json:
        print_json(
            {
                "algorithms": {a.name: a.summary for a in agents.ALGORITHMS.values()},
                "environments": [row._asdict() for row in found],
                "presets": known,
                "installed": others,
            }
        )
        return 0
    print("ALGORITHMS")
    for algorithm in agents.ALGORITHMS.values():
        _paragraph(f"{algorithm.name}: {algorithm.summary}")
    for name, place in others.items():
        taken = "; its name is taken, give its place instead" if name in agents.ALGORITHMS else ""
        _paragraph(f"{name}: installed, {place}{taken}")
    print("\nENVIRONMENTS (* with a preset)")
    tuned = {name for names in known.values() for name in names}
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for row in found:
        mark = "*" if row.id.removeprefix("gymnasium/") in tuned else ""
        name = row.id.removeprefix(f"{row.family}/")
        groups.setdefault((row.family, row.kind, row.installed), []).append(f"{name}{mark}" if name != "*" else EVERY)
    for place, names in sorted(groups.items(), key=lambda group: (group[0][1] != "compiled", not group[0][2])):
        _paragraph(_title(*place), 2)
        _paragraph("  ".join(sorted(names)), 6)
    print("\nN and K stand for a number, PATH.POMDP for a file.")
    print("Every other id of Gymnasium works too, and PACKAGE.MODULE:FACTORY of your own.")
    print("An algorithm of your own: PACKAGE.MODULE:ALGORITHM.")
    return 0


def _title(family: str, kind: str, installed: bool) -> str:
    name = {"classic": "NAME", "gymnasium": "NAME or gymnasium/NAME"}.get(family, f"{family}/NAME")
    missing = "" if installed else ", not installed"
    return f"{name} ({kind}{missing})"


def _paragraph(text: str, indent: int = 2) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    margin = " " * indent
    print(textwrap.fill(text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False))
