"""Learning to act, one transition at a time: the loop, and the one-step methods.

A ``Learner`` is three pure functions over its own arrays; ``learn`` drives any of them on any environment whose
observations are Discrete (an :class:`MDP` is one). The whole run is one compiled program: ``jax.vmap`` it over keys,
step sizes and exploration rates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jax import Array

from steersman.errors import UsageError
from steersman.tabular.learning.behaviour import Behaviour, Setting, at_step
from steersman.tabular.mdp import MDP
from steersman.theory import values
from steersman.types import Env, Key


class Transition(NamedTuple):
    """What a learner sees of one step; scalars, but for ``policy``."""

    s: Array  # int32
    a: Array  # int32
    reward: Array  # float32
    gamma: Array  # float32
    discount: Array  # float32: gamma (1 - terminated)
    s_next: Array  # int32: the true successor
    a_next: Array  # int32: the behaviour's action there
    policy: Callable[[Array], Array]  # int32 state -> the behaviour's probabilities [A] by the values before the update
    ended: Array  # bool: terminated or truncated
    step: Array  # int32: steps so far in the run
    alpha: Array  # float32


class Learner(NamedTuple):
    """A control method. ``acts_first``: the next action is drawn before the update (as SARSA does), then taken."""

    name: str
    init: Callable[[Array], Any]  # initial values [S, A] -> its arrays
    q: Callable[[Any], Array]  # arrays -> [S, A], what the behaviour looks at
    update: Callable[[Any, Transition, Key], Any]
    acts_first: bool = False


class Learned(NamedTuple):
    """The end of a run, and its record: one entry an episode, or one a step."""

    q: Array  # float32 [S, A]
    arrays: Any  # the learner's own
    returns: Array  # float32 [E]: undiscounted return of each episode; of steps: the reward [T]
    lengths: Array  # int32 [E]: steps of each episode; of steps: 1 where an episode ended [T]


class _Run(NamedTuple):
    env: Any
    s: Array
    a: Array
    arrays: Any
    visits: Array
    step: Array
    key: Key


def learn(
    env: Env,
    learner: Learner,
    behaviour: Behaviour,
    key: Key,
    *,
    gamma: float | Array,
    alpha: Setting = 0.1,
    episodes: int | None = None,
    steps: int | None = None,
    max_steps: int = 10_000_000,
    initial: float | Array = 0.0,
) -> Learned:
    """Run ``learner`` for a number of ``episodes`` or of ``steps``, resetting by itself. Pure: jit it, vmap it.

    ``initial`` values are a number or [S, A], where -inf marks an action that is not allowed there; those that an MDP
    has not (``MDP.available``) are so by themselves.
    ``max_steps`` ends a run of episodes that never end; the episodes not reached have length 0. Raises UsageError for
    spaces that are not Discrete, or unless exactly one of ``episodes`` and ``steps`` is given.
    """
    obs, act = env.spec.observation_space, env.spec.action_space
    if not isinstance(obs, spaces.Discrete) or not isinstance(act, spaces.Discrete):
        raise UsageError(
            f"Tabular learning needs Discrete observations and actions; {env.spec.id} has {obs} and {act}."
        )
    if (episodes is None) == (steps is None):
        raise UsageError("Give learn exactly one of episodes=... and steps=...")
    run = _begin(env, learner, behaviour, key, (int(obs.n), int(act.n)), initial)
    advance = _advance(env, learner, behaviour, gamma, alpha)
    if steps is not None:
        run, (reward, ended) = jax.lax.scan(lambda r, _: advance(r), run, None, length=steps)
        return Learned(learner.q(run.arrays), run.arrays, reward, jnp.asarray(ended, jnp.int32))
    assert episodes is not None

    def body(c):
        run, i, returns, lengths = c
        run, (reward, ended) = advance(run)
        return run, i + ended.astype(jnp.int32), returns.at[i].add(reward), lengths.at[i].add(1)

    start = (run, jnp.int32(0), jnp.zeros(episodes), jnp.zeros(episodes, jnp.int32))
    going = lambda c: (c[1] < episodes) & (c[0].step < max_steps)
    run, _, returns, lengths = jax.lax.while_loop(going, body, start)
    return Learned(learner.q(run.arrays), run.arrays, returns, lengths)


def _begin(
    env: Env, learner: Learner, behaviour: Behaviour, key: Key, shape: tuple[int, int], initial: float | Array
) -> _Run:
    reset_key, act_key, key = jax.random.split(key, 3)
    state, s = env.reset(reset_key)
    start = jnp.broadcast_to(jnp.asarray(initial, jnp.float32), shape)
    if isinstance(env, MDP):
        start = jnp.where(jnp.asarray(env.available), start, -jnp.inf)
    arrays, visits = learner.init(start), jnp.zeros(shape)
    a = behaviour(learner.q(arrays)[s], visits[s], jnp.int32(0)).sample(act_key)
    return _Run(state, s, a, arrays, visits, jnp.int32(0), key)


def _advance(env: Env, learner: Learner, behaviour: Behaviour, gamma: float | Array, alpha: Setting):
    def advance(run: _Run):
        # Folded, not split: the keys a method does not use are then never computed.
        now = jax.random.fold_in(run.key, run.step)
        step_key, next_key, reset_key, act_key, update_key = (jax.random.fold_in(now, i) for i in range(5))
        s, a = run.s, run.a
        state, ts = env.step(run.env, a, step_key)
        reward, ended = jnp.asarray(ts.reward), jnp.asarray(ts.terminated) | jnp.asarray(ts.truncated)
        visits = run.visits.at[s, a].add(1.0)
        q = learner.q(run.arrays)
        acting = lambda at: behaviour(q[at], visits[at], run.step)
        s_next = ts.final_obs
        a_next = acting(s_next).sample(next_key) if learner.acts_first else jnp.zeros_like(a)
        g = jnp.asarray(gamma, jnp.float32)
        discount = jnp.where(ts.terminated, 0.0, g)
        seen = Transition(
            s, a, reward, g, discount, s_next, a_next, lambda at: acting(at).probabilities(), ended, run.step,
            at_step(alpha, run.step),
        )  # fmt: skip
        arrays = learner.update(run.arrays, seen, update_key)
        fresh, s_0 = env.reset(reset_key)
        state = jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, state)
        s_new = jnp.where(ended, s_0, s_next)
        step = run.step + jnp.int32(1)
        a_new = behaviour(learner.q(arrays)[s_new], visits[s_new], step).sample(act_key)
        a_new = jnp.where(ended, a_new, a_next) if learner.acts_first else a_new
        return _Run(state, s_new, a_new, arrays, visits, step, run.key), (reward, ended)

    return advance


def one_step(name: str, error: Callable[[Array, Transition], Array], *, acts_first: bool = False) -> Learner:
    """The learner Q(s, a) <- Q(s, a) + alpha error(Q, transition)."""

    def update(q: Array, t: Transition, key: Key) -> Array:
        return q.at[t.s, t.a].add(t.alpha * error(q, t))

    return Learner(name, lambda initial: initial, lambda q: q, update, acts_first)


def sarsa() -> Learner:
    """delta = r + gamma Q(s', a') - Q(s, a), a' the action taken next. (Sutton & Barto 2018, section 6.4.)"""
    return one_step(
        "SARSA", lambda q, t: values.sarsa(q[t.s], t.a, t.reward, t.discount, q[t.s_next], t.a_next), acts_first=True
    )


def expected_sarsa(target: Behaviour | None = None) -> Learner:
    """delta = r + gamma sum_a pi(a | s') Q(s', a) - Q(s, a); pi is the behaviour, or another ``target`` policy of q.

    A greedy target is Q-learning. (Sutton & Barto 2018, section 6.6.)
    """

    def error(q: Array, t: Transition) -> Array:
        if target is None:
            policy = t.policy(t.s_next)
        else:
            policy = target(q[t.s_next], jnp.ones(q.shape[1]), t.step).probabilities()
        return values.expected_sarsa(q[t.s], t.a, t.reward, t.discount, q[t.s_next], policy)

    return one_step("expected SARSA", error)


def q_learning() -> Learner:
    """delta = r + gamma max_a Q(s', a) - Q(s, a). (Watkins 1989; Sutton & Barto 2018, section 6.5.)"""
    return one_step("Q-learning", lambda q, t: values.q_learning(q[t.s], t.a, t.reward, t.discount, q[t.s_next]))


def double_q_learning() -> Learner:
    """Two tables; a coin says which learns, and the other one values its greedy action. Acts on their mean.

    Removes the maximisation bias of Q-learning. (van Hasselt 2010; Sutton & Barto 2018, section 6.7.)
    """

    def update(tables: Array, t: Transition, key: Key) -> Array:
        i = jax.random.bernoulli(key).astype(jnp.int32)
        mine, other = tables[i], tables[1 - i]
        delta = values.double_q_learning(mine[t.s], t.a, t.reward, t.discount, other[t.s_next], mine[t.s_next])
        return tables.at[i, t.s, t.a].add(t.alpha * delta)

    init = lambda initial: jnp.stack([initial, initial])
    return Learner("double Q-learning", init, lambda tables: tables.mean(0), update)


class RArrays(NamedTuple):
    q: Array  # float32 [S, A]: values relative to the average reward
    gain: Array  # float32: the average reward per step


def r_learning(beta: float = 0.01) -> Learner:
    """delta = r - rho + max_a Q(s', a) - Q(s, a) for continuing tasks; rho moves by beta delta on greedy steps.

    gamma plays no part but for the end of an episode, where nothing follows. (Schwartz 1993; Sutton & Barto 1998, 6.7.)
    """

    def update(arrays: RArrays, t: Transition, key: Key) -> RArrays:
        q, gain = arrays
        follows = jnp.where(t.discount > 0, q[t.s_next].max(), 0.0)
        was_greedy = q[t.s, t.a] >= q[t.s].max()
        new = q.at[t.s, t.a].add(t.alpha * (t.reward - gain + follows - q[t.s, t.a]))
        surplus = t.reward - gain + follows - q[t.s].max()
        return RArrays(new, gain + jnp.where(was_greedy, beta * surplus, 0.0))

    init = lambda initial: RArrays(initial, jnp.zeros(()))
    return Learner("R-learning", init, lambda arrays: arrays.q, update)
