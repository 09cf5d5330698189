"""What the wrappers that hide have in common, compiled and on the host. Imports no JAX: workers import it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.envs.host.contract import MASK
from steersman.errors import UsageError

Indices = Sequence[int] | Mapping[str, Sequence[int]]

FLAG = "has_previous"  # 0 in the first observation of an episode, else 1
PREVIOUS = ("previous_action", "previous_reward", FLAG)


def boxes(space: spaces.Space, done: str) -> dict[str, spaces.Box]:
    """The parts that are hidden, by name: of a Dict all but the action mask, else the space itself, as "".

    done: what is done to them, for the UsageError where one is no Box.
    """
    found: dict[str, spaces.Box] = {}
    for name, part in (space.spaces if isinstance(space, spaces.Dict) else {"": space}).items():
        if name == MASK:
            continue
        if not isinstance(part, spaces.Box):
            raise UsageError(
                f"Only Boxes, and Dicts of them, can be {done}: the numbers of {part} are names, of which none means "
                "that nothing is seen. Observe them one-hot."
            )
        found[name] = part
    return found


def exchanged(whole: Any, parts: Mapping[str, Any]) -> Any:
    """A space or an observation with some parts replaced."""
    if "" in parts:
        return parts[""]
    if isinstance(whole, spaces.Dict):
        return spaces.Dict({**whole.spaces, **parts})
    return {**whole, **parts}


def named(whole: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Those parts of a space or an observation, by name."""
    return {name: whole if name == "" else whole[name] for name in names}


def with_zero(part: spaces.Box) -> spaces.Box:
    """The Box, widened where it has to be to hold zeros."""
    zero = np.zeros((), part.dtype)
    return spaces.Box(np.minimum(part.low, zero), np.maximum(part.high, zero), dtype=part.dtype.type)


def hidden(space: spaces.Space, indices: Indices) -> dict[str, np.ndarray]:
    """Which entries are masked, bool [D] by part.

    Raises UsageError where there is none of that index, where what is masked is no vector, and where a Dict's part is
    not named.
    """
    parts = boxes(space, "masked")
    if isinstance(indices, Mapping) != isinstance(space, spaces.Dict):
        example = f"{{{next(iter(parts))!r}: [...]}}"
        how = f"name the part: {example}" if isinstance(space, spaces.Dict) else "give a list of them"
        raise UsageError(f"Indices {indices!r} for observations of {space}: {how}.")
    masks = {}
    for name, chosen in (indices if isinstance(indices, Mapping) else {"": indices}).items():
        if name not in parts:
            raise UsageError(f"There is no part {name!r} to mask; there are {', '.join(parts)}.")
        shape = parts[name].shape
        if len(shape) != 1:
            raise UsageError(f"Indices are places in a vector; {name or 'the observation'} has the shape {shape}.")
        whole = [i for i in chosen if isinstance(i, int | np.integer) and not isinstance(i, bool)]
        if len(whole) < len(chosen) or not whole or not all(0 <= i < shape[0] for i in whole):
            what = f"from 0 to {shape[0] - 1}, as the observation has {shape[0]} entries"
            raise UsageError(f"Indices are whole numbers {what}, one at least; got {list(chosen)}.")
        masks[name] = np.isin(np.arange(shape[0]), whole)
    return masks


def masked_space(space: spaces.Space, masks: Mapping[str, np.ndarray]) -> spaces.Space:
    """The space of observations whose masked entries are zero."""

    def zeroed(part: spaces.Box, mask: np.ndarray) -> spaces.Box:
        return spaces.Box(np.where(mask, 0, part.low), np.where(mask, 0, part.high), dtype=part.dtype.type)

    return exchanged(space, {name: zeroed(part, masks[name]) for name, part in named(space, masks).items()})


def check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise UsageError(f"The probability that an observation is lost lies in [0, 1]; got {probability}.")


# --- the previous action and reward ---


def with_previous(space: spaces.Space, actions: spaces.Space, action: bool, reward: bool) -> spaces.Dict:
    """The observation space with what came before: ``previous_action``, ``previous_reward`` and the flag.

    Raises UsageError where neither is wanted, an action has no such form, or the names are taken.
    """
    if not (action or reward):
        raise UsageError("observe_previous: neither action nor reward is to be observed. Leave the wrapper out.")
    added: dict[str, spaces.Space] = {}
    if action:
        size = width(actions)
        low, high = (actions.low, actions.high) if isinstance(actions, spaces.Box) else (np.zeros(size), np.ones(size))
        added["previous_action"] = with_zero(
            spaces.Box(low.astype(np.float32).ravel(), high.astype(np.float32).ravel())
        )
    if reward:
        added["previous_reward"] = spaces.Box(-np.inf, np.inf, (1,))
    added[FLAG] = spaces.Box(0.0, 1.0, (1,))
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    if taken := sorted(added.keys() & parts.keys()):
        raise UsageError(f"The observation has {', '.join(taken)} already: what came before is added once.")
    return spaces.Dict({**parts, **added})


def width(actions: spaces.Space) -> int:
    """Numbers of an encoded action."""
    match actions:
        case spaces.Discrete():
            return int(actions.n)
        case spaces.MultiDiscrete():
            return int(actions.nvec.sum())
        case spaces.MultiBinary() | spaces.Box():
            return int(np.prod(actions.shape))
    raise UsageError(
        f"The previous action of {actions} is not observed: known are Discrete, MultiDiscrete, MultiBinary and Box. "
        "Observe the reward alone: action=False."
    )


def encoded(actions: spaces.Space, action: Any, xp: Any) -> Any:
    """A canonical action as one vector, float32 [width]: one-hot counts, numbers within their bounds. xp: numpy, jnp"""
    match actions:
        case spaces.Box():
            return xp.clip(action, actions.low, actions.high).astype(np.float32).reshape(-1)
        case spaces.Discrete() | spaces.MultiDiscrete():
            counts = [int(actions.n)] if isinstance(actions, spaces.Discrete) else actions.nvec.ravel().tolist()
            chosen = xp.asarray(action).reshape(-1)
            return xp.concatenate([(np.arange(n) == chosen[i]).astype(np.float32) for i, n in enumerate(counts)])
    return action.astype(np.float32).reshape(-1)
