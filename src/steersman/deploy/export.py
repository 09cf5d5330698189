"""``steersman export RUN --to DIR``: a policy written so that it can be trusted away from here."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.deploy import c99, golden, onnx, runner
from steersman.deploy.contract import contract, read_robot
from steersman.deploy.trace import traced
from steersman.errors import UsageError
from steersman.run.disk.dataset import creating
from steersman.run.disk.files import explained, write_json
from steersman.run.policy import Policy
from steersman.run.policy import load as load_run

LITTLE = 0.5  # of their range: golden actions that fill less prove little, and that is said


class Exported(NamedTuple):
    """What was written, and how it was tried."""

    folder: Path
    operations: int
    parameters: int
    vectors: int
    filled: float  # share of their range that the golden actions fill
    worst: dict[str, float | None]  # back end -> how far it is off, in tolerances; None: cannot be run here


def export(
    run: str | Path,
    to: str | Path,
    *,
    with_onnx: bool | None = None,
    hz: float | None = None,
    robot: str | Path | None = None,
    **which: Any,
) -> Exported:
    """Write the policy of a run into the new folder ``to``: ``policy.json`` (the contract), ``policy.npz``,
    ``policy.c`` and ``.h``, ``policy.onnx``, ``golden.npz`` and ``.h``, ``runner.py``.

    Nothing is written before each back end that can run here has done the golden vectors again, within 1e-5 of half of
    an action's range. with_onnx: none: where onnx is installed. hz: actions in a second. robot: a JSON file with joint
    names, gains, default pose and units. which: ``best``, ``seed_index``, ``checkpoint_path``, ``algorithm``,
    ``network``, as ``load`` has them. Raises UsageError for a folder that exists, and for a policy that needs what no
    back end has.
    """
    block = None if robot is None else read_robot(robot)
    with creating(to) as folder, explained("writing", to):
        policy = load_run(run, **which)
        origin = {"run": str(run), **{k: v for k, v in which.items() if isinstance(v, bool | int) and v}}
        done = write(folder, policy, with_onnx=with_onnx, hz=hz, robot=block, origin=origin)
    return done._replace(folder=Path(to))


def write(
    folder: Path,
    policy: Policy,
    *,
    with_onnx: bool | None = None,
    hz: float | None = None,
    robot: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Exported:
    """As ``export``, of a policy in memory, into an empty folder."""
    if hz is not None and not 0 < hz < float("inf"):
        raise UsageError(f"hz = {hz}; it is how many actions there are in a second, more than 0.")
    program = traced(policy)
    weights = {str(number): x for number, x in program.constants.items()}
    np.savez(folder / runner.WEIGHTS, **weights)  # pyright: ignore[reportArgumentType]
    digest = hashlib.sha256((folder / runner.WEIGHTS).read_bytes()).hexdigest()
    period = None if hz is None else 1.0 / hz
    terms = contract(policy, program, digest=digest, period=period, robot=robot, origin=origin)
    vectors = golden.golden_vectors(policy, program, terms)
    filled = golden.filled(vectors, terms)
    terms["golden"] = {"file": "golden.npz", "vectors": len(vectors.first), "filled": round(filled, 4)}
    terms["golden"]["tolerance"] = {k: x.tolist() for k, x in golden.tolerances(vectors, terms).items()}
    np.savez(folder / "golden.npz", **vectors.arrays())  # pyright: ignore[reportArgumentType]
    write_json(folder / runner.CONTRACT, terms)
    shutil.copy(runner.__file__, folder / "runner.py")
    for name, text in c99.sources(program, terms, vectors).items():
        (folder / name).write_text(text)
    worst: dict[str, float | None] = {}
    copy = runner.Policy(folder)
    worst["numpy"] = golden.worst(vectors, terms, lambda vectors: golden.played(copy, copy.reset, vectors, terms))
    if with_onnx or (with_onnx is None and find_spec("onnx") is not None):
        made = onnx.model(program, terms)
        (folder / "policy.onnx").write_bytes(made.SerializeToString())
        play = onnx.play(made)
        worst["onnx"] = None if play is None else golden.worst(vectors, terms, play)
    with tempfile.TemporaryDirectory() as build:
        worst["c"] = c99.replay(folder, Path(build)) if c99.compiler() else None
    for name, off in worst.items():
        if off is not None and not off <= 1.0:
            raise RuntimeError(
                f"The back end {name} is off by {off:.3g} tolerances on the golden vectors; not exported."
            )
    parameters = sum(x.size for x in program.constants.values())
    return Exported(folder, len(program.ops), parameters, len(vectors.first), filled, worst)
