"""Gymnasium environments as ``HostEnvs``: in this process or in workers, with the same results bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

from steersman.envs.classic import TWINS
from steersman.envs.host import gymnasium_ids, trial
from steersman.envs.host.contract import MASK, leaves_of
from steersman.envs.host.costs import compared, parsed
from steersman.envs.host.members import Block, Factory, Look, Members
from steersman.envs.host.timesteps import Bookkeeper, action_guard, flatten, member_seeds
from steersman.envs.transfer.mujoco import changing
from steersman.envs.transfer.settings import Transfer
from steersman.episodes import logged_names
from steersman.errors import UsageError
from steersman.spaces import canonical_action_space, inside_space, native_map
from steersman.types import EnvSpec, HostEnvs, PyTree, TimeStep, cost_names

if TYPE_CHECKING:
    from steersman.envs.host.workers import Crew


def make(
    environment: Any,
    num_envs: int,
    *,
    workers: int = 0,
    log_info: Sequence[str] = (),
    costs: Sequence[str] = (),
    simulator: Transfer | None = None,
    **kwargs: Any,
) -> HostEnvs:
    """``num_envs`` Gymnasium environments side by side.

    environment: an id (``HalfCheetah-v5``, ``ALE/Pong-v5``, ``package.module:Own-v0``), a function or class that makes
        a ``gymnasium.Env``, one ``gymnasium.Env`` (then ``num_envs`` is 1), or a ``gymnasium.vector.VectorEnv``.
    workers: processes that share the members with this one, one core each; 0 steps them all here. Results do not depend
        on it. With as many workers as members this process steps none, so no simulator can take it down.
    log_info: numbers in the environments' infos that are wanted of the last step of each episode, beside is_success:
        then the TimeStep's info has them, [B].
    costs: comparisons (``host.costs``), each a further cost of a step.
    simulator: how MuJoCo's is changed, ``randomize`` and ``push`` of these settings.
    kwargs: the environment's own arguments, and Gymnasium's ``render_mode`` and ``max_episode_steps``.

    Raises UsageError for unknown ids (with the nearest), simulators that are not installed, spaces nobody can act in or
    observe, and numbers that do not fit; EnvironmentFault where the environment breaks its contract.

    >>> envs = make("CartPole-v1", 2)
    >>> envs.reset(seed=0).shape, envs.spec.id
    ((2, 4), 'gymnasium/CartPole-v1')
    """
    _check_numbers(num_envs, workers)
    made = isinstance(environment, gymnasium.Env | gymnasium.vector.VectorEnv)
    if made and (kwargs or workers or simulator):
        ours = {"workers": workers, "randomize, push": simulator}
        given = ", ".join([*kwargs, *(name for name, value in ours.items() if value)])
        raise UsageError(
            f"{given} cannot be given with an environment that is made already. Give a function that makes one."
        )
    if isinstance(environment, gymnasium.vector.VectorEnv):
        from steersman.envs.host.gymnasium_vector import VectorEnvs

        return VectorEnvs(environment, num_envs, log_info=log_info, costs=costs)
    if isinstance(environment, gymnasium.Env):
        if num_envs != 1:
            raise UsageError(
                f"One {environment} cannot be {num_envs} environments side by side. Give a function that makes a new "
                "one, such as `lambda: MyEnv()`, or num_envs=1."
            )
        return GymnasiumEnvs([lambda: environment], log_info=log_info, costs=costs)
    how: Any = {"workers": workers, "log_info": log_info, "costs": costs}
    if isinstance(environment, str | GymnasiumSpec):
        spec = gymnasium_ids.find(environment) if isinstance(environment, str) else environment
        id = f"gymnasium/{spec.id}" if spec.id in TWINS else spec.id
        one: Any = gymnasium_ids.factory(spec, kwargs)
        one = one if simulator is None else changing(one, simulator)
        return GymnasiumEnvs([one] * num_envs, id=id, **how)
    if callable(environment):
        one = partial(environment, **kwargs) if kwargs else environment
        one = one if simulator is None else changing(one, simulator)
        return GymnasiumEnvs([one] * num_envs, **how)
    raise UsageError(f"{environment!r} is neither a Gymnasium id nor an environment nor a function that makes one.")


class GymnasiumEnvs(HostEnvs):
    """``B`` members, each made by its factory, reset in the step that ends its episode (``AutoresetMode.SAME_STEP``).

    Member ``i`` is seeded with ``timesteps.member_seeds(seed, B)[i]`` at ``reset(seed)`` and goes on with its own
    generator after that. Every call gives fresh arrays; ``final_obs`` is the same object as ``obs`` in a step in which
    no episode ended. Where one did, ``info`` has "success" and the entries of ``log_info`` of its last step. Faults
    name the member and the step.
    """

    def __init__(
        self,
        factories: Sequence[Factory],
        *,
        workers: int = 0,
        id: str | None = None,
        log_info: Sequence[str] = (),
        costs: Sequence[str] = (),
    ):
        comparisons = parsed(costs)
        factories = [compared(factory, comparisons) for factory in factories]
        self.num_envs, self._factories, self._log = len(factories), factories, logged_names(log_info)
        if workers:
            from steersman.envs.host.workers import Workers

            self._members = Workers(factories, workers)
            looks = self._members.looks
        else:
            self._members = Members(factories)
            looks = [self._members.look()]
        try:
            look = _one_look(looks)
            native, mask = _with_mask(look)
            inside, canonical = inside_space(native), canonical_action_space(look.action_space)
            name, limit = id or look.name, look.max_episode_steps
            names = (*cost_names(look.costs - len(look.named)), *look.named)
            self.spec = EnvSpec(name, inside, canonical, look.action_space, limit, names, native)
            leaves, actions = leaves_of(native, inside), leaves_of(look.action_space, look.action_space)
            told = {"mask": mask, "costs": look.costs, "log": tuple(self._log)}
            self._layout = {"obs": leaves, "action": actions, **told}
            if isinstance(self._members, Members):
                self._block = Block.allocate(leaves, self.num_envs, look.costs, len(self._log))
                self._members.attach(leaves, actions, mask, self._block, self._log)
            else:
                self._attach_workers(workers)
        except BaseException:
            self._members.close()
            raise
        self._native, self._book = native_map(look.action_space), Bookkeeper(self.spec, self.num_envs, leaves)
        self._guard = action_guard(self.spec, self.num_envs)
        self._ready, self._fresh = "Call reset(seed) before the first step.", True
        self._crew: Crew | None = None  # of a trial, until they become workers

    def _attach_workers(self, workers: int) -> None:
        from steersman.envs.host.worker_wire import Layout

        assert not isinstance(self._members, Members)
        self._block = self._members.attach(Layout(self.num_envs, workers, **self._layout))

    def best_workers(self, steps: int, processes: int) -> int:
        """Tried in other processes, with members of theirs: no member of this batch is touched.

        0 without a trial where it cannot pay, and where the members have to stay: a factory that no other process
        finds, a window for people to look at.
        """
        from steersman.envs.host.workers import lacking

        members = self._members
        if not isinstance(members, Members) or lacking():
            return 0
        if any(env.render_mode == "human" for env in members.envs):
            return 0
        if not trial.may_pay(members.step_seconds, self.num_envs, steps, processes):
            return 0
        if not trial.can_be_sent(self._factories):
            return 0
        return self._tried(min(processes, self.num_envs), trial.steps_of(members.step_seconds))

    def _tried(self, processes: int, steps: int) -> int:
        from steersman.envs.host.workers import Crew

        actions, seeds = self._some_actions(steps, processes + 1), member_seeds(0, processes + 1)
        self._crew = crew = Crew(processes)
        workers = 0
        try:
            planned = trial.trials(self._factories, seeds, actions, processes, **self._layout)
            workers = trial.fastest(crew.ask, planned, self.num_envs)
        finally:
            if not workers:
                crew.close()
                self._crew = None
        return workers

    def _some_actions(self, steps: int, members: int) -> list[np.ndarray]:
        """Native actions, each leaf [steps, members, ...], drawn without touching the space's own generator."""
        space = deepcopy(self.spec.native_action_space)
        space.seed(0)
        drawn = [flatten(space, space.sample()) for _ in range(steps * members)]
        dtypes = [leaf.native for leaf in self._layout["action"]]
        stacked = [np.asarray(leaf, dtype) for leaf, dtype in zip(zip(*drawn, strict=True), dtypes, strict=True)]
        return [x.reshape(steps, members, *x.shape[1:]) for x in stacked]

    def share_out(self, workers: int) -> None:
        from steersman.envs.host.workers import Workers

        assert isinstance(self._members, Members)
        crew, self._crew = self._crew, None
        self._members = Workers(self._factories, workers, here=self._members, crew=crew)
        self._attach_workers(workers)

    def reset(self, seed: int) -> PyTree:
        if self._ready.startswith("These"):
            raise UsageError(self._ready)
        self._members.reset(member_seeds(seed, self.num_envs))
        self._ready = ""
        return self._book.reset([x.copy() for x in self._block.obs])

    def step(self, action: PyTree) -> TimeStep:
        if self._ready:
            raise UsageError(self._ready)
        self._guard(action)
        native = self._native(action)
        arrays = [native] if isinstance(native, np.ndarray) else flatten(self.spec.native_action_space, native)
        ended = self._members.step(arrays)
        block = self._block
        obs, final, logged = [x.copy() for x in block.obs], None, None
        terminated, truncated = block.terminated.copy(), block.truncated.copy()
        if ended:
            rows = terminated | truncated
            final = [x.copy() for x in obs]
            for x, last in zip(final, block.final, strict=True):
                x[rows] = last[rows]
            logged = dict(zip(self._log, np.where(rows, block.logged.T, np.nan), strict=True))
        told: Any = {"costs": block.costs, "logged": logged}
        return self._book.step(obs, block.reward, terminated, truncated, final, action, **told)

    def render(self) -> Any:
        """A picture of member 0, as its ``render`` gives it: [height, width, 3] uint8 with ``render_mode="rgb_array"``.

        Raises UsageError where the environment was made without a ``render_mode``.
        """
        if self._ready:
            raise UsageError(self._ready)
        picture = self._members.render()
        if picture is None:
            raise UsageError(f"{self.spec.id} drew nothing. Make it with render_mode='rgb_array'.")
        return picture

    def close(self) -> None:
        self._members.close()
        if self._crew is not None:
            self._crew.close()
        self._ready, self._fresh = f"These environments ({self.spec.id}) are closed. Make new ones.", True


def _one_look(looks: Sequence[Look]) -> Look:
    for other in looks:
        if other != looks[0]:
            raise UsageError(f"All members have to be alike; the factory gave {looks[0]} and {other}.")
    return looks[0]


def _with_mask(look: Look) -> tuple[spaces.Space, bool]:
    """-> (the native observation space with the mask that infos carry, whether there is one to take from there)"""
    native, actions = look.observation_space, look.action_space
    parts = dict(native.spaces) if isinstance(native, spaces.Dict) else {"observation": native}
    if not look.mask or MASK in parts or not isinstance(actions, spaces.Discrete):
        return native, False
    return spaces.Dict({**parts, MASK: spaces.MultiBinary(int(actions.n))}), True


def _check_numbers(num_envs: int, workers: int) -> None:
    for name, value, least in (("num_envs", num_envs, 1), ("workers", workers, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is a whole number of at least {least}; got {value!r}.")
    if workers > num_envs:
        raise UsageError(f"workers={workers} is more than num_envs={num_envs}; use at most one for each member.")
