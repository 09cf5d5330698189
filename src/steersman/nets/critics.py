"""Critics of actions: Q(s, a) for any space that has an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.encoders import Encoder
from steersman.nets.heads import ValueHead
from steersman.nets.mlp import MLP
from steersman.types import EnvSpec, Key, PyTree


class ActionValue(eqx.Module):
    """``(obs, action) -> Q``, a scalar: both encoded, joined, through a trunk; ``vmap`` it over a batch."""

    obs_encoder: Encoder
    action_encoder: Encoder
    trunk: MLP
    head: ValueHead

    def __init__(self, spec: EnvSpec, *, hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh", key: Key):
        keys = jax.random.split(key, 4)
        self.obs_encoder = Encoder(spec.observation_space, key=keys[0])
        self.action_encoder = Encoder(spec.action_space, key=keys[1])
        width = self.obs_encoder.out_size + self.action_encoder.out_size
        self.trunk = MLP(width, hidden_sizes, activation=activation, key=keys[2])
        self.head = ValueHead(self.trunk.out_size, key=keys[3])

    def __call__(self, obs: PyTree, action: jax.Array) -> jax.Array:
        features = jnp.concatenate([self.obs_encoder(obs), self.action_encoder(action)])
        return self.head(self.trunk(features))
