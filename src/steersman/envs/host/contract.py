"""What a Gymnasium environment promises, checked in full where it is cheap: at resets and first steps.

Messages say what came, what the space says, and where to look. Imports no JAX: workers use it.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import reduce
from operator import getitem, index
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.lib.array_utils import byte_bounds

from steersman.errors import EnvironmentFault, UsageError, no_such_info

MASK = "action_mask"
BYTE = np.dtype(np.uint8).str
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

    @property
    def casting(self) -> Any:
        """What numpy may do to make it of the inside dtype: an image is of bytes already."""
        return "safe" if self.dtype == BYTE else "same_kind"


def leaves_of(native: spaces.Space, inside: spaces.Space, path: tuple[str | int, ...] = ()) -> list[Leaf]:
    """The leaves of a native space, with the dtypes of its inside form, in JAX's order: by name."""
    match native:
        case spaces.Dict():
            parts: Any = [(key, native[key], inside[key]) for key in sorted(native.spaces)]  # pyright: ignore
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
    return {**obs, MASK: info[MASK]} if isinstance(obs, Mapping) else {"observation": obs, MASK: info[MASK]}


def some_action(actions: spaces.Space, obs: Any = None, info: Mapping[str, Any] | None = None) -> Any:
    """A legal action to try an environment with: always the same, drawn without touching the space's own generator."""
    drawn = deepcopy(actions)
    drawn.seed(0)
    mask = {**(obs if isinstance(obs, Mapping) else {}), **(info or {})}.get(MASK)
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


def check_spaces(label: str, env: gymnasium.Env) -> None:
    """An environment has the two spaces, made of Gymnasium's."""
    for what, example in (("observation_space", "Box(-1.0, 1.0, (3,))"), ("action_space", "Discrete(2)")):
        space = getattr(env, what, None)
        if not isinstance(space, spaces.Space):
            kind = type(space)
            has = "has no" if space is None else f"has a {kind.__module__}.{kind.__qualname__} as its"
            raise EnvironmentFault(
                f"{label} {has} {what}. Set it in __init__, as in self.{what} = gymnasium.spaces.{example}."
            )


def signature_hint(env: gymnasium.Env, where: str) -> str:
    """How ``reset`` or ``step`` is declared, where an environment's own cannot be called so; else empty."""
    declared, call = {
        "reset": ("def reset(self, *, seed=None, options=None)", {"seed": 0}),
        "step": ("def step(self, action)", None),
    }[where]
    try:
        signature = inspect.signature(getattr(env.unwrapped, where))
        signature.bind(0) if call is None else signature.bind(**call)
    except TypeError:
        return f". Declare it as Gymnasium does: {declared}."
    except ValueError:  # no signature to look at
        pass
    return ""


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


class Misfit(Exception):
    """An observation that is not one of its space: what came, and what the space says."""

    def __init__(self, came: str, says: str):
        super().__init__(f"{came}; {says}")
        self.came, self.says = came, says


def check_observation(
    label: str, where: str, obs: Any, leaves: Sequence[Leaf], lead: tuple[int, ...] = ()
) -> list[np.ndarray]:
    """The arrays of an observation; structure, shapes, dtypes, and that counts are in range: else EnvironmentFault."""
    with _named(label, where):
        return read(obs, leaves, lead)


def read(obs: Any, leaves: Sequence[Leaf], lead: tuple[int, ...] | None = ()) -> list[np.ndarray]:
    """The arrays of an observation, leaf by leaf, with the leading axes ``lead``; None: those it has, one at most.

    A Dict space is read from any mapping, a Tuple from any sequence. Raises Misfit for entries that are missing or not
    in the space, and for shapes, kinds of numbers and counts that are not the space's.
    """
    values = [_array(obs, leaf) for leaf in leaves]
    _check_known(obs, leaves)
    if lead is None:
        extra = values[0].ndim - len(leaves[0].shape)
        lead = values[0].shape[:1] if extra == 1 else ()
    for leaf, x in zip(leaves, values, strict=True):
        if x.shape != lead + leaf.shape:
            raise Misfit(f"an observation{leaf.name} of shape {x.shape}", f"says {lead + leaf.shape}")
        # Widths may differ, kinds may not: float64 for float32 is well, floats for an image or a count are not.
        fits = "iu" if leaf.high is not None else "fiub"
        if x.dtype.kind not in fits or (leaf.high is None and not np.can_cast(x.dtype, leaf.dtype, leaf.casting)):
            raise Misfit(f"an observation{leaf.name} of dtype {x.dtype}", f"says {np.dtype(leaf.native)}")
        if leaf.high is not None:
            count = x - (0 if leaf.start is None else leaf.start)
            if np.any((count < 0) | (count >= leaf.high)):
                raise beyond(leaf, x)
    return values


def beyond(leaf: Leaf, x: np.ndarray) -> Misfit:
    """What is wrong with counts that are out of their range."""
    low = 0 if leaf.start is None else leaf.start.tolist()
    high = None if leaf.high is None else leaf.high.tolist()
    return Misfit(f"the observation{leaf.name} {reprlib.repr(x.tolist())}", f"counts {high} from {low}")


def write_row(label: str, obs: Any, leaves: Sequence[Leaf], rows: Sequence[np.ndarray], i: int) -> None:
    """Write one observation of ``step`` into row ``i``."""
    try:
        for leaf, out in zip(leaves, rows, strict=True):
            value = _at(obs, leaf)
            if np.shape(value) != leaf.shape:
                raise TypeError
            if leaf.shape:
                np.copyto(out[i], value, casting=leaf.casting)
            else:
                out[i] = value if leaf.high is None else index(value)
            if leaf.start is not None:
                out[i] -= leaf.start
    except (Misfit, TypeError, ValueError):
        check_observation(label, "step", obs, leaves)  # says what is wrong
        raise


def arrays(label: str, obs: Any, leaves: Sequence[Leaf]) -> list[np.ndarray]:
    """The arrays of an observation of ``step``, leaf by leaf, whatever they are; EnvironmentFault where one is not."""
    with _named(label, "step"):
        return [_array(obs, leaf) for leaf in leaves]


def overlap(given: Sequence[tuple[int, np.ndarray]]) -> bool:
    """Whether arrays of two owners share memory; the arrays are to be alive at once."""
    reach, owner = 0, -1
    for start, stop, i in sorted((*byte_bounds(x), i) for i, x in given):
        if start < reach and i != owner:
            return True
        reach, owner = max((reach, owner), (stop, i))
    return False


@contextmanager
def _named(label: str, where: str) -> Iterator[None]:
    try:
        yield
    except Misfit as misfit:
        raise EnvironmentFault(
            f"{label} returned {misfit.came} from {where}; its observation_space {misfit.says}. Make the two agree, in "
            f"the environment's {where} or in its observation_space."
        ) from None


def _array(obs: Any, leaf: Leaf) -> np.ndarray:
    value = _at(obs, leaf)
    try:
        return np.asarray(value)
    except ValueError:
        raise Misfit(f"an observation{leaf.name} of uneven parts", f"says an array of shape {leaf.shape}") from None


def _at(obs: Any, leaf: Leaf) -> Any:
    for key in leaf.path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            has = ", ".join(sorted(map(str, obs))) if isinstance(obs, Mapping) else f"a {type(obs).__name__}"
            raise Misfit(f"an observation without {leaf.name} (got {has or 'no entries'})", "has that entry") from None
    if isinstance(obs, Mapping):
        raise Misfit(f"a dict as observation{leaf.name}", f"says an array of shape {leaf.shape}")
    return obs


def _check_known(obs: Any, leaves: Sequence[Leaf]) -> None:
    """Raise Misfit for the first entry of a Dict or Tuple that is not in the space."""
    inner: dict[tuple[str | int, ...], set[str | int]] = {}
    for leaf in leaves:
        for depth, key in enumerate(leaf.path):
            inner.setdefault(leaf.path[:depth], set()).add(key)
    for path, keys in inner.items():
        part = reduce(getitem, path, obs)
        for key in part if isinstance(part, Mapping) else range(len(part)):
            if key not in keys:
                name = "".join(f"[{k!r}]" for k in (*path, key))
                raise Misfit(f"an observation with {name}", "has no such entry")


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
