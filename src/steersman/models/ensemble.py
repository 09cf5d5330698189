"""An ensemble of networks that predicts the next observation, the reward and whether the episode ends.

    z = f_k((obs, action) normalised),   target = next_obs - obs, or next_obs;  reward;  a logit of termination

K members, by ``vmap`` of one, so that each layer is one batched matrix product. A probabilistic member gives a mean and
a variance for each entry of the target (Chua et al. 2018, arXiv:1805.12114): its noise is the world's, the spread of
the members' means is what is not known yet. Its loss is the Gaussian likelihood with the gradient weighed by the
variance to the power ``nll_beta`` (Seitzer et al. 2022, arXiv:2203.09168),

    stop(v^beta) ((y - m)^2 / v + log v) / 2

because plain likelihood (beta 0) lets the variance grow where the mean is bad, and then learns the mean there no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from steersman.config import Rules
from steersman.errors import UsageError
from steersman.models import fitting
from steersman.models.model import KNOWN, Data, Known, Model, Prediction, Reward, Terminated
from steersman.models.scaling import Scaler, scaler, unscaled
from steersman.nets import critics
from steersman.nets.encoders import Encoder
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import ACTIVATIONS, MLP
from steersman.spaces import MASK, abstract
from steersman.theory.trees import take
from steersman.types import EnvSpec, Key, Metrics, PyTree, Rollout

LARGEST_LOG_VARIANCE = 0.5  # of targets of unit variance
CERTAIN = 100.0  # the logit of what a given function says


@dataclass(frozen=True)
class EnsembleConfig(fitting.FittingConfig):
    """The learned model of the environment."""

    members: int = 5
    """Networks of the ensemble (K)."""
    elites: int | None = None
    """Members that predict, those of the least error on what is held out; none: all."""
    model_hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers of each member."""
    model_activation: str = "silu"
    """Of the members' hidden layers: tanh, relu, elu, silu or gelu."""
    probabilistic: bool = True
    """Let members predict a variance beside the mean; off: means, by least squares."""
    imagined_noise: bool = True
    """Draw imagined steps from the members' distributions; off: each follows its mean. Off where the world has no noise
    and is unstable: what is drawn at the variance's floor grows with every step."""
    nll_beta: float = 0.5
    """How far the variance weighs the likelihood's gradient: 0 is the plain likelihood, at 1 means move as by least
    squares."""
    log_variance_floor: float = -8.0
    """The least log-variance of a target of unit variance."""
    predict: str = "delta"
    """What the members predict of the next observation: delta, its change, or next, itself."""
    clip_margin: float = 0.1
    """How far predictions may go beyond the range that was seen, as a share of it."""
    known: bool = False
    """Give the model the reward and the termination that are known here of an environment (InvertedPendulum-v5, and of
    Hopper-v5 the termination) rather than learn them."""
    member_per: str = "episode"
    """How long an imagined episode follows one member: episode (TS-inf), or step (TS-1)."""

    rules = Rules(
        at_least_one=("members", "elites"),
        sizes=("model_hidden_sizes",),
        fraction=("nll_beta",),
        non_negative=("clip_margin",),
        choices={
            "model_activation": tuple(ACTIVATIONS),
            "predict": ("delta", "next"),
            "member_per": ("episode", "step"),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elites is not None and self.elites > self.members:
            raise UsageError(
                f"elites = {self.elites} of members = {self.members}: elites are chosen among the members. Lower "
                "elites, or raise members."
            )
        if not self.log_variance_floor < LARGEST_LOG_VARIANCE:
            raise UsageError(
                f"log_variance_floor = {self.log_variance_floor}; targets have unit variance, so it must be below "
                f"{LARGEST_LOG_VARIANCE}. Default: -8.0."
            )


class Member(eqx.Module):
    """``[in] -> (mean [D], log-variance [D], logits [L])`` in normalised units."""

    trunk: MLP
    head: Linear
    size: int = eqx.field(static=True)  # D
    floor: float | None = eqx.field(static=True)  # of the log-variance; None: there is none

    def __init__(self, inputs: int, size: int, logits: int, config: EnsembleConfig, *, key: Key):
        one, two = jax.random.split(key)
        self.trunk = MLP(inputs, config.model_hidden_sizes, activation=config.model_activation, key=one)
        self.size, self.floor = size, config.log_variance_floor if config.probabilistic else None
        outputs = size * (1 if self.floor is None else 2) + logits
        self.head = orthogonal_linear(self.trunk.out_size, outputs, two, gain=0.1)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        out = self.head(self.trunk(x))
        mean, rest = out[: self.size], out[self.size :]
        if self.floor is None:
            return mean, jnp.full_like(mean, -jnp.inf), rest
        raw, logits = rest[: self.size], rest[self.size :]
        below = LARGEST_LOG_VARIANCE - jax.nn.softplus(LARGEST_LOG_VARIANCE - raw)
        return mean, self.floor + jax.nn.softplus(below - self.floor), logits


class EnsembleState(NamedTuple):
    """What an ensemble has learned. D: entries of an observation."""

    network: Member  # leaves [K, ...]
    elites: jax.Array  # int32 [E]: members, the best first
    inputs: Scaler
    targets: Scaler
    scale: jax.Array  # [D + 1]: standard deviations of an observation's changes and of the reward, 0 where constant
    low: jax.Array  # [D + 1]: predictions are clipped to it
    high: jax.Array


class Imagined(NamedTuple):
    """Where an imagined episode stands."""

    obs: PyTree
    member: jax.Array  # int32


def ensemble(
    config: EnsembleConfig, spec: EnvSpec, *, reward: Reward | None = None, terminated: Terminated | None = None
) -> Model:
    """A model of an environment of Box observations, or Dicts of them, and any action space.

    reward, terminated: pure functions of (obs, action, next_obs) at one point, where they are known; what is not given,
    nor ``known`` (``models.model.KNOWN``), is learned. Inputs and targets are normalised by what was seen, predictions
    clipped to its range and margin, and to the observation space. Members start a fit where the last one ended.

    ``fit`` says ``model/constant_entries`` beside what ``fitting.fit`` says: how many entries of the targets never
    varied. They are predicted to stay so. Raises UsageError for observations that are no vectors of numbers.
    """
    if config.known:
        given = _known(spec)
        reward, terminated = reward or given.reward, terminated or given.terminated
    to_vector, to_obs, low, high = _vectors(spec)
    act = Encoder(spec.action_space, "flatten", key=jax.random.key(0))
    size, elites = low.size - 1, config.elites or config.members
    noisy = config.probabilistic and config.imagined_noise
    outputs = size + (reward is None)

    def read(obs: PyTree, action: PyTree) -> jax.Array:
        return jnp.concatenate([to_vector(obs), act(action)])

    def wanted(rows: Rollout) -> tuple[jax.Array, jax.Array]:
        """-> (the targets [N, outputs], changes and reward [N, D + 1])"""
        obs, after = jax.vmap(to_vector)(rows.obs), jax.vmap(to_vector)(rows.next_obs)
        paid = jnp.asarray(rows.reward)[:, None]
        target = after - obs if config.predict == "delta" else after
        return jnp.concatenate([target, paid], 1)[:, :outputs], jnp.concatenate([after - obs, paid], 1)

    def init(key: Key, first_rollout: Rollout) -> EnsembleState:
        make = lambda key: Member(size + act.out_size, outputs, int(terminated is None), config, key=key)
        return EnsembleState(
            critics.ensemble(make, key, config.members),
            jnp.arange(elites, dtype=jnp.int32),
            unscaled(size + act.out_size),
            unscaled(outputs),
            jnp.ones((size + 1,), jnp.float32),
            low,
            high,
        )

    def fit(state: EnsembleState, data: Data, key: Key) -> tuple[EnsembleState, Metrics]:
        rows, valid = data.rows, data.valid
        x = jax.vmap(read)(rows.obs, rows.action)
        y, changes = wanted(rows)
        inputs, targets, changed = scaler(x, valid), scaler(y, valid), scaler(changes, valid)
        seen = [scaler(jax.vmap(to_vector)(o), valid) for o in (rows.obs, rows.next_obs)]
        least = jnp.append(jnp.minimum(seen[0].low, seen[1].low), changed.low[-1])
        most = jnp.append(jnp.maximum(seen[0].high, seen[1].high), changed.high[-1])
        margin = config.clip_margin * (most - least)
        varies = targets.varies.astype(jnp.float32)
        counted = varies / jnp.maximum(varies.sum(), 1.0)

        def judge(member: Member, batch: PyTree, *, likelihood: bool) -> jax.Array:
            x, y, ended = batch
            mean, log_variance, logits = jax.vmap(member)(x)
            error = jnp.square(y - mean)
            if likelihood:
                weight = jax.lax.stop_gradient(jnp.exp(config.nll_beta * log_variance))
                error = weight * 0.5 * (error * jnp.exp(-log_variance) + log_variance)
            total = error @ counted
            return total if terminated else total + optax.sigmoid_binary_cross_entropy(logits[:, 0], ended)

        prepared = inputs.normalize(x), targets.normalize(y), jnp.asarray(rows.terminated).astype(jnp.float32)
        loss = lambda member, batch: judge(member, batch, likelihood=config.probabilistic)
        score = lambda member, batch: judge(member, batch, likelihood=False)
        network, error, metrics = fitting.fit(config, loss, state.network, prepared, data, key, score=score)
        best = jnp.argsort(error)[:elites].astype(jnp.int32)
        least, most = jnp.maximum(least - margin, low), jnp.minimum(most + margin, high)
        after = EnsembleState(network, best, inputs, targets, changed.std, least, most)
        return after, metrics | {"model/constant_entries": (1.0 - varies).sum()}

    def pick(state: EnsembleState, key: Key) -> jax.Array:
        return state.elites[jax.random.randint(key, (), 0, state.elites.shape[0], jnp.int32)]

    def start(state: EnsembleState, obs: PyTree, key: Key) -> Imagined:
        return Imagined(obs, pick(state, key))

    def step(state: EnsembleState, at: Imagined, action: PyTree, key: Key) -> tuple[Imagined, Prediction]:
        noise_key, member_key = jax.random.split(key)
        member = at.member if config.member_per == "episode" else pick(state, member_key)
        mean, log_variance, logits = _of_member(state.network, state.inputs.normalize(read(at.obs, action)), member)
        std = jnp.exp(0.5 * log_variance) * state.targets.std
        mean = state.targets.restore(mean)
        drawn = mean + std * jax.random.normal(noise_key, mean.shape) if noisy else mean
        obs = to_vector(at.obs)

        def world(target: jax.Array) -> tuple[jax.Array, PyTree, jax.Array]:
            """A target as it is seen: (vector [D + 1], next observation, reward)."""
            after = target[:size] + obs if config.predict == "delta" else target[:size]
            after = jnp.clip(after, state.low[:-1], state.high[:-1])
            seen = to_obs(after)
            if reward is None:
                paid = jnp.clip(target[size], state.low[-1], state.high[-1])
            else:
                paid = jnp.asarray(reward(at.obs, action, seen), jnp.float32)
            return jnp.append(after, paid), seen, paid

        expected = world(mean)[0]
        _, seen, paid = world(drawn)
        logit = logits[0] if terminated is None else jnp.where(terminated(at.obs, action, seen), CERTAIN, -CERTAIN)
        spread = std if reward is None else jnp.append(std, 0.0)
        return Imagined(seen, member), Prediction(seen, paid, logit, expected, spread)

    def members(state: EnsembleState) -> EnsembleState:
        shared = jax.tree.map(lambda x: jnp.broadcast_to(x, (elites, *x.shape)), state)
        network = jax.tree.map(lambda x: x[state.elites][:, None], state.network)
        return shared._replace(network=network, elites=jnp.zeros((elites, 1), jnp.int32))

    return Model(init, fit, start, step, members, lambda state: state.scale)


def _known(spec: EnvSpec) -> Known:
    if spec.id not in KNOWN:
        raise UsageError(
            f"known = True, and nothing is known here of {spec.id}, only of {', '.join(KNOWN)}. Leave it out, or give "
            "a model of your own: ensemble(config, spec, reward=..., terminated=...)."
        )
    return KNOWN[spec.id]


def _of_member(network: Member, x: jax.Array, member: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One member's outputs. All are computed: a gather of weights would, under ``vmap``, copy them for each point."""
    if jax.tree.leaves(network)[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[0], network)(x)
    outputs = jax.vmap(lambda one: one(x))(network)
    return jax.tree.map(lambda y: take(y.T, jnp.broadcast_to(member, y.shape[1:])), outputs)


def _vectors(
    spec: EnvSpec,
) -> tuple[Callable[[PyTree], jax.Array], Callable[[jax.Array], PyTree], jax.Array, jax.Array]:
    """-> (observation -> [D], its inverse, the least and the greatest of each entry and of the reward, [D + 1])"""
    space = spec.observation_space
    blank = abstract(space)
    masked = isinstance(space, spaces.Dict) and MASK in space.spaces
    if masked or isinstance(space, spaces.Tuple) or any(leaf.dtype != np.float32 for leaf in jax.tree.leaves(blank)):
        raise UsageError(
            f"An ensemble predicts vectors of numbers: Box observations that are no images, or Dicts of them, without "
            f"{MASK}. {spec.id} shows {space}. Make features of them first, as "
            "steersman.envs.wrappers.transform_observation does, and on the host gymnasium.wrappers."
            "TransformObservation."
        )
    ravel = lambda tree: ravel_pytree(tree)[0]
    back = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank))[1]
    ends = lambda space, end: (
        {name: ends(part, end) for name, part in space.spaces.items()}
        if isinstance(space, spaces.Dict)
        else jnp.asarray(getattr(space, end))
    )
    low, high = (
        jnp.append(ravel(ends(space, end)), np.float32(at)) for end, at in (("low", -np.inf), ("high", np.inf))
    )
    return ravel, back, low, high
