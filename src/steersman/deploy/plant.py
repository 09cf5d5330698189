"""A simulator in the place of a robot: what its sensors say is late, noisy, and sometimes lost."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import jax
import numpy as np

from steersman import envs, spaces
from steersman.deploy.reading import Reading
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.timesteps import flatten, unflatten
from steersman.errors import UsageError
from steersman.types import DeviceEnvs, EnvSpec, HostEnvs, PyTree


class Plant:
    """One environment that takes a step at each turn of ``ControlLoop(policy, plant.read, plant.write)``.

    What a step led to can be read ``latency`` seconds after the turn it is due at, in whole turns; the first
    observation of all at once. noise: the standard deviation of what is added to the floating entries, in their units.
    drop: the probability that an observation is lost; none that opens an episode is. returns, costs: of the episodes so
    far.
    """

    def __init__(
        self, environment: Any, *, hz: float, latency: float = 0.0, noise: float = 0.0, drop: float = 0.0, seed: int = 0
    ):
        if not 0 < hz < math.inf:
            raise UsageError(f"hz = {hz}; it must be finite and above 0.")
        for name, value, top in (("latency", latency, math.inf), ("noise", noise, math.inf), ("drop", drop, 1.0)):
            if not 0.0 <= value < top:
                raise UsageError(f"{name} = {value}; it must be 0 or more" + (", and below 1." if top == 1 else "."))
        self._made: DeviceEnvs | HostEnvs = envs.make(environment, 1)
        self.noise, self.drop = noise, drop
        self.delay = math.ceil(latency * hz - 1e-9)  # turns
        self.returns: list[float] = []
        self.costs: list[list[float]] = []
        self._rng, self._turn = np.random.default_rng(seed), 0
        self._coming: deque[tuple[int, Reading]] = deque()  # (the turn from which it can be read, what)
        native = self.spec.native_observation_space or self.spec.observation_space
        self._native, self._leaves = native, leaves_of(native, self.spec.observation_space)
        self._to_native = unflatten(native)
        if isinstance(self._made, DeviceEnvs):
            self._state, obs = jax.jit(self._made.reset)(jax.random.key(seed))
            action = spaces.abstract(self.spec.action_space, (1,))
            self._step = jax.jit(self._made.step).lower(self._state, action).compile()
            rest = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), action)
            jax.block_until_ready(self._step(self._state, rest))  # the first of its kind takes long: before time counts
        else:
            obs = self._made.reset(seed)
        self._coming.append((0, Reading(self._seen(obs))))

    @property
    def spec(self) -> EnvSpec:
        """Of the environment."""
        return self._made.spec

    def read(self) -> Reading | None:
        """The newest observation that has come since the last time, or None; an episode's end is never passed over."""
        found = None
        while self._coming and self._coming[0][0] <= self._turn:
            if found is not None and (found.terminated or found.truncated):
                break
            found = self._coming.popleft()[1]
        return found

    def write(self, action: PyTree) -> None:
        """Take a step with an action in the environment's units."""
        inside = spaces.from_native(self.spec.native_action_space, action)
        batch = jax.tree.map(lambda x: np.asarray(x)[None], inside)
        if isinstance(self._made, DeviceEnvs):
            self._state, step = self._step(self._state, batch)
            step = jax.device_get(step)
        else:
            step = self._made.step(batch)
        self._turn += 1
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        if step.over[0]:
            self.returns.append(float(step.info["episode_return"][0]))
            self.costs.append(np.asarray(step.info["episode_cost"])[0].tolist())
        ended = terminated or truncated
        if ended or self._rng.random() >= self.drop:
            final = self._seen(step.final_obs) if ended else None
            costs = np.asarray(step.costs)[0]
            reading = Reading(self._seen(step.obs), float(step.reward[0]), terminated, truncated, final, costs)
            self._coming.append((self._turn + self.delay, reading))

    def close(self) -> None:
        """Free the simulator."""
        if isinstance(self._made, HostEnvs):
            self._made.close()

    def _seen(self, obs: PyTree) -> PyTree:
        """An observation [1, ...] as the sensors say it: in the environment's own numbers, with noise."""
        parts = []
        for leaf, x in zip(self._leaves, flatten(self._native, obs), strict=True):
            x = np.asarray(x)[0]
            x = x if leaf.start is None else x + leaf.start
            noisy = self.noise > 0 and x.dtype.kind == "f" and leaf.path[-1:] != (spaces.MASK,)
            parts.append(x + self.noise * self._rng.standard_normal(x.shape) if noisy else x)
        return self._to_native(parts)
