"""Beliefs from observations: the exact Bayes filter of finite problems, the Kalman filter, the extended one.

Each has two halves. An action is taken, and the belief *predicts*; something is seen, and it is *updated*:

    b^-(s') = sum_s P(s' | s, a) b(s),      b(s') = p(o | s') b^-(s') / p(o),      p(o) = sum_s' p(o | s') b^-(s')

``bayes``, ``kalman`` and ``extended_kalman`` join them to a ``steersman.types.Filter``; ``particles`` is for
what these cannot hold. Axes: ``S`` states, ``A`` actions, ``O`` observations of a finite problem; ``D`` entries of a
continuous state, ``M`` of its actions, ``O`` of its observations. Thrun, Burgard & Fox (2005), chapters 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax.scipy.linalg import cho_solve, solve_triangular
from numpy.typing import ArrayLike

from steersman.errors import UsageError
from steersman.types import Array, EnvSpec, Filter, Key

_product = partial(jnp.matmul, precision="highest")  # GPUs would round the factors to 10 bits

# --- finite problems -----------------------------------------------------------------------------------------------


class Belief(NamedTuple):
    """A distribution over S states."""

    probabilities: Array  # [S]
    log_likelihood: Array  # log p(obs | all before)


def bayes_predict(belief: Any, successors: Array, probabilities: Any) -> Any:
    """sum_s b(s) P(s' | s, a) of one action, [S]. ``successors`` int [S, K] are the s' of ``probabilities`` [S, K].

    numpy in float64 or JAX, as it is given; so is ``bayes_update``.
    """
    flow = belief[:, None] * probabilities
    if isinstance(flow, np.ndarray):
        return np.bincount(np.ravel(successors), flow.ravel(), belief.shape[0])
    return jnp.zeros_like(belief).at[successors].add(flow)


def bayes_update(predicted: Any, likelihood: Any) -> tuple[Any, Any]:
    """Bayes's rule: (likelihood b^- / p(o) [S], p(o)), both arguments [S]. Where p(o) = 0, (b^-, 0).

    >>> posterior, chance = bayes_update(np.array([0.5, 0.5]), np.array([0.85, 0.15]))
    >>> posterior.tolist(), float(chance)
    ([0.85, 0.15], 0.5)
    """
    xp = np if isinstance(predicted, np.ndarray) else jnp
    joint = likelihood * predicted
    chance = joint.sum()
    return xp.where(chance > 0, joint / xp.where(chance > 0, chance, xp.ones_like(chance)), predicted), chance


def bayes(
    start: ArrayLike,
    transition: ArrayLike,
    observation: ArrayLike,
    *,
    successors: ArrayLike | None = None,
    first: ArrayLike | None = None,
) -> Filter:
    """The exact filter of a finite problem; its features are the probabilities of the states, [S].

    start: rho_0 [S]. transition: P [S, A, S], or [S, A, K] of the ``successors`` [S, A, K]. observation: O(o | a, s')
    [A, S, O]. first: p(o | s) [S, O] of an episode's first observation; None: nothing is to be learned from it.

    Raises UsageError for shapes that do not belong together and rows that are not distributions. Kaelbling, Littman &
    Cassandra (1998), section 3.3.
    """
    rho, p, o = (np.asarray(x, np.float64) for x in (start, transition, observation))
    if p.ndim != 3 or p.shape[0] != rho.size or o.ndim != 3 or o.shape[:2] != (p.shape[1], p.shape[0]):
        raise UsageError(
            "A Bayes filter takes start [S], transition [S, A, K] and observation [A, S, O]; got "
            f"{rho.shape}, {p.shape} and {o.shape}."
        )
    s, a, _ = p.shape
    after = np.broadcast_to(np.arange(s), (s, a, s)) if successors is None else np.asarray(successors)
    opening = None if first is None else np.asarray(first, np.float64)
    if after.shape != p.shape:
        raise UsageError(f"transition {p.shape} is of the successors {after.shape}: give both [S, A, K].")
    if after.min() < 0 or after.max() >= s:
        raise UsageError(f"A successor is outside 0..{s - 1}: {after.min()} to {after.max()}.")
    if opening is not None and opening.shape != (s, o.shape[2]):
        raise UsageError(f"first is p(o | s), [S, O] = {(s, o.shape[2])}; got {opening.shape}.")
    for name, rows in {"start": rho, "transition": p, "observation": o, "first": opening}.items():
        if rows is not None and not (np.all(rows >= 0) and np.allclose(rows.sum(-1), 1.0, atol=1e-6)):
            raise UsageError(f"{name} has a row along its last axis that is not a distribution: >= 0 with sum 1.")
    rho, p, o = (x.astype(np.float32) for x in (rho, p, o))

    def updated(predicted: Array, likelihood: Array) -> Belief:
        posterior, chance = bayes_update(predicted, likelihood)
        return Belief(posterior, jnp.log(chance))

    def begin(obs: Array, key: Key) -> Belief:
        if opening is None:
            return Belief(jnp.asarray(rho), jnp.zeros(()))
        return updated(jnp.asarray(rho), jnp.asarray(opening, jnp.float32)[:, obs])

    def step(belief: Belief, action: Array, obs: Array, key: Key) -> Belief:
        moves, chances = jnp.asarray(after)[:, action], jnp.asarray(p)[:, action]
        predicted = bayes_predict(belief.probabilities, moves, chances)
        return updated(predicted, jnp.asarray(o)[action, :, obs])

    def check(spec: EnvSpec) -> None:
        acts, sees = spec.action_space, spec.observation_space
        counts = [int(x.n) for x in (acts, sees) if isinstance(x, spaces.Discrete)]
        more = opening is None  # one that says "nothing seen yet"
        if counts not in ([a, o.shape[2]], [a, o.shape[2] + more]):
            raise UsageError(
                f"This Bayes filter is of {a} actions and {o.shape[2]} observations, Discrete; {spec.id} has the "
                f"actions {acts} and the observations {sees}."
            )

    return Filter(begin, step, lambda belief: belief.probabilities, s, 0.0, 1.0, check)


# --- Gaussians -----------------------------------------------------------------------------------------------------


class Gaussian(NamedTuple):
    """N(mean, covariance) over a state of D entries."""

    mean: Array  # [D]
    covariance: Array  # [D, D]
    log_likelihood: Array  # log p(obs | all before)


def gaussian_predict(covariance: Array, A: Array, Q: Array) -> jax.Array:
    """A P A' + Q, exactly symmetric. All [D, D]; the mean moves by the dynamics themselves. Kalman (1960)."""
    return _symmetric(_product(_product(A, covariance), jnp.asarray(A).T)) + Q


def gaussian_update(mean: Array, covariance: Array, innovation: Array, C: Array, R: Array) -> Gaussian:
    """What is seen, less what was expected, corrects the belief by Kalman's gain:

        S = C P C' + R,    K = P C' S^-1,    m <- m + K v,    P <- (I - K C) P (I - K C)' + K R K'

    mean [D], covariance P [D, D], innovation v = o - h(m) [O], C [O, D], R [O, O], positive definite. The last is
    Joseph's form: a sum of two squares stays positive semi-definite in float32, whatever K's rounding. S is solved by
    its Cholesky factor, never inverted. log_likelihood = log N(v; 0, S). An innovation that is NaN (nothing seen), or
    beyond float32, changes nothing. Kalman (1960); Bucy & Joseph (1968).
    """
    C, P = jnp.asarray(C), jnp.asarray(covariance)
    cross = _product(C, P)
    factor = jnp.linalg.cholesky(_symmetric(_product(cross, C.T)) + R)
    gain = cho_solve((factor, True), cross).T  # [D, O]
    white = solve_triangular(factor, innovation, lower=True)
    log_p = -0.5 * (jnp.vdot(white, white) + C.shape[0] * np.float32(np.log(2 * np.pi)))
    log_p = log_p - jnp.log(jnp.diagonal(factor)).sum()
    rest = jnp.eye(P.shape[0]) - _product(gain, C)
    after = _symmetric(_product(_product(rest, P), rest.T) + _product(_product(gain, R), gain.T))
    seen = jnp.isfinite(log_p)
    return Gaussian(
        jnp.where(seen, mean + _product(gain, innovation), mean),
        jnp.where(seen, after, P),
        jnp.where(seen, log_p, -jnp.inf),
    )


def kalman(
    A: ArrayLike, B: ArrayLike, Q: ArrayLike, C: ArrayLike, R: ArrayLike, mean: ArrayLike, covariance: ArrayLike
) -> Filter:
    """The exact filter of a linear system with Gaussian noise, a belief in a ``Gaussian``:

        s' = A s + B a + w,  w ~ N(0, Q);      o = C s + v,  v ~ N(0, R);      s_0 ~ N(mean, covariance)

    A, Q, covariance [D, D], B [D, M], C [O, D], R [O, O], mean [D]; the first observation is seen as all others are.
    Features: the mean, then the covariance's upper triangle row by row, [D + D (D + 1) / 2].

    Raises UsageError for shapes that do not belong together, for Q and covariance that are not symmetric and positive
    semi-definite, and for R that is not positive definite. Kalman (1960); Thrun, Burgard & Fox (2005), table 3.1.
    """
    A, B, C = (np.asarray(x, np.float32) for x in (A, B, C))
    d, o = np.size(mean), np.shape(R)[:1]
    for name, x, shape in (("A", A, (d, d)), ("B", B, (d, *B.shape[1:2])), ("C", C, (*o, d))):
        if x.ndim != 2 or x.shape != shape or not np.isfinite(x).all():
            raise UsageError(
                "A Kalman filter takes finite A [D, D], B [D, M] and C [O, D], for a mean [D] and R [O, O]; here D = "
                f"{d} and R is {np.shape(R)}, and {name} {x.shape}."
            )
    dynamics = lambda state, action: _product(A, state) + _product(B, action)
    found = extended_kalman(dynamics, lambda state: _product(C, state), Q, R, mean, covariance)

    def check(spec: EnvSpec) -> None:
        found.check(spec)
        acts = spec.action_space
        if not isinstance(acts, spaces.Box) or acts.shape != B.shape[1:]:
            raise UsageError(
                f"This Kalman filter takes actions of a Box {B.shape[1:]}, as B {B.shape} says; {spec.id} has {acts}. "
                "For other actions write the dynamics as a function: extended_kalman."
            )

    return found._replace(check=check)


def extended_kalman(
    dynamics: Callable[[jax.Array, Any], jax.Array],
    observation: Callable[[jax.Array], jax.Array],
    Q: ArrayLike,
    R: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    difference: Callable[[jax.Array, jax.Array], jax.Array] = jnp.subtract,
) -> Filter:
    """Kalman's filter along a curved path, linearised at the mean by ``jax.jacfwd``; exact where nothing is curved.

        s' = f(s, a) + w,  w ~ N(0, Q);        o = h(s) + v,  v ~ N(0, R);        s_0 ~ N(mean, covariance)
        A = df/ds at (m, a),  m <- f(m, a);    C = dh/ds at m,  the innovation is difference(o, h(m))

    dynamics f: (state [D], action) -> [D]; observation h: state [D] -> [O]; Q, covariance [D, D], R [O, O], mean [D].
    difference: of two observations [O]; for angles, one that wraps. Features and errors as ``kalman``'s; also a
    UsageError where f or h gives another shape. Thrun, Burgard & Fox (2005), table 3.3.
    """
    m, size = np.asarray(mean, np.float32), np.size(mean)
    P, Q, R = _covariance("covariance", covariance), _covariance("Q", Q), _covariance("R", R, definite=True)
    for name, x in {"Q": Q, "covariance": P}.items():
        if m.ndim != 1 or x.shape != (size, size):
            raise UsageError(f"The mean is [D] and {name} [D, D]; got {m.shape} and {x.shape}.")
    if not np.isfinite(m).all():
        raise UsageError(f"The mean has entries that are not finite: {m}.")
    _shaped("observation", jax.eval_shape(observation, jnp.asarray(m)), R.shape[:1], "R")

    def updated(mean: Array, covariance: Array, obs: Array) -> Gaussian:
        innovation = difference(jnp.asarray(obs), observation(jnp.asarray(mean)))
        return gaussian_update(mean, covariance, innovation, jax.jacfwd(observation)(mean), R)

    def begin(obs: Array, key: Key) -> Gaussian:
        return updated(jnp.asarray(m), jnp.asarray(P), obs)

    def step(belief: Gaussian, action: Any, obs: Array, key: Key) -> Gaussian:
        moved = dynamics(jnp.asarray(belief.mean), action)
        _shaped("dynamics", moved, m.shape, "mean")
        A = jax.jacfwd(dynamics)(belief.mean, action)
        return updated(moved, gaussian_predict(belief.covariance, A, Q), obs)

    def features(belief: Gaussian) -> jax.Array:
        return moments(belief.mean, belief.covariance)

    def check(spec: EnvSpec) -> None:
        sees = spec.observation_space
        if not isinstance(sees, spaces.Box) or sees.shape != R.shape[:1]:
            raise UsageError(
                f"This filter takes observations of a Box {R.shape[:1]}, as R {R.shape} says; {spec.id} has {sees}. "
                "Make them with steersman.envs.wrappers.transform_observation."
            )

    return Filter(begin, step, features, size + size * (size + 1) // 2, check=check)


def moments(mean: Array, covariance: Array) -> jax.Array:
    """The mean [D] and the covariance's upper triangle, row by row, as one vector [D + D (D + 1) / 2].

    >>> moments(jnp.array([1.0, 2.0]), jnp.array([[3.0, 4.0], [4.0, 5.0]]))
    Array([1., 2., 3., 4., 5.], dtype=float32)
    """
    return jnp.concatenate([jnp.asarray(mean), jnp.asarray(covariance)[np.triu_indices(np.shape(mean)[0])]])


def _symmetric(x: jax.Array) -> jax.Array:
    return 0.5 * (x + x.T)


def _shaped(name: str, value: Any, shape: tuple[int, ...], of: str) -> None:
    if jnp.shape(value) != shape:
        raise UsageError(f"{name} is to give {shape}, the shape that {of} says; it gives {jnp.shape(value)}.")


def _covariance(name: str, given: ArrayLike, definite: bool = False) -> np.ndarray:
    """float32 [D, D], or a UsageError that says what is wrong with it."""
    x = np.asarray(given, np.float64)
    if x.ndim != 2 or x.shape[0] != x.shape[1] or not x.size:
        raise UsageError(f"{name} is a square matrix; got the shape {x.shape}.")
    if not np.isfinite(x).all():
        raise UsageError(f"{name} has entries that are not finite.")
    largest = np.abs(x).max()
    if np.abs(x - x.T).max() > 1e-6 * largest:
        i, j = np.unravel_index(np.argmax(np.abs(x - x.T)), x.shape)
        raise UsageError(f"{name} is not symmetric: [{i}, {j}] is {x[i, j]:.6g} and [{j}, {i}] is {x[j, i]:.6g}.")
    least = np.linalg.eigvalsh(x)[0]
    if least < -1e-6 * largest or (definite and least <= 0):
        wanted = "definite; a sensor without noise has that of its rounding" if definite else "semi-definite"
        raise UsageError(f"{name} has the eigenvalue {least:.3g}; it is to be positive {wanted}.")
    return x.astype(np.float32)
