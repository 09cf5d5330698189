"""Action values of one observation: the network of the value-based agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.nets.encoders import Encoder
from steersman.nets.initialisers import orthogonal_linear
from steersman.nets.mlp import MLP
from steersman.types import EnvSpec, Key, PyTree

QNetworkFactory = Callable[[Key, EnvSpec], Any]  # -> a module: obs -> q [A]


class QNetwork(eqx.Module):
    """``obs -> Q(obs, .)``, ``[A]``, for one observation; ``vmap`` it over a batch. Encoder, MLP, one linear head."""

    encoder: Encoder
    trunk: MLP
    head: eqx.nn.Linear

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (128, 128),
        activation: str = "relu",
        encoder: str = "auto",
        layer_norm: bool = True,
        key: Key,
    ):
        assert isinstance(spec.action_space, spaces.Discrete)
        keys = jax.random.split(key, 3)
        self.encoder = Encoder(spec.observation_space, encoder, layer_norm=layer_norm, key=keys[0])
        self.trunk = MLP(self.encoder.out_size, hidden_sizes, activation=activation, layer_norm=layer_norm, key=keys[1])
        self.head = orthogonal_linear(self.trunk.out_size, int(spec.action_space.n), keys[2], gain=1.0)

    def __call__(self, obs: PyTree) -> jax.Array:
        return self.head(self.trunk(self.encoder(obs)))

    def streams(self, obs: PyTree) -> tuple[jax.Array, jax.Array]:
        """V = mean_a Q and A = Q - V, ``[A]``: what a dueling network, its advantages mean-subtracted, would have."""
        q = self(obs)
        value = jnp.mean(q)
        return value, q - value
