"""Advantages of answers drawn in groups: several to each prompt, and the others are the baseline.

Rewards ``[N]`` -> advantages ``[N]``; the N answers lie group by group, ``size`` to a prompt. No value network: a
prompt's difficulty is in all of its answers. The advantage of an answer goes to each of its tokens. A group of equal
rewards gets exactly 0. Raises UsageError for a size that leaves no others, or does not divide N.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.errors import UsageError
from steersman.types import Array

EPSILON = 1e-4  # beside a standard deviation, as in the published code


def grouped(reward: Array, size: int) -> jax.Array:
    """[N] -> [N / size, size].

    >>> grouped(jnp.arange(4), 2).tolist()
    [[0, 1], [2, 3]]
    """
    reward = jnp.asarray(reward)
    if reward.ndim != 1 or size < 2 or reward.shape[0] % size:
        raise UsageError(
            f"Rewards {list(reward.shape)} in groups of {size}: a group is 2 or more answers to one prompt, and their "
            "number is to be a multiple of it."
        )
    return reward.reshape(-1, size)


def centred(reward: Array, size: int) -> jax.Array:
    """r - mean of its group: the advantage of Dr. GRPO. Its gradient is (size - 1) / size of ``leave_one_out``'s.

    Liu et al. (2025), arXiv:2503.20783.

    >>> centred(jnp.array([1.0, 3.0, 5.0, 5.0]), 2).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    group = grouped(reward, size)
    apart = group - group[:, :1]  # equal rewards are exactly 0 apart, and so is their mean
    return (apart - apart.mean(1, keepdims=True)).reshape(-1)


def standardised(reward: Array, size: int) -> jax.Array:
    """(r - mean) / (std + 1e-4), of its group: GRPO's, as published.

    Easy and hard prompts, whose groups are nearly all alike, weigh as much as others, and beta of a KL term that is a
    loss is another one for each prompt: what is reached is not the optimum of E[r] - beta KL. (Of a KL term in the
    reward it is.) The standard deviation is the unbiased one. Shao et al. (2024), arXiv:2402.03300.
    """
    group = grouped(centred(reward, size), size)
    std = jnp.sqrt(jnp.square(group).sum(1, keepdims=True) / (size - 1))
    return (group / (std + EPSILON)).reshape(-1)


def leave_one_out(reward: Array, size: int) -> jax.Array:
    """r - mean of the *others* of its group: RLOO's, whose policy gradient is unbiased.

    ``estimators.leave_one_out`` is its baseline. Kool et al. (2019); Ahmadian et al. (2024), arXiv:2402.14740.

    >>> leave_one_out(jnp.array([1.0, 2.0, 6.0]), 3).tolist()
    [-3.0, -1.5, 4.5]
    """
    return centred(reward, size) * (size / (size - 1))


def batch_standardised(reward: Array, size: int) -> jax.Array:
    """(r - mean of its group) / (std + 1e-4), the std that of these differences over the whole batch, all shards.

    One scale for all prompts: what GRPO's division does to a step's size, without what it does to a prompt's weight. Hu
    et al. (2025), arXiv:2501.03262.
    """
    apart = centred(reward, size)
    return apart / (jnp.sqrt(shards.cross_mean(jnp.square(apart).mean())) + EPSILON)
