"""Model predictive control: at every step plan ahead in a model, carry out the first action, and plan again.

    a_t = the first of  argmax over a_t ... a_{t+H-1} of  mean_k G_k - risk std_k G_k,
    G_k = sum_{i < H} gamma^i r_{t+i}  in member k of the model, which stays the same all along (TS-inf)

Acting memory is where the search of the next step begins (``Planner.begin``); it is begun anew where an episode opens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from steersman import shards
from steersman.config import Config, Rules
from steersman.errors import UsageError
from steersman.models.env import model_env
from steersman.models.model import Model
from steersman.planning import Plan, Planner, Score, cem, gradient_ascent, icem, mppi, random_shooting, score_of
from steersman.planning.scores import Value
from steersman.theory import trees
from steersman.types import Agent, Array, EnvSpec, Key, Metrics, PyTree, Rollout

PROMISE = "predicted_return"  # of act's extras: the return that a plan promises over its horizon
PLANNERS: dict[str, Callable[..., Planner]] = {"icem": icem, "cem": cem, "mppi": mppi}
PLANNERS |= {"random_shooting": random_shooting, "gradient_ascent": gradient_ascent}


@dataclass(frozen=True)
class PlanConfig(Config):
    """How actions are searched in the model."""

    planner: str = "icem"
    """icem, cem, mppi, random_shooting or gradient_ascent."""
    plan_horizon: int = 25
    """Steps that are looked ahead (H)."""
    plan_population: int = 32
    """Sequences of actions that are scored in every iteration of the search (N)."""
    plan_iterations: int = 2
    """Iterations of the search, at every step."""
    plan_elites: int = 8
    """The best of the population, near which the next are drawn."""
    plan_noise_exponent: float = 2.0
    """Of the spectrum of the noise that sequences are drawn with: 0 white, 1 pink, 2 red; more is slower."""
    plan_particles: int = 1
    """Imagined episodes of each member that a sequence is scored by."""
    plan_risk: float = 0.0
    """Standard deviations over members that are taken off a sequence's mean return; below 0 what is not known is
    sought."""

    rules = Rules(
        at_least_one=("plan_horizon", "plan_population", "plan_iterations", "plan_elites", "plan_particles"),
        non_negative=("plan_noise_exponent",),
        choices={"planner": tuple(PLANNERS)},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan_elites > self.plan_population:
            raise UsageError(
                f"plan_elites = {self.plan_elites}; they are the best of plan_population = {self.plan_population}. "
                "Lower plan_elites, or raise plan_population."
            )


def planner_of(config: PlanConfig, spec: EnvSpec) -> Planner:
    """The planner that the settings describe. Raises UsageError for actions that it cannot search."""
    sizes: dict[str, Any] = {"horizon": config.plan_horizon, "population": config.plan_population}
    sizes["noise_exponent"] = config.plan_noise_exponent
    if config.planner != "random_shooting":
        sizes["iterations"] = config.plan_iterations
    if config.planner in ("icem", "cem", "mppi"):
        sizes["elites"] = config.plan_elites
    return PLANNERS[config.planner](spec.action_space, **sizes)


def score_in(
    model: Model,
    state: PyTree,
    spec: EnvSpec,
    obs: PyTree,
    *,
    gamma: float | Array = 1.0,
    risk: float | Array = 0.0,
    particles: int = 1,
    value: Value | None = None,
) -> Score:
    """The score of sequences that begin at ``obs``, in a learned model: every sequence goes through every member.

    risk, particles: as in ``PlanConfig``; value: as in ``planning.score_of``.
    """
    members = model.members(state)
    count = jax.tree.leaves(members)[0].shape[0]
    starts = jax.tree.map(lambda x: x[None], obs)

    def of_member(member: PyTree, sequences: jax.Array, key: Key) -> jax.Array:
        reset_key, key = jax.random.split(key)
        env: Any = model_env(model, member, spec, starts, sequences.shape[1])
        begun, _ = env.reset(reset_key)
        return score_of(env, begun, gamma=gamma, value=value, particles=particles)(sequences, key)

    def score(sequences: jax.Array, key: Key) -> jax.Array:
        scores = jax.vmap(of_member, (0, None, 0))(members, sequences, jax.random.split(key, count))
        return scores.mean(0) - risk * scores.std(0)

    return score


def mpc(
    config: PlanConfig, spec: EnvSpec, model: Model, *, gamma: float | Array = 1.0, value: Value | None = None
) -> Agent:
    """An agent that plans in ``model``; its state is M, what the model has learned, and it does not change it.

    Exploring, each environment's search draws numbers of its own. In evaluation all draw the same, so that equal
    observations are answered alike. Acting records what each plan promises, ``PROMISE``. Raises UsageError for an
    action space that planners cannot search.
    """
    planner = planner_of(config, spec)

    def begin(num_envs: int) -> PyTree:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), planner.begin())

    def act(state: PyTree, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        num = first.shape[0]
        options: Any = {"gamma": gamma, "risk": config.plan_risk, "particles": config.plan_particles, "value": value}

        def one(obs: PyTree, warm: PyTree, key: Key) -> Plan:
            return planner.plan(score_in(model, state, spec, obs, **options), warm, key)

        warm = trees.where(jnp.asarray(first), begin(num), carry)
        keys, axis = (shards.member_keys(key, num), 0) if explore else (key, None)
        plan = jax.vmap(one, (0, 0, axis))(obs, warm, keys)
        return plan.action, plan.warm, {PROMISE: plan.value}

    def update(state: PyTree, rollout: Rollout, key: Key) -> tuple[PyTree, Metrics]:
        return state, {}

    return Agent(model.init, begin, act, update)


def kept_promises(
    rollout: Rollout, horizon: int, gamma: float | Array, before: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The mean return that plans of a rollout [T, B] promised over ``horizon`` steps, and the mean that came of it.

    Of the steps whose horizon the rollout shows to its end, or to a termination. ``before`` where there is none.
    """
    reward, terminated = jnp.asarray(rollout.reward), jnp.asarray(rollout.terminated)
    length = reward.shape[0]
    stops = jnp.asarray(rollout.truncated) & ~terminated

    def ahead(x: jax.Array, k: jax.Array, fill: Any) -> jax.Array:
        """x k steps later, [T, B]"""
        row = jnp.arange(length, dtype=jnp.int32) + k
        return jnp.where((row < length)[:, None], x[jnp.minimum(row, length - 1)], fill)

    def step(now, k):
        total, alive, seen = now
        seen = seen & (~alive | ahead(jnp.ones_like(alive), k, False))
        scale = jnp.asarray(gamma, jnp.float32) ** k.astype(jnp.float32)
        total = total + scale * jnp.where(alive, ahead(reward, k, 0.0), 0.0)
        seen = seen & ~(alive & ahead(stops, k, False) & (k < horizon - 1))
        return (total, alive & ~ahead(terminated, k, False), seen), None

    start = (jnp.zeros_like(reward), jnp.ones_like(terminated), jnp.ones_like(terminated))
    (realised, _, seen), _ = jax.lax.scan(step, start, jnp.arange(horizon, dtype=jnp.int32))
    weight = seen.astype(jnp.float32)
    mean = lambda x, old: jnp.where(seen.any(), (weight * x).sum() / jnp.maximum(weight.sum(), 1.0), old)
    return mean(rollout.extras[PROMISE], before[0]), mean(realised, before[1])
