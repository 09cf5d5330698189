"""What several answers to one prompt are good for: the chance that one of them passes, the best of them, and its price.

Reports: numpy in, float64 out. Axes: ``N`` prompts, ``S`` answers drawn for each.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from steersman.errors import UsageError


def pass_at(passed: ArrayLike, k: int) -> np.ndarray:
    """The chance that one of k answers passes, of each prompt, [N]: 1 - C(S - c, k) / C(S, k), c of S having passed.

    passed bool [N, S]. Unbiased for k up to S, where 1 - (1 - c / S)^k is not. Raises UsageError for other k. Chen et
    al. (2021), arXiv:2107.03374, eq. 1.

    >>> pass_at([[True, False, False, False]], 2)
    array([0.5])
    """
    passed = np.asarray(passed, bool)
    return best_of(passed.astype(np.float64), k)


def best_of(reward: ArrayLike, k: int) -> np.ndarray:
    """The expected best reward among k answers, of each prompt, [N], from the S that were drawn: [N, S] -> [N].

    The mean of the maximum over all choices of k of the S, without replacement: unbiased. Raises UsageError for k
    outside of 1 to S.

    >>> best_of([[0.0, 1.0, 5.0]], 2)  # (1 + 5 + 5) / 3
    array([3.66666667])
    """
    reward = np.sort(np.asarray(reward, np.float64), axis=-1)
    drawn = reward.shape[-1]
    if not 1 <= k <= drawn:
        raise UsageError(f"The best of {k} answers was asked for, of {drawn} drawn for each prompt: k is 1 to {drawn}.")
    log_choose = lambda n, k: gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    below = np.arange(drawn)  # how many lie below; the best of k has k - 1 of them beside it
    weight = np.where(below >= k - 1, np.exp(log_choose(np.maximum(below, k - 1), k - 1) - log_choose(drawn, k)), 0.0)
    return reward @ weight


def best_of_kl(n: int) -> float:
    """log n - (n - 1) / n: the most that KL(best of n || policy) is, in nats; exact where no two answers are alike.

    Beside it stands what a trained policy has spent. Stiennon et al. (2020), appendix G.3; Beirami et al. (2024),
    arXiv:2401.01879, for the bound.

    >>> round(best_of_kl(8), 3)
    1.204
    """
    if n < 1:
        raise UsageError(f"The best of {n} answers: n is 1 or more.")
    return math.log(n) - (n - 1) / n
