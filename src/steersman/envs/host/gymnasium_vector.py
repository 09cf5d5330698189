"""A ``gymnasium.vector.VectorEnv`` of the user's own as ``HostEnvs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from steersman.envs.host import contract
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.timesteps import Bookkeeper, check_action, flatten, logged_at_ends, member_seeds
from steersman.episodes import logged_names
from steersman.errors import EnvironmentFault, UsageError
from steersman.spaces import canonical_action_space, inside_space, native_map, to_inside
from steersman.types import EnvSpec, HostEnvs, PyTree, TimeStep


class VectorEnvs(HostEnvs):
    """Any vector environment that resets in the step that ends an episode (``AutoresetMode.SAME_STEP``).

    A reset gives a list of member seeds to Gymnasium's own two classes, and one number, derived from the seed, to
    others, which know best how to seed their members. Raises UsageError for another autoreset mode or another number
    of members.
    """

    def __init__(self, envs: gymnasium.vector.VectorEnv, num_envs: int, *, log_info: Sequence[str] = ()):
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
        self._id, self._envs, self._native_space = id, envs, native
        self.spec = EnvSpec(id, inside, canonical, actions, limit, self._try_costs(), native)
        self._native, self._leaves = native_map(actions), leaves_of(native, inside)
        self._book = Bookkeeper(self.spec, num_envs, self._leaves)
        self._ready, self._fresh = False, True

    def reset(self, seed: int) -> PyTree:
        seeds = member_seeds(seed, self.num_envs)
        listed = isinstance(self._envs.unwrapped, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv)
        given: Any = seeds if listed else seeds[0]
        obs, _ = self._envs.reset(seed=given)
        self._ready = self._fresh = True
        return self._book.reset(self._arrays(obs, "reset"))

    def step(self, action: PyTree) -> TimeStep:
        if self._fresh:
            if not self._ready:
                raise UsageError("Call reset(seed) before the first step.")
            check_action(self.spec, self.num_envs, action)
            self._fresh = False
        obs, reward, terminated, truncated, infos = self._step(self._native(action))
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        leaves, final, ended, logged = self._arrays(obs, "step"), None, np.zeros(0, int), None
        if terminated.any() or truncated.any():
            final, ended = [x.copy() for x in leaves], np.flatnonzero(terminated | truncated)
            self._put_final(final, infos, ended)
            logged = logged_at_ends(self._id, lambda i: _info_of(infos, i, True), self._log, terminated | truncated)
        told: Any = {"costs": self._costs(infos, ended), "logged": logged}
        return self._book.step(leaves, np.asarray(reward, np.float64), terminated, truncated, final, action, **told)

    def render(self) -> Any:
        """What ``render`` of member 0 gives."""
        frames = self._envs.render()
        return frames[0] if isinstance(frames, tuple | list) else frames

    def close(self) -> None:
        self._ready, self._fresh = False, True
        self._envs.close()

    def _step(self, action: Any) -> Any:
        try:
            return self._envs.step(action)
        except Exception as error:
            raise EnvironmentFault(f"{self._id} raised {type(error).__name__} in step: {error}") from error

    def _try_costs(self) -> int:
        """How many costs a step of member 0 has, by one step of all members."""
        self._envs.reset(seed=0)
        *_, terminated, truncated, infos = self._step(contract.some_action(self._envs.action_space))
        info = _info_of(infos, 0, bool(terminated[0] or truncated[0]))
        costs = contract.costs_in(info)
        if costs is None:
            raise contract.wrong_costs(f"{self._id} (member 0)", info, 1)
        return costs

    def _costs(self, infos: dict[str, Any], ended: np.ndarray) -> np.ndarray | None:
        """The costs of this step [B, C]."""
        count, over = self.spec.num_costs, set(ended.tolist())
        if not count and "cost" not in infos and "cost" not in infos.get("final_info", ()):
            return None
        costs = np.zeros((self.num_envs, count))
        for i in range(self.num_envs):
            info = _info_of(infos, i, i in over)
            if contract.costs_in(info) != count:
                raise contract.wrong_costs(f"{self._id} (member {i})", info, self._book.step_of(i), count)
            costs[i] = info.get("cost", ())
        return costs

    def _arrays(self, obs: Any, where: str) -> list[np.ndarray]:
        """Arrays of our own, in the inside form."""
        leaves = [np.array(x) for x in flatten(self.spec.observation_space, to_inside(self._native_space, obs))]
        for leaf, x in zip(self._leaves, leaves, strict=True):
            if x.shape != (self.num_envs, *leaf.shape):
                raise EnvironmentFault(
                    f"{self.spec.id} returned an observation{leaf.name} of shape {x.shape} from {where}; its spaces "
                    f"say {(self.num_envs, *leaf.shape)}."
                )
        return leaves

    def _put_final(self, final: list[np.ndarray], infos: dict[str, Any], ended: np.ndarray) -> None:
        if "final_obs" not in infos:
            raise EnvironmentFault(
                f"{self.spec.id} ended an episode without infos['final_obs'], which SAME_STEP promises."
            )
        given = infos["final_obs"]
        for i in ended:
            one = _member(self._native_space, given, i)
            for x, leaf in zip(
                final, flatten(self.spec.observation_space, to_inside(self._native_space, one)), strict=True
            ):
                x[i] = leaf


def _info_of(infos: dict[str, Any], i: int, ended: bool) -> dict[str, Any]:
    """The info of member ``i``'s own step: once its episode has ended, ``infos`` has the reset's. No dicts."""
    given = infos.get("final_info", infos) if ended else infos
    names = [name for name, values in given.items() if not name.startswith("_") and not isinstance(values, dict)]
    return {name: given[name][i] for name in names if bool(given.get(f"_{name}", {i: True})[i])}


def _member(space: spaces.Space, given: Any, i: int) -> Any:
    """Member ``i`` of an array of objects, as Gymnasium gives it, or of a tree of arrays."""
    if isinstance(given, np.ndarray):
        return given[i]
    if isinstance(space, spaces.Dict):
        return {name: _member(part, given[name], i) for name, part in space.spaces.items()}
    assert isinstance(space, spaces.Tuple)
    return tuple(_member(part, sub, i) for part, sub in zip(space.spaces, given, strict=True))
