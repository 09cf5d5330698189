"""What all host environments share: the TimeStep, episode statistics, seeds, and the watch for NaN and Inf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.envs.contract import Leaf
from steersman.errors import EnvironmentFault, UsageError
from steersman.types import EnvSpec, PyTree, TimeStep


def member_seeds(seed: int, num_envs: int) -> list[int]:
    """A seed of 31 bits for each member, from ``numpy.random.SeedSequence(seed)``.

    Member ``i`` has the same seed however many others there are. Raises UsageError for a seed that is not a whole
    number of at least 0.

    >>> member_seeds(0, 3)[:2] == member_seeds(0, 2)
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UsageError(f"A seed is a whole number of at least 0; got {seed!r}.")
    return (np.random.SeedSequence(int(seed)).generate_state(num_envs) >> 1).tolist()


def unflatten(space: spaces.Space) -> Callable[[Sequence[Any]], PyTree]:
    """The function that builds a tree of the space's form from its leaves, in the order of ``contract.leaves_of``."""
    match space:
        case spaces.Dict():
            names, parts = list(space.spaces), [(unflatten(p), _count(p)) for p in space.spaces.values()]
            return lambda leaves: dict(zip(names, _dealt(parts, leaves), strict=True))
        case spaces.Tuple():
            parts = [(unflatten(p), _count(p)) for p in space.spaces]
            return lambda leaves: tuple(_dealt(parts, leaves))
    return lambda leaves: leaves[0]


def flatten(space: spaces.Space, tree: PyTree) -> list[Any]:
    """The leaves of a tree of the space's form, in the same order."""
    match space:
        case spaces.Dict():
            return [leaf for name, part in space.spaces.items() for leaf in flatten(part, tree[name])]
        case spaces.Tuple():
            return [leaf for part, sub in zip(space.spaces, tree, strict=True) for leaf in flatten(part, sub)]
    return [tree]


class Bookkeeper:
    """Makes TimeSteps out of the arrays that simulators give, and keeps the statistics of the running episodes.

    Returns are summed in float64, in the environment's own reward, and given as float32.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, leaves: Sequence[Leaf]):
        self._id, self._leaves, self._num_envs = spec.id, leaves, num_envs
        self._tree = unflatten(spec.observation_space)
        self._single = len(leaves) == 1 and not leaves[0].path
        self._costs = np.zeros((num_envs, spec.num_costs), np.float32)
        self._costs.flags.writeable = False
        self._none = b"\1" * num_envs
        floats = [np.dtype(leaf.dtype).kind == "f" for leaf in leaves]
        self._floats = [
            (i, np.empty((num_envs, *leaf.shape), bool), b"\1" * (num_envs * int(np.prod(leaf.shape))))
            for i, leaf in enumerate(leaves)
            if floats[i]
        ]
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int32)

    def reset(self, obs: Sequence[np.ndarray]) -> PyTree:
        """Every member opens an episode with these leaves ``[B, ...]``; -> the observation."""
        self._returns[:] = 0
        self._lengths[:] = 0
        self._watch(obs, "observation", "reset", None)
        return self._tree(obs)

    def step(
        self,
        obs: Sequence[np.ndarray],
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final: Sequence[np.ndarray] | None,
        action: PyTree,
    ) -> TimeStep:
        """One step. ``final`` are the true successors, or None where no episode ended; all arrays become the caller's.

        reward: float64 [B]. action: only to say, if a number is not finite, whether the action was.
        """
        if np.isfinite(reward).tobytes() != self._none:
            self._fault(reward, None, "reward", "step", action)
        self._watch(obs, "observation", "step", action)
        self._returns += reward
        self._lengths += 1
        info = {"episode_return": self._returns.astype(np.float32), "episode_length": self._lengths.copy()}
        if self._single:
            tree = last = obs[0]
            if final is not None:
                last = final[0]
        else:
            tree = last = self._tree(obs)
            if final is not None:
                last = self._tree(final)
        if final is not None:
            self._watch(final, "last observation", "step", action)
            ended = terminated | truncated
            self._returns[ended] = 0
            self._lengths[ended] = 0
        return TimeStep(tree, reward.astype(np.float32), terminated, truncated, last, self._costs, info)

    def _watch(self, obs: Sequence[np.ndarray], what: str, where: str, action: PyTree) -> None:
        # isfinite into a scratch array and one comparison of bytes: 0.3 us, where .all() takes 1.3.
        for i, scratch, ones in self._floats:
            if np.isfinite(obs[i], scratch).tobytes() != ones:
                self._fault(obs[i], self._leaves[i], what, where, action)

    def _fault(self, x: np.ndarray, leaf: Leaf | None, what: str, where: str, action: PyTree) -> None:
        member, *entry = np.argwhere(~np.isfinite(x))[0].tolist()
        named = f"{what}{leaf.name if leaf else ''}" + (f"{entry}" if entry else "")
        when = "reset" if where == "reset" else f"step {int(self._lengths[member]) + (what != 'reward')}"
        when = when if where == "reset" else f"step {int(self._lengths[member]) + (0 if what[0] == 'l' else 1)}"
        raise EnvironmentFault(f"{self._id}: member {member} returned {x[(member, *entry)]} in its {named} at {when}")


def _count(space: spaces.Space) -> int:
    match space:
        case spaces.Dict():
            return sum(_count(part) for part in space.spaces.values())
        case spaces.Tuple():
            return sum(_count(part) for part in space.spaces)
    return 1


def _dealt(parts: Sequence[tuple[Callable[[Sequence[Any]], Any], int]], leaves: Sequence[Any]) -> list[Any]:
    trees, i = [], 0
    for build, count in parts:
        trees.append(build(leaves[i : i + count]))
        i += count
    return trees
