"""An environment's spec as JSON, and the shapes of its transitions: what a run folder knows of an environment."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from steersman import spaces
from steersman.errors import UsageError
from steersman.types import EnvSpec, Rollout, cost_names


def spec_to_json(spec: EnvSpec) -> dict[str, Any]:
    """An environment's spec as JSON values."""
    native = spec.native_observation_space
    return {
        "id": spec.id,
        "observation_space": spaces.space_to_json(spec.observation_space),
        "action_space": spaces.space_to_json(spec.action_space),
        "native_action_space": spaces.space_to_json(spec.native_action_space),
        "max_episode_steps": spec.max_episode_steps,
        "cost_names": list(spec.cost_names),
        "native_observation_space": None if native is None else spaces.space_to_json(native),
        "unseen": list(spec.unseen),
    }


def spec_from_json(content: dict[str, Any]) -> EnvSpec:
    """The inverse of ``spec_to_json``; raises UsageError where it is malformed."""
    parts = ("observation_space", "action_space", "native_action_space")
    try:
        made = {name: spaces.space_from_json(content[name]) for name in parts}
        limit = content["max_episode_steps"]
        costs = content["cost_names"] if "cost_names" in content else cost_names(int(content["num_costs"]))
        native = content.get("native_observation_space")
        return EnvSpec(
            str(content["id"]),
            made["observation_space"],
            made["action_space"],
            made["native_action_space"],
            max_episode_steps=limit,
            cost_names=tuple(map(str, costs)),
            native_observation_space=None if native is None else spaces.space_from_json(native),
            unseen=tuple(map(str, content.get("unseen", ()))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"The spec in the run's config.json cannot be read: {error!r}. Restore the file.") from None


def transitions_like(spec: EnvSpec, lead: tuple[int, ...]) -> Rollout:
    """Shapes and dtypes of transitions ``[*lead, ...]`` of an environment."""
    obs, action = spaces.abstract(spec.observation_space, lead), spaces.abstract(spec.action_space, lead)
    flag: Any = jax.ShapeDtypeStruct(lead, np.bool_)
    number: Any = jax.ShapeDtypeStruct(lead, np.float32)
    costs: Any = jax.ShapeDtypeStruct((*lead, spec.num_costs), np.float32)
    return Rollout(obs, action, number, flag, flag, obs, flag, costs, {})
