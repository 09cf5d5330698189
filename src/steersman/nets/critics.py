"""Action values, and ensembles of them as one module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.nets.encoders import Encoder
from steersman.nets.initialisers import orthogonal_linear
from steersman.nets.mlp import MLP, apply_linear
from steersman.types import EnvSpec, Key, PyTree

M = TypeVar("M")


class Critic(eqx.Module):
    """``(obs, action) -> [outputs]`` for one observation, the action flat [A]; ``obs -> [A]`` where it is Discrete.

    The observation's encoding and the action are joined, then an MLP and one linear layer. outputs: 1 for the value, M
    for the atoms of its distribution.
    """

    encoder: Encoder
    trunk: MLP
    head: eqx.nn.Linear

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str = "relu",
        outputs: int = 1,
        key: Key,
    ):
        keys = jax.random.split(key, 3)
        self.encoder = Encoder(spec.observation_space, key=keys[0])
        space, size = spec.action_space, self.encoder.out_size
        if isinstance(space, spaces.Discrete):
            outputs = int(space.n)
        else:
            size += math.prod(space.shape or ())
        self.trunk = MLP(size, hidden_sizes, activation=activation, key=keys[1])
        self.head = orthogonal_linear(self.trunk.out_size, outputs, keys[2], gain=1.0)

    def __call__(self, obs: PyTree, action: jax.Array | None = None) -> jax.Array:
        x = self.encoder(obs)
        x = x if action is None else jnp.concatenate([x, action.reshape(-1)])
        return apply_linear(self.head, self.trunk(x))


def ensemble(make: Callable[[Key], M], key: Key, size: int) -> M:
    """``size`` modules of one architecture and different weights as one: every leaf has the leading axis ``[K]``.

    Apply it with ``jax.vmap(lambda member: member(x))(module)``: one batched product for all members, not K small ones.
    """
    return jax.vmap(make)(jax.random.split(key, size))
