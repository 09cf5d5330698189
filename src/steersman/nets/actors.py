"""Policies of the off-policy agents, for one observation each; ``vmap`` them over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.nets.encoders import Encoder
from steersman.nets.heads import LOG_STD_RANGE, POLICY_GAIN, PolicyHead
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import MLP
from steersman.spaces import MASK
from steersman.theory.distributions import Categorical, Deterministic, TanhGaussian, masked
from steersman.types import EnvSpec, Key, PyTree

LEAST_LOG_STD = -5.0  # of a cloned policy; as the authors of IQL have it


class Actor(eqx.Module):
    """``obs -> distribution over actions``: encoder, MLP, and one linear layer.

    Box: TanhGaussian, mean and log-std from the network, or (``deterministic``) Deterministic at tanh of the output;
    the event is the flat action [A]. Discrete: Categorical over the (legal) actions.
    """

    encoder: Encoder
    trunk: MLP
    head: Linear
    kind: str = eqx.field(static=True)
    has_mask: bool = eqx.field(static=True)

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: str = "relu",
        encoder: str = "auto",
        channels: str = "auto",
        layer_norm: bool = False,
        deterministic: bool = False,
        key: Key,
    ):
        keys = jax.random.split(key, 3)
        space = spec.observation_space
        self.has_mask = isinstance(space, spaces.Dict) and MASK in space.spaces
        self.encoder = Encoder(space, encoder, channels=channels, layer_norm=layer_norm, key=keys[0])
        self.trunk = MLP(self.encoder.out_size, hidden_sizes, activation=activation, layer_norm=layer_norm, key=keys[1])
        self.kind, outputs = policy_outputs(spec.action_space, deterministic)
        self.head = orthogonal_linear(self.trunk.out_size, outputs, keys[2], gain=POLICY_GAIN)

    def __call__(self, obs: PyTree) -> TanhGaussian | Deterministic | Categorical:
        out = self.head(self.trunk(self.encoder(obs)))
        return policy_of(self.kind, out, obs[MASK] if self.has_mask else None)


class StochasticActor(eqx.Module):
    """``obs -> distribution over actions`` of any space, to make recorded actions likely: encoder, MLP, ``PolicyHead``.

    Box: a normal that is not squashed, so that actions on the bounds have a density, with a state-independent log-std
    within ``LEAST_LOG_STD`` and ``LOG_STD_RANGE[1]``: data of a deterministic policy leaves the loss finite.
    """

    encoder: Encoder
    trunk: MLP
    head: PolicyHead
    has_mask: bool = eqx.field(static=True)

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
        space = spec.observation_space
        self.has_mask = isinstance(space, spaces.Dict) and MASK in space.spaces
        self.encoder = Encoder(space, encoder, channels=channels, layer_norm=layer_norm, key=keys[0])
        self.trunk = MLP(self.encoder.out_size, hidden_sizes, activation=activation, layer_norm=layer_norm, key=keys[1])
        self.head = PolicyHead(self.trunk.out_size, spec.action_space, key=keys[2])

    def __call__(self, obs: PyTree):
        head = self.head
        if head.log_std is not None:
            within = jnp.clip(head.log_std, LEAST_LOG_STD, LOG_STD_RANGE[1])
            head = eqx.tree_at(lambda head: head.log_std, head, within)
        return head(self.trunk(self.encoder(obs)), obs[MASK] if self.has_mask else None)


def policy_outputs(space: spaces.Space, deterministic: bool = False) -> tuple[str, int]:
    """The kind of policy over a Box or Discrete space, and how many numbers describe it."""
    if isinstance(space, spaces.Discrete):
        return "categorical", int(space.n)
    size = math.prod(space.shape or ())
    return ("deterministic", size) if deterministic else ("gaussian", 2 * size)


def policy_of(kind: str, out: jax.Array, mask: jax.Array | None = None) -> TanhGaussian | Deterministic | Categorical:
    """The policy that a network's output ``[..., outputs]`` describes."""
    if kind == "categorical":
        return Categorical(out if mask is None else masked(out, mask))
    if kind == "deterministic":
        return Deterministic(jnp.tanh(out))
    loc, log_std = jnp.split(out, 2, axis=-1)
    return TanhGaussian(loc, jnp.clip(log_std, *LOG_STD_RANGE))
