"""What all host environments share: the TimeStep, episode statistics, seeds, the watch for NaN, Inf and wild counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.envs.host.contract import Leaf, beyond, leaves_of, numbers_at_end
from steersman.errors import EnvironmentFault, UsageError, warn_once
from steersman.types import EnvSpec, PyTree, TimeStep

_UNSIGNED = np.dtype(np.uint32)


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
            names = sorted(space.spaces)
            parts = [(unflatten(space[name]), _count(space[name])) for name in names]
            return lambda leaves: dict(zip(names, _dealt(parts, leaves), strict=True))
        case spaces.Tuple():
            parts = [(unflatten(p), _count(p)) for p in space.spaces]
            return lambda leaves: tuple(_dealt(parts, leaves))
    return lambda leaves: leaves[0]


def flatten(space: spaces.Space, tree: PyTree) -> list[Any]:
    """The leaves of a tree of the space's form, in JAX's order: by name, whatever the order of the space."""
    match space:
        case spaces.Dict():
            return [leaf for name in sorted(space.spaces) for leaf in flatten(space[name], tree[name])]
        case spaces.Tuple():
            return [leaf for part, sub in zip(space.spaces, tree, strict=True) for leaf in flatten(part, sub)]
    return [tree]


def action_guard(spec: EnvSpec, num_envs: int) -> Callable[[PyTree], None]:
    """``check_action`` for a loop that calls it at every step: shapes and dtypes that have passed pass at once."""
    passed: Any = None

    def guard(action: PyTree) -> None:
        nonlocal passed
        one = isinstance(action, np.ndarray)
        form = (action.shape, action.dtype) if one else [(x.shape, x.dtype) for x in map(np.asarray, _arrays(action))]
        if form != passed:
            check_action(spec, num_envs, action)
            passed = form

    return guard


def check_action(spec: EnvSpec, num_envs: int, action: PyTree) -> None:
    """Shapes and kinds of a batch of canonical actions. Raises UsageError."""
    wanted = leaves_of(spec.action_space, spec.action_space)
    for leaf, given in zip(wanted, map(np.asarray, flatten(spec.action_space, action)), strict=True):
        shape, kind = (num_envs, *leaf.shape), np.dtype(leaf.dtype).kind
        if given.shape != shape or given.dtype.kind not in ("f" if kind == "f" else "iu"):
            raise UsageError(
                f"{spec.id} takes actions{leaf.name} of shape {shape} and of dtype {np.dtype(leaf.dtype)}; got "
                f"{given.shape} and {given.dtype}."
            )


def logged_at_ends(
    name: str, info_of: Callable[[int], Mapping[str, Any]], log: Sequence[str], ended: np.ndarray
) -> dict[str, np.ndarray]:
    """What the infos of members say at the ends of their episodes, by name [B]; NaN for the members that go on.

    info_of: the info of one member's last step. ended: bool [B]. Raises UsageError as ``contract.numbers_at_end``.
    """
    table = np.full((len(ended), len(log)), np.nan)
    for i in np.flatnonzero(ended):
        table[i] = numbers_at_end(f"{name} (member {i})", info_of(int(i)), log)
    return dict(zip(log, table.T, strict=True))


_CLOSELY, _THEN = 256, 16  # steps at which bounds are looked at: all of the first so many, then every so manieth


class Bookkeeper:
    """Makes TimeSteps out of the arrays that simulators give, and keeps the statistics of the running episodes.

    Returns are summed in float64, in the environment's own reward, and given as float32; so are costs.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, leaves: Sequence[Leaf]):
        self._id, self._leaves, self._num_envs = spec.id, leaves, num_envs
        self._tree = unflatten(spec.observation_space)
        self._single = len(leaves) == 1 and not leaves[0].path
        self._num_costs = spec.num_costs
        self._cost_names = [name if name.startswith("cost") else f"cost {name!r}" for name in spec.cost_names]
        self._no_costs = np.zeros((num_envs, 0), np.float32)
        self._finite_costs = b"\1" * (num_envs * spec.num_costs)
        self._none = b"\1" * num_envs
        floats = [np.dtype(leaf.dtype).kind == "f" for leaf in leaves]
        self._floats = [
            (i, np.empty((num_envs, *leaf.shape), bool), b"\1" * (num_envs * int(np.prod(leaf.shape))))
            for i, leaf in enumerate(leaves)
            if floats[i]
        ]
        self._counts = [
            (
                i,
                leaf.high.astype(np.uint32),
                np.empty((num_envs, *leaf.shape), bool),
                b"\1" * (num_envs * leaf.high.size),
            )
            for i, leaf in enumerate(leaves)
            if leaf.high is not None
        ]
        self._bounds, self._steps = list(_bounds(spec.observation_space, leaves)), 0
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int32)
        self._episode_costs = np.zeros((num_envs, spec.num_costs), np.float64)

    def reset(self, obs: Sequence[np.ndarray]) -> PyTree:
        """Every member opens an episode with these leaves ``[B, ...]``; -> the observation."""
        self._returns[:] = 0
        self._lengths[:] = 0
        self._episode_costs[:] = 0
        self._watch(obs, "observation", None)
        self._compare(obs)
        return self._tree(obs)

    def step(
        self,
        obs: Sequence[np.ndarray],
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final: Sequence[np.ndarray] | None,
        action: PyTree,
        *,
        costs: np.ndarray | None = None,
        native_reward: np.ndarray | None = None,
        over: np.ndarray | None = None,
        logged: Mapping[str, np.ndarray] | None = None,
    ) -> TimeStep:
        """One step. ``final`` are the true successors, or None where no episode ended; all arrays become the caller's.

        reward: float64 [B]. action: only to say, if a number is not finite, whether the action was. costs: float64
        [B, C], where the spec has some. native_reward: what returns are counted in, where the reward to learn from is
        another. over: where the episode that is counted ends, if what is learned from ends elsewhere too
        (``info["episode_over"]``). logged: what infos say of the episodes that end here, by name [B].
        """
        reward32 = reward.astype(np.float32)
        if np.isfinite(reward32).tobytes() != self._none:
            self._fault(reward32, "reward", action)
        if final is not None:
            self._watch(final, "last observation of an episode", action)
        self._watch(obs, "observation", action)
        self._steps += 1
        if self._bounds and (self._steps <= _CLOSELY or self._steps % _THEN == 0):
            self._compare(obs)
        self._returns += reward if native_reward is None else native_reward
        costs32 = episode_cost = self._no_costs
        if self._num_costs:
            assert costs is not None
            costs32 = costs.astype(np.float32)
            if np.isfinite(costs32).tobytes() != self._finite_costs:
                wrong = int(np.argwhere(~np.isfinite(costs32))[0][1])
                self._fault(costs32[:, wrong], self._cost_names[wrong], action)
            self._episode_costs += costs
            episode_cost = self._episode_costs.astype(np.float32)
        self._lengths += 1
        info = {
            "episode_return": self._returns.astype(np.float32),
            "episode_length": self._lengths.copy(),
            "episode_cost": episode_cost,
        }
        if logged is not None:
            info |= logged
        ended = over
        if over is not None:
            info["episode_over"] = over
        elif final is not None:
            ended = terminated | truncated
        tree = last = obs[0] if self._single else self._tree(obs)
        if final is not None:
            last = final[0] if self._single else self._tree(final)
        if ended is not None:
            self._returns[ended] = 0
            self._lengths[ended] = 0
            if self._num_costs:
                self._episode_costs[ended] = 0
        return TimeStep(tree, reward32, terminated, truncated, last, costs32, info)

    def step_of(self, member: int) -> int:
        """Which step of its episode a member takes next, from 1."""
        return int(self._lengths[member]) + 1

    def _watch(self, obs: Sequence[np.ndarray], what: str, action: PyTree) -> None:
        # isfinite into a scratch array and one comparison of bytes: 0.3 us, where .all() takes 1.3.
        for i, scratch, ones in self._floats:
            if np.isfinite(obs[i], scratch).tobytes() != ones:
                self._fault(obs[i], what + self._leaves[i].name, action)
        for i, high, scratch, ones in self._counts:  # from 0; below it they are huge, seen as unsigned
            if np.less(obs[i].view(_UNSIGNED), high, scratch).tobytes() != ones:
                self._beyond(obs[i], self._leaves[i], ~scratch, action)

    def _beyond(self, x: np.ndarray, leaf: Leaf, wrong: np.ndarray, action: PyTree) -> None:
        member = int(np.argwhere(wrong)[0][0])
        misfit = beyond(leaf, x[member] + (0 if leaf.start is None else leaf.start))
        raise EnvironmentFault(
            f"{self._id} (member {member}) returned {misfit.came}, at {self._when(member, action)}; its "
            f"observation_space {misfit.says}. Make the two agree."
        )

    def _when(self, member: int, action: PyTree) -> str:
        return "reset" if action is None else f"step {self.step_of(member)} of its episode"

    def _compare(self, obs: Sequence[np.ndarray]) -> None:
        """Warn, once for each leaf, of observations outside the bounds of their Box."""
        for bounds in self._bounds:
            i, low, high, slack = bounds
            outside = (obs[i] < low - slack) | (obs[i] > high + slack)
            if outside.any():
                member, *entry = np.argwhere(outside)[0].tolist()
                at, name = f"[{', '.join(map(str, entry))}]" if entry else "", self._leaves[i].name
                ends = f"{low[tuple(entry)]:g} to {high[tuple(entry)]:g}"
                warn_once(
                    f"{self._id} bounds {name}",
                    f"{self._id} (member {member}) returned {obs[i][(member, *entry)]:g} as its observation{name}{at}; "
                    f"its observation_space says {ends}. The agent is given it as it is. Make the two agree.",
                )
                self._bounds = [other for other in self._bounds if other is not bounds]

    def _fault(self, x: np.ndarray, what: str, action: PyTree) -> None:
        member, *entry = np.argwhere(~np.isfinite(x))[0].tolist()
        where = f"{what}[{', '.join(map(str, entry))}]" if entry else what
        given = [] if action is None else [np.asarray(a)[member] for a in _arrays(action)]
        finite = all(np.all(np.isfinite(a)) for a in given)
        hint = "" if finite else " The action it was given was not finite either: look at the policy first."
        value = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}[str(x[(member, *entry)])]
        when = self._when(member, action)
        raise EnvironmentFault(
            f"{self._id} (member {member}) returned {value} as its {where}, at {when}. Rewards, costs and float "
            f"observations have to be finite, in float32 too.{hint}"
        )


def _bounds(space: spaces.Space, leaves: Sequence[Leaf]) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each leaf that is bounded floats: (its number, low, high, what rounding may add), in float64."""
    for i, leaf in enumerate(leaves):
        part: Any = space
        for key in leaf.path:
            part = part[key]
        if np.dtype(leaf.dtype).kind == "f" and (np.isfinite(part.low).any() or np.isfinite(part.high).any()):
            low, high = part.low.astype(np.float64), part.high.astype(np.float64)
            finite = [np.where(np.isfinite(x), np.abs(x), 0.0) for x in (low, high)]
            yield i, low, high, 1e-5 * np.maximum(1.0, np.maximum(*finite))


def _arrays(tree: PyTree) -> list[Any]:
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in _arrays(part)]
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in _arrays(part)]
    return [tree]


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
