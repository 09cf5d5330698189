"""Policy and value as tables, for finite problems: nothing is approximated, so exact answers can be checked."""

from __future__ import annotations

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.theory.distributions import Categorical
from steersman.types import EnvSpec, Key


class Table(eqx.Module):
    """``state -> (Categorical(logits[state]), values[state])``: a softmax policy with a parameter for each pair.

    logits [S, A]; values [S]. Its exact gradient is ``tabular.planning.objectives.policy_gradient``. Give
    ``Table.zeros`` as ``network=`` to any agent that takes one, on environments of Discrete observations and actions.
    """

    logits: jax.Array
    values: jax.Array

    @classmethod
    def zeros(cls, key: Key, spec: EnvSpec) -> Self:
        """A uniform policy that expects nothing. Raises UsageError for spaces that are not Discrete."""
        states, actions = spec.observation_space, spec.action_space
        if not (isinstance(states, spaces.Discrete) and isinstance(actions, spaces.Discrete)):
            raise UsageError(f"Table needs Discrete observations and actions; {spec.id} has {states} and {actions}.")
        return cls(jnp.zeros((int(states.n), int(actions.n))), jnp.zeros((int(states.n),)))

    def __call__(self, obs: jax.Array) -> tuple[Categorical, jax.Array]:
        return Categorical(self.logits[obs]), self.values[obs]
