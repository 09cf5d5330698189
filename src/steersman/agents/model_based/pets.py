"""PETS (Chua et al. 2018, arXiv:1805.12114): plan in an ensemble of models, refit it to what came of that.

    every unroll_length steps:  test the model on what was just played, keep that, fit the model to all that is kept
    every step:                 plan ahead in every member (``model_based.mpc``), carry out the first action

There is no policy and no critic: what is learned is dynamics, reward and termination (``models.ensemble`` has the
settings). A random policy plays ``learning_starts`` steps first, and the model begins with a fit to those.

Metrics, beside those of ``models.held_out.tested`` and of the fit: ``plan/predicted_return``, what plans promised over
their horizon, and ``plan/realised_return``, what came, at the same steps. Promises far above what came mean that the
planner exploits the model's errors. Both stay as they were where a rollout is too short to show a horizon.

Differences from the paper: iCEM in the place of CEM; the ensemble predicts reward and termination too, its loss is
weighed by the variance and its targets are normalised; one particle for each member; undiscounted, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.model_based.mpc import PlanConfig, kept_promises, mpc
from steersman.agents.parts import training
from steersman.agents.parts.config import RolloutConfig
from steersman.agents.parts.replay.with_replay import ReplayState, check_replay, first_rows
from steersman.config import Rules
from steersman.errors import UsageError
from steersman.memory import uniform
from steersman.models.data import of_memory
from steersman.models.ensemble import EnsembleConfig, ensemble
from steersman.models.held_out import tested
from steersman.models.model import Model
from steersman.types import Agent, Algorithm, EnvSpec, Key, Metrics, PyTree, Rollout


@dataclass(frozen=True)
class PETSConfig(PlanConfig, EnsembleConfig, RolloutConfig):
    """Settings of PETS."""

    unroll_length: int = 100
    """Steps of each environment between two fits of the model (T)."""
    gamma: float = 1.0
    """Discount of what is planned."""
    replay_capacity: int = 20_000
    """Transitions that are kept and learned from, over all environments; the oldest leave."""
    learning_starts: int = 200
    """Environment steps of a random policy that the model is first fitted to."""

    rules = Rules(at_least_one=("replay_capacity",), non_negative=("learning_starts",))


class PETSState(NamedTuple):
    """What PETS learns."""

    model: PyTree
    promised: jax.Array  # the last plan/predicted_return
    realised: jax.Array  # and plan/realised_return
    steps: jax.Array  # uint32, environment steps learned from


def pets(
    config: PETSConfig,
    spec: EnvSpec,
    *,
    budget: int | None = None,
    network: Any = None,
    model: Model | None = None,
) -> Agent:
    """PETS as an agent for an environment with vector observations and a bounded Box or a Discrete action space.

    model: in the place of the ensemble that the config describes, one whose reward or termination is known,
    ``ensemble(config, spec, reward=...)``, or another. Raises UsageError for other spaces, and for a ``network``.
    """
    if network is not None:
        raise UsageError("PETS learns a model and no policy: it takes no network. Give pets(..., model=...) a model.")
    model = ensemble(config, spec) if model is None else model
    planned = mpc(config, spec, model, gamma=config.gamma)
    memory = uniform(config.replay_capacity, 1)

    def seen(rollout: Rollout) -> Rollout:
        return rollout._replace(extras={}, carry=())

    def init(key: Key, first_rollout: Rollout) -> ReplayState:
        init_key, fit_key = jax.random.split(key)
        first_rollout, zero = seen(first_rollout), jnp.zeros((), jnp.float32)
        held = memory.init(first_rollout)
        fitted, _ = model.fit(model.init(init_key, first_rollout), of_memory(held), fit_key)
        steps = training.counted(jnp.zeros((), jnp.uint32), first_rollout)
        return ReplayState(PETSState(fitted, zero, zero, steps), held)

    def act(state: ReplayState, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        return planned.act(state.learner.model, carry, obs, first, key, explore=explore)

    def update(state: ReplayState, rollout: Rollout, key: Key) -> tuple[ReplayState, Metrics]:
        test_key, fit_key = jax.random.split(key)
        before = state.learner
        errors = tested(model, before.model, rollout, test_key)
        promises = kept_promises(rollout, config.plan_horizon, config.gamma, (before.promised, before.realised))
        held = memory.add(state.memory, seen(rollout))
        fitted, metrics = model.fit(before.model, of_memory(held), fit_key)
        after = PETSState(fitted, *promises, training.counted(before.steps, rollout))
        told = {"plan/predicted_return": promises[0], "plan/realised_return": promises[1]}
        return ReplayState(after, held), {**errors, **metrics, **told}

    return Agent(init, planned.begin, act, update)


ALGORITHM = Algorithm(
    "pets",
    PETSConfig,
    pets,
    "PETS: plans in a learned ensemble of models, no policy",
    lambda config, num_envs: first_rows(config.learning_starts, num_envs),
    lambda config, num_envs: check_replay(1.0, config.unroll_length, num_envs, config.replay_capacity),
    data="start",
    shardable=False,
)
