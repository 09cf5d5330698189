"""Distance: how many steps from a state to a goal, d(s, g), learned by temporal differences from any data.

    d(s, g) = 0 where s reaches g, else 1 + d(s', g)

Goals are relabelled: half of them are what the same episode achieves later, half what any other achieves. The loss is
an expectile of the error (``theory.values.expectile_loss``): at 1/2 it is the mean number of steps of whoever acted,
towards 0 that of the best of their actions in every state, put together over episodes: with deterministic dynamics the
shortest path in the data. Luck counts as skill there: where dynamics are stochastic, a small expectile promises too
little.

Kaelbling (1993), Learning to achieve goals; Kostrikov et al. (2021, arXiv:2110.06169) for the expectile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.config import Rules
from steersman.memory.hindsight import ACHIEVED, DESIRED
from steersman.models import temporal
from steersman.models.data import held_out
from steersman.models.model import Data
from steersman.models.scaling import Scaler, scaler, unscaled
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import MLP
from steersman.theory.values import expectile_loss
from steersman.types import EnvSpec, Key, Metrics, PyTree, Rollout

TESTED = 4096  # pairs that the error is told of
Reached = Callable[[PyTree, PyTree], jax.Array]  # (what is achieved, the goal) -> bool


@dataclass(frozen=True)
class DistanceConfig(temporal.TemporalConfig):
    """A model of distance."""

    updates: int = 20_000
    """Gradient steps of one fit: far distances rise slowly, for an error upwards weighs no more than ``expectile``."""
    learning_rate: float = 3e-3
    """Adam's step size at the start of a fit; it falls to a hundredth along half a cosine."""
    expectile: float = 0.05
    """Whose steps: 0.5 the mean of whoever acted, towards 0 the best of their actions."""
    longest: int = 100
    """The largest distance: of what is never reached, or cannot be once the episode has ended."""
    future_share: float = 0.5
    """The share of goals that the same episode achieves later; the others are any."""

    rules = Rules(at_least_one=("longest",), fraction=("expectile", "future_share"))


class DistanceNetwork(eqx.Module):
    """(state [D], goal [G]) -> the steps to a goal that is not reached yet, from 1 to ``longest``; few at the start.

    A search for the least distance believes every underestimate, so it begins below all of them and rises.
    """

    trunk: MLP
    head: Linear
    longest: int = eqx.field(static=True)

    def __init__(self, size: int, goal_size: int, config: DistanceConfig, *, key: Key):
        trunk_key, head_key = jax.random.split(key)
        self.trunk = MLP(size + goal_size, config.hidden_sizes, activation=config.activation, key=trunk_key)
        self.head = orthogonal_linear(self.trunk.out_size, 1, head_key, gain=0.01)
        self.longest = config.longest

    def __call__(self, state: jax.Array, goal: jax.Array) -> jax.Array:
        out = self.head(self.trunk(jnp.concatenate([state, goal])))[0]
        return jnp.minimum(1.0 + jax.nn.softplus(0.1 * self.longest * out), float(self.longest))


class DistanceState(NamedTuple):
    """What is learned of distances."""

    network: DistanceNetwork
    state: Scaler
    goal: Scaler


class Distance(NamedTuple):
    """A model of distance.

    init(key, first_rollout) -> M
    fit(M, data, key) -> (M, metrics)    from what it knew; ``distance/excess``, of the episodes held out: by how many
                                         steps, on average, d is above the length of a path that was seen
    steps(M, obs, goal) -> float32       from an observation to a goal, one point each
    """

    init: Callable[[Key, Rollout], DistanceState]
    fit: Callable[[DistanceState, Data, Key], tuple[DistanceState, Metrics]]
    steps: Callable[[DistanceState, PyTree, PyTree], jax.Array]


def distance(config: DistanceConfig, spec: EnvSpec, *, reached: Reached) -> Distance:
    """The model for an environment.

    reached: a pure function of what an observation achieves and a goal. Of goal environments (Dict observations with
    ``achieved_goal`` and ``desired_goal``) a goal is like these two, and what is desired is not seen of a state;
    elsewhere a goal is an observation. Raises UsageError for images.

    The terminal value of a planner where each step costs 1 until the goal:
    ``value = lambda obs: -model.steps(M, obs, obs["desired_goal"])``.

    >>> from steersman.tabular.problems.classics import dyna_maze
    >>> model = distance(DistanceConfig(), dyna_maze().spec, reached=lambda state, goal: state == goal)
    """
    space, what = spec.observation_space, "A model of distance"
    parts = space.spaces if isinstance(space, spaces.Dict) and {ACHIEVED, DESIRED} <= space.spaces.keys() else None
    seen = lambda obs: obs if parts is None else {name: x for name, x in obs.items() if name != DESIRED}
    achieved = lambda obs: obs if parts is None else obs[ACHIEVED]
    flat_state, size = temporal.vectors(space if parts is None else spaces.Dict(seen(parts)), what)
    flat_goal, goal_size = temporal.vectors(space if parts is None else parts[ACHIEVED], what)

    def init(key: Key, first_rollout: Rollout) -> DistanceState:
        network = DistanceNetwork(size, goal_size, config, key=key)
        return DistanceState(network, unscaled(size), unscaled(goal_size))

    def steps(M: DistanceState, obs: PyTree, goal: PyTree) -> jax.Array:
        state, aim = M.state.normalize(flat_state(seen(obs))), M.goal.normalize(flat_goal(goal))
        return jnp.where(reached(achieved(obs), goal), 0.0, M.network(state, aim))

    def error(M: DistanceState, slow: DistanceNetwork, row: Rollout, goal: PyTree) -> tuple[jax.Array, jax.Array]:
        """-> (1 + d(s', g) - d(s, g), how much it counts: nothing where the goal is reached already)"""
        lost = row.terminated & ~reached(achieved(row.next_obs), goal)
        after = jnp.where(lost, float(config.longest), steps(M._replace(network=slow), row.next_obs, goal))
        target = jax.lax.stop_gradient(jnp.minimum(1.0 + after, float(config.longest)))
        counts = 1.0 - reached(achieved(row.obs), goal).astype(jnp.float32)
        return target - steps(M, row.obs, goal), counts

    def fit(M: DistanceState, data: Data, key: Key) -> tuple[DistanceState, Metrics]:
        fit_key, test_key = jax.random.split(key)
        apart, last, rows = held_out(data, config.held_out_share), temporal.ends(data), data.rows
        state = scaler(jax.vmap(lambda obs: flat_state(seen(obs)))(rows.obs), data.valid)
        M = M._replace(state=state, goal=scaler(jax.vmap(flat_goal)(achieved(rows.next_obs)), data.valid))

        def pairs(draw: temporal.Draw, share: float, key: Key) -> tuple[Rollout, PyTree, jax.Array]:
            """-> (transitions [n], a goal for each, the steps to it where the same episode achieves it)"""
            row_key, any_key, when_key, whether_key = jax.random.split(key, 4)
            i, other = draw(row_key), draw(any_key)
            later = jax.random.randint(when_key, i.shape, i, last[i] + 1, jnp.int32)
            future = jax.random.bernoulli(whether_key, share, i.shape)
            at = lambda tree, index: jax.tree.map(lambda x: x[index], tree)
            return at(rows, i), at(achieved(rows.next_obs), jnp.where(future, later, other)), later - i + 1

        def loss(network: DistanceNetwork, slow: DistanceNetwork, key: Key) -> jax.Array:
            row, goal, _ = pairs(learned, config.future_share, key)
            now = M._replace(network=network)
            u, counts = jax.vmap(lambda row, goal: error(now, slow, row, goal))(row, goal)
            return (counts * expectile_loss(u, config.expectile)).mean()

        learned = temporal.drawer(data.valid & ~apart, config.batch_size)
        network, final = temporal.descended(config, loss, M.network, fit_key)
        M = M._replace(network=network)
        row, goal, path = pairs(temporal.drawer(apart, TESTED), 1.0, test_key)
        excess = jax.nn.relu(jax.vmap(lambda obs, goal: steps(M, obs, goal))(row.obs, goal) - path.astype(jnp.float32))
        return M, {"distance/loss": final, "distance/excess": excess.mean()}

    return Distance(init, fit, steps)
