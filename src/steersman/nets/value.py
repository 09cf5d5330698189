"""Action values for one observation: the network of the value-based agents, and the parts of it that are options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.nets.encoders import Encoder
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import ACTIVATIONS, MLP
from steersman.nets.layers.norm import LayerNorm
from steersman.types import EnvSpec, Key, PyTree

QNetworkFactory = Callable[[Key, EnvSpec], Any]  # -> a module: obs -> q [A], or [A, K]


class NoisyLinear(eqx.Module):
    """y = W x + b with noise in W and b that is learned: factorised Gaussian (Fortunato et al. 2018, section 3).

        y = W x + b + f(e_out) * (S (f(e_in) * x) + s),   f(e) = sign(e) sqrt|e|,   e ~ N(0, 1) from ``key``

    which is their W + S * f(e_out) f(e_in)^T without forming that matrix. Without a key there is no noise. At the start
    W, b ~ U(-1/sqrt(in), 1/sqrt(in)) and S = s = 0.5 / sqrt(in).
    """

    mean: eqx.nn.Linear
    scale: eqx.nn.Linear
    out_size: int = eqx.field(static=True)

    def __init__(self, in_size: int, out_size: int, *, key: Key):
        self.out_size = out_size
        self.mean = eqx.nn.Linear(in_size, out_size, key=key)  # draws from that uniform distribution
        self.scale = jax.tree.map(lambda x: jnp.full_like(x, 0.5 / math.sqrt(in_size)), self.mean)

    def __call__(self, x: jax.Array, key: Key | None = None) -> jax.Array:
        if key is None:
            return self.mean(x)
        in_key, out_key = jax.random.split(key)
        e_in, e_out = (
            jnp.sign(e) * jnp.sqrt(jnp.abs(e))
            for e in (
                jax.random.normal(in_key, (x.shape[0],), x.dtype),
                jax.random.normal(out_key, (self.out_size,), x.dtype),
            )
        )
        return self.mean(x) + e_out * self.scale(e_in * x)


class Stream(eqx.Module):
    """A hidden layer (none if its width is 0) and a linear one: features ``[F]`` -> ``[out]``; both may be noisy."""

    hidden: Linear | NoisyLinear | None
    norm: LayerNorm | None  # of the hidden layer
    output: Linear | NoisyLinear
    activation: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def __init__(
        self, in_size: int, width: int, out_size: int, *, activation: str, layer_norm: bool, noisy: bool, key: Key
    ):
        first, last = jax.random.split(key)
        linear = lambda i, o, k, gain: NoisyLinear(i, o, key=k) if noisy else orthogonal_linear(i, o, k, gain=gain)
        self.hidden = linear(in_size, width, first, math.sqrt(2.0)) if width else None
        self.norm = LayerNorm(width) if layer_norm and width else None
        self.output = linear(width or in_size, out_size, last, 1.0)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: jax.Array, key: Key | None = None) -> jax.Array:
        first, last = (None, None) if key is None else jax.random.split(key)
        if self.hidden is not None:
            x = _apply(self.hidden, x, first)
            x = self.activation(x if self.norm is None else self.norm(x))
        return _apply(self.output, x, last)


def _apply(layer: Any, x: jax.Array, key: Key | None) -> jax.Array:
    return layer(x, key) if isinstance(layer, NoisyLinear) else layer(x)


class QNetwork(eqx.Module):
    """``obs -> q [A]``, or ``[A, K]`` numbers of the return's distribution for each action; ``vmap`` it over a batch.

    Encoder, trunk (all hidden layers but the last), then a stream (the last hidden layer and the output); with
    ``dueling`` two streams, q = V + A - mean_a A (Wang et al. 2016, eq. 9). Orthogonal initialisation, gain sqrt(2)
    hidden and 1 output, zero biases; ``noisy`` streams have their own. Without a ``key`` a noisy network is its mean.
    encoder, channels: what reads images, and which of their axes holds the channels (``nets.encoders``).
    layer_norm: normalise every hidden layer, convolutions too.
    """

    encoder: Encoder
    trunk: MLP
    advantage: Stream  # q itself, without ``dueling``
    value: Stream | None
    num_actions: int = eqx.field(static=True)
    outputs: int = eqx.field(static=True)  # K; 0: a number for each action

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "relu",
        outputs: int = 0,
        dueling: bool = False,
        noisy: bool = False,
        encoder: str = "auto",
        channels: str = "auto",
        layer_norm: bool = False,
        key: Key,
    ):
        assert isinstance(spec.action_space, spaces.Discrete)
        keys = jax.random.split(key, 4)
        self.num_actions, self.outputs = int(spec.action_space.n), outputs
        self.encoder = Encoder(spec.observation_space, encoder, channels=channels, layer_norm=layer_norm, key=keys[0])
        layers: dict[str, Any] = {"activation": activation, "layer_norm": layer_norm}
        self.trunk = MLP(self.encoder.out_size, hidden_sizes[:-1], **layers, key=keys[1])
        width, size = hidden_sizes[-1] if hidden_sizes else 0, max(1, outputs)
        stream = lambda out, k: Stream(self.trunk.out_size, width, out, **layers, noisy=noisy, key=k)
        self.advantage = stream(self.num_actions * size, keys[2])
        self.value = stream(size, keys[3]) if dueling else None

    def __call__(self, obs: PyTree, key: Key | None = None) -> jax.Array:
        value, advantage = self.parts(obs, key)
        return advantage if value is None else value + advantage

    def parts(self, obs: PyTree, key: Key | None = None) -> tuple[jax.Array | None, jax.Array]:
        """-> (V, A - mean_a A): [1] and [A], or [1, K] and [A, K]. (None, q) without ``dueling``."""
        value_key, advantage_key = (None, None) if key is None else jax.random.split(key)
        features = self.trunk(self.encoder(obs))
        shape = (self.outputs,) if self.outputs else ()
        advantage = self.advantage(features, advantage_key).reshape(self.num_actions, *shape)
        if self.value is None:
            return None, advantage
        value = self.value(features, value_key).reshape(1, *shape)
        return value, advantage - advantage.mean(0, keepdims=True)

    def streams(self, obs: PyTree) -> tuple[jax.Array, jax.Array]:
        """-> (V, a scalar, and A, ``[A]``), without noise; not dueling, V = mean_a q and A = q - V, as if it were.

        Of a distribution's K numbers the mean is taken: the expectation where they are quantiles.
        """
        value, advantage = self.parts(obs)
        if self.outputs:
            value, advantage = None if value is None else value.mean(-1), advantage.mean(-1)
        if value is None:
            value, advantage = advantage.mean(0, keepdims=True), advantage - advantage.mean()
        return value[0], advantage
