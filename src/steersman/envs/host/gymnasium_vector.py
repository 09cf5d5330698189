"""A ``gymnasium.vector.VectorEnv`` of the user's own as ``HostEnvs``."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import iterate

from steersman.envs.host import contract
from steersman.envs.host.contract import Leaf, leaves_of
from steersman.envs.host.costs import charges, parsed
from steersman.envs.host.timesteps import Bookkeeper, action_guard, logged_at_ends, member_seeds
from steersman.episodes import logged_names
from steersman.errors import EnvironmentFault, UsageError
from steersman.spaces import canonical_action_space, inside_space, native_map
from steersman.types import EnvSpec, HostEnvs, PyTree, TimeStep, cost_names


class VectorEnvs(HostEnvs):
    """Any vector environment that resets in the step that ends an episode (``AutoresetMode.SAME_STEP``).

    A reset gives a list of member seeds to Gymnasium's own two classes, and one number, derived from the seed, to
    others, which know best how to seed their members. Raises UsageError for another autoreset mode or another number
    of members.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv,
        num_envs: int,
        *,
        log_info: Sequence[str] = (),
        costs: Sequence[str] = (),
    ):
        id = envs.spec.id if envs.spec is not None else type(envs.unwrapped).__name__
        mode = envs.metadata.get("autoreset_mode")
        named = getattr(mode, "name", mode)
        if mode != AutoresetMode.SAME_STEP:
            raise UsageError(
                f"{id} has the autoreset mode {named}; steersman needs SAME_STEP, for other modes "
                "put steps that are none into the data. Make it with gymnasium.make_vec(id, num_envs, vector_kwargs="
                '{"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}), or give steersman the id itself.'
            )
        if envs.num_envs != num_envs:
            raise UsageError(f"{id} has {envs.num_envs} members; asked for are num_envs={num_envs}.")
        native, actions = envs.single_observation_space, envs.single_action_space
        inside = inside_space(native)
        limit = envs.spec.max_episode_steps if envs.spec is not None else None
        self.num_envs, self._log = num_envs, logged_names(log_info)
        canonical = canonical_action_space(actions)
        self._id, self._envs, self._native_space, self._compared = id, envs, native, parsed(costs)
        self._own_costs = self._try_costs()
        names = (*cost_names(self._own_costs), *(one.name for one in self._compared))
        self.spec = EnvSpec(id, inside, canonical, actions, limit, names, native)
        self._native, self._leaves = native_map(actions), leaves_of(native, inside)
        self._book = Bookkeeper(self.spec, num_envs, self._leaves)
        self._guard, self._ready = action_guard(self.spec, num_envs), False

    def reset(self, seed: int) -> PyTree:
        seeds = member_seeds(seed, self.num_envs)
        listed = isinstance(self._envs.unwrapped, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv)
        given: Any = seeds if listed else seeds[0]
        obs, _ = self._envs.reset(seed=given)
        self._ready = True
        return self._book.reset(self._arrays(obs, "reset"))

    def step(self, action: PyTree) -> TimeStep:
        if not self._ready:
            raise UsageError("Call reset(seed) before the first step.")
        self._guard(action)
        obs, reward, terminated, truncated, infos = self._step(self._native(action))
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        leaves, final, ended, logged = self._arrays(obs, "step"), None, np.zeros(0, int), None
        if terminated.any() or truncated.any():
            final, ended = [x.copy() for x in leaves], np.flatnonzero(terminated | truncated)
            self._put_final(final, infos, ended)
            logged = logged_at_ends(self._id, lambda i: _info_of(infos, i, True), self._log, terminated | truncated)
        told: Any = {"costs": self._costs(obs, infos, ended), "logged": logged}
        return self._book.step(leaves, np.asarray(reward, np.float64), terminated, truncated, final, action, **told)

    def render(self) -> Any:
        """What ``render`` of member 0 gives."""
        frames = self._envs.render()
        return frames[0] if isinstance(frames, tuple | list) else frames

    def close(self) -> None:
        self._ready = False
        self._envs.close()

    def _step(self, action: Any) -> Any:
        try:
            return self._envs.step(action)
        except Exception as error:
            raise EnvironmentFault(f"{self._id} raised {type(error).__name__} in step: {error}") from error

    def _try_costs(self) -> int:
        """How many costs a step of member 0 has of its own, by one step of all members."""
        self._envs.reset(seed=0)
        obs, _, terminated, truncated, infos = self._step(contract.some_action(self._envs.action_space))
        info = _info_of(infos, 0, bool(terminated[0] or truncated[0]))
        costs = contract.costs_in(info)
        if costs is None:
            raise contract.wrong_costs(f"{self._id} (member 0)", info, 1)
        self._compare(obs, infos, np.flatnonzero(np.asarray(terminated) | np.asarray(truncated)))
        return costs

    def _costs(self, obs: Any, infos: dict[str, Any], ended: np.ndarray) -> np.ndarray | None:
        """The costs of this step [B, C]."""
        count, over = self._own_costs, set(ended.tolist())
        compared = self._compare(obs, infos, ended)
        if not count and "cost" not in infos and "cost" not in infos.get("final_info", ()):
            return compared if self._compared else None
        costs = np.zeros((self.num_envs, count))
        for i in range(self.num_envs):
            info = _info_of(infos, i, i in over)
            if contract.costs_in(info) != count:
                raise contract.wrong_costs(f"{self._id} (member {i})", info, self._book.step_of(i), count)
            costs[i] = info.get("cost", ())
        return np.concatenate([costs, compared], axis=1)

    def _compare(self, obs: Any, infos: dict[str, Any], ended: np.ndarray) -> np.ndarray:
        """What the comparisons say of each member's own step [B, comparisons]."""
        if not self._compared:
            return np.zeros((self.num_envs, 0))
        rows = dict(enumerate(iterate(self._envs.observation_space, obs)))
        last = _rows(self._native_space, infos.get("final_obs"), self.num_envs, ended.tolist()) or []
        own, over = rows | dict(zip(ended.tolist(), last, strict=False)), set(ended.tolist())
        infos_of = [_info_of(infos, i, i in over) for i in range(self.num_envs)]
        return np.array([charges(self._compared, self._id, own[i], None, infos_of[i]) for i in range(self.num_envs)])

    def _arrays(self, obs: Any, where: str) -> list[np.ndarray]:
        """Arrays of our own, in the inside form."""
        values = contract.check_observation(self._id, where, obs, self._leaves, (self.num_envs,))
        return [_inside(x, leaf) for x, leaf in zip(values, self._leaves, strict=True)]

    def _put_final(self, final: list[np.ndarray], infos: dict[str, Any], ended: np.ndarray) -> None:
        if "final_obs" not in infos:
            raise EnvironmentFault(
                f"{self.spec.id} ended an episode without infos['final_obs'], which SAME_STEP promises."
            )
        one_each = _rows(self._native_space, infos["final_obs"], self.num_envs, ended.tolist())
        if one_each is None:
            raise EnvironmentFault(
                f"{self._id} gave infos['final_obs'] = {reprlib.repr(infos['final_obs'])} in a step that ended "
                f"{len(ended)} of {self.num_envs} episodes; it is to hold an observation for each member (None where "
                "no episode ended), or one for each episode that ended."
            )
        for i, obs in zip(ended, one_each, strict=True):
            label = f"{self._id} (member {i})"
            values = contract.check_observation(label, "infos['final_obs']", obs, self._leaves)
            for x, value, leaf in zip(final, values, self._leaves, strict=True):
                x[i] = _inside(value, leaf)


def _inside(x: np.ndarray, leaf: Leaf) -> np.ndarray:
    """A copy in the inside form."""
    return x.astype(leaf.dtype) if leaf.start is None else x.astype(leaf.dtype) - leaf.start


def _info_of(infos: dict[str, Any], i: int, ended: bool) -> dict[str, Any]:
    """The info of member ``i``'s own step: once its episode has ended, ``infos`` has the reset's. No dicts."""
    given = infos.get("final_info", infos) if ended else infos
    names = [n for n, x in given.items() if not (n.startswith("_") or n == "final_obs" or isinstance(x, dict))]
    return {name: given[name][i] for name in names if bool(given.get(f"_{name}", {i: True})[i])}


def _rows(space: spaces.Space, given: Any, num: int, ended: list[int]) -> list[Any] | None:
    """The observations of the ended members, out of an array, a list or an array of objects with an entry for each
    member or for each that ended, or of a tree of those in the form of the space. None: it is none of these."""
    if isinstance(space, spaces.Dict) and isinstance(given, Mapping):
        if not space.spaces.keys() <= given.keys():
            return None
        parts = [_rows(part, given[name], num, ended) for name, part in space.spaces.items()]
        if any(part is None for part in parts):
            return None
        return [dict(zip(space.spaces, row, strict=True)) for row in zip(*parts, strict=True)]
    if isinstance(space, spaces.Tuple) and _is_tree(given, len(space.spaces)):
        parts = [_rows(part, x, num, ended) for part, x in zip(space.spaces, given, strict=True)]
        return None if any(part is None for part in parts) else list(zip(*parts, strict=True))
    listed = isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.ndim > 0)
    if not listed:
        return None
    if len(given) == num:
        return [given[i] for i in ended]
    return list(given) if len(given) == len(ended) else None


def _is_tree(given: Any, parts: int) -> bool:
    """Whether it is a tuple of arrays, one for each part, and not one observation, itself a tuple, for each member."""
    return (
        isinstance(given, tuple) and len(given) == parts and not any(isinstance(x, tuple) or x is None for x in given)
    )
