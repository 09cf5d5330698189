"""What a Gymnasium environment promises, checked in full where it is cheap: at resets and first steps.

Messages say what came, what the space says, and where to look. Imports no JAX: workers use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from steersman.errors import EnvironmentFault, UsageError, no_such_info

MASK = "action_mask"
SUCCESS = ("is_success", "success")  # what an info may call it


class Leaf(NamedTuple):
    """One array of an observation or an action, and how it is written on the inside."""

    path: tuple[str | int, ...]  # keys from the root
    shape: tuple[int, ...]
    dtype: str  # on the inside
    native: str  # the space's own dtype
    start: np.ndarray | None  # counts: the space's first value, where that is not 0
    high: np.ndarray | None  # counts: how many values there are

    @property
    def name(self) -> str:
        return "".join(f"[{key!r}]" for key in self.path)


def leaves_of(native: spaces.Space, inside: spaces.Space, path: tuple[str | int, ...] = ()) -> list[Leaf]:
    """The leaves of a native space, with the dtypes of its inside form, in the order of the space."""
    match native:
        case spaces.Dict():
            parts: Any = [(key, part, inside[key]) for key, part in native.spaces.items()]  # pyright: ignore
            return [leaf for key, a, b in parts for leaf in leaves_of(a, b, (*path, key))]
        case spaces.Tuple():
            parts = zip(native.spaces, inside.spaces, strict=True)  # pyright: ignore
            return [leaf for i, (a, b) in enumerate(parts) for leaf in leaves_of(a, b, (*path, i))]
    dtype = inside.dtype
    assert native.shape is not None
    assert dtype is not None
    start = high = None
    if isinstance(native, spaces.Discrete | spaces.MultiDiscrete):
        dtype = np.dtype(np.int32)
        first = np.asarray(native.start).astype(np.int32)
        start = first if np.any(first) else None
        high = np.asarray(native.n if isinstance(native, spaces.Discrete) else native.nvec)
    return [Leaf(path, tuple(native.shape), np.dtype(dtype).str, np.dtype(native.dtype).str, start, high)]


def has_mask(given: Any) -> bool:
    """Whether what ``reset`` gave has an action mask in its info."""
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict) and MASK in given[1]


def with_mask(obs: Any, info: Any) -> dict[str, Any]:
    """The observation with the info's mask beside it."""
    if MASK not in info:
        raise KeyError(f"info has no {MASK!r}, but the info of the first reset had one")
    return {**obs, MASK: info[MASK]} if isinstance(obs, dict) else {"observation": obs, MASK: info[MASK]}


def some_action(actions: spaces.Space, obs: Any = None, info: Mapping[str, Any] | None = None) -> Any:
    """A legal action to try an environment with: always the same, drawn without touching the space's own generator."""
    drawn = deepcopy(actions)
    drawn.seed(0)
    mask = {**(obs if isinstance(obs, dict) else {}), **(info or {})}.get(MASK)
    if mask is None or not isinstance(drawn, spaces.Discrete):
        return drawn.sample()
    return drawn.sample(mask=np.asarray(mask, np.int8))


def costs_in(info: Mapping[str, Any]) -> int | None:
    """How many costs an info holds: 0 without any, 1 where it is a number; None where they are no numbers."""
    if "cost" not in info:
        return 0
    try:
        costs = np.asarray(info["cost"])
    except ValueError:  # a ragged list
        return None
    return costs.size if costs.ndim <= 1 and costs.dtype.kind in "fiub" else None


def wrong_costs(label: str, info: Mapping[str, Any], step: int, wanted: int | None = None) -> EnvironmentFault:
    """What to say of an info whose costs are not as ``wanted``: so many, or (None) numbers at all."""
    got = f"cost = {info['cost']!r}" if "cost" in info else "no cost"
    first = "" if wanted is None else f"; the step it was tried with had {wanted or 'no'} cost{'s' * (wanted != 1)}"
    return EnvironmentFault(
        f"{label} gave {got} in its info at step {step} of its episode{first}. Costs are a number, or an array of "
        "numbers, in the info of every step, equally many each time; 0.0 where nothing is to be paid."
    )


def numbers_at_end(label: str, info: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """What the info of an episode's last step says by these names; NaN for "success" where it says nothing of that."""
    found = []
    for name in names:
        keys = SUCCESS if name == "success" else (name,)
        value: Any = next((info[key] for key in keys if key in info), None)
        number = np.asarray(value) if np.ndim(value) == 0 else None
        if number is not None and number.dtype.kind in "fiub":
            found.append(float(number))
        elif name == "success":
            found.append(np.nan)
        elif name not in info:
            raise no_such_info(label, name, info)
        else:
            raise UsageError(f"log_info: {name} in the info of {label} is {value!r}; it must be one number.")
    return found


def check_reset(label: str, given: Any, leaves: Sequence[Leaf], mask: bool) -> None:
    """``reset`` is to give (observation, info)."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise EnvironmentFault(
            f"{label} returned {_count(given)} from reset; Gymnasium's reset returns two: observation, info."
        )
    _check_info(label, "reset", given[1], mask)
    check_observation(label, "reset", with_mask(*given) if mask else given[0], leaves)


def check_step(label: str, given: Any, leaves: Sequence[Leaf], mask: bool) -> None:
    """``step`` is to give (observation, reward, terminated, truncated, info)."""
    if not isinstance(given, tuple) or len(given) != 5:
        hint = " (the old Gym API: one `done` in place of two flags)" if _count(given) == "4 values" else ""
        raise EnvironmentFault(
            f"{label} returned {_count(given)} from step{hint}; Gymnasium's step returns five: observation, reward, "
            "terminated, truncated, info."
        )
    obs, reward, terminated, truncated, info = given
    check_reward(label, reward)
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if np.ndim(flag) != 0 or np.asarray(flag).dtype.kind not in "biu":
            raise EnvironmentFault(f"{label} returned {name} = {flag!r} from step; it is to be True or False.")
    _check_info(label, "step", info, mask)
    check_observation(label, "step", with_mask(obs, info) if mask else obs, leaves)


def check_reward(label: str, reward: Any) -> None:
    """One number."""
    if np.ndim(reward) != 0 or np.asarray(reward).dtype.kind not in "fiub":
        what = f"an array of shape {np.shape(reward)}" if np.ndim(reward) else f"a {type(reward).__name__}"
        raise EnvironmentFault(f"{label} returned a reward that is {what}: {reward!r}. It is to be one number.")


def check_observation(label: str, where: str, obs: Any, leaves: Sequence[Leaf]) -> None:
    """Structure, shapes, dtypes, and that counts are in range."""
    for leaf in leaves:
        value = _at(label, where, obs, leaf)
        got = np.asarray(value)
        _check_shape(label, where, got.shape, leaf)
        # Widths may differ, kinds may not: float64 for float32 is well, floats for an image or a count are not.
        fits = "iu" if leaf.high is not None else "fiub"
        if got.dtype.kind not in fits or (leaf.high is None and not np.can_cast(got.dtype, leaf.dtype, "same_kind")):
            raise _dtype(label, where, got, leaf)
        if leaf.high is not None:
            count = got - (0 if leaf.start is None else leaf.start)
            if np.any((count < 0) | (count >= leaf.high)):
                low = 0 if leaf.start is None else leaf.start.tolist()
                raise EnvironmentFault(
                    f"{label} returned the observation{leaf.name} {got.tolist()} from {where}; its observation_space "
                    f"counts {leaf.high.tolist()} from {low}. Make the two agree."
                )


def write_row(label: str, obs: Any, leaves: Sequence[Leaf], rows: Sequence[np.ndarray], i: int) -> None:
    """Write one observation into row ``i``."""
    for leaf, out in zip(leaves, rows, strict=True):
        value = _at(label, "step", obs, leaf)
        _check_shape(label, "step", np.shape(value), leaf)
        out[i] = value
        if leaf.start is not None:
            out[i] -= leaf.start


def _at(label: str, where: str, obs: Any, leaf: Leaf) -> Any:
    for key in leaf.path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            has = sorted(map(str, obs)) if isinstance(obs, dict) else type(obs).__name__
            raise EnvironmentFault(
                f"{label} returned an observation without {leaf.name} from {where} (got {has}); its "
                "observation_space has that entry. Make the two agree."
            ) from None
    if isinstance(obs, dict):
        raise EnvironmentFault(
            f"{label} returned a dict as observation{leaf.name} from {where}; its observation_space says an array of "
            f"shape {leaf.shape}. Make the two agree."
        )
    return obs


def _check_shape(label: str, where: str, shape: tuple[int, ...], leaf: Leaf) -> None:
    if shape != leaf.shape:
        raise EnvironmentFault(
            f"{label} returned an observation{leaf.name} of shape {shape} from {where}; its observation_space says "
            f"{leaf.shape}. Make the two agree, in the environment's {where} or in its observation_space."
        )


def _dtype(label: str, where: str, got: np.ndarray, leaf: Leaf) -> EnvironmentFault:
    return EnvironmentFault(
        f"{label} returned an observation{leaf.name} of dtype {got.dtype} from {where}; its observation_space says "
        f"{np.dtype(leaf.native)}. Make the two agree, in the environment's {where} or in its observation_space."
    )


def _check_info(label: str, where: str, info: Any, mask: bool) -> None:
    if not isinstance(info, dict):
        raise EnvironmentFault(f"{label} returned {type(info).__name__} as the info of {where}; it is to be a dict.")
    if mask and MASK not in info:
        raise EnvironmentFault(
            f"{label} returned an info without {MASK!r} from {where}, but the info of its first reset had one. "
            "Give it in every info, of reset and of step."
        )


def _count(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
