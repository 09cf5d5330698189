"""What the learners of texts share: what a trainer is, its batches and settings, a step down a gradient in parts.

A trainer is pure functions over an explicit state, as an agent is. The decoder that it starts from is an argument of
each and never changes: it is what adapters stand beside, and the reference that a policy is kept near.

A loss is a *sum* over rows whose weights are normalised over the whole batch beforehand. So a batch in parts (gradient
accumulation), or cut over devices, has the gradient of the whole one, however its tokens are spread over the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from steersman.agents.parts.training import Optimiser, adam
from steersman.config import Config, Rules
from steersman.errors import UsageError
from steersman.language.adapters import MATRICES, Adaptation, full, last_layers, low_rank
from steersman.language.decoder import Decoder, stacked
from steersman.shards import cross_sum
from steersman.types import Array, Key, Metrics, PyTree

Loss = Callable[[PyTree, Decoder, Any], tuple[jax.Array, Metrics]]


class Texts(NamedTuple):
    """B texts of up to L tokens, padded on the right. A row whose mask is all False only fills a batch up."""

    tokens: Array  # int32 [B, L]
    mask: Array  # bool [B, L]: which are tokens
    weight: Array  # float32 [B, L]: how much each counts; 0 of what is not learned, as of a prompt


class Pairs(NamedTuple):
    """B prompts with two answers each, of which one is preferred: whole texts, the weight 1 on the answers' tokens."""

    chosen: Texts
    rejected: Texts


class Learner(NamedTuple):
    """All that a training of a language model is, between two updates."""

    params: PyTree  # what is trained, an ``Adaptation``'s tree; the decoder itself is no part of it
    moments: PyTree  # of the optimiser
    updates: jax.Array  # int32: also the position in the data


class Trainer(NamedTuple):
    """A method of aligning a decoder, as pure functions.

    init(decoder, key) -> learner
    update(learner, decoder, batch, key) -> (learner, metrics)     one step of the optimiser
    evaluate(learner, decoder, batch) -> metrics                   means of a batch that is not learned from; "count",
                                                                   of how many tokens or pairs, weighs them
    model(params, decoder) -> decoder                              what was learned, merged into a plain decoder
    """

    init: Callable[[Decoder, Key], Any]  # a Learner, or one that holds more
    update: Callable[[Any, Decoder, Any, Key], tuple[Any, Metrics]]
    evaluate: Callable[[Any, Decoder, Any], Metrics]
    model: Callable[[PyTree, Decoder], Decoder]


class Method(NamedTuple):
    """What the file of a method ends in."""

    name: str
    config: type[Any]
    trainer: Callable[[Any, int], Trainer]  # (config, updates of the whole run)
    summary: str
    learns_from: str  # texts, pairs or prompts


@dataclass(frozen=True)
class AdaptationConfig(Config):
    """What of the model is trained: adapters, its last layers, or, with neither, all of it."""

    lora: int = 0
    """Rank of adapters beside each layer's matrices (LoRA); 0: none."""
    lora_alpha: float | None = None
    """Their scale is lora_alpha / lora; none: 2 lora."""
    lora_matrices: tuple[str, ...] = MATRICES
    """Which matrices of a layer have adapters: q, k, v, o, gate, up, down."""
    last_layers: int = 0
    """Train the last layers and the norm after them alone; 0: not so."""

    rules = Rules(non_negative=("lora", "last_layers"), positive=("lora_alpha",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora and self.last_layers:
            raise UsageError(
                f"lora = {self.lora} and last_layers = {self.last_layers}: adapters are beside all layers. Give one."
            )

    @property
    def adaptation(self) -> Adaptation:
        """The settings above, as functions."""
        if self.lora:
            return low_rank(self.lora, self.lora_alpha, self.lora_matrices)
        return last_layers(self.last_layers) if self.last_layers else full()


@dataclass(frozen=True)
class DescentConfig(Config):
    """How it moves: AdamW, over batches that may be gone through in parts."""

    learning_rate: float = 1e-4
    """The largest step size."""
    warmup: float = 0.05
    """Share of the run over which the step size rises to that, linearly."""
    decay: str = "cosine"
    """How it falls from there to zero: cosine, linear, or none, where it stays."""
    weight_decay: float = 0.0
    """Times the step size, how much of each matrix is taken off at each step (Loshchilov and Hutter 2019)."""
    max_grad_norm: float | None = 1.0
    """Clip the norm of the whole gradient to this; none: as it is."""
    batch_size: int = 8
    """Texts, or pairs, in one step (N)."""
    accumulate: int = 1
    """In how many parts a batch is gone through, one after another: less memory, the same gradient."""
    chunk: int = 512
    """Tokens whose logits are made at a time; 0: of a whole part."""
    remat: bool = False
    """Compute layers again in the backward pass: less memory, a third more time."""

    rules = Rules(
        positive=("learning_rate", "max_grad_norm"),
        fraction=("warmup",),
        choices={"decay": ("cosine", "linear", "none")},
        non_negative=("weight_decay", "chunk"),
        at_least_one=("batch_size", "accumulate"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"A batch_size of {self.batch_size} does not go into accumulate = {self.accumulate} equal parts."
            )

    @property
    def optimiser(self) -> Optimiser:
        """Adam's direction, of the clipped gradient."""
        return adam(max_grad_norm=self.max_grad_norm, flat=0)


@dataclass(frozen=True)
class LanguageConfig(AdaptationConfig, DescentConfig):
    """What every method has."""


def joined(config: LanguageConfig, decoder: Decoder, params: PyTree) -> Decoder:
    """The decoder that the parameters make of the base, as losses run it.

    Layers that are computed again are gone through by a scan: of a loop, XLA on CPUs keeps what all of them need.
    """
    decoder = config.adaptation.join(decoder, params)
    return dataclasses.replace(stacked(decoder), remat=True) if config.remat else decoder


def rate(config: DescentConfig, updates: jax.Array, total: int) -> jax.Array:
    """The step size of update number ``updates``, from 0, of ``total``."""
    done = updates.astype(jnp.float32) / np.float32(total)
    risen = (updates + 1).astype(jnp.float32) / np.float32(max(1.0, config.warmup * total))
    fall = {"cosine": 0.5 + 0.5 * jnp.cos(np.float32(np.pi) * done), "linear": 1.0 - done, "none": jnp.ones(())}
    return config.learning_rate * jnp.minimum(risen, 1.0) * fall[config.decay]


def gradient(loss: Loss, params: PyTree, decoder: Decoder, batch: PyTree, parts: int = 1) -> tuple[PyTree, Metrics]:
    """-> (gradient, metrics) of a loss that is a sum over rows, its rows taken in so many parts; over all shards.

    Raises UsageError where this shard's rows do not go into equal parts.
    """
    slope = jax.grad(loss, has_aux=True)
    rows = len(jax.tree.leaves(batch)[0])
    if rows % parts:
        raise UsageError(f"{rows} rows on each device do not go into accumulate = {parts} equal parts.")
    if parts == 1:
        return cross_sum(slope(params, decoder, batch))
    cut = jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), batch)

    def more(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, sums, slope(params, decoder, part)), None

    shapes = jax.eval_shape(slope, params, decoder, jax.tree.map(lambda x: x[0], cut))
    return cross_sum(jax.lax.scan(more, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), cut)[0])


def descend(
    config: DescentConfig, total: int, loss: Loss, learner: Learner, decoder: Decoder, batch: PyTree
) -> tuple[Learner, Metrics]:
    """One step of AdamW down ``loss(params, decoder, rows) -> (sum, metrics)``, of ``total`` that the run has."""
    params, moments, updates = learner
    slope, metrics = gradient(loss, params, decoder, batch, config.accumulate)
    direction, moments = config.optimiser.update(slope, moments)
    step = rate(config, updates, total)
    shrink = lambda p: config.weight_decay * p if p.ndim > 1 and config.weight_decay else jnp.zeros_like(p)
    params = jax.tree.map(lambda p, d: p - step * (d + shrink(p)), params, direction)
    metrics = metrics | {"gradient_norm": optax.tree.norm(slope), "learning_rate": step}
    return Learner(params, moments, updates + 1), metrics


def trainer(
    config: LanguageConfig,
    updates: int,
    *,
    weigh: Callable[[Any], tuple[PyTree, jax.Array]],
    loss: Loss,
    init: Callable[[Decoder, Key], PyTree] | None = None,
    model: Callable[[PyTree, Decoder], Decoder] | None = None,
) -> Trainer:
    """A trainer whose update is one step down a loss.

    weigh(batch) -> (rows for the loss, with weights that sum to 1 over the whole batch; how much it weighed before).
    """

    def start(decoder: Decoder, key: Key) -> Learner:
        params = (init or config.adaptation.init)(decoder, key)
        return Learner(params, config.optimiser.init(params), jnp.zeros((), jnp.int32))

    def update(learner: Learner, decoder: Decoder, batch: Any, key: Key) -> tuple[Learner, Metrics]:
        return descend(config, updates, loss, learner, decoder, weigh(batch)[0])

    def evaluate(learner: Learner, decoder: Decoder, batch: Any) -> Metrics:
        rows, count = weigh(batch)
        return cross_sum(loss(learner.params, decoder, rows)[1]) | {"count": count}

    merged = lambda params, decoder: config.adaptation.merge(decoder, params)
    return Trainer(start, update, evaluate, model or merged)


def shares(pairs: Pairs) -> tuple[tuple[Pairs, jax.Array], jax.Array]:
    """-> ((pairs, the share of each in the mean over the real ones, float32 [B]), how many these are)"""
    real = jnp.asarray(pairs.chosen.mask).any(-1).astype(jnp.float32)
    count = cross_sum(real.sum())
    return (pairs, real / jnp.maximum(count, 1.0)), count


def both(pairs: Pairs) -> Texts:
    """The chosen texts and then the rejected ones, [2 B, L]: one pass through the model."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *pairs)
