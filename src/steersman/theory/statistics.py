"""Statistics of two kinds: running moments inside compiled code (jax), and what an evaluation reports (numpy, float64).

The bounds of Markov, Chebyshev and Hoeffding assume no distribution; the bootstrap approximates one by resampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from steersman import shards
from steersman.errors import UsageError
from steersman.types import Array, PyTree

LARGEST = 2.0**51  # 2e15: 2^24 squares of twice as much still add up to less than float32's largest number


class RunningMoments(NamedTuple):
    """Mean and variance of everything seen, leaf by leaf of a tree, by pairwise merging (Chan et al. 1979).

    The variance is kept, not the sum of squares m2: a merge is then a weighted mean whose weights stay exact when
    float32 no longer counts (16.7M single updates), where count and m2 would round differently and drift apart.
    Leaves that are not floating (uint8 images, int32 states, masks) are carried as empty arrays and never normalised.
    A finite number beyond +-2e15 (``LARGEST``) counts as that, here and where it is normalised: a sensor that says 1e20
    for "nothing seen" would else overflow the squares. NaN and infinities go through, and end a training.

    >>> seen = RunningMoments.init(jnp.zeros(())).update(jnp.array([1.0, 3.0]))
    >>> seen.mean, seen.variance
    (Array(2., dtype=float32), Array(1., dtype=float32))
    """

    weight: jax.Array  # how many samples, float32 []
    mean: PyTree  # float32 [...] per leaf
    variance: PyTree  # of the population (divided by the count); 1 before any sample

    @classmethod
    def init(cls, example: PyTree) -> Self:
        """Nothing seen. example: a tree of single events, without batch axes; only shapes and dtypes are read
        (``jax.ShapeDtypeStruct`` will do)."""
        blank = lambda fill: jax.tree.map(
            lambda x: jnp.full(x.shape if _tracked(x) else (0,), fill, jnp.float32), example
        )
        return cls(jnp.zeros((), jnp.float32), blank(0.0), blank(1.0))

    @property
    def m2(self) -> PyTree:
        """Sums of squared deviations from the mean."""
        return jax.tree.map(lambda v: v * self.weight, self.variance)

    def std(self) -> PyTree:
        return jax.tree.map(jnp.sqrt, self.variance)

    def update(self, batch: PyTree) -> Self:
        """With a batch absorbed: leaves [N, ...] or [T, B, ...]. Under ``shards.sharded_over`` with the batches of all
        shards, at the price of two collectives, so that the moments stay equal everywhere."""
        return self.merge(across_shards(batch_moments(batch, self)))

    def merge(self, other: RunningMoments) -> Self:
        """The moments of both samples together; the lighter moves the heavier, or small variances would cancel."""
        first = self.weight >= other.weight
        heavy = jax.tree.map(lambda a, b: jnp.where(first, a, b), self, other)
        light = jax.tree.map(lambda a, b: jnp.where(first, b, a), self, other)
        total = self.weight + other.weight
        w = light.weight / jnp.where(total > 0, total, 1.0)
        delta = jax.tree.map(jnp.subtract, light.mean, heavy.mean)
        mean = jax.tree.map(lambda m, d: m + w * d, heavy.mean, delta)
        mix = lambda v, u, d: v + w * (u - v + (1.0 - w) * d * d)
        return self._replace(weight=total, mean=mean, variance=jax.tree.map(mix, heavy.variance, light.variance, delta))

    def normalize(self, x: PyTree, clip: float = 10.0, epsilon: float = 1e-8) -> PyTree:
        """clip((x - mean) / sqrt(variance + epsilon), -clip, clip); leaves with any leading axes [..., event]."""
        return jax.tree.map(lambda m, v, y: _rescale(y, m, v, clip, epsilon), self.mean, self.variance, x)

    def scale(self, x: PyTree, clip: float = 10.0, epsilon: float = 1e-8) -> PyTree:
        """clip(x / sqrt(variance + epsilon), -clip, clip): for rewards, whose sign and zero mean something."""
        return jax.tree.map(lambda v, y: _rescale(y, jnp.zeros_like(v), v, clip, epsilon), self.variance, x)


def batch_moments(batch: PyTree, like: RunningMoments | None = None) -> RunningMoments:
    """The moments of one batch, on this shard alone: weight, mean, variance (m2 as a property).

    Leaves [N, event]; with ``like``, any number of leading axes before the event shapes of its mean. Two passes, around
    the running mean where there is one: stable for observations far from zero.
    """
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, batch))
    first = [x[0] if x.ndim else x for x in leaves]  # as good a centre as any other
    centres = first if like is None else treedef.flatten_up_to(like.mean)
    count, moments = 0, []
    for x, centre in zip(leaves, centres, strict=True):
        if _tracked(x):
            lead = x.ndim - centre.ndim
            if lead < 1 or x.shape[lead:] != centre.shape:
                raise UsageError(f"Moments: a leaf has shape {x.shape}; it needs a batch axis and then {centre.shape}.")
            count = int(np.prod(x.shape[:lead]))
            moments.append(_two_pass(_held(x), _held(centre), tuple(range(lead))))
        else:
            moments.append((jnp.zeros(0, jnp.float32), jnp.ones(0, jnp.float32)))
    mean, variance = (treedef.unflatten([pair[i] for pair in moments]) for i in range(2))
    return RunningMoments(jnp.asarray(count, jnp.float32), mean, variance)


def across_shards(moments: RunningMoments, shift: PyTree | None = None) -> RunningMoments:
    """The moments of all shards' equally large batches together, from each shard's own.

    Two ``shards.cross_mean``: of the means, then of mean squares about their common mean. With ``shift``, equal on all
    shards and near that mean (zeros for centred data), one: the squares cancel by as much as shift is off.
    """
    count = shards.shard_count()
    if count == 1:
        return moments
    shift = shards.cross_mean(moments.mean) if shift is None else shift
    offset = jax.tree.map(jnp.subtract, moments.mean, shift)
    square = jax.tree.map(lambda v, d: v + d * d, moments.variance, offset)
    offset, square = shards.cross_mean((offset, square))
    return RunningMoments(
        moments.weight * count,
        jax.tree.map(jnp.add, shift, offset),
        jax.tree.map(lambda s, d: jnp.maximum(s - d * d, 0.0), square, offset),
    )


def _two_pass(x: jax.Array, centre: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    deviation = x - _fit(centre, x)
    offset = jnp.mean(deviation, axis=axes)
    return centre + offset, jnp.mean(jnp.square(deviation - _fit(offset, x)), axis=axes)


def _tracked(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _fit(x: jax.Array, batch: jax.Array) -> jax.Array:
    return jnp.broadcast_to(x, batch.shape)


def _held(x: jax.Array) -> jax.Array:
    """float32 within +-LARGEST; NaN and infinities as they are."""
    x = x.astype(jnp.float32)
    return jnp.where(jnp.isfinite(x), jnp.clip(x, -LARGEST, LARGEST), x)


def _rescale(x: Array, mean: jax.Array, variance: jax.Array, clip: float, epsilon: float) -> jax.Array:
    x = jnp.asarray(x)
    if not _tracked(x):
        return x
    x = _held(x)
    return jnp.clip((x - _fit(mean, x)) * _fit(jax.lax.rsqrt(variance + epsilon), x), -clip, clip)


# Reports: numpy arrays in, floats out.


def iqm(x: ArrayLike, axis: int | None = None) -> Any:
    """The interquartile mean: the mean of what is left after dropping floor(n / 4) from each end.

    Over all entries, a float; or along an axis, an array. Robust as a median, efficient as a mean. Agarwal et al.
    (2021).

    >>> iqm([0, 1, 3, 100])
    2.0
    """
    x = np.asarray(x, np.float64)
    ordered = np.sort(x.ravel() if axis is None else np.moveaxis(x, axis, -1), axis=-1)
    n = ordered.shape[-1]
    middle = ordered[..., n // 4 : n - n // 4].mean(axis=-1)
    return float(middle) if axis is None else middle


def bootstrap_interval(
    x: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 9999,
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of a statistic of the sample x.

    statistic takes ``axis`` (np.mean, np.median, ``iqm``). The same seed gives the same interval. If all entries are
    equal, or there is only one, so are the two ends: a sample without spread cannot show its uncertainty
    (``hoeffding_interval`` can, where bounds are known). Raises UsageError for an empty or non-finite sample. Efron
    and Tibshirani (1993), chapter 13.
    """
    x, confidence = _sample(x), _confidence(confidence)
    if np.all(x == x[0]):
        value = float(statistic(x, axis=-1))
        return value, value
    rng = np.random.default_rng(seed)
    rows = max(1, 2**21 // x.size)  # 16 MB at a time
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    values = np.concatenate([statistic(x[rng.integers(x.size, size=(size, x.size))], axis=-1) for size in sizes])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_band(
    x: ArrayLike, confidence: float = 0.95, seed: int = 0, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap interval (low, high) of the mean over runs at every point: [runs, points] -> [points].

    Whole runs are drawn, the same ones for all points. Efron and Tibshirani (1993), chapter 13.
    """
    x, confidence = np.asarray(x, np.float64), _confidence(confidence)
    runs = len(x)
    draws = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), size=resamples) / runs
    low, high = np.quantile(draws @ x, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y) / 2 over all pairs of the two samples: 0.5 means no difference. Agarwal et al. (2021).

    >>> probability_of_improvement([1, 2], [0, 2])
    0.625
    """
    x, y = _sample(x), np.sort(_sample(y))
    below, up_to = np.searchsorted(y, x, "left"), np.searchsorted(y, x, "right")
    return float(np.mean(below + up_to) / (2 * y.size))


def markov_bound(expectation_g: float, threshold: float) -> float:
    """P(g(X) >= r) <= E[g(X)] / r for any g >= 0 and r > 0; at most 1. With g = |X| this is Markov's inequality.

    Raises UsageError for a negative expectation or a threshold that is not positive.
    """
    if not expectation_g >= 0 or not threshold > 0:
        raise UsageError(f"Markov's bound needs E[g(X)] >= 0 and r > 0; given {expectation_g} and {threshold}.")
    return min(1.0, float(expectation_g) / float(threshold))


def chebyshev_bound(variance: float, distance: float) -> float:
    """P(|X - E X| >= k) <= Var X / k^2: Markov's bound with g(X) = (X - E X)^2, r = k^2. Errors as ``markov_bound``.

    >>> chebyshev_bound(1.0, 2.0)
    0.25
    """
    return markov_bound(variance, distance * abs(distance))


def chebyshev_interval(x: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the mean that holds for every distribution: mean +- s / sqrt(n (1 - confidence)).

    Chebyshev's inequality for the sample mean, whose variance is Var X / n, with the sample's variance s^2 (n - 1) in
    the place of the true one: the one approximation in it. More than twice as wide as the normal interval at 0.95.
    One sample bounds nothing: (-inf, inf). Raises UsageError for an empty or non-finite sample.
    """
    x, confidence = _sample(x), _confidence(confidence)
    if x.size == 1:
        return -np.inf, np.inf
    half = np.sqrt(x.var(ddof=1) / (x.size * (1 - confidence)))
    return float(x.mean() - half), float(x.mean() + half)


def hoeffding_interval(x: ArrayLike, low: float, high: float, confidence: float = 0.95) -> tuple[float, float]:
    """An exact interval for the mean of independent X in [low, high].

        mean +- (high - low) sqrt(ln(2 / (1 - confidence)) / 2n)

    Cut to [low, high]. Holds for any such distribution and any n. Raises UsageError when x leaves its bounds.
    Hoeffding (1963).
    """
    x, confidence = _sample(x), _confidence(confidence)
    if not low < high or x.min() < low or x.max() > high:
        raise UsageError(
            f"Hoeffding's interval needs all x in [low, high]; given [{low}, {high}], x in [{x.min()}, {x.max()}]."
        )
    half = (high - low) * np.sqrt(np.log(2 / (1 - confidence)) / (2 * x.size))
    return float(max(low, x.mean() - half)), float(min(high, x.mean() + half))


def wilson_interval(rate: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the probability behind a ``rate`` of successes among n independent trials.

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),    z the normal (1 + confidence) / 2 point

    Inside [0, 1], and of a width at rates of 0 and 1 too, where the bootstrap's has none. Raises UsageError for a rate
    outside [0, 1] or n below 1. Wilson (1927).

    >>> [round(end, 4) for end in wilson_interval(1.0, 10)]
    [0.7225, 1.0]
    """
    if not 0 <= rate <= 1 or n < 1:
        raise UsageError(f"Wilson's interval is of a rate in [0, 1] among 1 or more trials; got {rate} among {n}.")
    z = NormalDist().inv_cdf((1 + _confidence(confidence)) / 2)
    middle, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def expectation(
    support: ArrayLike, probabilities: ArrayLike, f: Callable[[np.ndarray], ArrayLike] | None = None
) -> Any:
    """E[f(X)] = sum_i p_i f(x_i), exactly.

    support [N, ...], probabilities [N]; f maps the whole support, [N, ...] -> [N, ...]. Without f, the mean. Raises
    UsageError unless probabilities are >= 0 and sum to one.

    >>> expectation([1, 2, 3, 4, 5, 6], [1 / 6] * 6, np.square)  # doctest: +ELLIPSIS
    15.16...
    """
    x, p = np.asarray(support, np.float64), np.asarray(probabilities, np.float64)
    if p.shape != x.shape[:1] or np.any(p < 0) or not np.isclose(p.sum(), 1.0, atol=1e-6):
        raise UsageError(f"expectation: {p.shape} probabilities summing to {p.sum()} for a support of shape {x.shape}.")
    value = np.tensordot(p, np.asarray(x if f is None else f(x), np.float64), axes=1)
    return float(value) if value.ndim == 0 else value


def monte_carlo(f: Callable[[np.ndarray], ArrayLike], samples: ArrayLike) -> tuple[Any, Any]:
    """E[f(X)] estimated from independent samples [N, ...]: (mean, its standard error s / sqrt N); nan error when N = 1.

    f maps the whole sample, [N, ...] -> [N, ...].
    """
    y = np.asarray(f(np.asarray(samples)), np.float64)
    n = y.shape[0]
    mean, error = y.mean(axis=0), y.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(y.shape[1:], np.nan)
    return (float(mean), float(error)) if y.ndim == 1 else (mean, error)


def jensen_gap(f: Callable[[np.ndarray], ArrayLike], samples: ArrayLike) -> float:
    """mean f(x_i) - f(mean x_i) of samples [N]: >= 0 for a convex f, <= 0 for a concave one, 0 for a linear one.

    The bias of plugging a noisy estimate into f: of a max over noisy values, of the log of a ratio.
    """
    x = _sample(samples)
    return float(np.mean(np.asarray(f(x))) - np.asarray(f(x.mean(keepdims=True)))[0])


def _sample(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x, np.float64).ravel()
    if x.size == 0 or not np.all(np.isfinite(x)):
        raise UsageError(
            f"Statistics need at least one value, all finite; given {x.size} with {np.sum(~np.isfinite(x))} not."
        )
    return x


def _confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}; it is a probability between 0 and 1, such as 0.95.")
    return confidence
