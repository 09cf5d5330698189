"""From an observation, whatever its space, to one vector of features."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.layers.conv import ImpalaCNN, channels_last, minatar, nature
from steersman.spaces import MASK, is_image
from steersman.types import Key, PyTree

ENCODERS = ("auto", "flatten", "nature", "impala", "minatar")  # of images; other spaces have but one


def encoder_for(space: spaces.Space, channels: str = "auto") -> str:
    """What ``auto`` stands for: the trunk of the literature for an image of that shape and dtype.

    ``nature``: uint8 of rank 3, at least 36 pixels high and wide. ``minatar``: rank 3, both sides from 5 to 35, of any
    dtype (MinAtar's grids are floats). ``flatten``: the rest.
    """
    shape = space.shape or ()
    if not isinstance(space, spaces.Box) or len(shape) != 3:
        return "flatten"
    sides = shape[:2] if channels_last(shape, channels) else shape[1:]
    if is_image(space) and min(sides) >= 36:
        return "nature"
    return "minatar" if min(sides) >= 5 and max(sides) <= 35 else "flatten"


class Flatten(eqx.Module):
    """Any array to one float32 vector; an image (too small for the convolutions) is scaled from 0..255 to 0..1."""

    scale: float = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32).reshape(-1) * self.scale


class OneHot(eqx.Module):
    """Categories (one int, or K of them) to their one-hot vectors, joined."""

    sizes: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        values = jnp.atleast_1d(x).reshape(-1)
        parts = [jax.nn.one_hot(values[i], size, dtype=jnp.float32) for i, size in enumerate(self.sizes)]
        return jnp.concatenate(parts)


class Encoder(eqx.Module):
    """Encodes every leaf of an observation by its space and joins the results: ``obs -> [out_size]``.

    Box: flattened; image: convolutions, as ``kind`` says (``auto``: ``encoder_for``); Discrete, MultiDiscrete: one-hot;
    MultiBinary: 0/1 floats; Dict, Tuple: every part but ``action_mask``. ``layer_norm``: in the convolutional trunks;
    ``channels``: which axis of their pictures holds them (``conv.channels_last``).
    Raises UsageError for other spaces, an unknown kind, and a kind of convolutions where there is no image.
    """

    parts: tuple[Any, ...]
    keys: tuple[Any, ...] | None = eqx.field(static=True)  # of a Dict or Tuple; None: a single part
    out_size: int = eqx.field(static=True)

    def __init__(
        self, space: spaces.Space, kind: str = "auto", *, channels: str = "auto", layer_norm: bool = False, key: Key
    ):
        if kind not in ENCODERS:
            raise UsageError(f"encoder = {kind!r}; it must be one of {', '.join(ENCODERS)}.")
        if kind not in ("auto", "flatten") and not any(_is_grid(leaf) for leaf in _leaves(space)):
            raise UsageError(
                f"encoder = {kind!r} reads images, Boxes of rank 3; the observations are {space}. Use encoder = 'auto'."
            )
        if isinstance(space, spaces.Dict | spaces.Tuple):
            named = _children(space)
            keys = jax.random.split(key, max(len(named), 1))
            kinds = [kind if any(map(_is_grid, _leaves(child))) else "auto" for _, child in named]
            made = [
                Encoder(child, kind, channels=channels, layer_norm=layer_norm, key=k)
                for (_, child), kind, k in zip(named, kinds, keys, strict=True)
            ]
            self.keys, self.parts = tuple(name for name, _ in named), tuple(made)
            self.out_size = sum(part.out_size for part in made)
        else:
            self.keys = None
            part, self.out_size = _leaf(space, kind, key, channels=channels, layer_norm=layer_norm)
            self.parts = (part,)

    def __call__(self, obs: PyTree) -> jax.Array:
        if self.keys is None:
            return self.parts[0](obs)
        return jnp.concatenate([part(obs[name]) for name, part in zip(self.keys, self.parts, strict=True)])


def _children(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return [(name, child) for name, child in named if name != MASK]


def _leaves(space: spaces.Space) -> list[spaces.Space]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return [leaf for _, child in _children(space) for leaf in _leaves(child)]
    return [space]


def _is_grid(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _leaf(space: spaces.Space, kind: str, key: Key, **settings: Any) -> tuple[Any, int]:
    match space:
        case spaces.Box() | spaces.MultiBinary():
            scale = 1.0 / 255.0 if is_image(space) else 1.0
            shape = space.shape
            if kind == "auto" or not _is_grid(space):
                kind = encoder_for(space, settings["channels"])
            match kind:
                case "nature":
                    part = nature(shape, scale=scale, key=key, **settings)
                case "impala":
                    part = ImpalaCNN(shape, scale=scale, key=key, **settings)
                case "minatar":
                    part = minatar(shape, scale=scale, key=key, **settings)
                case _:
                    return Flatten(scale), math.prod(shape)
            return part, part.out_size
        case spaces.Discrete():
            return OneHot((int(space.n),)), int(space.n)
        case spaces.MultiDiscrete():
            sizes = tuple(int(n) for n in space.nvec.reshape(-1))
            return OneHot(sizes), sum(sizes)
    raise UsageError(
        f"No encoder for observations of {space}. Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple have one; "
        "give a network of your own for others."
    )
