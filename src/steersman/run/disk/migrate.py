"""Checkpoints of version 1 read into the states of today: what was moved, what was ravelled, what nobody kept.

Version 1 kept offline agents inside a replay state, some optimisers' moments as one vector that are a tree now and the
other way round, and no count of environment steps but in the header. What it holds besides, and nobody wants any more,
is left out. Leaves that states have gained since, in files of either version, start as they would have then: at 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

GAINED = ("/return_lost", "/cost_lost")  # of running episodes, see ``vector.VectorState``


def fill(arrays: dict[str, np.ndarray], wanted: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
    """Put zeros for what states have gained since the file was written. wanted: name -> (dtype, shape)."""
    for name, (dtype, shape) in wanted.items():
        if name.endswith(GAINED) and name not in arrays:
            arrays[name] = np.zeros(shape, dtype)


def sources(wanted: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Where in a file each wanted leaf lies, as far as it is there: by its name, a parent's (a vector of all that is
    below), or either of them inside ``agent/learner``.

    >>> sources(["agent/w", "agent/mu/w", "agent/new"], ["agent/learner/w", "agent/mu"])
    {'agent/w': 'agent/learner/w', 'agent/mu/w': 'agent/mu'}
    """
    found = {}
    for name in wanted:
        places = [place for start in (name, _wrapped(name)) for place in _upwards(start)]
        place = next((place for place in places if place in names), None)
        if place is not None:
            found[name] = place
    return found


def needed(wanted: Iterable[str], names: Collection[str]) -> set[str]:
    """What of a file to read for some of the leaves: all but a replay memory that is not among them."""
    own = set(sources(wanted, names).values())
    return {name for name in names if name in own or "/memory/" not in name}


def _wrapped(name: str) -> str:
    return name.replace("agent/", "agent/learner/", 1) if name.startswith("agent/") else name


def _upwards(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]


def renewed(
    arrays: dict[str, np.ndarray],
    keys: Mapping[str, str],
    wanted: Mapping[str, tuple[Any, tuple[int, ...]]],
    header: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the PRNG kinds by today's names; those given are used up. wanted: name -> (dtype, shape)."""
    below: dict[str, list[str]] = {}
    for name, source in sources(wanted, arrays).items():
        below.setdefault(source, []).append(name)
    new, kinds = {}, {}
    for source, names in below.items():
        array = arrays.pop(source)
        if source in (names[0], _wrapped(names[0])):
            new[names[0]] = array
            kinds |= {names[0]: keys[source]} if source in keys else {}
        else:
            new |= _unravelled(array, {name: wanted[name][1] for name in names})
    for name, (dtype, shape) in wanted.items():
        if name in new:
            continue
        if joined := _joined(name, arrays, wanted):
            new[name] = np.concatenate(joined, axis=-1)
        elif name.split("/")[-1] == "steps" and isinstance(header.get("steps"), int) and dtype.kind in "iu":
            new[name] = np.minimum(_steps(name, arrays, header["steps"], shape), np.iinfo(dtype).max).astype(dtype)
    return new, kinds


def _joined(
    name: str, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[Any, tuple[int, ...]]]
) -> list[np.ndarray]:
    """The parts of moments that are one vector now, in the order of the network's parameters; [] if there are none."""
    net, is_moment, moment = name.partition("/optimiser/")
    order = [n.removeprefix(f"{net}/params/") for n in wanted if n.startswith(f"{net}/params/")]
    parts = [f"{net}/optimiser/{moment}/{leaf}" for leaf in order] if is_moment else []
    if not parts or any(part not in arrays for part in parts):
        return []
    lead = wanted[name][1][:-1]
    return [arrays[part].reshape(*lead, -1) for part in parts]


def _steps(name: str, arrays: Mapping[str, np.ndarray], steps: int, shape: tuple[int, ...]) -> np.ndarray:
    """Environment steps learned from: all, of an agent with replay; of one that counted its updates, all but those of
    the random start, which is taken to be as long as an update."""
    updates = arrays.get(name.removesuffix("steps") + "updates")
    if updates is None:
        return np.full(shape, steps, np.int64)
    return np.broadcast_to(np.rint(steps * (updates / (updates + 1.0))).astype(np.int64), shape)


def _unravelled(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A vector [..., n] as the leaves it was made of, in tree order; itself for each where it is not made of them."""
    lead = vector.shape[:-1]
    sizes = [math.prod(shape[len(lead) :]) for shape in shapes.values()]
    if vector.shape != (*lead, sum(sizes)) or any(shape[: len(lead)] != lead for shape in shapes.values()):
        return dict.fromkeys(shapes, vector)
    parts = np.split(vector, np.cumsum(sizes)[:-1], axis=-1)
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
