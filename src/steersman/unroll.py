"""Playing compiled environments: a scan in which an agent acts and members step; and the random policy.

It stands on the ground floor so that agents, models and planners may use it: planning in a model is the same unroll.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium.spaces import Dict

from steersman import shards, spaces
from steersman.episodes import Episodes, finished, numbers_of
from steersman.types import Agent, Array, DeviceEnvs, EnvSpec, Key, PyTree, Rollout


class Acting(NamedTuple):
    """Where the environments and the acting agent stand between two unrolls. Every leading axis is ``[B]``."""

    envs: PyTree  # the state of compiled environments; of host ones, what their loop keeps between two updates
    obs: PyTree
    first: Array  # bool: obs opens an episode
    carry: PyTree  # the agent's acting memory


def begin(agent: Agent, envs: DeviceEnvs, key: Key, **reset: Any) -> Acting:
    """Reset compiled environments and the acting memory."""
    state, obs = envs.reset(key, **reset)
    num = jax.tree.leaves(obs)[0].shape[0]
    return Acting(state, obs, jnp.ones((num,), bool), agent.begin(num))


Act = Callable[[PyTree, PyTree, Array, Key], tuple[PyTree, PyTree, dict[str, Any]]]  # (carry, obs, first, key)


def unroll(
    act: Act, envs: DeviceEnvs, acting: Acting, key: Key, length: int, log: Sequence[str] = ()
) -> tuple[Acting, Rollout, Episodes]:
    """Let ``act`` (an agent's, its state bound) play ``length`` steps: a scan, to be compiled with what uses it.

    log: entries of ``info`` that are counted of episodes too. -> (where things stand now, the rollout [T, B, ...], the
    episodes that ended)
    """

    def step(now: Acting, t: jax.Array):
        action, carry, extras = act(now.carry, now.obs, now.first, jax.random.fold_in(key, t))
        state, seen = envs.step(now.envs, action)
        ended = seen.terminated | seen.truncated
        taken = Rollout(
            now.obs, action, seen.reward, seen.terminated, seen.truncated, seen.final_obs, now.first, seen.costs, extras
        )
        counted: Any = seen.over, numbers_of(envs.spec, seen, log)
        return Acting(state, seen.obs, ended, carry), (taken, *counted)

    now, (rollout, over, numbers) = jax.lax.scan(step, acting, jnp.arange(length, dtype=jnp.int32))
    return now, rollout._replace(carry=acting.carry), finished(over, numbers)


def random_policy(spec: EnvSpec) -> Callable[..., Any]:
    """A uniformly random policy over the legal actions, with the signature of an agent's ``act``, its state bound."""
    masked = isinstance(spec.observation_space, Dict) and spaces.MASK in spec.observation_space.spaces

    def one(obs: PyTree, key: Key) -> PyTree:
        mask = obs[spaces.MASK][None] if masked else None
        return jax.tree.map(lambda x: x[0], spaces.sample_action(spec.action_space, key, 1, mask))

    def act(carry: PyTree, obs: PyTree, first: jax.Array, key: Key):
        action = jax.vmap(one)(obs, shards.member_keys(key, first.shape[0]))
        mask = obs[spaces.MASK] if masked else None
        return action, carry, {"log_prob": spaces.random_log_prob(spec.action_space, action, mask)}

    return act
