"""The ceiling of a task: what a planner gets that searches in the true environment itself, from copies of its state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman import envs, spaces
from steersman.envs.importing import load_object
from steersman.errors import UsageError, nearest, raised_at
from steersman.planning import cem, gradient_ascent, icem, ilqr, mppi, planner_in, random_shooting
from steersman.planning.scores import StatePlanner, Value
from steersman.run.disk import compile_cache
from steersman.run.evaluate import Evaluation, check_episodes, summarise
from steersman.run.policies.playing import LIMIT
from steersman.types import DeviceEnvs, Env, EnvSpec, PyTree
from steersman.vector import vectorize

STEPS = 20  # of all episodes in one call of the compiled program
SIZES = {"horizon": 30, "population": 64, "iterations": 3, "elites": 8}  # where nothing else is known
SHOOTING = ("horizon", "population", "iterations", "elites", "noise_exponent")
PLANNERS: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]] = {  # and the settings that each takes
    "icem": (icem, SHOOTING),
    "cem": (cem, SHOOTING),
    "mppi": (mppi, SHOOTING),
    "random_shooting": (random_shooting, ("horizon", "population", "noise_exponent")),
    "gradient_ascent": (gradient_ascent, ("horizon", "population", "iterations", "noise_exponent")),
    "ilqr": (ilqr, ("horizon", "iterations")),
}


def tip_height(obs: jax.Array) -> jax.Array:
    """Acrobot: the height of the tip, in [-2, 2] m; each metre is worth a step."""
    cos_1, sin_1, cos_2, sin_2 = obs[:4]
    return sin_1 * sin_2 - cos_1 - cos_1 * cos_2


def near_the_middle(obs: jax.Array) -> jax.Array:
    """CartPole: a pole that stands still in the middle can be held for ever."""
    x, x_dot, theta, theta_dot = obs
    return -10.0 * ((x + x_dot) ** 2 + (theta + 0.3 * theta_dot) ** 2)


KNOWN: Mapping[str, Mapping[str, Any]] = {  # settings that are known to be good
    "Pendulum-v1": {"population": 32, "iterations": 2},
    "MountainCarContinuous-v0": {"horizon": 150, "noise_exponent": 3.0},
    "CartPole-v1": {"terminal_value": near_the_middle},
    "Acrobot-v1": {"horizon": 50, "terminal_value": tip_height},
}


@dataclass(frozen=True)
class Ceiling:
    """What a planner got in whole episodes of the true environment."""

    environment: str
    planner: str
    settings: dict[str, Any]
    terminal_value: str | None
    evaluation: Evaluation
    milliseconds_per_step: float  # of one decision; the episodes are played side by side
    compile_seconds: float

    def summary(self) -> dict[str, Any]:
        """All of it as JSON values, but the single episodes."""
        return {**vars(self), "evaluation": self.evaluation.summary()}


def ceiling(
    environment: Any,
    planner: str = "icem",
    *,
    episodes: int = 20,
    seed: int = 2_000_000,
    gamma: float = 1.0,
    particles: int = 1,
    terminal_value: str | Value | None = None,
    **settings: Any,
) -> Ceiling:
    """Play whole episodes of a compiled environment with a planner that knows it.

    settings: of the planner (``PLANNERS``); what is not given is taken from ``KNOWN`` for that environment, then from
    ``SIZES``. terminal_value: a function obs -> value of what comes beyond the horizon, or the name of one,
    ``package.module:function``; ``"none"`` leaves the environment's own away. particles: as in ``score_of``. Raises
    UsageError for an environment that runs on the host, for a planner that there is not, and for a setting that it does
    not have or that is out of range.
    """
    check_episodes(episodes)
    if particles < 1:
        raise UsageError(f"particles = {particles}; a score is the mean over at least 1.")
    if not 0 <= gamma <= 1:
        raise UsageError(f"gamma = {gamma}; a discount is from 0 to 1.")
    make, takes = _planner(planner)
    env = envs.make_env(environment)
    known = KNOWN.get(env.spec.id, {}) if isinstance(environment, str) else {}
    given = {name: value for name, value in settings.items() if value is not None}
    strange = [name for name in given if name not in takes]
    if strange:
        raise UsageError(f"{planner} has no {strange[0]}; it takes {', '.join(takes)}.")
    chosen = {name: x for name, x in {**SIZES, **known, **given}.items() if name in takes}
    if not 0 <= (exponent := chosen.get("noise_exponent", 0)) < math.inf:
        raise UsageError(f"noise_exponent = {exponent}; it is 0 (white), 1 (pink), 2 (red) or another number above.")
    if "elites" in chosen and "elites" not in given:
        chosen["elites"] = min(chosen["elites"], chosen["population"])
    name, value = _value(known.get("terminal_value") if terminal_value is None else terminal_value)
    if value is not None:
        _check_value(name, value, env.spec)
    if make is ilqr:
        if particles != 1:
            raise UsageError(
                f"ilqr plans against one draw of the environment's randomness; got particles = {particles}."
            )
        plans = ilqr(env, gamma=gamma, value=value, **chosen)
    else:
        plans = planner_in(env, make(env.spec.action_space, **chosen), gamma=gamma, value=value, particles=particles)
    compile_cache.enable()
    evaluation, per_step, compiling = play(env, plans, episodes, seed)
    told = {**chosen, "gamma": gamma, "particles": particles}
    label = environment if isinstance(environment, str) else env.spec.id
    return Ceiling(label, planner, told, name, evaluation, per_step, compiling)


def play(env: Env, plans: StatePlanner, episodes: int, seed: int) -> tuple[Evaluation, float, float]:
    """The first episodes of so many members, side by side. -> (evaluation, ms a decision, seconds of compiling)"""
    made = vectorize(env, episodes)
    reset_key, key = jax.random.split(jax.random.key(seed))
    state, _ = jax.jit(made.reset)(reset_key)
    copies = lambda x: jnp.broadcast_to(x, (episodes, *x.shape))
    counts = (jnp.zeros(episodes, bool), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    now = (state, jax.tree.map(copies, plans.begin()), counts)
    began = time.perf_counter()
    program = jax.jit(partial(_steps, made, plans)).lower(now, key, np.int32(0)).compile()
    compiling, began, steps = time.perf_counter() - began, time.perf_counter(), 0
    limit = env.spec.max_episode_steps or LIMIT
    while steps < limit and not np.all(now[2][0]):
        now = program(now, key, np.int32(steps))
        steps += STEPS
    finished, returns, lengths = map(np.asarray, now[2])
    seconds = time.perf_counter() - began
    return summarise(returns, lengths, int((~finished).sum())), 1e3 * seconds / (steps * episodes), compiling


def _steps(made: DeviceEnvs, plans: StatePlanner, now: PyTree, key: jax.Array, first: jax.Array) -> PyTree:
    """``STEPS`` of every member; what is counted of one stops with its first episode."""

    def step(now, t):
        state, warm, (finished, returns, lengths) = now
        keys = jax.random.split(jax.random.fold_in(key, t), made.num_envs)
        plan = jax.vmap(plans.plan)(state.env, warm, keys)
        state, seen = made.step(state, plan.action)
        returns = jnp.where(finished, returns, seen.info["episode_return"])
        lengths = jnp.where(finished, lengths, seen.info["episode_length"])
        return (state, plan.warm, (finished | seen.over, returns, lengths)), None

    return jax.lax.scan(step, now, first + jnp.arange(STEPS, dtype=jnp.int32))[0]


def _planner(name: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    if name not in PLANNERS:
        raise UsageError(f"There is no planner {name!r}: {', '.join(PLANNERS)}. {nearest(name, PLANNERS)}".rstrip())
    return PLANNERS[name]


def _value(given: str | Value | None) -> tuple[str | None, Value | None]:
    """-> (its name, the function)"""
    if given is None or given == "none":
        return None, None
    if not isinstance(given, str):
        return getattr(given, "__name__", "a function"), given
    if ":" not in given:
        raise UsageError(f"terminal_value = {given!r}; give package.module:function, a function of obs, or none.")
    function = load_object(given, "the terminal value")
    if not callable(function):
        raise UsageError(f"{given} is a {type(function).__name__}; a terminal value is a function obs -> number.")
    value: Any = function
    return given, value


def _check_value(name: str | None, value: Value, spec: EnvSpec) -> None:
    """Raise UsageError for a terminal value that is not one number of one observation; tried in shapes alone."""
    try:
        given = jax.eval_shape(value, spaces.abstract(spec.observation_space))
    except Exception as error:  # whatever the user's code raises
        said = f"{type(error).__name__}: {error}{raised_at(error)}"
        raise UsageError(f"The terminal value {name} fails on an observation of {spec.id}: {said}") from error
    if not isinstance(given, jax.ShapeDtypeStruct) or given.shape != () or not jnp.issubdtype(given.dtype, jnp.number):
        raise UsageError(f"The terminal value {name} gives {given} for one observation; it must give one number.")
