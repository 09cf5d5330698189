"""Gymnasium environments stepped one after the other: the innermost loop of training on the host.

The same code runs in the main process and in workers, so what a member does cannot depend on where it is stepped.
It imports neither JAX nor the rest of steersman: a worker has to start fast and stay small.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from operator import index
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from steersman.envs.host import contract
from steersman.envs.host.contract import Leaf
from steersman.envs.host.costs import InfoCosts, names_of
from steersman.errors import EnvironmentFault, UsageError, raised_at

Factory = Callable[[], gymnasium.Env]
LONG = 10.0  # seconds of making members that are worth a word


class StartWarning(UserWarning):
    """The start takes long."""


class Look(NamedTuple):
    """What the members of one process are, before anything is laid out."""

    name: str
    observation_space: spaces.Space
    action_space: spaces.Space
    max_episode_steps: int | None
    mask: bool  # infos carry an action_mask
    costs: int  # how many, infos of step carry
    named: tuple[str, ...]  # the last of them: ``InfoCosts`` knows their names


class Block(NamedTuple):
    """Where members write what a step gave; rows ``[n, ...]``, in this process's memory or in shared memory."""

    obs: list[np.ndarray]  # one array per leaf of the observation
    final: list[np.ndarray]  # the last observations of episodes; only rows of ended members are meant
    reward: np.ndarray  # float64: statistics are summed in the environment's own precision
    terminated: np.ndarray
    truncated: np.ndarray
    costs: np.ndarray  # float64 [n, C]
    logged: np.ndarray  # float64 [n, L]: what infos say at the ends of episodes; only rows of ended members are meant
    at: Any  # at[0]: the member being stepped now, or -1; so that a death has a name

    @staticmethod
    def allocate(leaves: Sequence[Leaf], n: int, costs: int, logged: int) -> Block:
        obs, final = ([np.zeros((n, *leaf.shape), leaf.dtype) for leaf in leaves] for _ in range(2))
        flags, numbers = (np.zeros(n, bool), np.zeros(n, bool)), (np.zeros((n, costs)), np.zeros((n, logged)))
        return Block(obs, final, np.zeros(n), *flags, *numbers, [-1])

    def rows(self, start: int, stop: int, at: Any) -> Block:
        cut = slice(start, stop)
        others = self.reward[cut], self.terminated[cut], self.truncated[cut], self.costs[cut], self.logged[cut]
        return Block([x[cut] for x in self.obs], [x[cut] for x in self.final], *others, at)


class Members:
    """Members ``first, first + 1, ...`` of a batch, each reset in the step that ends its episode."""

    def __init__(self, factories: Sequence[Factory], first: int = 0):
        self.first = first
        self.envs: list[gymnasium.Env] = []
        for i, factory in enumerate(factories):
            began = time.perf_counter()
            try:
                env = factory()
            except (UsageError, EnvironmentFault):
                self.close()
                raise
            except (Exception, SystemExit) as error:
                self.close()
                raise EnvironmentFault(
                    f"The environment of member {first + i} could not be made: "
                    f"{type(error).__name__}: {error}{raised_at(error)}"
                ) from error
            if not isinstance(env, gymnasium.Env):
                self.close()
                raise UsageError(f"The factory gave {type(env).__name__}; it is to return a gymnasium.Env.")
            self.envs.append(env)
            # By the second: the first has imported what there is to import.
            seconds = (time.perf_counter() - began) * len(factories)
            if i == 1 and seconds > LONG:
                said = f"Making {len(factories):,} copies of {_name(env)} takes about {seconds:,.0f} s."
                warnings.warn(said, StartWarning, stacklevel=2)
        bare = [_bare(env) for env in self.envs]
        self._steps = [step for step, _ in bare]
        self._limits = [math.inf if limit is None else limit for _, limit in bare]
        self.name = _name(self.envs[0])
        self.step_seconds = 0.0  # of the first step, which ``look`` takes

    def keep(self, count: int) -> None:
        """Let go of all but the first members."""
        others = self.envs[count:]
        for kept in (self.envs, self._steps, self._limits):
            del kept[count:]
        _close(others)

    def look(self) -> Look:
        """The spaces and the limit, equal for all members.

        Resets the first one, for whether infos carry a mask, and steps it once, for whether they carry costs.
        """
        env = self.envs[0]
        contract.check_spaces(self.name, env)
        if len({id(env) for env in self.envs}) < len(self.envs):
            raise UsageError(f"The factory gave the same {self.name} twice; it is to make a new one at every call.")
        for i, other in enumerate(self.envs):
            for what in ("observation_space", "action_space"):
                if getattr(other, what) != getattr(env, what):
                    raise UsageError(
                        f"All members have to have the same spaces: the {what} of member {self.first} is "
                        f"{getattr(env, what)}, that of member {self.first + i} is {getattr(other, what)}."
                    )
        given = self._call(0, env.reset, {"seed": 0}, "reset")
        mask = isinstance(env.action_space, spaces.Discrete) and contract.has_mask(given)
        spec = env.spec
        limit = self._limits[0] if self._limits[0] != math.inf else (spec.max_episode_steps if spec else None)
        limit = None if limit is None else int(limit)
        costs = self._try_costs(given)
        return Look(self.name, env.observation_space, env.action_space, limit, mask, costs, names_of(env))

    def _try_costs(self, start: Any) -> int:
        """How many costs a step of the first member has, by one step after ``start``, what its reset gave."""
        info: Any = {}
        try:
            action = contract.some_action(self.envs[0].action_space, *start)
            began = time.perf_counter()
            info = self._steps[0](action)[4]
            self.step_seconds = time.perf_counter() - began
        except UsageError:  # of costs that are asked for and not there
            raise
        except (Exception, SystemExit):  # a step that fails does so again in earnest, and is named then
            return len(names_of(self.envs[0]))
        costs = contract.costs_in(info) if isinstance(info, dict) else 0
        if costs is None:
            raise contract.wrong_costs(self._label(0), info, 1)
        return costs

    def attach(
        self, leaves: Sequence[Leaf], actions: Sequence[Leaf], mask: bool, block: Block, log: Sequence[str]
    ) -> None:
        """Say how observations and actions are laid out, where to write, and what of infos at the ends of episodes."""
        self._log = log
        self._deal = _deal(actions)
        self._leaves, self._mask, self._costs, self._block = leaves, mask, block.costs.shape[1], block
        block.at[0] = -1
        n = len(self.envs)
        flat = [_flat(x, leaf) for x, leaf in zip(block.obs, leaves, strict=True)]
        self._write = list(zip(leaves, block.obs, flat, [leaf.casting for leaf in leaves], strict=True))
        self._given: list[tuple[int, np.ndarray]] = []  # the members' own arrays, while they are looked at
        self._shared = False  # members write into each other's: copy each observation before the next member's step
        self._obs: list[Any] = [None] * n
        self._reward: list[Any] = [0.0] * n
        self._now = 0  # steps since attach; an episode's deadline is on this clock
        self._began = [0] * n
        self._deadline = list(self._limits)
        self._unchecked, self._marked = True, True

    def reset(self, seeds: Sequence[int]) -> None:
        """Start every member's episode from its own seed."""
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self._block.at[0] = self.first + i
            given = self._call(i, env.reset, {"seed": seed}, "reset")
            contract.check_reset(self._label(i), given, self._leaves, self._mask)
            self._obs[i] = self._own(i, contract.with_mask(*given) if self._mask else given[0])
            self._start(i)
        self._look_for_shared()
        self._collect()
        self._block.at[0] = -1
        self._unchecked, self._marked = True, True

    def step(self, actions: list[np.ndarray]) -> bool:
        """Step every member with native actions [n, ...], leaf by leaf; -> whether an episode ended."""
        steps, copying = self._steps, self._unchecked or self._shared
        if self._unchecked:
            steps = [self._checked(i, step) for i, step in enumerate(steps)]
            self._unchecked = False
        at, first, mask, costs, deadline = self._block.at, self.first, self._mask, self._costs, self._deadline
        all_obs, all_reward = self._obs, self._reward
        self._now = now = self._now + 1
        if self._marked:
            self._block.terminated[:] = self._block.truncated[:] = self._marked = False
        i = 0
        try:
            for step, action in zip(steps, self._deal(actions), strict=True):
                at[0] = first + i
                obs, all_reward[i], terminated, truncated, info = step(action)
                if mask:
                    obs = contract.with_mask(obs, info)
                if costs or "cost" in info:
                    self._keep_costs(i, info)
                if terminated or truncated or now >= deadline[i]:
                    self._block.logged[i] = contract.numbers_at_end(self._label(i), info, self._log)
                    obs = self._end(i, obs, bool(terminated), bool(truncated) or now >= deadline[i])
                all_obs[i] = self._own(i, obs) if copying else obs
                i += 1
            i = -1
            if copying:
                self._look_for_shared()
            self._collect()
        except (EnvironmentFault, UsageError):
            raise
        except (Exception, SystemExit) as error:
            if i < 0:  # not from a member's own code: what they gave does not fit
                self._explain()
                raise EnvironmentFault(f"{self.name} broke its contract: {type(error).__name__}: {error}") from error
            raise self._raised(i, "step", error) from error
        at[0] = -1
        return self._marked

    def render(self) -> Any:
        """What ``render`` of the first member gives."""
        return self.envs[0].render()

    def close(self) -> None:
        """Close all environments, each whatever the others do."""
        envs, self.envs = self.envs, []
        _close(envs)

    # --- the parts of the above ---

    def _start(self, i: int) -> None:
        self._began[i] = self._now
        self._deadline[i] = self._now + self._limits[i]

    def _keep_costs(self, i: int, info: Mapping[str, Any]) -> None:
        if contract.costs_in(info) != self._costs:
            raise contract.wrong_costs(self._label(i), info, self._now - self._began[i], self._costs)
        self._block.costs[i] = info.get("cost", ())

    def _end(self, i: int, obs: Any, terminated: bool, truncated: bool) -> Any:
        """Keep the last observation, start the next episode; -> its first observation."""
        block = self._block
        contract.write_row(self._label(i), obs, self._leaves, block.final, i)
        block.terminated[i], block.truncated[i] = terminated, truncated
        self._marked = True
        given = self._call(i, self.envs[i].reset, {}, "reset")
        self._start(i)
        return contract.with_mask(*given) if self._mask else given[0]

    def _collect(self) -> None:
        """Write what all members gave: one call per leaf, which also checks the shapes."""
        all_obs = self._obs
        for leaf, rows, flat, casting in self._write:
            values = [reduce(_item, leaf.path, obs) for obs in all_obs] if leaf.path else all_obs
            if leaf.shape:
                np.concatenate(values, out=flat, casting=casting)
            else:
                rows[:] = values if leaf.high is None else [*map(index, values)]  # TypeError where numpy would cut
            if leaf.start is not None:
                rows -= leaf.start
        self._block.reward[:] = self._reward
        if None in self._reward:  # which numpy takes for NaN
            raise TypeError("a reward of None")

    def _own(self, i: int, obs: Any) -> Any:
        """A copy of what member ``i`` observed."""
        given = contract.arrays(self._label(i), obs, self._leaves)
        if not self._shared:
            self._given += [(i, x) for x in given]
        return _tree([(leaf.path, x.copy()) for leaf, x in zip(self._leaves, given, strict=True)])

    def _look_for_shared(self) -> None:
        """From resets and first steps: whether members give the same memory, as a buffer that their class owns."""
        if self._given:
            self._shared |= contract.overlap(self._given)
            self._given = []

    def _checked(self, i: int, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def checked(action: Any) -> Any:
            given = step(action)
            contract.check_step(self._label(i), given, self._leaves, self._mask)
            return given

        return checked

    def _explain(self) -> None:
        """Find the member whose observation or reward does not fit and raise a fault that says why."""
        for i, (obs, reward) in enumerate(zip(self._obs, self._reward, strict=True)):
            contract.check_observation(self._label(i), "step", obs, self._leaves)
            contract.check_reward(self._label(i), reward)

    def _call(self, i: int, function: Callable[..., Any], kwargs: Mapping[str, Any], where: str) -> Any:
        try:
            return function(**kwargs)
        except (Exception, SystemExit) as error:
            raise self._raised(i, where, error) from error

    def _raised(self, i: int, where: str, error: BaseException) -> EnvironmentFault:
        step = f" at step {self._now - self._began[i]} of its episode" if where == "step" else ""
        what, hint = type(error).__name__, contract.signature_hint(self.envs[i], where)
        return EnvironmentFault(f"{self._label(i)} raised {what} in {where}{step}: {error}{raised_at(error)}{hint}")

    def _label(self, i: int) -> str:
        return f"{self.name} (member {self.first + i})"


def _close(envs: Sequence[gymnasium.Env]) -> None:
    for env in envs:
        try:
            env.close()
        except Exception as error:
            warnings.warn(f"Closing {_name(env)} failed: {type(error).__name__}: {error}", stacklevel=3)


def _deal(leaves: Sequence[Leaf]) -> Callable[[list[np.ndarray]], Sequence[Any]]:
    """The function that turns arrays of native actions ``[n, ...]``, leaf by leaf, into a list of n actions."""
    # As its space samples it: a number of a Box without axes is an array too, a count is none.
    split = [list if leaf.shape or leaf.high is not None else lambda x: [*map(np.asarray, x)] for leaf in leaves]
    if len(leaves) == 1 and not leaves[0].path:
        return lambda arrays: split[0](arrays[0])
    paths = [leaf.path for leaf in leaves]

    def deal(arrays: list[np.ndarray]) -> list[Any]:
        columns = [part(x) for part, x in zip(split, arrays, strict=True)]
        return [_tree(list(zip(paths, row, strict=True))) for row in zip(*columns, strict=True)]

    return deal


def _tree(items: list[tuple[tuple[str | int, ...], Any]]) -> Any:
    """A tree of dicts and tuples from its leaves by path."""
    if not items[0][0]:
        return items[0][1]
    groups: dict[Any, list[Any]] = {}
    for (key, *rest), value in items:
        groups.setdefault(key, []).append((tuple(rest), value))
    parts = {key: _tree(group) for key, group in groups.items()}
    return parts if isinstance(next(iter(parts)), str) else tuple(parts.values())


def _item(tree: Any, key: Any) -> Any:
    return tree[key]


def _flat(rows: np.ndarray, leaf: Leaf) -> np.ndarray:
    """``[n, d, ...]`` seen as ``[n * d, ...]``: what concatenating n observations of shape ``[d, ...]`` gives."""
    return rows.reshape((rows.shape[0] * leaf.shape[0], *leaf.shape[1:])) if leaf.shape else rows


def _bare(env: gymnasium.Env) -> tuple[Callable[[Any], Any], int | None]:
    """The innermost ``step`` that means the same, and the time limit we then have to keep ourselves.

    Only wrappers whose whole behaviour is known are passed by, and only from the outside: a step costs a Python call
    for each of them. ``reset``, ``render`` and ``close`` go through all wrappers.
    """
    limit = None
    if type(env) is InfoCosts:
        step, limit = _bare(env.env)
        return partial(env.charged, step), limit
    if type(env) is TimeLimit:
        limit = env._max_episode_steps
        env = env.env
    while type(env) in (OrderEnforcing, PassiveEnvChecker):
        env = env.env  # pyright: ignore[reportAttributeAccessIssue]
    return env.step, limit


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
