"""What is put around environments of every kind, with one meaning: ``transferred``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from steersman.envs.transfer.effects import Effect, effect_of
from steersman.envs.transfer.physics import Parametrised, pushed, randomized
from steersman.envs.transfer.settings import Transfer, read
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.types import Array, DeviceEnvs, Env, HostEnvs, Key, PyTree, TimeStep

_OWN = 0x7A45  # keys of our own are folded with it: the environment draws the same with and without us
Around = TypeVar("Around", Env, HostEnvs)


def transferred(env: Around, settings: Transfer | None = None, **given: Any) -> Around:
    """``env``, a compiled environment or batches of host ones, as ``Transfer`` says: delays, noise, pushes and so on.

    given: the settings by name, in place of ``settings``. A compiled one is wrapped before it is vectorised. In
    batches of host environments the simulators are made already: nothing in them can be pushed or randomised, which
    ``envs.make`` does.

    Raises UsageError for settings that are out of range, and for what the environment has not.

    >>> from steersman.envs.classic.pendulum import Pendulum
    >>> env = transferred(Pendulum(), action_delay=(0, 3), observation_noise=0.01, observation_history=4)
    >>> env.spec.observation_space.shape
    (20,)
    """
    settings = read(**given) if settings is None else settings
    if isinstance(env, DeviceEnvs):
        raise UsageError("These environments are vectorised already. Wrap the one that they are made of.")
    if isinstance(env, HostEnvs):
        if settings.simulated:
            raise UsageError(
                f"{env.spec.id}: randomize and push change the simulators, which are made already. Give the "
                "environment by name, or a function that makes it: steersman.envs.make(..., push=0.5)."
            )
        return surrounded(env, settings)
    return surrounded(simulated(env, settings), settings)


def simulated(env: Env | Parametrised, settings: Transfer) -> Env:
    """The compiled environment with what the settings change in the simulator itself."""
    if settings.randomize:
        env = randomized(env, settings.randomize, shown=settings.see_physics)
    env = env.make() if isinstance(env, Parametrised) else env
    return pushed(env, settings.push, settings.push_every) if settings.push else env


def surrounded(env: Around, settings: Transfer) -> Around:
    """The environment with what the settings put between it and its policy."""
    effect, made = effect_of(env.spec, settings), env
    if effect is not None:
        made: Any = HostAround(env, effect) if isinstance(env, HostEnvs) else compiled_around(env, effect)
    return made


class Surrounded(NamedTuple):
    env: PyTree
    effect: PyTree


def compiled_around(env: Env, effect: Effect) -> Env:
    """The effect around a compiled environment; its state is part of the environment's."""

    def reset(key: Key) -> tuple[Surrounded, PyTree]:
        state, obs = env.reset(key)
        own, obs = effect.reset(obs, jax.random.fold_in(key, _OWN))
        return Surrounded(state, own), obs

    def step(state: Surrounded, action: PyTree, key: Key) -> tuple[Surrounded, TimeStep]:
        before, after = jax.random.split(jax.random.fold_in(key, _OWN))
        own, done = effect.act(state.effect, action, before)
        inner, seen = env.step(state.env, done, key)
        own, obs, reward = effect.see(own, seen.final_obs, seen.reward, after)
        if reward is not seen.reward:  # what is counted stays in the environment's own
            native = seen.info.get("native_reward", seen.reward)
            seen = seen._replace(reward=reward, info={**seen.info, "native_reward": native})
        return Surrounded(inner, own), seen._replace(obs=obs, final_obs=obs)

    return PureEnv(effect.spec, reset, step)


class HostAround(HostEnvs):
    """The effect around host environments: one compiled call before and one after each step of all members.

    Member ``i`` draws from the keys that ``vector.vectorize`` gives member ``i`` of the same seed, so that the effect
    does the same around a twin and its original. ``reset`` begins anew from its seed, as the environments do.
    """

    def __init__(self, envs: HostEnvs, effect: Effect):
        self._envs, self._effect, self.num_envs, self.spec = envs, effect, envs.num_envs, effect.spec
        self._state: PyTree = None
        self._keys: Any = None
        self._steps = np.uint32(0)
        self._begin, self._act, self._see, self._end = map(jax.jit, self._programs())

    def _programs(self) -> tuple[Callable[..., Any], ...]:
        effect, fold = self._effect, jax.vmap(jax.random.fold_in, in_axes=(0, None))

        def keys_at(keys: Key, count: Any) -> Key:
            return fold(fold(keys, count), _OWN)

        def halves(keys: Key, steps: Array) -> tuple[Key, Key]:
            both = jax.vmap(jax.random.split)(keys_at(keys, 2 * steps - np.uint32(1)))
            return both[:, 0], both[:, 1]

        def begin(seed: Array, obs: PyTree) -> tuple[Key, PyTree, PyTree]:
            members = jnp.arange(self.num_envs, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), members)
            return keys, *jax.vmap(effect.reset)(obs, keys_at(keys, np.uint32(0)))

        def act(state: PyTree, action: PyTree, keys: Key, steps: Array) -> tuple[PyTree, PyTree]:
            return jax.vmap(effect.act)(state, action, halves(keys, steps)[0])

        def see(state: PyTree, obs: PyTree, reward: Array, keys: Key, steps: Array) -> tuple[PyTree, PyTree, Array]:
            return jax.vmap(effect.see)(state, obs, reward, halves(keys, steps)[1])

        def end(
            now: tuple[PyTree, PyTree], obs: PyTree, ended: Array, keys: Key, steps: Array
        ) -> tuple[PyTree, PyTree]:
            new = jax.vmap(effect.reset)(obs, keys_at(keys, 2 * steps))
            where = lambda a, b: jnp.where(ended.reshape(-1, *[1] * (a.ndim - 1)), a, b)
            return jax.tree.map(where, new, now)

        return begin, act, see, end

    def reset(self, seed: int) -> PyTree:
        obs = self._envs.reset(seed)
        self._steps = np.uint32(0)
        with _on_cpu():
            self._keys, self._state, obs = self._begin(np.uint32(seed % 2**32), obs)
        return _numpy(obs)

    def step(self, action: PyTree) -> TimeStep:
        if self._keys is None:
            raise UsageError("Call reset(seed) before the first step.")
        self._steps += np.uint32(1)
        when = self._keys, self._steps
        with _on_cpu():
            self._state, done = self._act(self._state, action, *when)
            seen = self._envs.step(_numpy(done))
            self._state, final, reward = self._see(self._state, seen.final_obs, seen.reward, *when)
            ended, obs = np.asarray(seen.terminated) | np.asarray(seen.truncated), final
            if ended.any():
                self._state, obs = self._end((self._state, final), seen.obs, ended, *when)
        final = _numpy(final)
        obs = _numpy(obs) if ended.any() else final
        return seen._replace(obs=obs, final_obs=final, reward=np.asarray(reward))

    def render(self) -> Any:
        """A picture of member 0, as the environment draws it."""
        return self._envs.render()

    def best_workers(self, steps: int, processes: int) -> int:
        return self._envs.best_workers(steps, processes)

    def share_out(self, workers: int) -> None:
        self._envs.share_out(workers)

    def close(self) -> None:
        self._envs.close()


def _on_cpu() -> Any:
    """Where the simulators are: a step is too short to be sent elsewhere."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def _numpy(tree: PyTree) -> PyTree:
    return jax.tree.map(np.array, tree)
