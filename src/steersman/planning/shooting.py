"""Planning by shooting: draw sequences of actions, score them, draw again near the best.

Axes: ``N`` sequences, ``H`` steps ahead, ``A`` entries of a flat action. A score is any pure function of sequences:

>>> from gymnasium import spaces
>>> def score(sequences, key):  # a mass is pushed, and is to come to rest at 1: [N, H, A] -> [N]
...     speed = jnp.cumsum(0.3 * sequences[..., 0], axis=1)
...     return -jnp.square(jnp.cumsum(speed, axis=1) - 1.0).sum(1)
>>> planner = icem(spaces.Box(-1, 1, (1,)), horizon=8, population=64, iterations=4, elites=8)
>>> plan = planner.plan(score, planner.begin(), jax.random.key(0))
>>> bool(plan.action[0] > 0.8), bool(plan.value > -1.2)
(True, True)

For an environment, the true one or a learned one, ``scores.score_of`` makes it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.planning.noise import power_law
from steersman.planning.planner import Plan, Planner, Score
from steersman.planning.scores import action_of, action_size
from steersman.types import Array, Key

WORST = jnp.finfo(jnp.float32).min  # of a sequence whose score is NaN or infinite


class Warm(NamedTuple):
    """What the search of the next step begins from: this one's, a step further on."""

    mean: jax.Array  # [H, A]
    kept: jax.Array  # [K, H, A], the best sequences


def random_shooting(
    action_space: spaces.Space,
    *,
    horizon: int,
    population: int,
    noise_exponent: float | Array = 0.0,
    std: float | Array = 1.0,
) -> Planner:
    """The best of ``population`` sequences that are drawn once, and of the last step's mean. The baseline."""
    options: Any = {"noise_exponent": noise_exponent, "std": std}
    return _search(action_space, horizon, population, 1, elites=1, **options)


def cem(
    action_space: spaces.Space,
    *,
    horizon: int,
    population: int,
    iterations: int,
    elites: int,
    noise_exponent: float | Array = 0.0,
    std: float | Array = 0.5,
    min_std: float | Array = 0.02,
    momentum: float | Array = 0.1,
) -> Planner:
    """The cross-entropy method: a Gaussian for each entry, fitted to the elites of each iteration.

        mean <- momentum mean + (1 - momentum) mean(elites),    std likewise and at least min_std

    The mean is one of the sequences that are scored, every iteration has ``population`` of them, and the best that was
    ever scored is carried out. std: of the first iteration, in canonical units. Entries of Box actions are cut to
    [-1, 1]; logits are not. A score that is not finite counts as the worst. Raises UsageError for a horizon or an
    iteration count below 1, a population below 2, elites that are not in 1 to population, and as ``action_size`` does.
    Rubinstein and Kroese (2004); Chua et al. (2018).
    """
    options: Any = {"noise_exponent": noise_exponent, "std": std, "min_std": min_std, "momentum": momentum}
    return _search(action_space, horizon, population, iterations, elites, **options)


def icem(
    action_space: spaces.Space,
    *,
    horizon: int,
    population: int,
    iterations: int,
    elites: int,
    noise_exponent: float | Array = 2.0,
    std: float | Array = 0.5,
    min_std: float | Array = 0.02,
    momentum: float | Array = 0.1,
    keep: float = 0.3,
) -> Planner:
    """``cem`` with noise that is correlated in time, and a share ``keep`` of the elites that is scored again: in the
    next iteration, and, a step further on, in the next search.

    The population is the same in every iteration, so that one body is compiled, where the paper lets it shrink. Raises
    UsageError as ``cem`` does, and for ``keep`` outside [0, 1]. Pinneri et al. (2020).
    """
    if not 0 <= keep <= 1:
        raise UsageError(f"keep is the share of the elites that is kept, in [0, 1]; got {keep}.")
    options: Any = {"noise_exponent": noise_exponent, "std": std, "min_std": min_std, "momentum": momentum}
    return _search(action_space, horizon, population, iterations, elites, kept=math.ceil(keep * elites), **options)


def mppi(
    action_space: spaces.Space,
    *,
    horizon: int,
    population: int,
    iterations: int,
    elites: int,
    noise_exponent: float | Array = 0.0,
    std: float | Array = 0.5,
    min_std: float | Array = 0.02,
    temperature: float | Array = 1.0,
) -> Planner:
    """Model predictive path integral control: as ``cem``, but the elites weigh by how good they are.

        w_i = softmax(score_i / temperature),    mean <- sum_i w_i a_i,    std^2 <- sum_i w_i (a_i - mean)^2

    temperature: in units of the return. Raises UsageError as ``cem`` does. Williams et al. (2017); with elites, as
    Hansen et al. (2022).
    """
    options: Any = {"noise_exponent": noise_exponent, "std": std, "min_std": min_std, "temperature": temperature}
    return _search(action_space, horizon, population, iterations, elites, **options)


def _search(
    space: spaces.Space,
    horizon: int,
    population: int,
    iterations: int,
    elites: int,
    *,
    noise_exponent: float | Array,
    std: float | Array,
    min_std: float | Array = 0.02,
    momentum: float | Array = 0.0,
    temperature: float | Array | None = None,
    kept: int = 0,
) -> Planner:
    """One scan over the iterations; temperature: None weighs the elites alike."""
    size = action_size(space)
    bound = jnp.inf if isinstance(space, spaces.Discrete) else 1.0
    check_sizes(horizon=horizon, iterations=iterations)
    if elites < 1 or 1 <= population < elites:
        raise UsageError(f"elites = {elites}; they are the best of the population of {population}: 1 to {population}.")
    least = 2 + kept
    if population < least:
        why = f" and the {kept} that are kept" if kept else ""
        raise UsageError(f"population = {population}; at least {least}: beside the mean{why}, one is drawn.")

    def begin() -> Warm:
        return Warm(jnp.zeros((horizon, size), jnp.float32), jnp.zeros((kept, horizon, size), jnp.float32))

    def plan(score: Score, warm: Warm, key: Key) -> Plan:
        drawn = (population - 1 - kept, horizon, size)

        def iteration(now, key):
            mean, std, before, best, most = now
            noise_key, score_key = jax.random.split(key)
            near = jnp.clip(mean[None] + std[None] * power_law(noise_key, drawn, noise_exponent), -bound, bound)
            sequences = jnp.concatenate([mean[None], before, near])
            scores = score(sequences, score_key)
            scores = jnp.where(jnp.isfinite(scores), scores, WORST)
            top, index = jax.lax.top_k(scores, elites)
            elite = sequences[index]
            weights = jnp.full((elites,), 1 / elites, jnp.float32)
            if temperature is not None:
                weights = jax.nn.softmax((top - top[0]) / temperature)
            weights = weights[:, None, None]
            center = (weights * elite).sum(0)
            width = jnp.sqrt((weights * jnp.square(elite - center[None])).sum(0))
            mean = momentum * mean + (1 - momentum) * center
            std = jnp.maximum(momentum * std + (1 - momentum) * width, min_std)
            best, most = jnp.where(top[0] > most, elite[0], best), jnp.maximum(top[0], most)
            return (mean, std, elite[:kept], best, most), None

        first = jnp.full((horizon, size), std, jnp.float32)
        start = (warm.mean, first, warm.kept, warm.mean, jnp.asarray(WORST, jnp.float32))
        (mean, last, elite, best, most), _ = jax.lax.scan(iteration, start, jax.random.split(key, iterations))
        after = Warm(shifted(mean), jax.vmap(shifted)(elite))
        return Plan(action_of(space, best[0]), after, most, last[0].mean())

    return Planner(begin, plan)


def shifted(sequence: jax.Array) -> jax.Array:
    """A sequence [H, A] a step further on; what comes after its end is 0."""
    return jnp.concatenate([sequence[1:], jnp.zeros_like(sequence[:1])])


def check_sizes(**sizes: int) -> None:
    """Raise UsageError unless every one is at least 1."""
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"{name} = {value}; it is a whole number of at least 1.")
