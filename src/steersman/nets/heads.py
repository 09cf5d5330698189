"""Heads: what ends a trunk. The policy head gives a distribution over the action space, the value head a number."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.theory.distributions import Bernoulli, Categorical, DiagGaussian, MultiCategorical, Shaped, masked
from steersman.types import Key

POLICY_GAIN = 0.01  # a first policy near uniform, or near its mean
LOG_STD_RANGE = (-20.0, 2.0)  # where the network gives the log-std: keeps exp() finite


class PolicyHead(eqx.Module):
    """Features ``[F]`` -> a distribution over the action space.

    Discrete: Categorical (legal actions only, where a mask ``[A]`` is given). MultiDiscrete: MultiCategorical.
    MultiBinary: Bernoulli. Box: DiagGaussian, its log-std a free parameter, or (``state_dependent_std``) an output;
    Shaped as the Box is, where that is not one axis.
    """

    linear: Linear
    log_std: jax.Array | None  # [A], where it is a free parameter
    kind: str = eqx.field(static=True)  # the space's class: spaces themselves cannot be hashed, and static fields must
    nvec: tuple[int, ...] = eqx.field(static=True)  # of MultiDiscrete
    shape: tuple[int, ...] = eqx.field(static=True)  # of Box

    def __init__(
        self,
        in_size: int,
        space: spaces.Space,
        *,
        log_std_init: float = 0.0,
        state_dependent_std: bool = False,
        key: Key,
    ):
        self.kind = type(space).__name__
        self.nvec = tuple(int(n) for n in space.nvec.reshape(-1)) if isinstance(space, spaces.MultiDiscrete) else ()
        self.shape = space.shape if isinstance(space, spaces.Box) else ()
        self.log_std = None
        match space:
            case spaces.Discrete():
                outputs = int(space.n)
            case spaces.MultiDiscrete():
                outputs = sum(self.nvec)
            case spaces.MultiBinary():
                outputs = math.prod(space.shape)
            case spaces.Box():
                outputs = math.prod(space.shape) * (2 if state_dependent_std else 1)
                if not state_dependent_std:
                    self.log_std = jnp.full((outputs,), log_std_init, jnp.float32)
            case _:
                raise UsageError(
                    f"No policy over {space}. Action spaces served: Discrete, MultiDiscrete, MultiBinary, Box."
                )
        self.linear = orthogonal_linear(in_size, outputs, key, gain=POLICY_GAIN)
        if isinstance(space, spaces.Box) and state_dependent_std:
            start = jnp.concatenate([jnp.zeros(outputs // 2), jnp.full(outputs // 2, log_std_init)])
            self.linear = eqx.tree_at(lambda m: m.bias, self.linear, start.astype(jnp.float32))

    def __call__(self, features: jax.Array, mask: jax.Array | None = None):
        out = self.linear(features)
        match self.kind:
            case "Discrete":
                return Categorical(out if mask is None else masked(out, mask))
            case "MultiDiscrete":
                return MultiCategorical(out, self.nvec)
            case "MultiBinary":
                return Bernoulli(out)
        if self.log_std is not None:
            policy = DiagGaussian(out, self.log_std)
        else:
            loc, log_std = jnp.split(out, 2)
            policy = DiagGaussian(loc, jnp.clip(log_std, *LOG_STD_RANGE))
        return policy if len(self.shape) == 1 else Shaped(policy, self.shape)


class ValueHead(eqx.Module):
    """Features ``[F]`` -> the value, a scalar; of several signals theirs, ``shape``."""

    linear: Linear
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, in_size: int, shape: tuple[int, ...] = (), *, key: Key):
        self.linear = orthogonal_linear(in_size, math.prod(shape), key, gain=1.0)
        self.shape = shape

    def __call__(self, features: jax.Array) -> jax.Array:
        out = self.linear(features)
        return out if self.shape else out[0]
