"""EnvPool's environments, stepped by threads of C++, as ``HostEnvs``. Extra: ``envpool``."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.envs.atari import Lives, Protocol, protocol_of
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.costs import parsed
from steersman.envs.host.timesteps import Bookkeeper, action_guard, flatten, logged_at_ends, member_seeds
from steersman.episodes import logged_names
from steersman.errors import UsageError, nearest, to_install
from steersman.spaces import canonical_action_space, inside_space, native_map, to_inside
from steersman.types import EnvSpec, HostEnvs, PyTree, TimeStep


def make(
    name: str,
    num_envs: int,
    *,
    workers: int = 0,
    log_info: Sequence[str] = (),
    costs: Sequence[str] = (),
    **kwargs: Any,
) -> HostEnvs:
    """``num_envs`` environments of EnvPool, by its id: ``CartPole-v1`` or ``envpool/CartPole-v1``.

    costs: comparisons (``host.costs``), each a cost of a step; what EnvPool's infos call a cost is not read.
    kwargs: EnvPool's, such as ``num_threads`` (0: one for each core), ``max_episode_steps``, ``render_mode``. Atari
    games (``Breakout-v5``) are played by the protocol of ``atari/...`` and take its fields (``envs.atari.Protocol``).

    Raises UsageError where EnvPool is not installed, for unknown ids (with the nearest) and arguments, and for
    ``workers``, which EnvPool does not need.
    """
    try:
        import envpool
    except ImportError as error:
        raise UsageError(f"EnvPool is not installed. Install it with: {to_install('envpool')}") from error
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UsageError(f"num_envs is a whole number of at least 1; got {num_envs!r}.")
    if workers:
        raise UsageError(f"workers={workers}: EnvPool has threads of its own. Use num_threads={workers} instead.")
    id = name.removeprefix("envpool/")
    known = envpool.list_all_envs()
    if id not in known:
        raise UsageError(f"EnvPool has no {id}. {nearest(id, known)}".rstrip())
    return EnvPoolEnvs(envpool, id, num_envs, kwargs, log_info, costs)


class EnvPoolEnvs(HostEnvs):
    """A pool in its synchronous mode; members whose episode ends are reset at once, by a second, partial call.

    Left to itself EnvPool resets at the *next* step, whose action it ignores and whose reward is 0; no such step gets
    out of here. The end at the time limit is EnvPool's: it reports only the truncation where the task ends at the very
    same step. ``reset(seed)`` makes a new pool, since a pool's seeds are fixed when it is made.
    """

    def __init__(
        self,
        envpool: Any,
        id: str,
        num_envs: int,
        kwargs: dict[str, Any],
        log_info: Sequence[str] = (),
        costs: Sequence[str] = (),
    ):
        self._lives, self._log, self._compared = None, logged_names(log_info), parsed(costs)
        try:
            with _quiet():
                if "zero_discount_on_life_loss" in envpool.make_spec(id)._config_keys:
                    protocol, kwargs = _atari(id, kwargs)
                    self._lives = Lives(protocol)
                rendering = ("render_mode", "render_width", "render_height", "render_env_id", "render_camera_id")
                plain = {k: v for k, v in kwargs.items() if k not in rendering}
                spec = envpool.make_spec(id, num_envs=num_envs, **plain)
                observations, actions = spec.gymnasium_observation_space, spec.gymnasium_action_space
        except TypeError as error:
            raise UsageError(f"envpool/{id} does not take these arguments {kwargs}: {error}.") from error
        self._envpool, self._id, self._kwargs, self._pool = envpool, id, kwargs, None
        self._native_space = _open(observations)
        inside, limit = inside_space(self._native_space), int(spec.config.max_episode_steps)
        self.spec = EnvSpec(
            f"envpool/{id}",
            inside,
            canonical_action_space(actions),
            actions,
            limit if limit < np.iinfo(np.int32).max else None,
            tuple(one.name for one in self._compared),
            native_observation_space=self._native_space,
        )
        self.num_envs = num_envs
        self._native = native_map(actions)
        self._book = Bookkeeper(self.spec, num_envs, leaves_of(self._native_space, inside))
        self._guard = action_guard(self.spec, num_envs)

    def reset(self, seed: int) -> PyTree:
        seeds = member_seeds(seed, self.num_envs)
        self._free()
        with _quiet():
            pool = self._envpool.make(
                self._id, env_type="gymnasium", num_envs=self.num_envs, env_seed=seeds, **self._kwargs
            )
            obs, info = pool.reset()
        if self._lives is not None:
            self._lives.reset(info["lives"])
        self._pool = pool
        return self._book.reset(self._leaves(obs))

    def step(self, action: PyTree) -> TimeStep:
        pool = self._pool
        if pool is None:
            raise UsageError("Call reset(seed) before the first step.")
        self._guard(action)
        last, reward, terminated, truncated, info = pool.step(self._native(action))
        obs, final, logged = self._leaves(last), None, None
        ended, lives, costs = terminated | truncated, info.get("lives"), self._costs(last, info)
        if ended.any():
            final, obs = obs, [x.copy() for x in obs]
            rows = np.flatnonzero(ended).astype(np.int32)
            plain = {name: x for name, x in info.items() if np.ndim(x) and len(x) == self.num_envs}
            info_of = lambda i: {name: x[i] for name, x in plain.items()}
            logged = logged_at_ends(self.spec.id, info_of, self._log, ended)
            first, info = pool.reset(rows)
            for x, new in zip(obs, self._leaves(first), strict=True):
                x[rows] = new
            if lives is not None:
                lives = lives.copy()
                lives[rows] = info["lives"]
        told: dict[str, Any] = {"reward": reward.astype(np.float64), "terminated": terminated.copy()}
        if self._lives is not None and lives is not None:
            told = self._lives.step(lives, reward, terminated.copy(), truncated)
        told |= {"truncated": truncated.copy(), "final": final, "logged": logged, "costs": costs}
        return self._book.step(obs, action=action, **told)

    def _costs(self, obs: Any, info: dict[str, Any]) -> np.ndarray:
        """What the comparisons say of each member's step [B, C], NaN where a number is."""
        costs = np.zeros((self.num_envs, len(self._compared)))
        for i, one in enumerate(self._compared):
            x = np.asarray(one.number(obs, info, self.spec.id, lead=1), np.float64)
            costs[:, i] = np.where(np.isnan(x), x, one.holds(x))
        return costs

    def render(self) -> Any:
        """A picture of member 0. Raises UsageError where it was made without ``render_mode="rgb_array"``."""
        if self._pool is None or self._kwargs.get("render_mode") != "rgb_array":
            raise UsageError(f"{self.spec.id} can be drawn after reset(seed), made with render_mode='rgb_array'.")
        return self._pool.render(env_ids=np.zeros(1, np.int32))[0]

    def close(self) -> None:
        self._free()

    def _free(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _leaves(self, obs: Any) -> list[np.ndarray]:
        """In the inside form; copies, for the arrays are the pool's."""
        return [np.array(x) for x in flatten(self._native_space, to_inside(self._native_space, obs))]


def _open(space: spaces.Space) -> spaces.Space:
    """DeepMind's bounds for "unbounded" are the ends of float64, the smaller one even positive: make them infinite."""
    match space:
        case spaces.Box() if space.dtype == np.float64:
            ends = np.finfo(np.float64)
            low = np.where((space.low == ends.tiny) | (space.low <= ends.min), -np.inf, space.low)
            return spaces.Box(low, np.where(space.high >= ends.max, np.inf, space.high), dtype=np.float64)
        case spaces.Dict():
            return spaces.Dict({name: _open(part) for name, part in space.spaces.items()})
    return space


def _atari(id: str, kwargs: dict[str, Any]) -> tuple[Protocol, dict[str, Any]]:
    """The protocol of an Atari game, and it in EnvPool's words with the arguments that are EnvPool's own."""
    ours = {"reward_clip": "clip_rewards", "episodic_life": "terminal_on_life_loss"}
    ours |= {"zero_discount_on_life_loss": "terminal_on_life_loss", "repeat_action_probability": "sticky"}
    if taken := [k for k in kwargs if k in ours]:
        raise UsageError(f"envpool/{id}: {taken[0]} is {ours[taken[0]]} here: returns are counted over whole games.")
    protocol, rest = protocol_of(f"envpool/{id}", kwargs)
    words = {
        "repeat_action_probability": protocol.sticky,
        "frame_skip": protocol.frame_skip,
        "stack_num": protocol.frame_stack,
        "img_height": protocol.screen_size,
        "img_width": protocol.screen_size,
        "noop_max": protocol.noop_max,
        "max_episode_steps": protocol.max_steps,
        "full_action_space": protocol.full_action_set,
        "use_fire_reset": protocol.fire_reset,
    }
    return protocol, words | rest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the spaces that EnvPool makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
