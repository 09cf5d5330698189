"""Episodes drawn from an MDP under a fixed policy, as padded arrays that every prediction method reads.

Axes: ``E`` episodes, ``T`` steps of the longest one.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.tabular.mdp import MDP, check_policy
from steersman.types import Array, Key


class Episodes(NamedTuple):
    """Whole episodes, ``[..., E, T]``; rows past an episode's end have ``valid`` false and are ignored."""

    state: Array  # int32 [..., E, T + 1]: state[t + 1] is the successor of state[t]
    action: Array  # int32 [..., E, T]
    reward: Array  # float32 [..., E, T]
    terminated: Array  # bool [..., E, T]: the last step of an episode that ended by itself
    valid: Array  # bool [..., E, T]


def sample_episodes(
    mdp: MDP, policy: np.ndarray, key: Key, num: int, *, runs: int | None = None, max_steps: int = 1000
) -> Episodes:
    """``num`` episodes of ``policy`` ([S] or [S, A]), cut at ``max_steps``; ``runs`` of them adds a leading axis.

    The padding is trimmed to the longest episode drawn. Raises UsageError for an MDP without an end.
    """
    if not mdp.terminal.any():
        raise UsageError(
            f"{mdp.name} has no terminal state, so it has no episodes. Set max_episode_steps in a run of steps."
        )
    pi = jnp.asarray(np.cumsum(check_policy(mdp, policy), -1)[:, :-1], jnp.float32)
    shape = (num,) if runs is None else (runs, num)
    total = int(np.prod(shape))
    flat = _draw(mdp, pi, key, total, max_steps)
    longest = int(jnp.max(jnp.sum(flat.valid, -1)))
    trimmed = Episodes(flat.state[:, : longest + 1], *(x[:, :longest] for x in flat[1:]))
    return Episodes(*(x.reshape(*shape, *x.shape[1:]) for x in trimmed))


@partial(jax.jit, static_argnames=("mdp", "total", "max_steps"))
def _draw(mdp: MDP, pi: Array, key: Key, total: int, max_steps: int) -> Episodes:
    def step(carry, key):
        state, over = carry
        act_key, env_key = jax.random.split(key)
        s = state[0]
        u = jax.random.uniform(act_key, (total, 1))
        a = jnp.sum(u >= pi[s], -1).astype(jnp.int32)
        new, ts = jax.vmap(mdp.step)(state, a, jax.random.split(env_key, total))
        keep = lambda x, y: jnp.where(over, x, y)
        out = (keep(s, ts.obs), a, jnp.where(over, 0.0, ts.reward), ts.terminated & ~over, ~over)
        return (jax.tree.map(keep, state, new), over | ts.terminated), out

    first_key, key = jax.random.split(key)
    start, first = jax.vmap(mdp.reset)(jax.random.split(first_key, total))
    _, (after, action, reward, terminated, valid) = jax.lax.scan(
        step, (start, jnp.zeros(total, bool)), jax.random.split(key, max_steps)
    )
    states = jnp.concatenate([first[None], after])
    return Episodes(states.T, action.T, reward.T, terminated.T, valid.T)
