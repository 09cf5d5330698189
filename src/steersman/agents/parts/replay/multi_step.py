"""Targets of n steps out of replay, whose later actions are those of an older policy: how far they are followed.

    none      to the end, whatever the policy would do now
    cut       with the trace c = pi(a | s): to the first action that is not greedy where pi is (Watkins's Q(lambda)),
              tree backup where it is not
    retrace   with c = lambda min(1, pi(a | s) / mu(a | s)), mu what the action was drawn from (Munos et al. 2016)

Rows are steps here: [n, N, ...]. The names in ``_t`` are of the state after a step, and of the action taken there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts.config import ReplayConfig
from steersman.errors import UsageError
from steersman.theory import returns
from steersman.types import Array, Metrics, PyTree, Rollout


class Steps(NamedTuple):
    """The items of a sample, step by step."""

    reward: jax.Array  # [n, N]
    discount: jax.Array  # [n, N]: gamma (1 - terminated)
    lambda_t: jax.Array  # [n, N]: 0 where the item stops
    obs_t: PyTree  # [n * N, ...]
    action_t: jax.Array  # [n * N, ...]; of the last step and of ends, any
    log_prob_t: Any  # [n, N], as recorded; None where nothing was


def corrects(config: ReplayConfig) -> bool:
    """Whether targets are corrected: a learner then needs ``Sample.path``."""
    return config.n_step > 1 and config.n_step_correction != "none"


def keeps(config: ReplayConfig) -> tuple[str, ...]:
    """What replay has to store of acting: ``BatchLearner.keeps``."""
    return ("log_prob",) if corrects(config) and config.n_step_correction == "retrace" else ()


def check_correction(algorithm: str, config: Any, why: str, *legal: str) -> None:
    """Raise UsageError unless the correction is none, or one of ``legal``; ``why`` says what is against the others."""
    given, legal = config.n_step_correction, ("none", *legal)
    if given not in legal:
        raise UsageError(f"{algorithm}: n_step_correction cannot be {given}: {why}. Set it to {' or '.join(legal)}.")


def steps_of(config: Any, path: Rollout) -> Steps:
    """``Sample.path`` [N, n, ...], with time first."""
    return _steps(config, jax.tree.map(lambda x: jnp.moveaxis(jnp.asarray(x), 1, 0), path))


def _steps(config: Any, path: Rollout) -> Steps:
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    following = lambda x: jnp.concatenate([x[1:], x[-1:]])
    return Steps(
        jnp.asarray(path.reward),
        returns.discounts(path.terminated, config.gamma),
        returns.trace_decays(path.truncated, 1.0),
        jax.tree.map(flat, path.next_obs),
        flat(following(path.action)),
        following(path.extras["log_prob"]) if "log_prob" in path.extras else None,
    )


def ahead(rows: Rollout, n: int) -> tuple[jax.Array, jax.Array]:
    """The n steps from each row of sequences [L, N] on: -> (their rows [n, L, N], how many there are [L, N]).

    Up to the end of the episode, terminated or truncated, or of the sequence; the last is repeated.
    """
    length = rows.reward.shape[0]
    row = jnp.arange(length, dtype=jnp.int32)[:, None]
    ends = jnp.where(rows.terminated | rows.truncated, row, length - 1)
    last = jnp.minimum(jax.lax.cummin(ends, axis=0, reverse=True), row + n - 1)
    return jnp.minimum(row[None] + jnp.arange(n, dtype=jnp.int32)[:, None, None], last[None]), last - row + 1


def joined(config: Any, rows: Rollout) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The n steps from each row on as one: -> (reward, costs [..., C], discount, the row of the last), [L, N]."""
    at, steps = ahead(rows, config.n_step)
    powers = jnp.power(jnp.asarray(config.gamma, jnp.float32), jnp.arange(config.n_step + 1, dtype=jnp.float32))
    there = jnp.arange(config.n_step, dtype=jnp.int32)[:, None, None] < steps[None]
    reward = (jnp.where(there, _rows(rows.reward, at), 0.0) * powers[:-1, None, None]).sum(0)
    costs = (jnp.where(there[..., None], _rows(rows.costs, at), 0.0) * powers[:-1, None, None, None]).sum(0)
    terminated = _rows(rows.terminated, at[-1:])[0]
    return reward, costs, jnp.where(terminated, 0.0, powers[steps]), at[-1]


def steps_within(config: Any, rows: Rollout) -> Steps:
    """The n steps from each row of sequences [L, N] on, apart. Of ``obs_t`` it has the rows, as L * N flat ones."""
    at, steps = ahead(rows, config.n_step)
    taken = lambda x: _rows(x, at).reshape(config.n_step, -1, *x.shape[2:])
    path = jax.tree.map(taken, rows._replace(obs=(), next_obs=(), costs=(), carry=()))
    stops = jnp.arange(1, config.n_step + 1, dtype=jnp.int32)[:, None, None] >= steps[None]
    stops = stops.reshape(config.n_step, -1) & ~path.terminated
    return _steps(config, path._replace(next_obs=flat_rows(at).reshape(config.n_step, -1), truncated=stops))


def flat_rows(at: jax.Array) -> jax.Array:
    """Rows [..., N] of sequences as rows of all of them made flat: at * N + which sequence."""
    return at * at.shape[-1] + jnp.broadcast_to(jnp.arange(at.shape[-1], dtype=jnp.int32), at.shape)


def _rows(x: Array, at: jax.Array) -> jax.Array:
    """x [L, N, ...] at rows [n, L, N] -> [n, L, N, ...]."""
    return jnp.asarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])[flat_rows(at)]  # no costs too


def traces(config: Any, steps: Steps, log_prob: Array) -> tuple[jax.Array, Metrics]:
    """-> (c_t [n, N], metrics), of log pi(a | s) [n * N] under the target policy.

    n_step_agreement: the mean of c, lambda left out, over all actions after the first; with a greedy pi the share of
    them that are greedy still.
    """
    log_prob = log_prob.reshape(steps.reward.shape)
    retraces = config.n_step_correction == "retrace"
    ratio = returns.importance_ratios(log_prob, steps.log_prob_t) if retraces else jnp.exp(log_prob)
    c_t = jnp.minimum(ratio, 1.0)
    follows = jnp.where(steps.discount > 0, steps.lambda_t, 0.0)[:-1]
    agreement = (c_t[:-1] * follows).sum() / jnp.maximum(follows.sum(), 1.0)
    return config.retrace_lambda * c_t if retraces else c_t, {"n_step_agreement": agreement}


def target(config: Any, steps: Steps, v_t: Array, q_t: Array, log_prob: Array) -> tuple[jax.Array, Metrics]:
    """The corrected return of every item, by ``returns.retrace``: -> ([N], metrics).

    v_t [n * N]: the target policy's value; q_t, log_prob [n * N]: of the action that was taken there.
    """
    c_t, metrics = traces(config, steps, log_prob)
    rows = lambda x: x.reshape(steps.reward.shape)
    behind = lambda x: jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])  # in the row of their own step
    found = returns.retrace(steps.reward, steps.discount, behind(c_t), behind(rows(q_t)), rows(v_t), steps.lambda_t)
    return found[0], metrics
