"""``steersman list``: what there is."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from steersman import agents, envs
from steersman.cli.display import print_json, print_table
from steersman.run.settings import presets


@dataclass(frozen=True)
class List:
    """The algorithms, the environments and the presets."""

    json: bool = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = tyro.cli(List, args=arguments, prog="steersman list")
    found = envs.available()
    known = {name: sorted(presets(name)) for name in agents.ALGORITHMS}
    if chosen.json:
        print_json(
            {
                "algorithms": {a.name: a.summary for a in agents.ALGORITHMS.values()},
                "environments": [row._asdict() for row in found],
                "presets": known,
            }
        )
        return 0
    print_table("algorithms", [(a.name, a.summary) for a in agents.ALGORITHMS.values()])
    print()
    families: dict[str, list[str]] = {}
    for row in found:
        title = f"{row.family} ({row.kind}{'' if row.installed else ', not installed'})"
        families.setdefault(title, []).append(row.id)
    print_table("environments", [(title, ", ".join(ids)) for title, ids in families.items()])
    print()
    print_table("presets", [(name, ", ".join(ids)) for name, ids in known.items()])
    print("\nYour own environment: a Gymnasium id, or package.module:factory.")
    return 0
