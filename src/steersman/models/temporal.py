"""Learning by temporal differences from recorded rows: a network follows targets that a slow copy of it makes.

No round of it can be judged by its loss, for the targets move with it: it takes a fixed number of steps, where
``models.fitting`` ends early. Axes: ``N`` rows, ``D`` entries of a flat observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from gymnasium import spaces

from steersman.config import Config, Rules
from steersman.errors import UsageError
from steersman.models.model import Data
from steersman.nets.encoders import Encoder
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.spaces import abstract
from steersman.theory import trees
from steersman.types import Array, Key, PyTree

Loss = Callable[[PyTree, PyTree, Key], jax.Array]  # (parameters, their slow copy, key) -> a scalar
Draw = Callable[[Key], jax.Array]  # -> int32 [n], rows


@dataclass(frozen=True)
class TemporalConfig(Config):
    """How a model is learned by temporal differences."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    activation: str = "silu"
    """Of the hidden layers: tanh, relu, elu, silu or gelu."""
    learning_rate: float = 1e-3
    """Adam's step size at the start of a fit; it falls to a hundredth along half a cosine."""
    updates: int = 5_000
    """Gradient steps of one fit."""
    batch_size: int = 256
    """Rows in one of them."""
    tau: float = 0.05
    """How far the slow copy moves towards the network after each."""
    held_out_share: float = 0.2
    """Episodes that are held out, as a share: at 0.2 the fifth, the tenth and so on."""

    rules = Rules(
        at_least_one=("updates", "batch_size"),
        positive=("learning_rate",),
        fraction=("tau", "held_out_share"),
        choices={"activation": tuple(ACTIVATIONS)},
        sizes=("hidden_sizes",),
    )


def descended(config: TemporalConfig, loss: Loss, params: PyTree, key: Key) -> tuple[PyTree, jax.Array]:
    """-> (the parameters after ``config.updates`` steps of Adam down ``loss``, its mean over the last tenth of them)"""
    adam = optax.scale_by_adam()

    def step(state: tuple[Any, ...], t: jax.Array):
        params, slow, moments = state
        value, gradient = jax.value_and_grad(loss)(params, slow, jax.random.fold_in(key, t))
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            direction, moments = adam.update(gradient, moments)
        rate = config.learning_rate * (0.505 + 0.495 * jnp.cos(jnp.pi * t.astype(jnp.float32) / config.updates))
        params = jax.tree.map(lambda p, d: p - rate * d, params, direction)
        return (params, trees.polyak(slow, params, config.tau), moments), value

    start = (params, params, adam.init(params))
    (params, _, _), losses = jax.lax.scan(step, start, jnp.arange(config.updates, dtype=jnp.int32))
    return params, losses[-max(config.updates // 10, 1) :].mean()


def drawer(mask: Array, size: int) -> Draw:
    """key -> int32 [size]: rows where the mask [N] is true, with replacement."""
    count = jnp.cumsum(jnp.asarray(mask), dtype=jnp.int32)

    def draw(key: Key) -> jax.Array:
        nth = jax.random.randint(key, (size,), 0, jnp.maximum(count[-1], 1), jnp.int32)
        return jnp.searchsorted(count, nth + 1, side="left").astype(jnp.int32)

    return draw


def ends(data: Data) -> jax.Array:
    """int32 [N]: for each row the last one of its episode; an episode's rows stand together, in order.

    >>> ends(Data(None, jnp.array([0, 0, 1, 2]), jnp.array([True, True, True, False]))).tolist()
    [1, 1, 2, 3]
    """
    index = jnp.arange(data.episode.shape[0], dtype=jnp.int32)
    goes_on = (data.episode[1:] == data.episode[:-1]) & data.valid[1:]
    stops = jnp.append(~goes_on, True)
    return jax.lax.cummin(jnp.where(stops, index, index[-1]), reverse=True)


def vectors(space: spaces.Space, what: str) -> tuple[Callable[[PyTree], jax.Array], int]:
    """-> (one observation or action of ``space`` as a float32 vector [D], categories as one-hots; D)

    Raises UsageError for images: nothing here learns features of them.
    """
    if any(leaf.dtype == jnp.uint8 for leaf in jax.tree.leaves(abstract(space))):
        raise UsageError(
            f"{what} reads vectors and categories, no images; observed are {space}. Make features of them first, as "
            "steersman.envs.wrappers.transform_observation does."
        )
    encoder = Encoder(space, "flatten", key=jax.random.key(0))
    return encoder, encoder.out_size
