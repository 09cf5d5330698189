"""The simulator itself, where it is MuJoCo's through Gymnasium: other parameters in every episode, pushes. Imports no
JAX: workers import it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from steersman.envs.transfer.settings import PHYSICS, Transfer, with_factors
from steersman.errors import UsageError, nearest

_OWN = 0x7A45  # the seeds of our own generator: the environment draws the same with and without us
_ALL = slice(None)


class Part(NamedTuple):
    """Some columns of an array of a MuJoCo model."""

    field: str
    columns: Any = _ALL


PARAMETERS: dict[str, tuple[Part, ...]] = {
    "mass": (Part("body_mass"), Part("body_inertia")),
    "friction": (Part("geom_friction", 0),),  # sliding
    "damping": (Part("dof_damping"),),
    "gain": (Part("actuator_gainprm", 0), Part("actuator_biasprm", slice(1, 3))),  # of servos the whole law
    "stiffness": (Part("jnt_stiffness"),),
    "armature": (Part("dof_armature"),),
    "gravity": (Part("opt.gravity"),),
}


class ChangingSimulator(gymnasium.Wrapper):
    """MuJoCo's model with its parameters scaled at every reset, its root pushed at random times.

    mass: all bodies', with their inertias; friction: all geoms', sliding; damping, stiffness, armature: all joints';
    gain: all actuators'; gravity. One factor for each name and episode, drawn as ``Transfer.randomize`` says. A push
    adds to the velocities of the root, the first body: of a free joint along x and y, else of its horizontal slides.

    Raises UsageError for another simulator, for a parameter that there is not, or that is 0 all over, and for pushes
    where the root has no such joint.
    """

    def __init__(self, env: gymnasium.Env, settings: Transfer):
        super().__init__(env)
        self._settings, self._rng = settings, np.random.default_rng()
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        model = self._model
        self._nominal: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # views of the model, and how they were
        for name in settings.randomize:
            if name not in PARAMETERS:
                near = f" {nearest(name, PARAMETERS)}".rstrip()
                raise UsageError(f"randomize: MuJoCo has no parameter {name!r}.{near} It has {', '.join(PARAMETERS)}.")
            views = [_view(model, part) for part in PARAMETERS[name]]
            if not any(view.any() for view in views):
                raise UsageError(f"randomize: {self._name} has no {name}: it is 0 all over, and so times any factor.")
            self._nominal[name] = [(view, view.copy()) for view in views]
        self._root = _root(model, self._name) if settings.push else []
        self._factors = np.ones(len(settings.randomize), np.float32)
        self._whole = isinstance(env.observation_space, spaces.Dict)
        if settings.see_physics:
            self.observation_space = with_factors(env.observation_space, settings.randomize)

    @property
    def _model(self) -> Any:
        model = getattr(self.unwrapped, "model", None)
        if find_spec("mujoco") is not None and isinstance(model, _mujoco().MjModel):
            return model
        raise UsageError(
            f"{self._name} has no simulator that randomize and push can change: MuJoCo's tasks of Gymnasium have one, "
            "and compiled environments with parameters (without gymnasium/ before the name, where there is a twin)."
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng([seed, _OWN])
        low, high = np.array([*self._settings.randomize.values()]).reshape(-1, 2).T
        self._factors = low * (high / low) ** self._rng.random(len(low))
        for factor, views in zip(self._factors, self._nominal.values(), strict=True):
            for view, nominal in views:
                view[...] = factor * nominal
        if self._nominal:
            model = self._model
            _mujoco().mj_setConst(model, _mujoco().MjData(model))  # what follows from masses, in a pose of its own
        obs, info = self.env.reset(seed=seed, options=options)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._root and self._rng.random() < 1 / self._settings.push_every:
            size = self._settings.push
            data: Any = self.unwrapped.data  # pyright: ignore[reportAttributeAccessIssue]
            data.qvel[self._root] += self._rng.uniform(-size, size, len(self._root))
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._seen(obs), reward, terminated, truncated, info

    def _seen(self, obs: Any) -> Any:
        if not self._settings.see_physics:
            return obs
        return {**(obs if self._whole else {"observation": obs}), PHYSICS: self._factors.astype(np.float32)}


def changing(factory: Callable[[], gymnasium.Env], settings: Transfer) -> Callable[[], gymnasium.Env]:
    """A function that makes the same environment with its simulator changed, fit to be sent to another process."""
    return partial(_changing, factory, settings)


def _changing(factory: Callable[[], gymnasium.Env], settings: Transfer) -> gymnasium.Env:
    env = factory()
    return ChangingSimulator(env, settings) if isinstance(env, gymnasium.Env) else env


def _mujoco() -> Any:
    return importlib.import_module("mujoco")


def _view(model: Any, part: Part) -> np.ndarray:
    array: Any = model
    for name in part.field.split("."):
        array = getattr(array, name)
    return array if part.columns == _ALL else array[:, part.columns]


def _root(model: Any, name: str) -> list[int]:
    """The degrees of freedom that move the first body about in the plane."""
    kinds, found = _mujoco().mjtJoint, []
    for joint in range(model.njnt):
        if model.jnt_bodyid[joint] != 1:
            continue
        at, kind = int(model.jnt_dofadr[joint]), model.jnt_type[joint]
        if kind == kinds.mjJNT_FREE:
            found += [at, at + 1]
        elif kind == kinds.mjJNT_SLIDE and abs(model.jnt_axis[joint][2]) < 0.5:
            found.append(at)
    if not found:
        raise UsageError(f"push: the root of {name} cannot move about: it has no free joint and no horizontal slide.")
    return found
