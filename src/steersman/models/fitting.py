"""Fitting by gradient, in one place for all models: whole episodes held out, each member's best parameters kept.

A fit is a loop of rounds: some gradient steps, then a look at what is held out. It ends where no member has got better
for some rounds, or at its cap. All shapes are fixed, so it runs inside an agent's update, and under ``vmap`` over seeds
each seed ends where it would have ended alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from steersman.config import Config, Rules
from steersman.errors import UsageError
from steersman.models.data import held_out
from steersman.models.model import Data
from steersman.types import Key, Metrics, PyTree

JUDGED = 2048  # rows, at most, that a round is judged by
BETTER = 0.01  # the share by which a loss must fall to count as better
Loss = Callable[[PyTree, PyTree], jax.Array]  # (one member's parameters, rows [n, ...]) -> [n]


@dataclass(frozen=True)
class FittingConfig(Config):
    """How models are fitted to what was seen."""

    model_learning_rate: float = 1e-3
    """The model's step size, at the start of each fit."""
    model_schedule: str = "constant"
    """The model's step size over a fit: constant, or cosine, which falls to zero at model_steps."""
    model_batch_size: int = 256
    """Transitions in one gradient step of the model."""
    model_steps: int = 500
    """Gradient steps of one fit, at most."""
    model_check_every: int = 50
    """Gradient steps between two looks at the episodes that are held out."""
    model_patience: int = 5
    """Looks in a row without one percent of improvement that end a fit."""
    model_weight_decay: float = 1e-5
    """Pull of the model's parameters towards zero, as a share of the step size."""
    model_max_grad_norm: float = 10.0
    """Clip the norm of each member's gradient to this."""
    held_out_share: float = 0.2
    """Episodes that are held out of fitting, as a share: at 0.2 the fifth, the tenth and so on. While there is none
    yet, what is learned from judges too."""
    bootstrap: bool = True
    """Weigh the transitions by random numbers of each member's own, which stay from fit to fit."""

    rules = Rules(
        positive=("model_learning_rate", "model_max_grad_norm"),
        at_least_one=("model_batch_size", "model_steps", "model_check_every", "model_patience"),
        non_negative=("model_weight_decay",),
        fraction=("held_out_share",),
        choices={"model_schedule": ("constant", "cosine")},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.held_out_share, float | int) and not 0 < self.held_out_share < 1:
            raise UsageError(
                f"held_out_share = {self.held_out_share} holds out {'all' if self.held_out_share else 'no'} episodes; "
                "give a share between 0 and 1, such as 0.2."
            )


class Round(NamedTuple):
    """Where a fit stands."""

    params: PyTree  # [K, ...]
    moments: PyTree
    best: PyTree  # [K, ...]: of the round with the least held-out loss, each member's own
    loss: jax.Array  # [K]: that loss
    mark: jax.Array  # [K]: the loss that the next improvement is measured from
    stale: jax.Array  # int32: rounds since a member got better
    done: jax.Array  # int32: rounds
    train: jax.Array  # [K]: the loss of the last round's gradient steps


def fit(
    config: FittingConfig, loss: Loss, params: PyTree, rows: PyTree, data: Data, key: Key, *, score: Loss | None = None
) -> tuple[PyTree, jax.Array, Metrics]:
    """-> (each member's best parameters [K, ...], their held-out loss [K], metrics)

    params: [K, ...], where each member starts. They are no candidate for the best: what is held out may know nothing
    yet of what is new. rows: what ``loss`` reads, [N, ...] row by row of ``data``. score: what the members are judged
    by on the rows that are held out, by default ``loss``; it is 0 or more. A member whose loss is not finite keeps its
    last good parameters.

    Minibatches are drawn with replacement. With ``bootstrap`` row i of member k is drawn in proportion to a weight
    w_ki ~ Exp(1) (the Bayesian bootstrap, Rubin 1981), the same in every fit of as many rows: redrawn ones would make
    the members equal. Metrics: ``model/held_out_rows``, 0 as long as there are too few episodes, ``model/fit_steps``,
    ``model/train_loss``, ``model/held_out_loss``.
    """
    score, capacity, rows = score or loss, data.valid.shape[0], jax.tree.map(jnp.asarray, rows)
    members = jax.tree.leaves(params)[0].shape[0]
    held = held_out(data, config.held_out_share)
    learned = data.valid & ~held
    learned = jnp.where(learned.any(), learned, data.valid)
    judged = _spread(jnp.where(held.any(), held, learned), min(capacity, JUDGED))
    exam = jax.tree.map(lambda x: x[judged], rows)
    chances = _chances(learned, members, config.bootstrap)
    last = chances.argmax(1).astype(jnp.int32)  # of the rows that are learned from
    optimiser = _optimiser(config)
    length = min(config.model_check_every, config.model_steps)  # of a round
    rounds = config.model_steps // length
    examined = jax.vmap(lambda p: score(p, exam).mean())

    def rate(t: jax.Array) -> Any:
        share = t.astype(jnp.float32) / float(rounds * length)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * share)) if config.model_schedule == "cosine" else 1.0
        return config.model_learning_rate * falling

    def draw(key: Key) -> jax.Array:
        """The rows of each gradient step of a round, [steps, K, batch]."""
        u = jax.random.uniform(key, (members, length, config.model_batch_size))
        index = jax.vmap(partial(jnp.searchsorted, side="right"))(chances, u * chances[:, -1:, None])
        return jnp.swapaxes(jnp.minimum(index.astype(jnp.int32), last[:, None, None]), 0, 1)

    def descend(member: PyTree, moments: PyTree, index: jax.Array, t: jax.Array):
        batch = jax.tree.map(lambda x: x[index], rows)
        value, gradient = jax.value_and_grad(lambda p: loss(p, batch).mean())(member)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            direction, moments = optimiser.update(gradient, moments, member)
        return jax.tree.map(lambda p, d: p - rate(t) * d, member, direction), moments, value

    def step(carry: tuple[PyTree, PyTree], now: tuple[jax.Array, jax.Array]):
        params, moments, value = jax.vmap(descend, (0, 0, 0, None))(*carry, *now)
        return (params, moments), value

    def play(now: Round) -> Round:
        steps = now.done * length + jnp.arange(length, dtype=jnp.int32)
        drawn = draw(jax.random.fold_in(key, now.done))
        (params, moments), values = jax.lax.scan(step, (now.params, now.moments), (drawn, steps))
        found = examined(params)
        better = found < now.loss  # false where it is not a number
        keep = lambda new, old: jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 1)), new, old)
        gained = found < now.mark * (1 - BETTER)
        return Round(
            params,
            moments,
            jax.tree.map(keep, params, now.best),
            jnp.where(better, found, now.loss),
            jnp.where(gained, found, now.mark),
            jnp.where(gained.any(), 0, now.stale + 1),
            now.done + 1,
            values.mean(0),
        )

    endless, zero = jnp.full((members,), jnp.inf), jnp.zeros((), jnp.int32)
    begun = Round(params, jax.vmap(optimiser.init)(params), params, endless, endless, zero, zero, endless)
    going = lambda now: (now.done < rounds) & (now.stale < config.model_patience)
    end = jax.lax.while_loop(going, play, begun)
    metrics = {
        "model/held_out_rows": held.sum().astype(jnp.float32),
        "model/fit_steps": (end.done * length).astype(jnp.float32),
        "model/train_loss": end.train.mean(),
        "model/held_out_loss": end.loss.mean(),
    }
    return end.best, end.loss, metrics


def _optimiser(config: FittingConfig) -> optax.GradientTransformation:
    """The direction that the step size scales."""
    clipped = optax.clip_by_global_norm(config.model_max_grad_norm)
    return optax.chain(clipped, optax.scale_by_adam(), optax.add_decayed_weights(config.model_weight_decay))


def _chances(learned: jax.Array, members: int, bootstrap: bool) -> jax.Array:
    """Of each member, [K, N]: sums of the rows' weights up to and with each, 0 where a row is not learned from."""
    shape = (members, learned.shape[0])
    weights = jax.random.exponential(jax.random.key(0), shape) if bootstrap else jnp.ones(shape, jnp.float32)
    return jnp.cumsum(jnp.where(learned[None], weights, 0.0), axis=1)


def _spread(mask: jax.Array, size: int) -> jax.Array:
    """``size`` of the rows of a mask [N], evenly spread over them; each as often as any other, or once more."""
    count = jnp.cumsum(mask, dtype=jnp.int32)
    nth = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (count[-1].astype(jnp.float32) / size)
    return jnp.searchsorted(count, nth.astype(jnp.int32) + 1, side="left").astype(jnp.int32)
