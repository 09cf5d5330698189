"""Distributions over actions: small pytrees of parameters with sample, log_prob, entropy, kl and mode.

The event axis is the last one (``Shaped`` has as many as its shape); all axes before it are a batch, ``[...]``, and
every member of the batch draws its own noise from the one key it is given. log_prob, entropy and kl sum over the event:
``[...]``, in nats. kl is KL(self || other).

They pass through jit, vmap, scan and grad like any tree. For n draws from each, vmap ``sample`` over n keys. To store
one beside the transitions of a rollout, give it parameters with the rollout's leading axes (a log_std of shape [K]
has none).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.theory.trees import take
from steersman.types import Array, Key

LOG_2 = float(np.log(2.0))
HALF_LOG_2_PI = float(0.5 * np.log(2.0 * np.pi))


class Distribution(Protocol):
    """What a policy head returns."""

    def sample(self, key: Key) -> jax.Array: ...
    def log_prob(self, x: Array) -> jax.Array: ...
    def entropy(self) -> jax.Array: ...
    def kl(self, other: Self) -> jax.Array: ...
    def mode(self) -> jax.Array: ...


def impossible(dtype: np.dtype | type) -> float:
    """The logit of an impossible outcome: probability exactly 0, yet products and differences with it stay finite."""
    return -float(np.sqrt(float(jnp.finfo(dtype).max)))


def masked(logits: Array, mask: Array) -> jax.Array:
    """Logits (or action values) with the illegal entries made impossible: where(mask, logits, -sqrt(largest float)).

    mask [..., A] as logits, true (or 1) = allowed. Probabilities there become exactly 0, and entropy, kl and gradients
    stay finite. A row that allows nothing gives a uniform distribution: an environment must never send one.
    """
    logits = jnp.asarray(logits)
    return jnp.where(jnp.asarray(mask).astype(bool), logits, jnp.asarray(impossible(logits.dtype), logits.dtype))


class Categorical(NamedTuple):
    """P(x = i) = exp(logits_i) / sum_j exp(logits_j). logits [..., A], any scale; events are int32 [...].

    Half-precision logits are normalised in float32.

    >>> Categorical(jnp.log(jnp.array([0.25, 0.75]))).mode()
    Array(1, dtype=int32)
    """

    logits: jax.Array

    @classmethod
    def of(cls, probabilities: Array) -> Self:
        """From probabilities [..., A], which may be zero and need not sum to one."""
        p = jnp.asarray(probabilities)
        return cls(masked(jnp.log(jnp.where(p > 0, p, jnp.ones((), p.dtype))), p > 0))

    def log_probabilities(self) -> jax.Array:
        """log P(x = i) [..., A]; finite, if huge, where P is 0."""
        logits = jnp.asarray(self.logits)
        logits = logits if logits.dtype == jnp.float64 else logits.astype(jnp.float32)
        return jax.nn.log_softmax(jnp.maximum(logits, impossible(logits.dtype)))

    def probabilities(self) -> jax.Array:
        return jnp.exp(self.log_probabilities())

    def sample(self, key: Key) -> jax.Array:
        """int32 [...], by inverting the distribution function: one uniform number per member, so ten times cheaper
        than a Gumbel per outcome at 18 outcomes. Outcomes of probability 0 are never drawn; the grain is 1e-7."""
        p = self.probabilities()
        possible, cumulative = p > 0, jnp.cumsum(p, axis=-1)
        total = jnp.max(jnp.where(possible, cumulative, 0.0), axis=-1)  # of the possible, so that one is always above u
        u = jax.random.uniform(key, p.shape[:-1], p.dtype) * total
        return jnp.argmax(possible & (cumulative > u[..., None]), axis=-1).astype(jnp.int32)

    def log_prob(self, x: Array) -> jax.Array:
        return take(self.log_probabilities(), x)

    def entropy(self) -> jax.Array:
        log_p = self.log_probabilities()
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def kl(self, other: Self) -> jax.Array:
        """Where other forbids what self allows it is huge (or inf), not undefined."""
        log_p = self.log_probabilities()
        return jnp.sum(jnp.exp(log_p) * (log_p - other.log_probabilities()), axis=-1)

    def mode(self) -> jax.Array:
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)


@partial(jax.tree_util.register_dataclass, data_fields=["logits"], meta_fields=["nvec"])
@dataclass(frozen=True)
class MultiCategorical:
    """K independent categoricals of nvec = (A_1, ..., A_K) outcomes: logits [..., sum(nvec)], events int32 [..., K].

    nvec is static: a tuple of ints, part of the tree's structure. Mask with ``masked`` and a mask of the same last
    axis. Raises UsageError when logits and nvec disagree.
    """

    logits: jax.Array
    nvec: tuple[int, ...]

    def factors(self) -> Categorical:
        """The K factors as one batch, [..., K, max A]: short rows are filled with impossible outcomes."""
        logits, nvec = jnp.asarray(self.logits), self.nvec
        if logits.shape[-1] != sum(nvec):
            raise UsageError(f"MultiCategorical: logits end in {logits.shape[-1]}; nvec {nvec} needs {sum(nvec)}.")
        width = max(nvec)
        if min(nvec) == width:
            return Categorical(logits.reshape((*logits.shape[:-1], len(nvec), width)))
        lead = [(0, 0)] * (logits.ndim - 1)
        pad = lambda row: jnp.pad(row, [*lead, (0, width - row.shape[-1])], constant_values=impossible(row.dtype))
        rows = jnp.split(logits, np.cumsum(nvec)[:-1], axis=-1)  # not a gather, whose gradient is a scatter
        return Categorical(jnp.stack([pad(row) for row in rows], axis=-2))

    def sample(self, key: Key) -> jax.Array:
        return self.factors().sample(key)

    def log_prob(self, x: Array) -> jax.Array:
        return jnp.sum(self.factors().log_prob(x), axis=-1)

    def entropy(self) -> jax.Array:
        return jnp.sum(self.factors().entropy(), axis=-1)

    def kl(self, other: Self) -> jax.Array:
        return jnp.sum(self.factors().kl(other.factors()), axis=-1)

    def mode(self) -> jax.Array:
        return self.factors().mode()


class Bernoulli(NamedTuple):
    """K independent coins (MultiBinary): P(x = 1) = sigmoid(logits). logits [..., K]; events int32 [..., K], 0 or 1."""

    logits: jax.Array

    def sample(self, key: Key) -> jax.Array:
        return jax.random.bernoulli(key, jax.nn.sigmoid(self.logits)).astype(jnp.int32)

    def log_prob(self, x: Array) -> jax.Array:
        signed = jnp.where(jnp.asarray(x).astype(bool), self.logits, -self.logits)
        return jnp.sum(jax.nn.log_sigmoid(signed), axis=-1)

    def entropy(self) -> jax.Array:
        return -jnp.sum(self._expected_log(self.logits), axis=-1)

    def kl(self, other: Self) -> jax.Array:
        return jnp.sum(self._expected_log(self.logits) - self._expected_log(other.logits), axis=-1)

    def mode(self) -> jax.Array:
        return (self.logits > 0).astype(jnp.int32)

    def _expected_log(self, logits: jax.Array) -> jax.Array:
        """E under self of log P under ``logits``."""
        p = jax.nn.sigmoid(self.logits)
        return p * jax.nn.log_sigmoid(logits) + (1.0 - p) * jax.nn.log_sigmoid(-logits)


class DiagGaussian(NamedTuple):
    """Independent normals, x = loc + exp(log_std) z. loc, events [..., K]; log_std [..., K], [K] or a scalar."""

    loc: jax.Array
    log_std: jax.Array

    def sample(self, key: Key) -> jax.Array:
        loc, log_std = self._parameters()
        return loc + jnp.exp(log_std) * jax.random.normal(key, loc.shape, loc.dtype)

    def log_prob(self, x: Array) -> jax.Array:
        loc, log_std = self._parameters()
        z = (jnp.asarray(x) - loc) * jnp.exp(-log_std)
        return -jnp.sum(0.5 * z * z + log_std + HALF_LOG_2_PI, axis=-1)

    def entropy(self) -> jax.Array:
        _, log_std = self._parameters()
        return jnp.sum(log_std + (0.5 + HALF_LOG_2_PI), axis=-1)

    def kl(self, other: Self) -> jax.Array:
        (loc, log_std), (other_loc, other_log_std) = self._parameters(), other._parameters()
        z = (loc - other_loc) * jnp.exp(-other_log_std)
        ratio = log_std - other_log_std  # expm1: exact when the two nearly agree, as a policy and its last version do
        return jnp.sum(0.5 * (jnp.expm1(2.0 * ratio) + z * z) - ratio, axis=-1)

    def mode(self) -> jax.Array:
        return jnp.asarray(self.loc)

    def _parameters(self) -> tuple[jax.Array, jax.Array]:
        loc = jnp.asarray(self.loc)
        return loc, jnp.broadcast_to(jnp.asarray(self.log_std, loc.dtype), loc.shape)


class TanhGaussian(NamedTuple):
    """a = tanh(u), u a DiagGaussian(loc, log_std): actions strictly inside (-1, 1)^K. Shapes as DiagGaussian.

    log p(a) = log N(u) - sum log(1 - a^2), with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which neither
    cancels nor overflows. Haarnoja et al. (2018), appendix C.
    """

    loc: jax.Array
    log_std: jax.Array

    def sample(self, key: Key) -> jax.Array:
        return _inside(jnp.tanh(self._base().sample(key)))

    def sample_and_log_prob(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """(action [..., K], its log-density [...]), both differentiable in loc and log_std (pathwise). Exact where
        ``log_prob(action)`` is not: beyond |u| = 8.7 a float32 action no longer tells u."""
        u = self._base().sample(key)
        return _inside(jnp.tanh(u)), self._base().log_prob(u) - jnp.sum(_log_slope(u), axis=-1)

    def log_prob(self, x: Array) -> jax.Array:
        """Density of an action in [-1, 1]; one on the border counts as the nearest float inside."""
        x = _inside(jnp.asarray(x))
        u = 0.5 * (jnp.log1p(x) - jnp.log1p(-x))
        return self._base().log_prob(u) - jnp.sum(_log_slope(u), axis=-1)

    def entropy(self) -> jax.Array:
        """The differential entropy by quadrature, no key needed: H(Gaussian) + E[log(1 - tanh(u)^2)].

        There is no closed form, but the expectation is one-dimensional for each action: 32 Gauss-Hermite nodes give it
        to 1e-6 nats for std <= 1, 2e-4 at 2, 0.01 at 4, 0.2 at 10. It costs 32 evaluations per action; where a sample's
        log-density is at hand anyway (SAC), minus that is the unbiased estimate.
        """
        loc, log_std = self._base()._parameters()
        nodes, weights = _hermite(32)
        u = loc[..., None] + jnp.exp(log_std)[..., None] * _along_last(nodes, loc)
        slope = jnp.sum(_along_last(weights, loc) * _log_slope(u), axis=(-2, -1))
        return self._base().entropy() + slope

    def kl(self, other: Self) -> jax.Array:
        """That of the Gaussians before the tanh: a bijection changes no KL."""
        return self._base().kl(other._base())

    def mode(self) -> jax.Array:
        """tanh(loc), the median: what acting deterministically means. The density's own peak can lie elsewhere."""
        return _inside(jnp.tanh(jnp.asarray(self.loc)))

    def _base(self) -> DiagGaussian:
        return DiagGaussian(self.loc, self.log_std)


@partial(jax.tree_util.register_dataclass, data_fields=["flat"], meta_fields=["shape"])
@dataclass(frozen=True)
class Shaped:
    """A distribution over vectors [..., K] as one over arrays of K entries: events [..., *shape], of any axes or none.

    >>> Shaped(DiagGaussian(jnp.zeros(6), jnp.zeros(6)), (2, 3)).mode().shape
    (2, 3)
    """

    flat: Distribution
    shape: tuple[int, ...]

    def sample(self, key: Key) -> jax.Array:
        return self._shaped(self.flat.sample(key))

    def log_prob(self, x: Array) -> jax.Array:
        x = jnp.asarray(x)
        return self.flat.log_prob(x.reshape(*x.shape[: x.ndim - len(self.shape)], math.prod(self.shape)))

    def entropy(self) -> jax.Array:
        return self.flat.entropy()

    def kl(self, other: Self) -> jax.Array:
        return self.flat.kl(other.flat)

    def mode(self) -> jax.Array:
        return self._shaped(self.flat.mode())

    def _shaped(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], *self.shape)


class Deterministic(NamedTuple):
    """All mass on loc [..., K]: a policy without noise.

    log_prob is 0 there and -inf elsewhere; entropy is 0 (of a point mass, not a density); kl is 0 or inf.
    """

    loc: jax.Array

    def sample(self, key: Key) -> jax.Array:
        return jnp.asarray(self.loc)

    def log_prob(self, x: Array) -> jax.Array:
        return jnp.where(jnp.all(jnp.asarray(x) == self.loc, axis=-1), 0.0, -jnp.inf).astype(jnp.float32)

    def entropy(self) -> jax.Array:
        return jnp.zeros(jnp.shape(self.loc)[:-1], jnp.float32)

    def kl(self, other: Self) -> jax.Array:
        return -other.log_prob(self.loc)

    def mode(self) -> jax.Array:
        return jnp.asarray(self.loc)


def _log_slope(u: jax.Array) -> jax.Array:
    """log(1 - tanh(u)^2), elementwise."""
    return 2.0 * (LOG_2 - u - jax.nn.softplus(-2.0 * u))


def _inside(x: jax.Array) -> jax.Array:
    """Clipped to the floats strictly inside (-1, 1): a float32 tanh(u) is 1 from u = 9."""
    limit = 1.0 - float(jnp.finfo(x.dtype).epsneg)
    return jnp.clip(x, -limit, limit)


@lru_cache
def _hermite(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights (sum one) for the expectation under a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


def _along_last(x: np.ndarray, like: jax.Array) -> jax.Array:
    return jnp.asarray(x, like.dtype).reshape((1,) * like.ndim + x.shape)
