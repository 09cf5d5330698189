"""POPGym's tasks, which need a memory (Morad et al. 2023), the extra ``steersman[popgym]``: on the host."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.registration import registry

from steersman.errors import UsageError, nearest, to_install
from steersman.types import HostEnvs


def make(name: str, num_envs: int, **kwargs: Any) -> HostEnvs:
    """``num_envs`` environments of POPGym by the name without its prefix and version: ``PositionOnlyCartPoleEasy``.

    Returns are normalised: the best is 1 (of pendulums somewhat less), the worst -1. What POPGym's paper reports, MMER,
    is the best mean return over the course of training. kwargs: those of ``host.gymnasium.make``, and the
    environment's own arguments.

    Raises UsageError where popgym is not installed, and for names it does not have, with the nearest.
    """
    from steersman.envs.host import gymnasium as host

    try:
        import popgym  # noqa: F401  # pyright: ignore[reportMissingImports]  # it registers its ids
    except ModuleNotFoundError as error:
        what = "popgym is" if error.name == "popgym" else f"popgym needs {error.name}, which is"
        raise UsageError(f"{what} not installed. Install it with: {to_install('popgym')}") from error
    ids = {_short(id): id for id in registry if id.startswith("popgym-")}
    found = {short.lower(): id for short, id in ids.items()}.get(name.lower())  # their ids write one of them otherwise
    if found is None:
        raise UsageError(f"popgym has no environment {name}. {nearest(name, ids)}".rstrip())
    return host.make(found, num_envs, **kwargs)


def _short(id: str) -> str:
    return id.removeprefix("popgym-").rpartition("-v")[0]
