"""The loop over data: gradient steps on what was recorded; nobody acts and no environment is stepped."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from steersman.episodes import Episodes, finished
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.loop import LoopState
from steersman.types import Agent, Key, Metrics, PyTree, Rollout


def data_loop(
    agent: Agent,
    data: PyTree,
    *,
    first: Rollout,
    seeds: list[int],
    devices: int | None = None,
    look: Callable[[PyTree, Key], PyTree] | None = None,
) -> CompiledLoop:
    """The loop in which an update is one gradient step, ``agent.update(S, data, key)``; such a step is what it counts.

    data: any tree of arrays that ``update`` draws its batches from. It is no part of the state: a checkpoint does not
    hold it, so who resumes gives it again. first: the rollout [T, B, ...] that ``init`` is given. Several seeds go
    round at most ``devices``. look: as in ``CompiledLoop``.
    """

    def start(key: Key, first: Rollout) -> LoopState:
        _, _, init_key, key = jax.random.split(key, 4)  # as where environments are stepped
        first = first._replace(carry=agent.begin(first.reward.shape[1]))
        return LoopState(agent.init(init_key, first), (), key)

    def update(state: LoopState, data: PyTree) -> tuple[LoopState, Episodes, Metrics]:
        _, update_key, key = jax.random.split(state.key, 3)
        learned, metrics = agent.update(state.agent, data, update_key)
        nobody = jnp.zeros((1, 1), bool)
        counted = {"return": jnp.zeros((1, 1), jnp.float32), "length": jnp.zeros((1, 1), jnp.int32)}
        return LoopState(learned, (), key), finished(nobody, counted), metrics

    steps: dict[str, int] = {"first_steps": 0, "steps_per_update": 1}
    return CompiledLoop(start, update, seeds=seeds, devices=devices, **steps, first=first, data=data, look=look)
