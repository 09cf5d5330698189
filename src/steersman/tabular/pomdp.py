"""Partially observed problems: the object, the exact belief filter, and the belief MDP as an environment.

Axes: ``S`` states, ``A`` actions, ``O`` observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, _check_rows, as_distributions
from steersman.theory.beliefs import filters
from steersman.types import Array, EnvSpec, Filter, Key


@dataclass(frozen=True, eq=False)
class POMDP:
    """A finite POMDP: an MDP whose state is seen only through O(o | a, s'), ``observation`` [A, S, O].

    Raises UsageError when a row of the observation model is not a distribution, or an action is not available
    everywhere: who does not see the state cannot know. (Kaelbling, Littman & Cassandra 1998.)
    """

    mdp: MDP
    observation: np.ndarray  # float64 [A, S, O]: of the successor, after the action
    observation_names: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wanted = (self.mdp.num_actions, self.mdp.num_states)
        if self.observation.ndim != 3 or self.observation.shape[:2] != wanted:
            raise UsageError(
                f"The observation model must be [A, S, O] = {(*wanted, 'O')}; got {self.observation.shape}."
            )
        if not self.mdp.available.all():
            i, j = np.argwhere(~self.mdp.available)[0]
            raise UsageError(
                f"Action {j} is not available in state {i}, but who acts in a POMDP does not know the state. Give it a "
                "finite reward, as low as it should be, and let it stay."
            )
        object.__setattr__(self, "observation", as_distributions(self.observation))
        _check_rows(self.observation, "observation model", ("a", "s'"))

    @property
    def num_observations(self) -> int:
        return self.observation.shape[2]

    def predict(self, belief: np.ndarray, action: int) -> np.ndarray:
        """sum_s b(s) P(s' | s, a), [S]."""
        return filters.bayes_predict(belief, self.mdp.successors[:, action], self.mdp.probabilities[:, action])

    def update(self, belief: np.ndarray, action: int, observation: int) -> tuple[np.ndarray, float]:
        """Bayes's rule: b'(s') proportional to O(o | a, s') sum_s P(s' | s, a) b(s) -> (b' [S], P(o | b, a)).

        Raises UsageError when the observation is impossible from this belief.
        """
        likelihood = self.observation[action, :, observation]
        posterior, chance = filters.bayes_update(self.predict(belief, action), likelihood)
        if chance <= 0:
            raise UsageError(
                f"Observation {observation} cannot follow action {action} from this belief: it has probability 0."
            )
        return posterior, float(chance)

    def filter(self, belief: np.ndarray, actions: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Beliefs after each step of a history, [T + 1, S], starting with the given one."""
        beliefs = [np.asarray(belief, np.float64)]
        for a, o in zip(actions, observations, strict=True):
            beliefs.append(self.update(beliefs[-1], int(a), int(o))[0])
        return np.stack(beliefs)

    def online_filter(self) -> Filter:
        """The same filter step by step in compiled code, float32: what ``BeliefEnv`` shows."""
        m = self.mdp
        return filters.bayes(m.start, m.probabilities, self.observation, successors=m.successors)

    def reward(self, belief: np.ndarray) -> np.ndarray:
        """Expected reward of every action, [A]."""
        return belief @ self.mdp.reward


class BeliefState(NamedTuple):
    hidden: Any  # the MDP's state
    belief: filters.Belief


@dataclass(frozen=True, eq=False)
class ObservedEnv:
    """A POMDP as an environment that shows its observations, Discrete(O + 1); O itself means "nothing seen yet"."""

    pomdp: POMDP

    @property
    def spec(self) -> EnvSpec:
        inner = self.pomdp.mdp.spec
        seen = spaces.Discrete(self.pomdp.num_observations + 1)
        return EnvSpec(inner.id, seen, inner.action_space, inner.action_space, inner.max_episode_steps)

    def reset(self, key: Key):
        state, _ = self.pomdp.mdp.reset(key)
        return state, jnp.int32(self.pomdp.num_observations)

    def step(self, state, action, key: Key):
        move, see = jax.random.split(key)
        state, ts = self.pomdp.mdp.step(state, action, move)
        chances = jnp.asarray(self.pomdp.observation, jnp.float32)[action, state[0]]
        o = jax.random.categorical(see, jnp.log(chances)).astype(jnp.int32)
        return state, ts._replace(obs=o, final_obs=o)


@dataclass(frozen=True, eq=False)
class BeliefEnv:
    """The belief MDP as an environment: observations are exact beliefs, Box [S]; rewards those of the hidden state.

    Any agent for vector observations can be run on it; given a belief, the reward's mean is r(b, a).
    """

    pomdp: POMDP

    @property
    def spec(self) -> EnvSpec:
        inner = self.pomdp.mdp.spec
        seen = spaces.Box(0.0, 1.0, (self.pomdp.mdp.num_states,), np.float32)
        return EnvSpec(f"{inner.id}, beliefs", seen, inner.action_space, inner.action_space, inner.max_episode_steps)

    def reset(self, key: Key):
        hidden, obs = ObservedEnv(self.pomdp).reset(key)
        belief = self.pomdp.online_filter().begin(obs, key)
        return BeliefState(hidden, belief), belief.probabilities

    def step(self, state: BeliefState, action: Array, key: Key):
        hidden, ts = ObservedEnv(self.pomdp).step(state.hidden, action, key)
        belief = self.pomdp.online_filter().step(state.belief, action, ts.obs, key)
        seen = belief.probabilities
        return BeliefState(hidden, belief), ts._replace(obs=seen, final_obs=seen)
