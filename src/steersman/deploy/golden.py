"""Golden vectors: observations and what the trained policy did, that every back end has to do again.

They are drawn so that actions fill their range, as far as the policy lets them; a policy that hardly moves is held to
what it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from steersman.agents.parts.replay.with_replay import ReplayState
from steersman.agents.parts.wrappers import ObservationNormState
from steersman.deploy import runner
from steersman.deploy.contract import half_ranges
from steersman.deploy.program import Program
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.timesteps import flatten, unflatten
from steersman.errors import UsageError
from steersman.run.policy import Policy
from steersman.types import PyTree

TOLERANCE = 1e-5  # of half the range; of choices: of the gap between the two best
VECTORS, EPISODE = 256, 32
SCALES = (0.3, 1.0, 3.0, 10.0)  # standard deviations that observations are drawn with
LEAST = 0.1  # of the range: actions that fill less than this are held to so much


class Golden(NamedTuple):
    """Vectors in the order they were played, by the contract's names."""

    inputs: dict[str, np.ndarray]  # [N, ...]
    first: np.ndarray  # bool [N]: the memory is empty
    outputs: dict[str, np.ndarray]  # [N, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are written."""
        named = {f"input/{k}": x for k, x in self.inputs.items()} | {f"output/{k}": x for k, x in self.outputs.items()}
        return named | {"first": self.first}


def golden_vectors(policy: Policy, program: Program, contract: Mapping[str, Any], *, seed: int = 0) -> Golden:
    """Vectors of a policy, ``VECTORS`` of them or fewer for large pictures, in episodes of ``EPISODE`` where it
    remembers. Choices that are nearly even, within ``TOLERANCE``, are left out: two roundings may differ there."""
    native = policy.spec.native_observation_space or policy.spec.observation_space
    leaves = leaves_of(native, policy.spec.observation_space)
    rng = np.random.default_rng(seed)
    remembers = bool(contract["carry"])
    size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    count = max(32, min(VECTORS, 2**20 // max(size, 1)))
    drawn = _observations(policy, native, rng, count)
    rows = lambda i: unflatten(native)([x[i] for x in drawn])
    checker = runner.Policy.of(contract, {str(k): x for k, x in program.constants.items()})
    deciding = deciders(program)
    kept, first, actions, was_even = [], [], [], False
    policy.reset()
    checker.reset()
    for i in range(count):
        begins = not remembers or i % EPISODE == 0 or was_even
        if remembers and begins:
            policy.reset()
            checker.reset()
        action = policy(rows(i))
        checker(rows(i))
        was_even = any(margin(checker, op.name, op.inputs) < TOLERANCE for op in deciding)
        if not was_even:
            kept.append(i)
            first.append(begins)
            actions.append(flatten(policy.spec.native_action_space, action))
    if not kept:
        raise UsageError(
            f"The policy's choices are even, to {TOLERANCE}, at all of {count} observations: nothing can be compared. "
            "Train it first."
        )
    names = [x["name"] for x in contract["inputs"]], [x["name"] for x in contract["outputs"]]
    outputs = [np.stack(x) for x in zip(*actions, strict=True)]
    return Golden(
        dict(zip(names[0], [x[kept] for x in drawn], strict=True)),
        np.asarray(first),
        dict(zip(names[1], outputs, strict=True)),
    )


def _observations(policy: Policy, native: spaces.Space, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """[count, ...] of each leaf: what training saw and beyond, by the normaliser's moments where there is one."""
    state = policy.state.learner if isinstance(policy.state, ReplayState) else policy.state
    moments = state.moments if isinstance(state, ObservationNormState) else None
    seen = {} if moments is None else _moments_by_path(moments)
    leaves = leaves_of(native, policy.spec.observation_space)
    drawn = []
    for leaf in leaves:
        space: Any = native
        for key in leaf.path:
            space = space[key]
        shape = (count, *leaf.shape)
        if leaf.high is not None:
            start = 0 if leaf.start is None else leaf.start
            drawn.append((rng.integers(0, np.broadcast_to(leaf.high, shape)) + start).astype(np.int32))
        elif leaf.path[-1:] == ("action_mask",):
            mask = rng.integers(0, 2, shape)
            mask[np.arange(count), rng.integers(0, leaf.shape[0], count)] = 1  # one at least is legal
            drawn.append(mask.astype(leaf.dtype))
        elif np.dtype(leaf.dtype) == np.uint8:
            drawn.append(rng.integers(0, 256, shape, np.uint8))
        elif isinstance(space, spaces.MultiBinary):
            drawn.append(rng.integers(0, 2, shape).astype(np.float32))
        else:
            scale = np.resize(SCALES, count).reshape(-1, *[1] * len(leaf.shape))
            mean, std = seen.get(leaf.path, (0.0, 1.0))
            x = mean + std * scale * rng.standard_normal(shape)
            drawn.append(np.clip(x, space.low, space.high).astype(np.float32))
    return drawn


def _moments_by_path(moments: Any) -> dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]]:
    key = lambda path: tuple(getattr(k, "key", getattr(k, "idx", None)) for k in path)
    means, stds = (jax.tree_util.tree_leaves_with_path(x) for x in (moments.mean, moments.std()))
    spread = lambda s: np.where(np.asarray(s) > 0, s, 1.0)
    return {key(path): (np.asarray(m), spread(s)) for (path, m), (_, s) in zip(means, stds, strict=True)}


def deciders(program: Program) -> list[Any]:
    """The operations that choose: what a count, or a rounded number, among the outputs comes from."""
    made = {op.output: op for op in program.ops}
    through = ("cast", "reshape", "add", "mul", "concat", "transpose", "slice", "where", "min", "max")
    found, seen = [], set()
    stack = [x for x in program.outputs.values() if program.values[x].dtype != "float32"]
    while stack:
        op = made.get(stack.pop())
        if op is None or op.output in seen:
            continue
        seen.add(op.output)
        if op.name in ("argmax", "gt", "ge", "lt", "le", "round"):
            found.append(op)
        elif op.name in through:
            stack.extend(op.inputs)
    return found


def margin(policy: runner.Policy, name: str, inputs: Any) -> float:
    """How far the last choice of an operation was from another one."""
    x = [policy.value(i).astype(np.float64) for i in inputs]
    if name == "argmax":
        best = np.sort(x[0].reshape(-1, x[0].shape[-1]), axis=-1)[:, -2:]
        return float(np.min(best[:, 1] - best[:, 0])) if best.shape[1] == 2 else np.inf
    if name == "round":
        return float(np.min(np.abs(x[0] - np.floor(x[0]) - 0.5)))
    return float(np.min(np.abs(x[0] - x[1])))


def tolerances(golden: Golden, contract: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """How far an entry of each output may be off: TOLERANCE of half its range, or of half of what the golden actions
    fill where that is less, down to LEAST of the range; 0 for choices."""
    allowed = {}
    for part in contract["outputs"]:
        values = golden.outputs[part["name"]].astype(np.float64)
        spread = (values.max(0) - values.min(0)) / 2
        half = half_ranges(part)
        half = np.where(np.isfinite(half), half, np.maximum(spread, 1.0))
        chosen = values.dtype.kind != "f" or np.dtype(part["dtype"]).kind != "f"
        allowed[part["name"]] = 0 * half if chosen else TOLERANCE * np.clip(spread, LEAST * half, half)
    return allowed


def filled(golden: Golden, contract: Mapping[str, Any]) -> float:
    """The share of the range that the golden actions fill, the least over the entries; of choices, of what there is to
    choose."""
    shares = []
    for part in contract["outputs"]:
        values = golden.outputs[part["name"]].astype(np.float64)
        half = half_ranges(part)
        if "count" in part:
            rows, counts = values.reshape(len(values), -1), np.ravel(part["count"])
            shares += [len(np.unique(rows[:, i])) / n for i, n in enumerate(counts)]
        else:
            spread = (values.max(0) - values.min(0)) / 2
            shares += list(np.ravel(np.where(np.isfinite(half), spread / np.where(half > 0, half, 1), 1.0)))
    return float(min(shares))


def worst(golden: Golden, contract: Mapping[str, Any], play: Callable[[Golden], dict[str, np.ndarray]]) -> float:
    """How far a back end is off, in tolerances: at most 1 is well. play: the golden inputs -> its outputs [N, ...]."""
    allowed, off = tolerances(golden, contract), 0.0
    for name, got in play(golden).items():
        error = np.abs(got.astype(np.float64) - golden.outputs[name].astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(error == 0, 0.0, error / allowed[name][None])
        off = max(off, float(np.max(share, initial=0.0))) if np.isfinite(error).all() else np.inf
    return off


def played(policy: Callable[[PyTree], Any], reset: Callable[[], None], golden: Golden, contract: Mapping[str, Any]):
    """The outputs [N, ...] of a policy as a function of observations, by their names."""
    rows: dict[str, list[Any]] = {name: [] for name in golden.outputs}
    for i, begins in enumerate(golden.first):
        if begins:
            reset()
        action = policy(runner.assembled(contract["inputs"], [x[i] for x in golden.inputs.values()]))
        for part in contract["outputs"]:
            rows[part["name"]].append(reduce(getitem, part["path"], action))
    return {name: np.stack(values) for name, values in rows.items()}
