"""What to act on where the state is not seen: a belief about it, or the last observations and actions. Env -> Env.

The filters are those of ``theory.beliefs.filters`` and ``theory.beliefs.particles``, or one of your own. What is
remembered is part of the environment's state: batches, resets and checkpoints treat it as they treat the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike

from steersman.envs.wrappers import PureEnv, _observing, frame_stack
from steersman.errors import UsageError
from steersman.spaces import MASK
from steersman.types import Env, EnvSpec, Filter, Key, PyTree, TimeStep

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


def noisy_observation(env: Env, deviation: ArrayLike) -> Env:
    """Add Gaussian noise of this standard deviation, a number or one for each entry, to every observation of a Box.

    Raises UsageError for other observations, and for a deviation that is negative or of another shape.
    """
    space, sigma = env.spec.observation_space, np.asarray(deviation, np.float32)
    if not isinstance(space, spaces.Box) or space.dtype != np.float32:
        raise UsageError(f"{env.spec.id} observes {space}; noise is added to a Box of float32.")
    if sigma.shape not in ((), space.shape) or not (np.isfinite(sigma) & (sigma >= 0)).all():
        raise UsageError(f"deviation is a number of at least 0, or {space.shape} of them; got {deviation}.")

    def blurred(obs: jax.Array, key: Key) -> jax.Array:
        return obs + sigma * jax.random.normal(jax.random.fold_in(key, _OWN + 1), space.shape, jnp.float32)

    def reset(key: Key) -> tuple[PyTree, jax.Array]:
        state, obs = env.reset(key)
        return state, blurred(obs, key)

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        obs = blurred(seen.final_obs, key)
        return state, seen._replace(obs=obs, final_obs=obs)

    return PureEnv(_observing(env.spec, spaces.Box(-np.inf, np.inf, space.shape)), reset, step)


def history(env: Env, length: int) -> Env:
    """Observe the last ``length`` observations, each beside the action that led to it, as one vector, the newest last.

    Each is [observation, action, 1 where an action was taken]; Discrete ones are one-hot. An episode begins with its
    first observation ``length`` times, and zeros for the actions. It is the state of a k-th order Markov process, with
    k = ``length``. For observations alone, and images: ``steersman.envs.wrappers.frame_stack``.

    Raises UsageError for ``length`` below 1 and for spaces other than Box and Discrete.
    """
    (sees, low, high), (acts, least, most) = (_vector(env.spec, x) for x in ("observation_space", "action_space"))
    bounds = (low, np.minimum(least, 0), [0]), (high, np.maximum(most, 0), [1])
    below, above = (np.concatenate(x).astype(np.float32) for x in bounds)

    def reset(key: Key) -> tuple[PyTree, jax.Array]:
        state, obs = env.reset(key)
        return state, jnp.concatenate([sees(obs), np.zeros(len(least) + 1, np.float32)])

    def step(state: PyTree, action: PyTree, key: Key) -> tuple[PyTree, TimeStep]:
        state, seen = env.step(state, action, key)
        taken = jnp.clip(acts(action), least, most)
        obs = jnp.concatenate([sees(seen.final_obs), taken, np.ones(1, np.float32)])
        return state, seen._replace(obs=obs, final_obs=obs)

    return frame_stack(PureEnv(_observing(env.spec, spaces.Box(below, above)), reset, step), length)


def _vector(spec: EnvSpec, which: str) -> tuple[Callable[[Any], jax.Array], np.ndarray, np.ndarray]:
    """How an entry of the space becomes a vector, and the vector's bounds."""
    match space := getattr(spec, which):
        case spaces.Box() if space.dtype == np.float32:
            return jnp.ravel, space.low.ravel(), space.high.ravel()
        case spaces.Discrete():
            n = int(space.n)
            return lambda x: jax.nn.one_hot(x, n, dtype=jnp.float32), np.zeros(n, np.float32), np.ones(n, np.float32)
    raise UsageError(f"{spec.id} has the {which} {space}; a history is of Box and Discrete.")
