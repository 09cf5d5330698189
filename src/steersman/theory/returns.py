"""Returns and advantages: one backward recursion, and what follows from it.

Arrays lead with time: ``[T, ...]``, usually ``[T, B]``. Index t is one transition: obs_t, action_t -> r_t, next_obs_t.
``v_tm1`` is V(obs_t), ``v_t`` is V(next_obs_t) with the *true* successor, never an observation from after a reset. So
v_t[t] == v_tm1[t + 1] inside an episode, and only there.

An episode ends in two ways, and each has its own place:

    terminated   discount_t = gamma (1 - terminated)    nothing follows: bootstrap nothing     ``discounts``
    truncated    lambda_t = lambda (1 - truncated)      the clock stopped: bootstrap from v_t  ``trace_decays``

so several episodes, ended either way, may follow each other in one column. When both flags are set the discount
wins. The last row of an array bootstraps from its v_t, as if the clock had stopped there.

A NaN or an infinity that nothing is to be taken of (its weight, discount or trace, is 0) does not count, nor does it
reach the rows before it. Every function is differentiable; stop the gradient of what is to be a target
(``jax.lax.stop_gradient``) yourself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.theory.trees import aligned, kept, one_hot
from steersman.types import Array

Scalar = float | Array


def discounts(terminated: Array, gamma: Scalar) -> jax.Array:
    """discount_t = gamma (1 - terminated_t). terminated bool [...] -> float32 [...]."""
    return jnp.where(jnp.asarray(terminated).astype(bool), jnp.float32(0.0), jnp.asarray(gamma, jnp.float32))


def trace_decays(truncated: Array, lambda_: Scalar) -> jax.Array:
    """lambda_t = lambda (1 - truncated_t). truncated bool [...] -> float32 [...]."""
    return discounts(truncated, lambda_)


def lambda_returns(r_t: Array, discount_t: Scalar, v_t: Scalar, lambda_t: Scalar) -> jax.Array:
    """The lambda-return, backwards in time.

        G_t = r_t + discount_t [(1 - lambda_t) v_t + lambda_t G_{t+1}],   G_{T+1} = v_T

    r_t [T, ...]; discount_t, v_t, lambda_t of the same shape, or scalars. -> [T, ...], in units of reward. Raises
    UsageError when shapes differ. Sutton and Barto (2018), 12.1 and 12.8; the weights sum to one at the end of an
    episode because the tail keeps all that is left.

    lambda_t (zero at a truncation)    with v_t = V(next_obs) this is
    0                                  the one-step TD target
    between 0 and 1                    TD(lambda)'s forward view; minus v_tm1 it is GAE
    1                                  the Monte-Carlo return, bootstrapped where the clock cut it

    v_t (any lambda)                   gives
    max_a Q(next_obs, a)               Peng's Q(lambda), which corrects nothing; see ``retrace``
    Q(next_obs, next action)           SARSA(lambda)
    sum_a pi Q(next_obs, a)            expected SARSA(lambda)
    V along a model's rollout          the targets of learning in imagination

    >>> lambda_returns(jnp.ones(3), 0.5, jnp.full(3, 8.0), 0.0)  # one-step targets, 1 + 0.5 * 8
    Array([5., 5., 5.], dtype=float32)
    """
    r_t = _floating(r_t)
    discount_t, v_t, lambda_t = _like(r_t, discount_t=discount_t, v_t=v_t, lambda_t=lambda_t)
    now = discount_t * (1.0 - lambda_t)
    return _backward(r_t + now * kept(now, v_t), discount_t * lambda_t, v_t[-1])


def discounted_returns(r_t: Array, discount_t: Scalar, v_t: Scalar = 0.0, lambda_t: Scalar = 1.0) -> jax.Array:
    """The Monte-Carlo return: G_t = r_t + discount_t G_{t+1}, from v_t where the clock cut it.

    Shapes and errors as ``lambda_returns``, of which it is the case lambda = 1. With ``lambda_t =
    trace_decays(truncated, 1.0)`` a truncated episode continues with v_t; the default knows no truncation but the
    array's end, and v_t = 0 counts only what was seen. Sutton and Barto (2018), eq. 3.9.

    >>> discounted_returns(jnp.array([1.0, 2.0, 4.0]), 0.5)
    Array([3., 4., 4.], dtype=float32)
    """
    return lambda_returns(r_t, discount_t, v_t, lambda_t)


def finite_horizon_returns(r_t: Array, continues_t: Scalar = 1.0) -> jax.Array:
    """The undiscounted reward to go: R_t = r_t + continues_t R_{t+1}, R_{T+1} = 0.

    r_t [T, ...]; continues_t the same shape or a scalar, 0 at the last step of each episode, 1 elsewhere. The horizon
    is part of the task here, so both ends of an episode are ends: continues_t = 1 - (terminated or truncated). -> [T,
    ...]
    """
    return lambda_returns(r_t, continues_t, 0.0, 1.0)


def n_step_returns(r_t: Array, discount_t: Scalar, v_t: Scalar, n: int, lambda_t: Scalar = 1.0) -> jax.Array:
    """The n-step return: n rewards, then a bootstrap; cut early, and bootstrapped there, at a truncation.

        G^1_t = r_t + discount_t v_t,   G^k_t = r_t + discount_t [(1 - lambda_t) v_t + lambda_t G^{k-1}_{t+1}]

    Shapes as ``lambda_returns``; ``lambda_t = trace_decays(truncated, 1.0)`` marks truncations. Near the array's end
    fewer than n rewards remain and the last v_t is used. n = 1 is the TD target, n >= T the Monte-Carlo return;
    lambda_t between 0 and 1 gives the lambda-return truncated after n steps. Raises UsageError unless n is an int >=
    1. Sutton and Barto (2018), 7.1.

    >>> n_step_returns(jnp.ones(3), 1.0, jnp.array([10.0, 20.0, 30.0]), n=2)
    Array([22., 32., 31.], dtype=float32)
    """
    if n < 1:
        raise UsageError(f"n_step_returns: n is {n}; it counts rewards before the bootstrap and must be at least 1.")
    r_t = _floating(r_t)
    discount_t, v_t, lambda_t = _like(r_t, discount_t=discount_t, v_t=v_t, lambda_t=lambda_t)
    now, trace = discount_t * (1.0 - lambda_t), discount_t * lambda_t
    base = r_t + now * kept(now, v_t)

    def longer(_: int, g: jax.Array) -> jax.Array:
        return base + trace * kept(trace, jnp.concatenate([g[1:], v_t[-1:]]))

    return jax.lax.fori_loop(0, min(n, r_t.shape[0]) - 1, longer, r_t + discount_t * kept(discount_t, v_t))


def gae(r_t: Array, discount_t: Scalar, v_tm1: Array, v_t: Array, lambda_t: Scalar) -> jax.Array:
    """Generalised advantage estimate: the lambda-return minus the value it started from.

        A_t = G_t^lambda - v_tm1

    Where the values chain (v_t[t] == v_tm1[t + 1] inside an episode) it is the sum of TD errors that others write,

        A_t = sum_k (prod_{i<k} discount_{t+i} lambda_{t+i}) delta_{t+k},   delta_t = r_t + discount_t v_t - v_tm1

    With a v_t from elsewhere, as from a target critic, the two differ, and this is the first. Shapes as
    ``lambda_returns``; -> [T, ...]. Add v_tm1 for the critic's target. lambda_t = 0 is the TD error, lambda_t = 1 the
    Monte-Carlo advantage. Schulman et al. (2016), eq. 16.
    """
    r_t = _floating(r_t)
    (v_tm1,) = _like(r_t, v_tm1=v_tm1)
    return lambda_returns(r_t, discount_t, v_t, lambda_t) - v_tm1


def importance_ratios(log_prob: Array, behaviour_log_prob: Array) -> jax.Array:
    """rho = pi(a | s) / mu(a | s) from the two log-probabilities, [...]. Overflow gives inf, which clips well.

    Raises UsageError for shapes that would broadcast to a larger one (``trees.aligned``).
    """
    log_prob, behaviour = aligned(log_prob=log_prob, behaviour_log_prob=behaviour_log_prob)
    return jnp.exp(log_prob - behaviour)


class VTrace(NamedTuple):
    """What ``vtrace`` gives, both [T, ...]."""

    vs: jax.Array  # targets for V(obs_t)
    pg_advantage: jax.Array  # weights of grad log pi(action_t | obs_t), the clipped ratio included


def vtrace(
    r_t: Array,
    discount_t: Scalar,
    rho_tm1: Array,
    v_tm1: Array,
    v_t: Array,
    lambda_t: Scalar = 1.0,
    *,
    clip_rho: Scalar = 1.0,
    clip_c: Scalar = 1.0,
    clip_pg_rho: Scalar = 1.0,
) -> VTrace:
    """V-trace: off-policy value targets and policy-gradient advantages.

        vs_t = v_tm1 + e_t,   e_t = min(clip_rho, rho_t) delta_t + discount_t lambda_t min(clip_c, rho_t) e_{t+1}
        delta_t = r_t + discount_t v_t - v_tm1
        pg_t = min(clip_pg_rho, rho_t) (r_t + discount_t [(1 - lambda_t) v_t + lambda_t vs_{t+1}] - v_tm1)

    Shapes as ``lambda_returns``; rho_tm1 [T, ...] is the ratio of action_t, the one taken at obs_t
    (``importance_ratios``). A truncation (lambda_t = 0) takes v_t in both lines, and no later error leaks in. With
    rho = 1 and values that chain (v_t[t] == v_tm1[t + 1] inside an episode), vs is the lambda-return and pg is GAE.
    Espeholt et al. (2018), section 4; their lambda is 1 but for remark 2, and then the bracket is vs_{t+1}.
    """
    r_t = _floating(r_t)
    discount_t, rho_tm1, v_tm1, v_t, lambda_t = _like(
        r_t, discount_t=discount_t, rho_tm1=rho_tm1, v_tm1=v_tm1, v_t=v_t, lambda_t=lambda_t
    )
    delta = r_t + discount_t * kept(discount_t, v_t) - v_tm1
    trace = discount_t * lambda_t * jnp.minimum(rho_tm1, clip_c)
    vs = v_tm1 + _backward(jnp.minimum(rho_tm1, clip_rho) * delta, trace, jnp.zeros_like(delta[-1]))
    vs_next = jnp.concatenate([vs[1:], v_t[-1:]])
    q_t = r_t + discount_t * ((1.0 - lambda_t) * v_t + lambda_t * vs_next)
    q_t = jnp.where((discount_t * lambda_t == 0) & ~jnp.isfinite(q_t), delta + v_tm1, q_t)  # vs_next does not count
    return VTrace(vs, jnp.minimum(rho_tm1, clip_pg_rho) * (q_t - v_tm1))


def retrace(
    r_t: Array,
    discount_t: Scalar,
    rho_tm1: Array,
    q_tm1: Array,
    v_t: Array,
    lambda_t: Scalar = 1.0,
    *,
    clip_c: Scalar = 1.0,
) -> jax.Array:
    """Retrace: targets for Q(obs_t, action_t), safe for any behaviour policy.

        G_t = r_t + discount_t [v_t + lambda_t c_{t+1} (G_{t+1} - q_{t+1})],   G_T = r_T + discount_T v_T
        c = min(clip_c, rho)

    q_tm1 [T, ...] is Q(obs_t, action_t) and rho_tm1 the ratio of action_t; v_t is E_pi Q(next_obs_t, .). The next
    row's q and c belong to the action taken next; a truncation (lambda_t = 0) keeps the next episode's out. lambda_t
    = 0 is expected SARSA. -> targets [T, ...]; subtract q_tm1 for errors. Munos et al. (2016), section 3.
    """
    r_t = _floating(r_t)
    discount_t, rho_tm1, q_tm1, v_t, lambda_t = _like(
        r_t, discount_t=discount_t, rho_tm1=rho_tm1, q_tm1=q_tm1, v_t=v_t, lambda_t=lambda_t
    )
    c_tm1 = jnp.minimum(rho_tm1, clip_c)
    nothing = jnp.zeros_like(r_t[-1:])  # after the last row there is no next action to correct
    c_t, q_t = jnp.concatenate([c_tm1[1:], nothing]), jnp.concatenate([q_tm1[1:], nothing])
    trace = discount_t * lambda_t * c_t
    return _backward(r_t + discount_t * kept(discount_t, v_t) - trace * kept(trace, q_t), trace, nothing[0])


class Mixture(NamedTuple):
    """What ``multi_step_mixture`` gives."""

    r_t: jax.Array  # [T, ...]: the rewards up to a row
    discount_t: jax.Array  # [T, ...]: of what is bootstrapped there
    weight_t: jax.Array  # [T, ..., A]: of each action's; 1 in all


def multi_step_mixture(
    r_t: Array, discount_t: Scalar, policy_t: Array, a_t: Array, c_t: Scalar, lambda_t: Scalar = 1.0
) -> Mixture:
    """The first row's off-policy return, taken apart: how much of it ends where, in which action's value.

        G_0 = sum_{k,a} w_k(a) [R_k + D_k q_k(a)],   R_k = sum_{i<=k} D_{i-1} r_i,   D_k = prod_{i<=k} discount_i
        w_k(a) = (prod_{i<k} e_i) (policy_k(a) - e_k 1{a = a_k}),   e_k = lambda_k c_k, 0 in the last row

    policy_t [T, ..., A] is the target policy at next_obs_t, a_t int [T, ...] the action that was taken there, c_t its
    trace; the last row's do not count, and nothing goes on behind discount_t = 0. With q a number it is the first row
    of ``retrace`` (of c = min(1, rho)); with q_k(a) a distribution it is the mixture that such a return has. No weight
    is negative where c_t <= policy_t(a_t). Raises UsageError as ``lambda_returns``.

    c_t                               gives
    1{a_t greedy}, policy_t greedy    n steps cut at the first action that is not greedy (Watkins 1989)
    policy_t(a_t)                     tree backup (Precup, Sutton and Singh 2000)
    min(1, policy_t(a_t) / mu_t)      Retrace (Munos et al. 2016)

    >>> follow = lambda c: multi_step_mixture(jnp.ones(2), 0.5, jnp.array([[1.0, 0], [0, 1]]), jnp.array([0, 0]), c)
    >>> follow(1.0).weight_t.tolist(), follow(0.0).weight_t.tolist()
    ([[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]])
    """
    r_t = _floating(r_t)
    discount_t, c_t, lambda_t = _like(r_t, discount_t=discount_t, c_t=c_t, lambda_t=lambda_t)
    goes_on = jnp.where(discount_t == 0, 0.0, lambda_t * c_t).at[-1].set(0.0)
    before = lambda x: jnp.concatenate([jnp.ones_like(x[:1]), jnp.cumprod(x[:-1], axis=0)])
    policy_t, reached = jnp.asarray(policy_t), before(discount_t)
    taken = one_hot(a_t, policy_t.shape[-1])
    weight_t = before(goes_on)[..., None] * (policy_t - jnp.where(taken, goes_on[..., None], 0.0))
    return Mixture(jnp.cumsum(reached * r_t, axis=0), reached * discount_t, weight_t)


def at_episode_start(x_t: Array, first: Array) -> jax.Array:
    """For each step, x at the first step of its episode: of returns, the return of the whole episode.

    x_t [T, ...]; first bool, the same shape: obs_t opens an episode. -> [T, ...]. The first row counts
    as an opening. Raises UsageError without a step.

    >>> at_episode_start(jnp.array([3.0, 2.0, 1.0, 7.0]), jnp.array([True, False, False, True]))
    Array([3., 3., 3., 7.], dtype=float32)
    """
    x_t, first = aligned(x_t=x_t, first=first)
    return _forward(x_t, first, 1.0)


def episode_discounts(first: Array, gamma: Scalar) -> jax.Array:
    """gamma^k for the k-th step of each episode, k = 0 at its first step: float32, the shape of first [T, ...].

    The weights of the policy gradient of the *discounted* start value (Sutton and Barto 2018, section 13.3). The
    rollout's first row counts as an opening.

    >>> episode_discounts(jnp.array([True, False, False, True]), 0.5)
    Array([1.  , 0.5 , 0.25, 1.  ], dtype=float32)
    """
    first = jnp.asarray(first)
    return _forward(jnp.ones(first.shape, jnp.float32), first, jnp.asarray(gamma, jnp.float32))


def _forward(x_t: jax.Array, first: jax.Array, decay: Scalar) -> jax.Array:
    """y_t = x_t where an episode opens and in the first row, else decay y_{t-1}."""
    _steps(x_t, "x_t")

    def step(y: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y = jnp.where(now[1], now[0], decay * y)
        return y, y

    return jax.lax.scan(step, x_t[0], (x_t, first.at[0].set(True)))[1]


def _backward(a: jax.Array, b: jax.Array, last: jax.Array) -> jax.Array:
    """x_t = a_t + b_t x_{t+1}, x_{T+1} = last.

    A plain scan: on CPU the associative one took 2-5 times as long to run and 4-11 times as long to compile (T 32-2048,
    B 1-4096), and unrolling lost as well.
    """

    def step(x: jax.Array, ab: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x = ab[0] + ab[1] * kept(ab[1], x)
        return x, x

    return jax.lax.scan(step, last, (a, b), reverse=True)[1]


def _floating(r_t: Array) -> jax.Array:
    r_t = jnp.asarray(r_t)
    _steps(r_t, "r_t")
    return r_t if jnp.issubdtype(r_t.dtype, jnp.floating) else r_t.astype(jnp.float32)


def _steps(x: jax.Array, name: str) -> None:
    if x.ndim == 0 or x.shape[0] == 0:
        raise UsageError(f"Returns need a leading time axis with at least one step; {name} has shape {x.shape}.")


def _like(r_t: jax.Array, **named: Scalar) -> list[jax.Array]:
    """Each as an array like r_t. Only scalars are broadcast: [T] against [T, B] would line up wrongly when T = B."""
    out = []
    for name, x in named.items():
        x = jnp.asarray(x, r_t.dtype)
        if x.shape not in ((), r_t.shape):
            raise UsageError(f"{name} has shape {x.shape}; it must be a scalar or have r_t's shape {r_t.shape}.")
        out.append(jnp.broadcast_to(x, r_t.shape))
    return out
