"""``policy.json``: what goes into an exported policy and what comes out, so that nobody has to guess on the robot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.deploy.program import Program
from steersman.deploy.runner import FORMAT, VERSION, WEIGHTS
from steersman.deploy.trace import CARRY, input_names, output_names
from steersman.envs.host.contract import Leaf, leaves_of
from steersman.errors import UsageError, nearest
from steersman.run.disk.files import read_json
from steersman.run.disk.run_folder import versions
from steersman.run.disk.spec_json import spec_to_json
from steersman.run.policy import Policy

# Of the robot block, by mjlab's names: one entry for each joint, or a list of names.
JOINTS = ("joint_stiffness", "joint_damping", "default_joint_pos", "action_scale")
NAMES = ("joint_names", "observation_names", "command_names")
ROBOT = (*NAMES, *JOINTS, "units", "physics_period")


def contract(
    policy: Policy,
    program: Program,
    *,
    digest: str = "",
    period: float | None = None,
    robot: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contract of a policy and its program, as JSON values; the bounds of what has none are null.

    digest: SHA-256 of the weights' file. period: seconds between two actions, where it is known. robot: the robot
    block (``read_robot``). origin: what is known of the training.
    """
    spec, robot = policy.spec, dict(robot or {})
    native = spec.native_observation_space or spec.observation_space
    seen, done = (
        leaves_of(native, spec.observation_space),
        leaves_of(spec.native_action_space, spec.native_action_space),
    )
    units = robot.pop("units", {})
    part = lambda name, leaf, space, dtype: {
        "name": name,
        "path": list(leaf.path),
        "shape": list(leaf.shape),
        "dtype": np.dtype(dtype).name,
        **bounds(leaf, space),
        "units": units.get(name),
    }
    names = [*input_names(policy), *output_names(policy)]
    for name in units:
        if name not in names:
            unseen = "; the policy does not see it" if name.partition("/")[0] in spec.unseen else ""
            raise UsageError(f"units are given for {name!r}{unseen}. The contract has {', '.join(names)}.")
    inputs = zip(input_names(policy), seen, strict=True)
    outputs = zip(output_names(policy), done, strict=True)
    carry = [name for name in program.inputs if name.startswith(f"{CARRY}/")]
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": spec.id,
        "inputs": [part(name, leaf, native, leaf.dtype) for name, leaf in inputs],
        "unseen": list(spec.unseen),  # of the observation: they may be there, and are looked past
        "outputs": [part(name, leaf, spec.native_action_space, leaf.native) for name, leaf in outputs],
        "normaliser": "inside: give observations as the environment has them",
        "acts": "greedy: the most likely action",
        "control_period": period,
        "physics_period": robot.pop("physics_period", None),
        "carry": [
            {
                "name": name,
                "shape": list(program.values[program.inputs[name]].shape),
                "dtype": program.values[program.inputs[name]].dtype,
            }
            for name in carry
        ],
        "reset": "before an episode: carry all zeros and first true; after each step: carry what came out, first false"
        if carry
        else "nothing to reset",
        "previous_action": "inside the carry: the policy's own last action, before what a control loop limits"
        if carry
        else "not asked for, unless an input holds it",
        "weights": {"file": WEIGHTS, "sha256": digest},
        "origin": dict(origin or {}),
        "versions": versions(),
        "robot": robot or None,
        "spec": spec_to_json(spec),
        "program": program.to_json(),
    }


def bounds(leaf: Leaf, space: spaces.Space) -> dict[str, Any]:
    """``low`` and ``high`` of a leaf, or where it counts from (``start``) and how far (``count``)."""
    for key in leaf.path:
        space = space[key]  # pyright: ignore[reportIndexIssue]
    match space:
        case spaces.Box():
            return {"low": _numbers(space.low), "high": _numbers(space.high)}
        case spaces.Discrete() | spaces.MultiDiscrete():
            count = space.n if isinstance(space, spaces.Discrete) else space.nvec
            return {"start": np.asarray(space.start).tolist(), "count": np.asarray(count).tolist()}
    return {"low": 0, "high": 1}


def half_ranges(part: Mapping[str, Any]) -> np.ndarray:
    """Half the range of each entry of an output, float64; NaN without two bounds."""
    if "count" in part:
        return np.full(part["shape"], 0.5)
    low, high = (
        np.broadcast_to(np.asarray(part[end], np.float64), part["shape"]) for end in ("low", "high")
    )  # None becomes NaN
    return (high - low) / 2


def _numbers(x: np.ndarray) -> Any:
    """Numbers as JSON has them: one where all are equal, null where there is no bound."""
    plain = np.where(np.isfinite(x), x, np.nan).astype(object)
    plain[~np.isfinite(x)] = None
    same = x.size > 0 and (x == x.flat[0]).all()
    return plain.flat[0] if same else plain.tolist()


def read_robot(path: str | Path) -> dict[str, Any]:
    """A robot block out of a JSON file. Raises UsageError for keys that have no meaning, for values of another kind,
    and for lists that are not as long as the joints are many."""
    robot = read_json(path, f"A robot block is an object with some of {', '.join(ROBOT)}.")
    for key in robot:
        if key not in ROBOT:
            raise UsageError(
                f"{path} has {key!r}; a robot block has {', '.join(ROBOT)}. {nearest(key, ROBOT)}".rstrip()
            )
    for key in NAMES:
        value = robot.get(key, [])
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise UsageError(f"{path}: {key} is {value!r}; it is a list of names.")
    period = robot.get("physics_period", 1.0)
    if not isinstance(period, int | float) or not 0 < period < math.inf:
        raise UsageError(f"{path}: physics_period is {period!r}; it is the simulator's step in seconds, above 0.")
    names = robot.get("joint_names", [])
    for key in JOINTS:
        value = robot.get(key)
        if isinstance(value, list) and len(value) != len(names):
            raise UsageError(
                f"{path}: {key} has {len(value)} entries, joint_names {len(names)}. Give one for each joint."
            )
        if value is not None and not all(
            isinstance(x, int | float) and math.isfinite(x) for x in (value if isinstance(value, list) else [value])
        ):
            raise UsageError(f"{path}: {key} is {value!r}; it is a number, or one for each joint.")
    if not isinstance(robot.get("units", {}), Mapping):
        raise UsageError(f"{path}: units is {robot['units']!r}; it is an object, of the contract's names.")
    return robot
