"""The prequential error of a model (Dawid 1984): every new rollout is predicted before it is learned from.

No data is lost to it, and it is the error on what the agent does now.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from steersman.models.model import Model
from steersman.types import Key, Metrics, PyTree, Rollout

SAID = 32  # entries of an observation up to which each error is told
LEAST = 1e-3  # of the scale: the least standard deviation that the likelihood is worked out with
NORMAL_90 = 1.645  # standard deviations to either side that hold nine tenths of a normal distribution


def tested(model: Model, state: PyTree, rollout: Rollout, key: Key) -> Metrics:
    """What ``model`` says of a rollout [T, B, ...] that it has not learned from, one step ahead, beside what came.

    The members' distributions are mixed, m = mean_k m_k and v = mean_k (s_k^2 + m_k^2) - m^2, for each of the D + 1
    entries: those of the next observation, and the reward. Errors are in units of ``model.scale``, which is of the
    *changes*: an entry that is held to stay as it is on average has an error of 1. One that never varied is told in its
    own units and not averaged.

    - ``model/nrmse``: mean over entries of the root mean square of y - m; ``model/nrmse_0`` ... ``model/nrmse_reward``:
      each of them, of up to 32 entries
    - ``model/nll``: mean negative log-likelihood, in nats per entry, in those units; no s is taken for less than 0.001
    - ``model/coverage90``: the share of entries within m -+ 1.645 sqrt(v); 0.9 where the model knows what it knows
    - ``model/reward_r2``: 1 - nrmse_reward^2: how much of the reward the model explains

    All are finite where the predictions are.
    """
    size = rollout.reward.size
    flat = lambda tree: jax.tree.map(lambda x: jnp.asarray(x).reshape(size, *x.shape[2:]), tree)
    after = jax.vmap(lambda obs: ravel_pytree(obs)[0])(flat(rollout.next_obs))
    y = jnp.concatenate([after, flat(rollout.reward)[:, None]], 1)  # [N, D + 1]

    def one(member: PyTree, obs: PyTree, action: PyTree, key: Key):
        begin, go = jax.random.split(key)
        said = model.step(member, model.start(member, obs, begin), action, go)[1]
        return said.mean, said.std

    each = jax.vmap(jax.vmap(one, (None, 0, 0, 0)), (0, None, None, None))
    keys = jax.random.split(key, size)
    means, stds = each(model.members(state), flat(rollout.obs), flat(rollout.action), keys)  # [E, N, D + 1]
    scale = jnp.broadcast_to(model.scale(state), y.shape[1:])
    varies = (scale > 0).astype(jnp.float32)
    counted = varies / jnp.maximum(varies.sum(), 1.0)
    unit = jnp.where(scale > 0, scale, 1.0)[None, None]
    error, spread = (y[None] - means) / unit, stds / unit
    mixed = error.mean(0)
    variance = jnp.square(spread).mean(0) + jnp.square(error - mixed[None]).mean(0)
    nrmse = jnp.sqrt(jnp.square(mixed).mean(0))
    safe = jnp.maximum(variance, LEAST**2)
    nll = 0.5 * (jnp.square(mixed) / safe + jnp.log(2 * jnp.pi * safe)).mean(0)
    inside = (jnp.abs(mixed) <= NORMAL_90 * jnp.sqrt(variance)).mean(0)
    metrics = {
        "model/nrmse": nrmse @ counted,
        "model/nll": nll @ counted,
        "model/coverage90": inside @ counted,
        "model/reward_r2": 1 - jnp.square(nrmse[-1]),
        "model/nrmse_reward": nrmse[-1],
    }
    return metrics | {f"model/nrmse_{i}": nrmse[i] for i in range(len(nrmse) - 1) if len(nrmse) <= SAID + 1}
