"""Learning inside a learned model (Dyna, Sutton 1991): an off-policy learner, part of whose batches is imagined.

    branched   after each fit of the model, episodes of k steps that begin at replayed states, pi acting in the model;
               they are kept in a memory of their own, and batches are drawn from both (Janner et al. 2019,
               arXiv:1906.08253)
    in_batch   every gradient step imagines by itself: of a replayed (s, a, r, s') it keeps s, and has the model say r
               and s' for a ~ pi(. | s); no memory, no horizon (as Sukhija et al. 2025, arXiv:2505.08073, do for a part
               of their batches)

A share of each batch is real. The model learns and speaks in the environment's units; normalisers are around the
learner, so what is imagined passes through them as what was seen does. An episode that is cut at k steps is truncated,
and its last value is bootstrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts import training
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.with_replay import (
    BatchLearner,
    ReplayState,
    first_stored,
    repeated,
    stored,
    updates_of,
)
from steersman.agents.parts.wrappers import normalised
from steersman.config import Config, Rules
from steersman.errors import UsageError
from steersman.memory import Buffer, Sample, stream, uniform
from steersman.models.data import of_memory
from steersman.models.ensemble import ensemble
from steersman.models.env import model_env
from steersman.models.held_out import tested
from steersman.models.model import Model
from steersman.theory import trees
from steersman.types import Agent, EnvSpec, Key, Metrics, PyTree, Rollout
from steersman.unroll import Acting, unroll
from steersman.vector import vectorize

REFUSED = {
    "memory": "the model imagines single steps, and a memory would have to see all that came before.",
    "frame_stack": "the model reads vectors, not stacks of images.",
}  # settings of a learner that cannot learn from what is imagined


@dataclass(frozen=True)
class ImaginationConfig(Config):
    """What is learned of a model's word."""

    imagination: str = "branched"
    """Which transitions are imagined: branched (episodes from replayed states, kept) or in_batch (each batch anew)."""
    real_share: float = 0.05
    """Share of real transitions in a batch."""
    refit_every: int = 250
    """Environment steps between two fits of the model; the first comes before the first gradient step."""
    imagined_steps: int = 10_000
    """Steps that are imagined after each fit (branched)."""
    imagined_capacity: int = 50_000
    """Imagined transitions that are kept; the oldest leave (branched)."""
    rollout_horizon: int = 1
    """Steps of an imagined episode before it is cut, at the start (branched)."""
    rollout_horizon_end: int | None = None
    """The same at the end of its schedule; none: it stays (branched)."""
    rollout_horizon_schedule: tuple[int, ...] = (20_000, 100_000)
    """The environment steps between which it moves in a straight line (branched)."""

    rules = Rules(
        at_least_one=("refit_every", "imagined_steps", "imagined_capacity", "rollout_horizon", "rollout_horizon_end"),
        fraction=("real_share",),
        choices={"imagination": ("branched", "in_batch")},
        sizes=("rollout_horizon_schedule",),
    )

    @property
    def longest(self) -> int:
        """Steps of the longest imagined episode."""
        return max(self.rollout_horizon, self.rollout_horizon_end or 1)


class Imagination(NamedTuple):
    """What an agent that imagines remembers, and its model: none of it is needed to act."""

    replay: PyTree  # what was seen
    model: PyTree
    imagined: PyTree  # the state of a ``memory.uniform``; () where batches are imagined anew
    told: Metrics  # of the last test of the model and its last fit
    steps: jax.Array  # uint32, environment steps seen: of the horizon's schedule
    since: jax.Array  # int32, environment steps since the last fit


def check_imagination(algorithm: str, config: Any) -> None:
    """Raise UsageError for settings of a learner that cannot learn from what is imagined.

    config: an ImaginationConfig, and the learner's.
    """
    c, branched = config, config.imagination == "branched"

    def refuse(field: str, why: str, right: str) -> None:
        raise UsageError(f"{algorithm}: {field} = {getattr(c, field)!r}; {why}. {right}")

    if c.n_step > 1 and not branched:
        refuse("n_step", "each batch imagines single steps", "Set it to 1, or imagination to branched.")
    if len(c.rollout_horizon_schedule) != 2 or c.rollout_horizon_schedule[0] >= c.rollout_horizon_schedule[1]:
        refuse("rollout_horizon_schedule", "it is the step at which it begins and a later one", "Give two numbers.")
    if branched and not c.longest <= c.imagined_steps <= c.imagined_capacity:
        room = f"at least an episode of {c.longest}, at most imagined_capacity = {c.imagined_capacity}"
        refuse("imagined_steps", f"it must be {room}", "")


def with_imagination(learner: BatchLearner, buffer: Buffer, model: Model, spec: EnvSpec, config: Any) -> Agent:
    """An agent as ``with_replay`` makes it, whose learner sees ``real_share`` of each batch from replay and imagines
    the rest.

    buffer: a ``memory.uniform``. config: an ImaginationConfig, ReplayConfig and RolloutConfig. After each rollout that
    brings the count of steps since the last fit to ``refit_every``, the model is tested on the rows since then, which
    it has not learned from; then it is fitted to replay, and imagines. Metrics are those of ``with_replay``, and of the
    last test and fit. UsageError where the learner remembers.
    """
    if learner.remembers:
        raise UsageError("with_imagination: the model imagines single steps, and this learner learns from sequences.")
    c, branched = config, config.imagination == "branched"
    kept = uniform(c.imagined_capacity, c.batch_size, n_step=c.n_step, gamma=c.gamma, path=multi_step.corrects(config))

    def horizon(steps: jax.Array) -> jax.Array:
        """k after so many environment steps, int32."""
        start, end = c.rollout_horizon, c.rollout_horizon_end or c.rollout_horizon
        begins, stops = c.rollout_horizon_schedule
        done = jnp.clip((steps.astype(jnp.float32) - begins) / (stops - begins), 0.0, 1.0)
        return jnp.round(start + (end - start) * done).astype(jnp.int32)

    def rollouts(learned: PyTree, fitted: PyTree, replay: PyTree, steps: jax.Array, key: Key) -> Rollout:
        """Episodes of every member of the model, a part of the environments each: [T, B, ...]."""
        start_key, play_key = jax.random.split(key)
        members = model.members(fitted)
        count = jax.tree.leaves(members)[0].shape[0]
        width = max(1, c.imagined_steps // (count * c.longest))
        draws = jax.random.split(start_key, -(-count * width // c.batch_size))
        starts = jax.vmap(lambda key: buffer.sample(replay, key).batch.obs)(draws)
        starts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), starts)

        def play(member: PyTree, key: Key) -> Rollout:
            reset_key, act_key = jax.random.split(key)
            env: Any = model_env(model, member, spec, starts, horizon(steps))
            envs = vectorize(env, width)
            state, obs = envs.reset(reset_key)
            acting = Acting(state, obs, jnp.ones((width,), bool), learner.begin(width))
            return unroll(partial(learner.act, learned, explore=True), envs, acting, act_key, c.longest)[1]

        played = jax.vmap(play)(members, jax.random.split(play_key, count))
        side_by_side = lambda x: jnp.moveaxis(x, 0, 1).reshape(c.longest, count * width, *x.shape[3:])
        return jax.tree.map(side_by_side, stored(learner, played)._replace(carry=()))

    def refitted(learned: PyTree, mind: Imagination, newest: int, key: Key, before: tuple) -> tuple[PyTree, Any, Any]:
        """(model, imagined, told) after a test, a fit, and what is imagined then."""
        fitted, imagined, _ = before
        keys = jax.random.split(key, 3)
        told = tested(model, fitted, newest_rows(mind.replay, newest), keys[0])
        fitted, metrics = model.fit(fitted, of_memory(mind.replay), keys[1])
        if branched:
            imagined = kept.add(imagined, rollouts(learned, fitted, mind.replay, mind.steps, keys[2]))
        return fitted, imagined, {name: jnp.asarray(x, jnp.float32) for name, x in (told | metrics).items()}

    def init(key: Key, first_rollout: Rollout) -> ReplayState:
        learned = learner.init(key, first_rollout)
        replay = buffer.init(first_stored(learner, learned, first_rollout, key))
        fitted, imagined = model.init(aside(key, 1), first_rollout), ()
        seen = training.counted(jnp.zeros((), jnp.uint32), first_rollout)
        if branched:
            shapes = jax.eval_shape(rollouts, learned, fitted, replay, seen, key)
            imagined = stream.empty(shapes, max(c.imagined_capacity, shapes.reward.size))
        due = jnp.full((), c.refit_every, jnp.int32)
        mind = Imagination(replay, fitted, imagined, {}, seen, due)
        _, _, told = jax.eval_shape(lambda: refitted(learned, mind, 1, key, (fitted, imagined, {})))
        return ReplayState(learned, mind._replace(told=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), told)))

    def act(state: ReplayState, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        return learner.act(state.learner, carry, obs, first, key, explore=explore)

    def anew(learned: PyTree, members: PyTree, sample: Sample, key: Key) -> Sample:
        """What a member says of the policy's actions in the states of a sample: one member for all, so that it is one
        product and no gather."""
        act_key, member_key, step_key = jax.random.split(key, 3)
        obs, size = sample.batch.obs, c.batch_size
        action, _, extras = learner.act(
            learned, learner.begin(size), obs, jnp.ones((size,), bool), act_key, explore=True
        )
        chosen = jax.random.randint(member_key, (), 0, jax.tree.leaves(members)[0].shape[0], jnp.int32)
        member = jax.tree.map(lambda x: x[chosen], members)

        def step(obs: PyTree, action: PyTree, key: Key):
            start_key, key = jax.random.split(key)
            return model.step(member, model.start(member, obs, start_key), action, key)[1]

        said = jax.vmap(step)(obs, action, jax.random.split(step_key, size))
        terminated = said.terminated_logit > 0
        batch = sample.batch._replace(
            action=action, reward=said.reward, terminated=terminated, truncated=jnp.zeros_like(terminated),
            next_obs=said.obs, extras={name: extras[name] for name in learner.keeps},
        )  # fmt: skip
        return sample._replace(batch=batch, discount=c.gamma * (1.0 - terminated.astype(jnp.float32)))

    def update(state: ReplayState, rollout: Rollout, key: Key) -> tuple[ReplayState, Metrics]:
        learned, mind = learner.observe(state.learner, rollout), state.memory
        length, num_envs = rollout.reward.shape
        mind = mind._replace(
            replay=buffer.add(mind.replay, stored(learner, rollout)), steps=training.counted(mind.steps, rollout)
        )
        since = mind.since + length * num_envs
        due, newest = since >= c.refit_every, -(-c.refit_every // (length * num_envs)) * length
        refit = partial(refitted, learned, mind, newest, aside(key, 1))
        fitted, imagined, told = when(due, refit, (mind.model, mind.imagined, mind.told))
        mind = mind._replace(model=fitted, imagined=imagined, told=told, since=jnp.where(due, 0, since))
        members = model.members(fitted)

        def step(learned: PyTree, key: Key) -> tuple[PyTree, Metrics]:
            sample_key, learn_key = jax.random.split(key)
            sample = buffer.sample(mind.replay, sample_key)
            if branched:
                thought = kept.sample(imagined, aside(key, 2))
            else:
                thought = anew(learned, members, sample, aside(key, 2))
            real = jnp.arange(c.batch_size, dtype=jnp.float32) < jnp.round(jnp.float32(c.real_share) * c.batch_size)
            learned, _, metrics = learner.learn(learned, trees.where(real, sample, thought), learn_key)
            return learned, metrics

        learned, metrics = repeated(step, learned, key, updates_of(c.update_ratio, length, num_envs))
        metrics = metrics | told
        if branched:
            metrics["rollout_horizon"] = horizon(mind.steps).astype(jnp.float32)
        return ReplayState(learned, mind), metrics

    return Agent(init, learner.begin, act, update)


def imagining(learner: BatchLearner, config: Any, spec: EnvSpec, model: Model | None = None) -> Agent:
    """The learner inside the ensemble that its config describes, or another model, with the wrappers it asks for."""
    steps: Any = {"n_step": config.n_step, "gamma": config.gamma, "path": multi_step.corrects(config)}
    buffer = uniform(config.replay_capacity, config.batch_size, **steps)
    model = ensemble(config, spec) if model is None else model
    return with_imagination(normalised(learner, config), buffer, model, spec, config)


def newest_rows(memory: stream.Stream, count: int) -> Rollout:
    """The newest transitions of each environment in a ``memory.uniform``: [count, B, ...], the oldest there is repeated
    where there are fewer."""
    rows, num_envs = memory.steps.reward.shape
    count = min(count, rows)
    age = jnp.minimum(jnp.arange(count - 1, -1, -1, dtype=jnp.int32), memory.count - 1)
    row = (memory.head - 1 - age) % rows
    index = row[:, None] * num_envs + jnp.arange(num_envs, dtype=jnp.int32)[None]
    single, _ = stream.item(memory, index.reshape(-1), 1, 1.0)
    return jax.tree.map(lambda x: x.reshape(*index.shape, *x.shape[1:]), single)


def aside(key: Key, which: int) -> Key:
    """A key beside those that ``split`` makes of it, which are its first ones."""
    return jax.random.fold_in(key, 2**31 - which)


def when(due: jax.Array, step: Callable[[Any], Any], state: Any) -> Any:
    """``step(state)`` where it is due, else the state: a loop of one turn or none. Over many seeds ``vmap`` makes a
    choice of a ``cond``, which computes both of its sides every time; of the loop no turn is made while nobody is due.
    """
    turn = lambda now: (jnp.zeros((), bool), step(now[1]))
    return jax.lax.while_loop(lambda now: now[0], turn, (due, state))[1]
