"""A warm start: what an agent takes over from one that has learned already, by the names of its leaves.

Parameters, target networks and normalisers are taken over; the optimiser's moments where they are asked for. Counters,
and with them schedules, begin anew, as do replay memory, traces, and what belongs to single environments. Wrappers may
differ: a normaliser of rewards that the other lacks begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from steersman.agents.parts.replay.with_replay import ReplayState
from steersman.agents.parts.wrappers import LaggedState, ObservationNormState, RewardScalingState
from steersman.errors import UsageError
from steersman.types import Agent, Key, PerEnv, PyTree, Rollout

ANEW = (
    "steps",
    "updates",
    "kl_coefficient",
    "traces",
    "constraint",
)  # fields of a state that count or adapt as a run goes


class _Learned:
    """A leaf that is taken over, in the place of one that is not."""

    def __init__(self, value: Any):
        self.value = np.asarray(value)


def taken_over(like: PyTree, old: PyTree, *, optimiser: bool = False) -> dict[str, np.ndarray]:
    """The leaves of a new agent's state, of which ``like`` has the shapes, that an old one's replaces: name -> array.

    Raises UsageError for the first that does not fit.
    """
    anew = ANEW if optimiser else (*ANEW, "optimiser")
    both = _replaced(like, jax.tree.map(_Learned, _without_memory(old)), anew)
    wanted, found = _named(like), {}
    for name, leaf in _named(both).items():
        if isinstance(leaf, _Learned):
            has = leaf.value
            if name not in wanted:
                raise UsageError(f"{name} is none of the new agent's")
            if (has.shape, has.dtype) != (wanted[name].shape, wanted[name].dtype):
                new = wanted[name]
                raise UsageError(f"{name} is {has.dtype}{[*has.shape]} there, and {new.dtype}{[*new.shape]} here")
            found[name] = has
    missing = next((name for name in wanted if name not in _named(both)), None)
    if missing is not None:
        raise UsageError(f"{missing} is not among what the run has learned")
    return found


def begun_from(agent: Agent, leaves: Mapping[str, np.ndarray]) -> Agent:
    """The agent, beginning with these leaves of its state: what ``taken_over`` gives."""

    def init(key: Key, first_rollout: Rollout) -> PyTree:
        state = agent.init(key, first_rollout)
        return jax.tree_util.tree_map_with_path(lambda path, x: jax.numpy.asarray(leaves.get(_name(path), x)), state)

    return agent._replace(init=init)


def _replaced(new: PyTree, old: PyTree, anew: tuple[str, ...]) -> PyTree:
    """``new`` with what ``old`` has learned, whatever wrappers are around either."""
    inner = lambda part: _replaced(part, old, anew)
    match new:
        case ReplayState():
            return new._replace(learner=inner(new.learner))
        case LaggedState():
            agent = inner(new.agent)
            late = lambda past, now: _Learned(np.broadcast_to(now.value, (past.shape[0], *now.value.shape)))
            return LaggedState(agent, jax.tree.map(late, new.past, agent.params))
        case ObservationNormState():
            return ObservationNormState(inner(new.agent), _wrapper(old, ObservationNormState, new).moments)
        case RewardScalingState():
            return new._replace(agent=inner(new.agent), moments=_wrapper(old, RewardScalingState, new).moments)
    return _learned(new, _core(old), anew)


def _learned(new: PyTree, old: PyTree, anew: tuple[str, ...]) -> PyTree:
    if isinstance(new, PerEnv):
        return new
    if isinstance(new, tuple) and type(new) is not tuple and type(new) is type(old):  # a NamedTuple
        kind: Any = type(new)
        parts = zip(kind._fields, new, old, strict=True)
        return kind(*(n if name in anew else _learned(n, o, anew) for name, n, o in parts))
    return old


def _inside(state: PyTree) -> PyTree | None:
    """What a wrapper is around; None for what is none."""
    match state:
        case ReplayState():
            return state.learner
        case LaggedState() | ObservationNormState() | RewardScalingState():
            return state.agent
    return None


def _core(state: PyTree) -> PyTree:
    inside = _inside(state)
    return state if inside is None else _core(inside)


def _wrapper(state: PyTree, kind: type, otherwise: Any) -> Any:
    """The state of a wrapper, or ``otherwise`` where there is none."""
    if isinstance(state, kind):
        return state
    inside = _inside(state)
    return otherwise if inside is None else _wrapper(inside, kind, otherwise)


def _without_memory(state: PyTree) -> PyTree:
    return state._replace(memory=()) if isinstance(state, ReplayState) else state


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(tree: PyTree) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
