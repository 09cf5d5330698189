"""Making one environment by its Gymnasium id: which id is meant, and what is missing. Imports no JAX."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.envs.registration import parse_env_id, registry

from steersman.envs.host.members import Factory
from steersman.errors import UsageError, nearest, to_install

# What has to be installed, by a part of the environment's entry point, as our extra.
_EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "toy_text": "toy-text", "classic_control": "classic", "ale": "atari"}


def find(name: str) -> GymnasiumSpec:
    """Gymnasium's entry for an id: ``CartPole-v1``, ``ALE/Pong-v5``, ``package.module:Own-v0`` (imported first).

    Older versions that still work are given as they are, without a warning. Raises UsageError with the nearest names.
    """
    module, _, wanted = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"Cannot import {module!r}, which is to register {wanted}: {error}.") from error
    if wanted.startswith("ALE/") and wanted not in registry:
        try:
            gymnasium.register_envs(importlib.import_module("ale_py"))
        except ImportError as error:
            raise _missing(wanted, _distribution(error), "atari") from error
    if wanted in registry:
        return registry[wanted]
    try:
        namespace, base, version = parse_env_id(wanted)
    except gymnasium.error.Error:
        namespace, base, version = None, wanted, None
    same = [spec for spec in registry.values() if (spec.namespace, spec.name) == (namespace, base)]
    if same:
        newest = max(same, key=lambda spec: spec.version or 0).id
        lacks = "names no version" if version is None else f"is not in Gymnasium {gymnasium.__version__}"
        raise UsageError(f"{wanted} {lacks}; ask for {newest}.")
    raise UsageError(
        f"Unknown environment {wanted}. {nearest(wanted, registry)} An environment of a package of yours is "
        "registered when that is imported: package.module:Own-v0 imports it first.".replace("  ", " ")
    )


def factory(spec: GymnasiumSpec, kwargs: dict[str, Any]) -> Factory:
    """A function that makes the environment, fit to be sent to another process."""
    return partial(create, spec, kwargs)


def create(spec: GymnasiumSpec, kwargs: dict[str, Any]) -> gymnasium.Env:
    """The environment, with its time limit, without Gymnasium's checker: ``contract`` does that work.

    Raises UsageError where the simulator is not installed or an argument is unknown.
    """
    try:
        with warnings.catch_warnings(), quiet_mujoco(spec):
            warnings.simplefilter("ignore", DeprecationWarning)  # of the simulators' own modules
            return gymnasium.make(spec, disable_env_checker=True, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        raise _missing(spec.id, _package(error), _extra(spec)) from error
    except ModuleNotFoundError as error:
        raise _missing(spec.id, _distribution(error), _extra(spec)) from error
    except (gymnasium.error.Error, ImportError) as error:  # withdrawn versions raise either
        raise UsageError(f"{spec.id} cannot be made: {error} {_newer(spec)}".rstrip()) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        what = str(error).partition(" was raised from")[0]
        raise UsageError(f"{spec.id} does not take these arguments: {what}.") from error


def _extra(spec: GymnasiumSpec) -> str | None:
    where = str(spec.entry_point).lower()
    return next((extra for part, extra in _EXTRAS.items() if f".{part}" in where or where.startswith(part)), None)


def _missing(id: str, package: str, extra: str | None) -> UsageError:
    line = to_install(extra) if extra else f"pip install {package}"
    return UsageError(f"{id} needs {package}, which is not installed. Install it with: {line}")


def _package(error: BaseException) -> str:
    cause = error.__cause__
    return _distribution(cause) if isinstance(cause, ModuleNotFoundError) and cause.name else "its simulator"


def _distribution(error: ImportError) -> str:
    """What to install for a module: its package, by the name that pip knows."""
    return str(error.name).partition(".")[0].replace("ale_py", "ale-py")


def _newer(spec: GymnasiumSpec) -> str:
    same = [s for s in registry.values() if (s.namespace, s.name) == (spec.namespace, spec.name)]
    newest = max(same, key=lambda s: s.version or 0)
    return f"Ask for {newest.id}." if newest.id != spec.id else ""


@contextlib.contextmanager
def quiet_mujoco(spec: GymnasiumSpec | None) -> Iterator[None]:
    """MuJoCo complains of Gymnasium's and dm_control's models at each load, on the terminal and in a file."""
    if spec is not None and "dm_control" in str(spec.entry_point):
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of machines without a display
            importlib.import_module("dm_control.mujoco")  # it sets a handler of its own as it is imported
    elif spec is None or _extra(spec) != "mujoco":
        yield
        return
    mujoco = importlib.import_module("mujoco")
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
