"""Tasks that need a memory, and whose best return is known with one and without: ``memory/chain-20`` and its like.

| name | the best mean return | without memory |
|---|---|---|
| ``memory/chain-N`` | 1 | 0 |
| ``memory/tmaze-N`` | 4 | 1.95 |
| ``memory/repeat-K`` | 1 | 2 / symbols - 1 = -1/2 |
| ``memory/rocksample`` | 10 + 5 rocks | see ``rocksample`` |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.envs.classic.common import outcome
from steersman.envs.partial.rocksample import rocksample
from steersman.envs.wrappers import PureEnv, time_limit
from steersman.errors import UsageError, nearest
from steersman.types import Env, EnvSpec, Key, TimeStep

RIGHT_ARM, WRONG_ARM, BUMP = 4.0, -0.1, -0.1  # of the T-maze


class Cued(NamedTuple):
    cue: jax.Array  # bool
    t: jax.Array  # int32


def chain(n: int) -> Env:
    """A cue of 1 or -1 is seen first, then n - 1 blanks, then a query: the action there has to name the cue.

        o_0 = (cue, 0),   o_1 .. o_{n-1} = (0, 0),   o_n = (0, 1);      r_n = 1 where a_n = 1[cue = 1], else -1

    The other rewards are 0; an episode has n + 1 steps. The best return is 1, without memory 0 on average. (After the
    memory length of bsuite, Osband et al. 2020.)
    """

    def reset(key: Key) -> tuple[Cued, jax.Array]:
        state = Cued(jax.random.bernoulli(key), jnp.int32(0))
        return state, jnp.stack([_plus_minus(state.cue), jnp.float32(0)])

    def step(state: Cued, action: jax.Array, key: Key) -> tuple[Cued, TimeStep]:
        asked, after = state.t == n, state._replace(t=state.t + np.int32(1))
        reward = jnp.where(asked, _plus_minus((action == 1) == state.cue), jnp.float32(0))
        obs = jnp.stack([jnp.float32(0), (after.t == n).astype(jnp.float32)])
        return after, outcome(obs, reward, asked)

    actions = spaces.Discrete(2)
    return PureEnv(EnvSpec(f"memory/chain-{n}", spaces.Box(-1, 1, (2,)), actions, actions, n + 1), reset, step)


class Maze(NamedTuple):
    north: jax.Array  # bool: the right arm
    place: jax.Array  # int32, from the corridor's start at 0 to the junction at n


def tmaze(n: int, active: bool = False, max_episode_steps: int | None = None) -> Env:
    """A corridor of n steps that ends in a junction; a sign says which arm is right, north or south.

    Actions: north, east, south, west. An arm ends the episode and pays 4, the wrong one -0.1; running into a wall pays
    -0.1 as well. Observations are one-hot: the sign points north, it points south, corridor, junction.
    The sign is seen at the start (passive), or where ``active`` in a cell west of the start, that one has to want to
    look at. The best return is 4, without memory (4 - 0.1) / 2 = 1.95. Truncated after 4 n steps (active: 4 n + 4),
    which is more than it takes. (Bakker 2001, "Reinforcement Learning with Long Short-Term Memory"; the active one
    after Ni et al. 2023, without their cost of time.)
    """
    sign = -1 if active else 0

    def look(state: Maze) -> jax.Array:
        at_sign, at_junction = state.place == sign, state.place == n
        seen = (at_sign & state.north, at_sign & ~state.north, ~at_sign & ~at_junction, at_junction)
        return jnp.stack(seen).astype(jnp.float32)

    def reset(key: Key) -> tuple[Maze, jax.Array]:
        state = Maze(jax.random.bernoulli(key), jnp.int32(0))
        return state, look(state)

    def step(state: Maze, action: jax.Array, key: Key) -> tuple[Maze, TimeStep]:
        moved = (action == 1).astype(jnp.int32) - (action == 3).astype(jnp.int32)
        after = state._replace(place=jnp.clip(state.place + moved, np.int32(sign), np.int32(n)))
        chosen = (state.place == n) & ((action == 0) | (action == 2))
        arm = jnp.where((action == 0) == state.north, jnp.float32(RIGHT_ARM), jnp.float32(WRONG_ARM))
        bump = jnp.where(after.place == state.place, jnp.float32(BUMP), jnp.float32(0))
        return after, outcome(look(after), jnp.where(chosen, arm, bump), chosen)

    actions = spaces.Discrete(4)
    env = PureEnv(EnvSpec(f"memory/tmaze-{n}", spaces.Box(0, 1, (4,)), actions, actions), reset, step)
    return time_limit(env, 4 * (n + active) if max_episode_steps is None else max_episode_steps)


class Heard(NamedTuple):
    last: jax.Array  # int32 [k + 1]: symbols, the newest last
    t: jax.Array  # int32


def repeat(k: int, symbols: int = 4, steps: int = 48) -> Env:
    """A symbol is seen at every step, one-hot; the action has to be the one seen k steps ago.

        r_t = +-1 / steps   for t >= k,   0 before

    Symbols are drawn independently, so that the best return is 1 and without memory 2 / symbols - 1, whatever one does.
    An episode has k + ``steps`` steps. POPGym's RepeatPrevious (Morad et al. 2023) deals the suits of a deck of cards,
    not put back, and its k counts the card that is seen: ``popgym/RepeatPreviousEasy``, of k = 4 and 48 answers,
    asks for as much as ``memory/repeat-3``.

    Raises UsageError for fewer than 2 symbols or no step.
    """
    if symbols < 2 or steps < 1:
        raise UsageError(f"memory/repeat-{k} has 2 symbols or more and 1 step or more; got {symbols} and {steps}.")
    paid = np.float32(1 / steps)

    def look(state: Heard) -> jax.Array:
        return jax.nn.one_hot(state.last[-1], symbols, dtype=jnp.float32)

    def heard(state: Heard, key: Key, t: jax.Array) -> Heard:
        new = jax.random.randint(key, (1,), 0, symbols, jnp.int32)
        return Heard(jnp.concatenate([state.last[1:], new]), t)

    def reset(key: Key) -> tuple[Heard, jax.Array]:
        state = heard(Heard(jnp.zeros((k + 1,), jnp.int32), jnp.int32(0)), key, jnp.int32(0))
        return state, look(state)

    def step(state: Heard, action: jax.Array, key: Key) -> tuple[Heard, TimeStep]:
        after = heard(state, key, state.t + np.int32(1))
        reward = jnp.where(state.t >= k, paid * _plus_minus(action == state.last[0]), jnp.float32(0))
        return after, outcome(look(after), reward, after.t == k + steps)

    seen, actions = spaces.Box(0, 1, (symbols,)), spaces.Discrete(symbols)
    return PureEnv(EnvSpec(f"memory/repeat-{k}", seen, actions, actions, k + steps), reset, step)


def _plus_minus(yes: jax.Array) -> jax.Array:
    return jnp.where(yes, jnp.float32(1), jnp.float32(-1))


COUNTED: dict[str, Callable[..., Env]] = {"chain": chain, "tmaze": tmaze, "repeat": repeat}  # their length in the name
EXAMPLES = ("chain-20", "tmaze-10", "repeat-4", "rocksample")


def task(name: str) -> Callable[..., Env]:
    """What makes the task of that name, without ``memory/``: a function of the task's own arguments.

    Raises UsageError for an unknown task and for a length that is no whole number of at least 1.

    >>> task("chain-5")().spec.max_episode_steps
    6
    """
    kind, _, length = name.partition("-")
    if name == "rocksample":
        return rocksample
    if kind not in COUNTED:
        near, known = nearest(name, EXAMPLES), ", ".join(f"memory/{example}" for example in EXAMPLES)
        raise UsageError(f"Unknown memory task memory/{name}. {near} There are {known}.".replace("  ", " "))
    if not (length.isascii() and length.isdigit() and int(length) > 0):
        raise UsageError(
            f"memory/{name}: the name ends in how many steps are to be remembered, a whole number of at least 1, as in "
            f"memory/{kind}-20."
        )
    return partial(COUNTED[kind], int(length))
