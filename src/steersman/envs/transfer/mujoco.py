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
EACH = "each"


class Part(NamedTuple):
    """Some columns of an array of a MuJoCo model."""

    field: str
    columns: Any = _ALL


class Parameter(NamedTuple):
    owner: str  # what a row is of: body, geom, joint, actuator; "" of the whole
    parts: tuple[Part, ...]


class Factor(NamedTuple):
    """A number that every episode draws, and what of the model it scales."""

    bounds: tuple[float, float]
    scaled: list[tuple[np.ndarray, Any]]  # views of the model's arrays, and rows of them


PARAMETERS: dict[str, Parameter] = {
    "mass": Parameter("body", (Part("body_mass"), Part("body_inertia"))),
    "friction": Parameter("geom", (Part("geom_friction", 0),)),  # sliding
    "damping": Parameter("joint", (Part("dof_damping"),)),
    "gain": Parameter(
        "actuator", (Part("actuator_gainprm", 0), Part("actuator_biasprm", slice(1, 3)))
    ),  # a servo's law
    "stiffness": Parameter("joint", (Part("jnt_stiffness"),)),
    "armature": Parameter("joint", (Part("dof_armature"),)),
    "gravity": Parameter("", (Part("opt.gravity"),)),
}


class ChangingSimulator(gymnasium.Wrapper):
    """MuJoCo's model with its parameters scaled at every reset, its root pushed at random times.

    mass: all bodies', with their inertias; friction: all geoms', sliding; damping, stiffness, armature: all joints';
    gain: all actuators'; gravity. One factor for each name and episode, drawn as ``Transfer.randomize`` says: ``mass``
    is one for the whole model, ``mass/torso`` that body's own, ``mass/each`` one for every body; where several meet,
    their product. A push adds to the velocities of the root, the first body: of a free joint along x and y, else of its
    horizontal slides.

    Raises UsageError for another simulator, for a parameter or a part that there is not, or that is 0 all over, and for
    pushes where the root has no such joint.
    """

    def __init__(self, env: gymnasium.Env, settings: Transfer):
        super().__init__(env)
        self._settings, self._rng = settings, np.random.default_rng()
        self._name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        model = self._model
        wanted = settings.randomize.items()
        self._drawn = [factor for name, bounds in wanted for factor in _factors(model, name, bounds, self._name)]
        self._nominal = [(view, view.copy()) for factor in self._drawn for view, _ in factor.scaled]
        self._root = _root(model, self._name) if settings.push else []
        self._factors = np.ones(len(self._drawn), np.float32)
        self._whole = isinstance(env.observation_space, spaces.Dict)
        if settings.see_physics:
            self.observation_space = with_factors(env.observation_space, [factor.bounds for factor in self._drawn])

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
        low, high = np.array([factor.bounds for factor in self._drawn]).reshape(-1, 2).T
        self._factors = low * (high / low) ** self._rng.random(len(low))
        for view, nominal in self._nominal:
            view[...] = nominal
        for value, factor in zip(self._factors, self._drawn, strict=True):
            for view, rows in factor.scaled:
                view[rows] *= value
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


def _factors(model: Any, asked: str, bounds: tuple[float, float], env: str) -> list[Factor]:
    """What ``mass``, ``mass/each`` and ``mass/torso`` draw: one factor for all, one for each that has any, one."""
    name, parted, part = asked.partition("/")
    if name not in PARAMETERS:
        near = f" {nearest(name, PARAMETERS)}".rstrip()
        raise UsageError(f"randomize: MuJoCo has no parameter {name!r}.{near} It has {', '.join(PARAMETERS)}.")
    owner, parts = PARAMETERS[name]
    views = [_view(model, one) for one in parts]
    if not any(view.any() for view in views):
        raise UsageError(f"randomize: {env} has no {name}: it is 0 all over, and so times any factor.")
    if not parted:
        return [Factor(bounds, [(view, _ALL) for view in views])]
    if not owner:
        raise UsageError(f"randomize: {name} is of the whole model, and has no part {part!r}. Write {name}.")
    names = _names(model, owner)
    if part != EACH and part not in names:
        near = f" {nearest(part, list(filter(None, names)))}".rstrip()
        raise UsageError(f"randomize: {env} has no {owner} called {part!r}.{near} {name}/{EACH} draws for each.")
    found = []
    for i in range(len(names)) if part == EACH else [names.index(part)]:
        rows = np.flatnonzero(model.dof_jntid == i) if parts[0].field.startswith("dof_") else [i]
        if any(view[rows].any() for view in views):
            found.append(Factor(bounds, [(view, rows) for view in views]))
    if not found:
        raise UsageError(f"randomize: the {owner} {part} of {env} has no {name}: it is 0, and so times any factor.")
    return found


def _names(model: Any, owner: str) -> list[str]:
    """Of all bodies, geoms, joints or actuators; "" of one without."""
    mujoco = _mujoco()
    kind = getattr(mujoco.mjtObj, f"mjOBJ_{owner.upper()}")
    count = {"body": model.nbody, "geom": model.ngeom, "joint": model.njnt, "actuator": model.nu}[owner]
    return [mujoco.mj_id2name(model, kind, i) or "" for i in range(count)]


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
