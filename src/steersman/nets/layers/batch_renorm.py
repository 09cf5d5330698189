"""Batch renormalisation, and the MLP that CrossQ builds with it. These see a whole batch ``[N, ...]`` at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.types import Key

MOMENTUM, EPSILON = 0.99, 1e-3  # of the running moments
R_MAX, D_MAX = 3.0, 5.0  # how far a batch may be corrected towards them


class Moments(NamedTuple):
    """Running moments of one layer's inputs: what a batch normalisation remembers beside its parameters."""

    mean: jax.Array  # [F]
    var: jax.Array  # [F]
    batches: jax.Array  # float32, batches seen


class BatchRenorm(eqx.Module):
    """y = scale x_hat + bias, with x_hat normalised by the batch in training and by the running moments in use.

        x_hat = (x - mu_B) / sigma_B r + d,   r = clip(sigma_B / sigma, 1/3, 3),   d = clip((mu_B - mu) / sigma, -5, 5)

    r and d carry no gradient; unclipped they make x_hat the normalisation by the running moments mu, sigma, so training
    and use agree. For the first ``warm_up`` batches r = 1 and d = 0: plain batch normalisation. Ioffe (2017).
    """

    scale: jax.Array  # [F]
    bias: jax.Array

    def __init__(self, size: int):
        self.scale, self.bias = jnp.ones((size,), jnp.float32), jnp.zeros((size,), jnp.float32)

    def start(self) -> Moments:
        return Moments(jnp.zeros_like(self.scale), jnp.ones_like(self.scale), jnp.zeros((), jnp.float32))

    def __call__(self, x: jax.Array, moments: Moments, *, train: bool, warm_up: float = 0) -> tuple[jax.Array, Moments]:
        """x [N, F] -> (y [N, F], the moments after this batch; unchanged unless ``train``)."""
        mean, std = moments.mean, jnp.sqrt(moments.var + EPSILON)
        if not train:
            return (x - mean[None]) * (self.scale / std)[None] + self.bias[None], moments
        batch_mean, batch_var = x.mean(0), x.var(0)
        batch_std = jnp.sqrt(batch_var + EPSILON)
        warm = moments.batches >= warm_up
        r = jnp.where(warm, jnp.clip(batch_std / std, 1.0 / R_MAX, R_MAX), 1.0)
        d = jnp.where(warm, jnp.clip((batch_mean - mean) / std, -D_MAX, D_MAX), 0.0)
        r, d = jax.lax.stop_gradient((r, d))
        y = ((x - batch_mean[None]) * (r / batch_std)[None] + d[None]) * self.scale[None] + self.bias[None]
        keep = lambda old, new: jax.lax.stop_gradient(MOMENTUM * old + (1.0 - MOMENTUM) * new)
        return y, Moments(keep(mean, batch_mean), keep(moments.var, batch_var), moments.batches + 1.0)


class NormedMLP(eqx.Module):
    """A batch ``[N, in] -> [N, out]``: normalise, then (linear, activation, normalise) for every layer, then a linear
    one. Its moments are a tuple, one entry for each normalisation, made by ``start``."""

    norms: tuple[BatchRenorm, ...]
    layers: tuple[Linear, ...]
    head: Linear
    activation: str = eqx.field(static=True)
    warm_up: int = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        sizes: Sequence[int],
        outputs: int,
        *,
        activation: str = "relu",
        gain: float = 1.0,
        warm_up: int = 100_000,
        key: Key,
    ):
        widths = (in_size, *sizes)
        keys = jax.random.split(key, len(widths))
        self.norms = tuple(BatchRenorm(width) for width in widths)
        self.layers = tuple(orthogonal_linear(widths[i], widths[i + 1], keys[i]) for i in range(len(sizes)))
        self.head = orthogonal_linear(widths[-1], outputs, keys[-1], gain=gain)
        self.activation, self.warm_up = activation, warm_up

    def start(self) -> tuple[Moments, ...]:
        return tuple(norm.start() for norm in self.norms)

    def __call__(self, x: jax.Array, moments: tuple[Moments, ...], *, train: bool):
        """-> (outputs [N, out], the moments after this batch)."""
        after = []
        for i, (norm, before) in enumerate(zip(self.norms, moments, strict=True)):
            if i:
                x = ACTIVATIONS[self.activation](jax.vmap(lambda row, i=i: self.layers[i - 1](row))(x))
            x, now = norm(x, before, train=train, warm_up=self.warm_up)
            after.append(now)
        return jax.vmap(lambda row: self.head(row))(x), tuple(after)
