"""Action values, and ensembles of them as one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.nets.encoders import Encoder
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import MLP
from steersman.theory import trees
from steersman.types import EnvSpec, Key, PyTree

M = TypeVar("M")


class Critic(eqx.Module):
    """``(obs, action) -> [outputs]`` for one observation and action; ``obs -> [A]`` where it is Discrete.

    Both are encoded and joined, then an MLP and one linear layer. outputs: 1 for the value, M for the atoms of its
    distribution.
    """

    encoder: Encoder
    action_encoder: Encoder | None  # None: Discrete actions
    trunk: MLP
    head: Linear

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder: str = "auto",
        channels: str = "auto",
        layer_norm: bool = False,
        outputs: int = 1,
        key: Key,
    ):
        keys = jax.random.split(key, 3)
        self.encoder = Encoder(spec.observation_space, encoder, channels=channels, layer_norm=layer_norm, key=keys[0])
        space, size, self.action_encoder = spec.action_space, self.encoder.out_size, None
        if isinstance(space, spaces.Discrete):
            outputs = int(space.n)
        else:
            self.action_encoder = Encoder(space, "flatten", key=keys[1])  # of rank 3: no picture
            size += self.action_encoder.out_size
        self.trunk = MLP(size, hidden_sizes, activation=activation, layer_norm=layer_norm, key=keys[1])
        self.head = orthogonal_linear(self.trunk.out_size, outputs, keys[2], gain=1.0)

    def __call__(self, obs: PyTree, action: jax.Array | None = None) -> jax.Array:
        x = self.encoder(obs)
        if action is not None and self.action_encoder is not None:
            x = jnp.concatenate([x, self.action_encoder(action)])
        return self.head(self.trunk(x))


class ActionValue(eqx.Module):
    """``(obs, action) -> Q``, a scalar, in any action space: of a ``Critic``'s outputs the action's own."""

    critic: Critic

    def __call__(self, obs: PyTree, action: jax.Array) -> jax.Array:
        if self.critic.action_encoder is None:
            return trees.take(self.critic(obs), action)
        return self.critic(obs, action)[0]


class StateValue(eqx.Module):
    """``obs -> V``, a scalar: encoder, MLP, and one linear layer."""

    encoder: Encoder
    trunk: MLP
    head: Linear

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder: str = "auto",
        channels: str = "auto",
        layer_norm: bool = False,
        key: Key,
    ):
        keys = jax.random.split(key, 3)
        self.encoder = Encoder(spec.observation_space, encoder, channels=channels, layer_norm=layer_norm, key=keys[0])
        self.trunk = MLP(self.encoder.out_size, hidden_sizes, activation=activation, layer_norm=layer_norm, key=keys[1])
        self.head = orthogonal_linear(self.trunk.out_size, 1, keys[2], gain=1.0)

    def __call__(self, obs: PyTree) -> jax.Array:
        return self.head(self.trunk(self.encoder(obs)))[0]


def ensemble(make: Callable[[Key], M], key: Key, size: int) -> M:
    """``size`` modules of one architecture and different weights as one: every leaf has the leading axis ``[K]``.

    Apply it with ``jax.vmap(lambda member: member(x))(module)``: one batched product for all members, not K small ones.
    """
    return jax.vmap(make)(jax.random.split(key, size))
