"""Planning by derivatives, where a model has them: Adam on whole sequences, and iLQR on the model's steps.

Axes: ``N`` sequences, ``H`` steps ahead, ``A`` entries of a flat action, ``D`` real numbers of a state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.planning.noise import power_law
from steersman.planning.planner import Plan, Planner, Score
from steersman.planning.scores import StatePlanner, Value, action_of, action_size
from steersman.planning.shooting import WORST, check_sizes, shifted
from steersman.types import Array, Env, Key, PyTree

STEPS = 0.5 ** np.arange(8, dtype=np.float32)  # of the line search, side by side
INSIDE = 1 - 1e-4  # derivatives are taken within the box: at its bounds those of a clip are halved


def gradient_ascent(
    action_space: spaces.Space,
    *,
    horizon: int,
    population: int,
    iterations: int,
    learning_rate: float | jax.Array = 0.1,
    noise_exponent: float | Array = 2.0,
    std: float | Array = 0.5,
) -> Planner:
    """Adam up the score of ``population`` sequences, cut to the box after each step; the best ever scored is taken.

    The first sequence is the one that the last step found, the others lie about it as ``power_law`` noise does. The
    score is differentiated: it is a smooth function of the actions. A gradient that is not finite counts as 0. Raises
    UsageError for discrete actions, for sizes below 1, and as ``action_size`` does.
    """
    size = _box_size(action_space, "Gradient planning")
    check_sizes(horizon=horizon, population=population, iterations=iterations)
    optimiser = optax.adam(learning_rate)

    def begin() -> jax.Array:
        return jnp.zeros((horizon, size), jnp.float32)

    def plan(score: Score, warm: jax.Array, key: Key) -> Plan:
        noise_key, score_key = jax.random.split(key)
        noise = std * power_law(noise_key, (population - 1, horizon, size), noise_exponent)
        start = jnp.concatenate([warm[None], jnp.clip(warm[None] + noise, -1.0, 1.0)])

        def loss(sequences: jax.Array):
            scores = score(sequences, score_key)
            return -scores.sum(), scores

        def iteration(now, _):
            sequences, moments, best, most = now
            slope, scores = jax.grad(loss, has_aux=True)(sequences)
            scores = jnp.where(jnp.isfinite(scores), scores, WORST)
            top = jnp.argmax(scores)
            best, most = jnp.where(scores[top] > most, sequences[top], best), jnp.maximum(scores[top], most)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                change, moments = optimiser.update(slope, moments)
            return (jnp.clip(sequences + change, -1.0, 1.0), moments, best, most), None

        first = (start, optimiser.init(start), warm, jnp.asarray(WORST, jnp.float32))
        (last, _, best, most), _ = jax.lax.scan(iteration, first, None, length=iterations)
        return Plan(action_of(action_space, best[0]), shifted(best), most, last[:, 0].std(0).mean())

    return Planner(begin, plan)


class Step(NamedTuple):
    """A step of the trajectory that iLQR stands at; leading axis [H]."""

    x: jax.Array  # [D]
    action: jax.Array  # [A]
    rest: PyTree  # what of the state is no real number: counts, keys
    alive: jax.Array  # bool: nothing has terminated before


def ilqr(
    env: Env,
    *,
    horizon: int,
    iterations: int,
    gamma: float | Array = 1.0,
    value: Value | None = None,
) -> StatePlanner:
    """The iterative linear-quadratic regulator, with a box on actions, for an environment that can be differentiated.

    Each iteration takes the dynamics to first order and the rewards to second about the present trajectory, solves that
    problem backwards in time, and tries eight step sizes forwards; the best is taken if it is better.

        Q_uu = c_uu + B' V B,  ...,    du = argmin_{u + du in box} Q_u' du + du' (Q_uu + mu I) du / 2 + gain (x' - x)

    c = -gamma^t reward, its curvature made positive semidefinite; the regularisation mu falls by ten where a step was
    better and rises by ten where none was. ``value`` of the last observation counts with the last reward. One key for
    all: the environment's randomness is the same in each try. ``warm`` is a sequence of actions [H, A], and may be that
    of another planner: only the nearest optimum is found. On linear dynamics with a concave quadratic reward the first
    action is the Riccati equation's.

    Raises UsageError for discrete actions, for an environment whose state holds no real numbers, for sizes below 1, and
    as ``action_size`` does. Li and Todorov (2004); Tassa et al. (2014), for the box.
    """
    name, space = env.spec.id, env.spec.action_space
    size = _box_size(space, "iLQR")
    check_sizes(horizon=horizon, iterations=iterations)
    shapes, tree = jax.tree.flatten(jax.eval_shape(env.reset, jax.random.key(0))[0])
    real = [jnp.issubdtype(s.dtype, jnp.floating) for s in shapes]
    if not any(s.size for s, is_real in zip(shapes, real, strict=True) if is_real):
        raise UsageError(
            f"{name} cannot be differentiated: its state holds no real numbers. Plan by shooting: icem, cem, mppi."
        )

    def split(state: PyTree) -> tuple[jax.Array, list[Any]]:
        leaves = jax.tree.leaves(state)
        x = [jnp.ravel(leaf).astype(jnp.float32) for leaf, is_real in zip(leaves, real, strict=True) if is_real]
        return jnp.concatenate(x), [leaf for leaf, is_real in zip(leaves, real, strict=True) if not is_real]

    def joined(x: jax.Array, rest: list[Any]) -> PyTree:
        others, leaves, at = iter(rest), [], 0
        for shape, is_real in zip(shapes, real, strict=True):
            leaves.append(x[at : at + shape.size].reshape(shape.shape).astype(shape.dtype) if is_real else next(others))
            at += shape.size if is_real else 0
        return tree.unflatten(leaves)

    def advance(x: jax.Array, action: jax.Array, rest: PyTree, t: jax.Array, key: Key):
        """-> (x', what the step gives, in today's worth; the rest, whether it terminates)"""
        state, seen = env.step(joined(x, rest), action_of(space, action), key)
        gain = seen.reward
        if value is not None:
            going = (t == horizon - 1) & ~seen.terminated
            gain = gain + jnp.where(going, gamma * value(seen.final_obs), 0.0)
        return split(state)[0], gamma ** t.astype(jnp.float32) * gain, split(state)[1], seen.terminated

    def forward(state: PyTree, near: Step, open_loop: jax.Array, feedback: jax.Array, scale: Array, keys: Key):
        """Play near + scale open_loop + feedback (x' - x). -> (return, Step [H])"""

        def body(now, given):
            x, rest, alive, total = now
            old, shift, gain, t, key = given
            action = jnp.clip(old.action + scale * shift + gain @ (x - old.x), -1.0, 1.0)
            after, reward, others, terminated = advance(x, action, rest, t, key)
            total = total + jnp.where(alive, reward, 0.0)
            return (after, others, alive & ~terminated, total), Step(x, action, rest, alive)

        x, rest = split(state)
        times = jnp.arange(horizon, dtype=jnp.int32)
        start = (x, rest, jnp.ones((), bool), jnp.float32(0))
        (*_, total), steps = jax.lax.scan(body, start, (near, open_loop, feedback, times, keys))
        return total, steps

    def expanded(step: Step, t: jax.Array, key: Key):
        """Of one step: the dynamics' first derivatives [D, D + A], the cost's first and second [D + A (, D + A)]."""
        both = jnp.concatenate([step.x, jnp.clip(step.action, -INSIDE, INSIDE)])
        dims = step.x.size
        after = lambda z: advance(z[:dims], z[dims:], step.rest, t, key)[0]
        cost = lambda z: -jnp.where(step.alive, advance(z[:dims], z[dims:], step.rest, t, key)[1], 0.0)
        slope, curvature = jax.grad(cost)(both), jax.hessian(cost)(both)
        values, vectors = jnp.linalg.eigh(0.5 * (curvature + curvature.T))
        return jax.jacfwd(after)(both), slope, (vectors * jnp.maximum(values, 0.0)[None]) @ vectors.T

    def backward(steps: Step, mu: jax.Array, keys: Key) -> tuple[jax.Array, jax.Array]:
        """-> (open_loop [H, A], feedback [H, A, D])"""
        times = jnp.arange(horizon, dtype=jnp.int32)
        dims = steps.x.shape[1]

        def body(now, given):
            v, curve = now
            action, jacobian, slope, curvature = given
            q = slope + jacobian.T @ v
            quad = curvature + jacobian.T @ curve @ jacobian
            q_x, q_u, xx, ux, uu = q[:dims], q[dims:], quad[:dims, :dims], quad[dims:, :dims], quad[dims:, dims:]
            shift, free = _boxed(uu + mu * jnp.eye(size), q_u, -1.0 - action, 1.0 - action)
            held = jnp.where(free[:, None] & free[None], uu, 0.0) + jnp.diag(jnp.where(free, mu, 1.0))
            gain = -jnp.linalg.solve(held, jnp.where(free[:, None], ux, 0.0))
            v = q_x + gain.T @ (uu @ shift + q_u) + ux.T @ shift
            curve = xx + gain.T @ uu @ gain + gain.T @ ux + ux.T @ gain
            return (v, 0.5 * (curve + curve.T)), (shift, gain)

        given = (steps.action, *jax.vmap(expanded)(steps, times, keys))
        end = (jnp.zeros((dims,), jnp.float32), jnp.zeros((dims, dims), jnp.float32))
        return jax.lax.scan(body, end, given, reverse=True)[1]

    def begin() -> jax.Array:
        return jnp.zeros((horizon, size), jnp.float32)

    def plan(state: PyTree, warm: jax.Array, key: Key) -> Plan:
        keys = jax.random.split(key, horizon)
        x, rest = split(state)
        along = lambda leaf: jnp.broadcast_to(leaf, (horizon, *jnp.shape(leaf)))
        near = Step(along(x), warm, jax.tree.map(along, rest), jnp.ones((horizon,), bool))
        still = (jnp.zeros((horizon, size), jnp.float32), jnp.zeros((horizon, size, x.size), jnp.float32))
        total, steps = forward(state, near, *still, jnp.float32(0), keys)

        def iteration(now, _):
            total, steps, mu = now
            change = backward(steps, mu, keys)
            totals, tried = jax.vmap(lambda scale: forward(state, steps, *change, scale, keys))(STEPS)
            best = jnp.argmax(jnp.where(jnp.isfinite(totals), totals, WORST))
            better = totals[best] > total
            steps = jax.tree.map(lambda new, old: jnp.where(better, new[best], old), tried, steps)
            mu = jnp.clip(jnp.where(better, mu / 10, mu * 10), 1e-8, 1e8)
            return (jnp.maximum(total, jnp.where(better, totals[best], total)), steps, mu), None

        start = (total, steps, jnp.float32(1e-3))
        (total, steps, _), _ = jax.lax.scan(iteration, start, None, length=iterations)
        return Plan(action_of(space, steps.action[0]), shifted(steps.action), total, jnp.float32(0))

    return StatePlanner(begin, plan)


def _boxed(curvature: jax.Array, slope: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """argmin over low <= d <= high [A] of slope' d + d' curvature d / 2, and which are free: projected Newton steps."""
    size = slope.size

    def newton(d, _):
        down = slope + curvature @ d
        free = ~((d <= low) & (down > 0) | (d >= high) & (down < 0))
        held = jnp.where(free[:, None] & free[None], curvature, jnp.eye(size))
        return jnp.clip(d - jnp.linalg.solve(held, jnp.where(free, down, 0.0)), low, high), free

    start = jnp.clip(jnp.zeros((size,), jnp.float32), low, high)
    d, free = jax.lax.scan(newton, start, None, length=size + 2)
    return d, free[-1]


def _box_size(space: spaces.Space, who: str) -> int:
    if isinstance(space, spaces.Discrete):
        raise UsageError(
            f"{who} moves actions by small amounts; those of {space} are chosen, not moved. Plan by shooting: icem, "
            "cem, mppi or random_shooting."
        )
    return action_size(space)
