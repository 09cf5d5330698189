"""What to act on where the state is not seen: a belief about it. Env -> Env.

The filters are those of ``theory.beliefs.filters`` and ``theory.beliefs.particles``, or one of your own. What is
remembered is part of the environment's state: batches, resets and checkpoints treat it as they treat the rest. The last
observations and actions are shown by ``transfer.around.transferred(env, observation_history=4)``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.wrappers import PureEnv, _observing
from steersman.spaces import MASK
from steersman.types import Env, Filter, Key, PyTree, TimeStep

_OWN = 0xBE11EF  # keys of our own are folded with it: the environment draws the same with and without us


class Believing(NamedTuple):
    env: PyTree
    belief: PyTree


def observe_belief(env: Env, filter: Filter) -> Env:
    """Observe ``filter.features`` of the belief about the state, in place of what ``env`` shows.

    The filter is given ``env``'s observations, and the actions as ``env`` takes them: canonical, clipped to their
    bounds. An episode begins with a new belief; rewards, ends and an action mask stay ``env``'s own.
    ``info["log_likelihood"]`` is how likely what was seen is under the filter's model: low where the model is wrong,
    -inf where it rules that out.

    Raises UsageError for an environment that the filter does not fit.

    >>> from steersman.envs.classic.pendulum import Pendulum
    >>> from steersman.theory.beliefs.filters import kalman
    >>> still = kalman(np.eye(3), np.zeros((3, 1)), np.eye(3), np.eye(3), np.eye(3), np.zeros(3), np.eye(3))
    >>> observe_belief(Pendulum(), still).spec.observation_space.shape
    (9,)
    """
    filter.check(env.spec)
    sees, acts = env.spec.observation_space, env.spec.action_space
    mask = sees.spaces.get(MASK) if isinstance(sees, spaces.Dict) else None
    box = spaces.Box(filter.low, filter.high, (filter.size,), np.float32)
    space = box if mask is None else spaces.Dict({"belief": box, MASK: mask})

    def taken(action: PyTree) -> PyTree:
        return jnp.clip(action, acts.low, acts.high) if isinstance(acts, spaces.Box) else action

    def shown(belief: Any, obs: PyTree) -> PyTree:
        features = filter.features(belief)
        return features if mask is None else {"belief": features, MASK: obs[MASK]}

    def reset(key: Key) -> tuple[Believing, PyTree]:
        state, obs = env.reset(key)
        belief = filter.begin(obs, jax.random.fold_in(key, _OWN))
        return Believing(state, belief), shown(belief, obs)

    def step(state: Believing, action: PyTree, key: Key) -> tuple[Believing, TimeStep]:
        inner, seen = env.step(state.env, action, key)
        belief = filter.step(state.belief, taken(action), seen.final_obs, jax.random.fold_in(key, _OWN))
        obs, info = shown(belief, seen.final_obs), {**seen.info, "log_likelihood": belief.log_likelihood}
        return Believing(inner, belief), seen._replace(obs=obs, final_obs=obs, info=info)

    return PureEnv(_observing(env.spec, space), reset, step)
