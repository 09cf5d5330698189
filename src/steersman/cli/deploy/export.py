"""``steersman export RUN --to DIR``: a run's policy as a program for the machine that it is to run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from steersman.cli.display import print_json, working
from steersman.cli.flags import parsed
from steersman.deploy.export import LITTLE, export
from steersman.errors import to_install


@dataclass(frozen=True)
class Export:
    """Write a run's policy for a machine without JAX: a contract, weights, ONNX, C, numpy, and golden vectors."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    to: Path
    """The folder to write; it must not exist."""
    hz: float | None = None
    """Actions in a second, for the contract; none: it does not say."""
    robot: Path | None = None
    """A JSON file with joint_names, joint_stiffness, joint_damping, default_joint_pos, action_scale, units ..."""
    best: tyro.conf.FlagCreatePairsOff[bool] = False
    """The best policy of the evaluations on the way, instead of the newest."""
    seed_index: int = 0
    """Which of a run's several seeds."""
    algorithm: str | None = None
    """package.module:ALGORITHM, named again for a run by an algorithm of your own."""
    network: str | None = None
    """package.module:factory, named again for a run with a network of your own."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Export, arguments, "steersman export")
    which: dict[str, Any] = {name: getattr(chosen, name) for name in ("best", "seed_index", "algorithm", "network")}
    with working(f"exporting {chosen.run} and trying every back end"):
        done = export(chosen.run, chosen.to, hz=chosen.hz, robot=chosen.robot, **which)
    if chosen.json:
        print_json({**done._asdict(), "folder": str(done.folder)})
        return 0
    print(f"{done.folder}: {done.operations} operations, {done.parameters:,} numbers")
    for name, off in done.worst.items():
        told = "written, cannot be run here" if off is None else f"off by {off:.2g} of what is allowed"
        print(f"  {name:<6} {told}")
    if "onnx" not in done.worst:
        print(f"  onnx   not written: it needs {to_install('onnx')}")
    print(f"  {done.vectors} golden vectors, whose actions fill {done.filled:.0%} of their range")
    if done.filled < LITTLE:
        print(
            "  That is little: a policy that hardly moves is hardly tried. Train it further, or look at what it sees."
        )
    return 0
