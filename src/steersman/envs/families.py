"""The families of environments, and how a name is written. Imports no simulator."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from steersman.envs.classic import TWINS
from steersman.envs.safe.names import COMPILED
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
        try:
            words = {"true": True, "false": False, "none": None}
            arguments[key] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[key] = text
    return head, arguments
