"""Comparing algorithms over a few seeds (Agarwal et al. 2021, arXiv:2108.13264): numpy arrays in, floats out.

Scores are ``[N]``, one per run (seed), or ``[N, M]`` for N runs of each of M tasks. Runs are what is resampled, each
task's on their own (the stratified bootstrap): the tasks are given, the seeds are chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from steersman.errors import UsageError
from steersman.theory.statistics import probability_of_improvement

RESAMPLES = 9999


class Estimate(NamedTuple):
    """A number and its interval; for curves, arrays ``[K]`` of them."""

    value: Any
    low: Any
    high: Any


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A statistic of all scores together, with its percentile interval under resampling of each task's runs.

    scores [N] or [N, M]; statistic takes ``axis`` (np.mean, np.median, ``statistics.iqm``). One run has no spread to
    show: its interval is NaN. Raises UsageError for an empty or non-finite sample. Agarwal et al. (2021), section 4.1.
    """
    x = _scores(scores)
    value = float(statistic(x.ravel(), axis=-1))
    if len(x) == 1:
        return Estimate(value, np.nan, np.nan)
    rng, n = np.random.default_rng(seed), len(x)
    rows = max(1, 2**21 // x.size)  # 16 MB at a time
    parts = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(n, size=(min(rows, resamples - start), *x.shape))
        parts.append(statistic(np.take_along_axis(x[None], drawn, axis=1).reshape(len(drawn), -1), axis=-1))
    return Estimate(value, *_percentiles(np.concatenate(parts), confidence))


def improvement(
    x: ArrayLike, y: ArrayLike, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """P(X > Y) + P(X = Y) / 2 for a run of each, the mean over tasks, with its stratified bootstrap interval.

        P = 1/M sum_m 1/(N K) sum_ij w(x_im, y_jm),   w = 1 where x > y, 1/2 where equal, 0 else

    x [N] or [N, M], y [K] or [K, M]; the runs of both are resampled. An interval above 0.5 says that X is the better
    one. NaN ends where either has one run. Raises UsageError for samples of other tasks, empty or not finite. Agarwal
    et al. (2021), section 4.3; for one task this is the Mann-Whitney statistic U / (N K).

    >>> improvement([1, 2], [0, 2]).value
    0.625
    """
    x, y = _scores(x), _scores(y)
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"improvement: scores of {x.shape[1]} tasks cannot be compared with scores of {y.shape[1]}.")
    value = float(np.mean([probability_of_improvement(a, b) for a, b in zip(x.T, y.T, strict=True)]))
    if min(len(x), len(y)) == 1:
        return Estimate(value, np.nan, np.nan)
    rng, drawn = np.random.default_rng(seed), np.zeros(resamples)
    for a, b in zip(x.T, y.T, strict=True):
        wins = (a[:, None] > b).astype(np.float64) + 0.5 * (a[:, None] == b)  # [N, K]
        drawn += np.sum(_counts(rng, len(a), resamples) @ wins * _counts(rng, len(b), resamples), axis=1) / wins.size
    return Estimate(value, *_percentiles(drawn / x.shape[1], confidence))


def performance_profile(
    scores: ArrayLike, levels: ArrayLike, confidence: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Estimate:
    """The fraction of runs that score above each level tau, with its pointwise stratified bootstrap interval.

        F(tau) = 1/M sum_m 1/N sum_n 1[x_nm > tau]

    scores [N] or [N, M], levels [K] -> three arrays [K]. One profile above another everywhere is stochastic dominance;
    the area under it is the mean. Agarwal et al. (2021), section 4.2.

    >>> performance_profile([1.0, 3.0], [0.0, 1.0, 2.0, 3.0]).value.tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    x, levels = _scores(scores), np.asarray(levels, np.float64)
    above = (x[..., None] > levels).astype(np.float64)  # [N, M, K]
    value = above.mean((0, 1))
    if len(x) == 1:
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    rng = np.random.default_rng(seed)
    drawn = np.sum([_counts(rng, len(x), resamples) @ above[:, m] for m in range(x.shape[1])], axis=0)
    return Estimate(value, *_percentiles(drawn / x.size, confidence))


def censored_median(x: ArrayLike, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The median of a sample [N] in which infinity stands for "not within the budget", with its bootstrap interval.

    Infinite where half of the sample or more is; the ends of the interval are values that resampling really gave, so
    infinity is never averaged away. Raises UsageError for an empty sample or a NaN.
    """
    x = np.asarray(x, np.float64).ravel()
    if x.size == 0 or np.isnan(x).any():
        raise UsageError(f"A median needs at least one number; given {x.size} with {np.isnan(x).sum()} NaN.")
    value = float(np.median(x))
    if x.size == 1:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = np.sort(np.median(x[rng.integers(x.size, size=(resamples, x.size))], axis=-1))
    tail = (1 - confidence) / 2 * (resamples - 1)
    return Estimate(value, float(drawn[int(tail)]), float(drawn[-1 - int(tail)]))


def steps_to_threshold(
    steps: ArrayLike, returns: ArrayLike, episodes: ArrayLike, threshold: float, window: int = 100
) -> float:
    """The first logged step at which the mean return of the last episodes is the threshold or more; inf if never.

    steps, returns, episodes [N]: per row of a log the steps so far, the mean return of the episodes that ended since
    the row before, and how many (a row without has NaN and 0). The last episodes are those of the fewest newest rows
    that hold ``window`` of them: "solved" as Gymnasium's tasks define it, the mean of 100 consecutive episodes.

    >>> steps_to_threshold([10, 20, 30], [1.0, 5.0, 9.0], [2, 2, 2], threshold=7.0, window=4)
    30.0
    """
    steps, returns, episodes = (np.asarray(a, np.float64) for a in (steps, returns, episodes))
    total = np.where(episodes > 0, np.nan_to_num(returns), 0.0) * episodes
    count, total = (np.concatenate([[0.0], np.cumsum(a)]) for a in (episodes, total))
    since = np.searchsorted(count, count[1:] - window, side="right") - 1  # the row after which the last episodes began
    whole = since >= 0
    number = np.where(whole, count[1:] - count[since], 1.0)
    reached = whole & ((total[1:] - total[since]) / number >= threshold)
    return float(steps[np.argmax(reached)]) if reached.any() else np.inf


def _scores(x: ArrayLike) -> np.ndarray:
    """Scores as [N, M]."""
    x = np.asarray(x, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"Scores are finite numbers [runs] or [runs, tasks], at least one; given shape {x.shape}.")
    return x


def _counts(rng: np.random.Generator, n: int, resamples: int) -> np.ndarray:
    """[resamples, n]: how often a resample of n runs has each run."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _percentiles(drawn: np.ndarray, confidence: float) -> tuple[Any, Any]:
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}; it is a probability between 0 and 1, such as 0.95.")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return (float(low), float(high)) if drawn.ndim == 1 else (low, high)
