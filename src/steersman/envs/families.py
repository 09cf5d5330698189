"""The families of environments, how a name is written, and the list of all. Imports no simulator."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from typing import Any, NamedTuple

from steersman.envs.classic import TWINS
from steersman.envs.partial.velocities import NO_VELOCITY
from steersman.envs.safe.names import COMPILED, VELOCITY
from steersman.errors import UsageError


class Family(NamedTuple):
    kind: str  # "compiled" or "host"
    package: str  # what has to be installed
    names: tuple[str, ...] = ()  # those we can list without importing it; N, K and PATH stand for yours


_GYMNAX = (
    *TWINS,
    *(f"{name}-MinAtar" for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")),
    *(f"{name}-bsuite" for name in ("Catch", "DeepSea", "MemoryChain", "UmbrellaChain", "DiscountingChain")),
    *(f"{name}-bsuite" for name in ("MNISTBandit", "SimpleBandit")),
    *(f"{name}-misc" for name in ("FourRooms", "MetaMaze", "PointRobot", "BernoulliBandit", "GaussianBandit")),
    *(f"{name}-misc" for name in ("Reacher", "Swimmer", "Pong", "FrozenLake")),
)
_PROBES = ("one-step", "observation", "two-steps", "action", "action-observation", "continuous-action")
_PROBES = (*_PROBES, "memory", "truncation", "truncation-ring", "mask")

FAMILIES = {
    "gymnasium": Family("host", "gymnasium"),
    "gymnax": Family("compiled", "gymnax", _GYMNAX),
    "atari": Family("host", "ale_py", ("*",)),
    "envpool": Family("host", "envpool", ("*",)),
    "probe": Family("compiled", "jax", _PROBES),
    "goal": Family("compiled", "jax", ("point",)),
    "hidden": Family("compiled", "jax", ("pendulum",)),
    "memory": Family("compiled", "jax", ("chain-N", "tmaze-N", "repeat-K", "rocksample")),
    "pomdp": Family("compiled", "jax", ("tiger", "hallway", "PATH.POMDP")),
    "popgym": Family("host", "popgym", ("*",)),
    "safe": Family("compiled", "jax", COMPILED),  # and Gymnasium's robots, on the host
}


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """A name without the arguments that follow it, and those: true, false, none, numbers or text.

    >>> split_name("atari/Pong,sticky=0,fire_reset=true")
    ('atari/Pong', {'sticky': 0, 'fire_reset': True})
    """
    head, *parts = name.split(",")
    arguments: dict[str, Any] = {}
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{part!r} in {name}: arguments follow a name as ,key=value. Example: atari/Pong,sticky=0")
        if key in arguments:
            raise UsageError(f"{name} says {key} twice. Give it once.")
        try:
            words = {"true": True, "false": False, "none": None}
            arguments[key] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[key] = text
    return head, arguments


_SIMULATORS = {"box2d": "Box2D", "mujoco": "mujoco"}  # what Gymnasium's own environments need, by their folder


class Available(NamedTuple):
    """An environment one can ask for. ``id`` ending in ``/*`` stands for all that the family itself lists; in
    ``memory/chain-N`` and ``pomdp/PATH.POMDP`` the capitals stand for yours."""

    id: str
    family: str  # "classic", a family's name
    kind: str  # "compiled" or "host"
    installed: bool


def available() -> list[Available]:
    """Every environment that can be asked for by name. Of Gymnasium's, those of the newest version of each.

    >>> Available("CartPole-v1", "classic", "compiled", True) in available()
    True
    """
    rows = [Available(name, "classic", "compiled", True) for name in (*TWINS, *NO_VELOCITY)]
    for family, (kind, package, names) in FAMILIES.items():
        installed = _installed(package)
        rows += [Available(f"{family}/{name}", family, kind, installed) for name in names]
    rows += [Available(f"safe/{name}", "safe", "host", _installed("mujoco")) for name in VELOCITY]
    return rows + _gymnasium_rows()


def reward_threshold(name: str) -> float | None:
    """The return at which Gymnasium's registry calls a task solved, whatever family runs it; None where it says none.

    >>> reward_threshold("CartPole-v1"), reward_threshold("gymnasium/CartPole-v1"), reward_threshold("Pendulum-v1")
    (475.0, 475.0, None)
    """
    from gymnasium.envs.registration import registry

    family, _, rest = name.partition("/")
    spec = registry.get(rest if family in FAMILIES else name)
    if spec is None or spec.reward_threshold is None or family == "safe":  # within a limit it may be out of reach
        return None
    return float(spec.reward_threshold)


def _gymnasium_rows() -> list[Available]:
    from gymnasium.envs.registration import registry

    newest: dict[tuple[str | None, str], Any] = {}
    for spec in registry.values():
        key = (spec.namespace, spec.name)
        # Those of GymV only raise an error; those of ale-py and POPGym are families.
        entry, elsewhere = spec.entry_point, ("ale_py", "popgym")
        real = isinstance(entry, str) and not spec.name.startswith("GymV") and not entry.startswith(elsewhere)
        if real and (key not in newest or (spec.version or 0) > (newest[key].version or 0)):
            newest[key] = spec
    rows = []
    for spec in newest.values():
        folder = spec.entry_point.partition(":")[0].split(".")[2:3] if spec.entry_point.startswith("gymnasium.") else []
        needs = _SIMULATORS.get(folder[0]) if folder else None
        name = f"gymnasium/{spec.id}" if spec.id in TWINS else spec.id
        rows.append(Available(name, "gymnasium", "host", needs is None or _installed(needs)))
    return rows


def _installed(package: str) -> bool:
    return find_spec(package) is not None
