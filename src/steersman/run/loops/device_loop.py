"""The loop over compiled environments: rollout and update are one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax

from steersman.episodes import Episodes
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.loop import LoopState
from steersman.shards import shard_index
from steersman.types import Agent, DeviceEnvs, Key, Metrics, PyTree, Rollout
from steersman.unroll import begin, random_policy, unroll


def device_loop(
    agent: Agent,
    make_envs: Callable[[int], DeviceEnvs],
    *,
    num_envs: int,
    unroll_length: int,
    first_length: int,
    seeds: list[int],
    shards: int,
    devices: int | None = None,
    data: Rollout | None = None,
    log: Sequence[str] = (),
    look: Callable[[PyTree, Key], PyTree] | None = None,
) -> CompiledLoop:
    """The loop in which an update is a rollout [T, B, ...] of ``agent`` and what it learns from it.

    make_envs: as many environments as asked for: num_envs, or the share of one of ``shards`` devices that one seed goes
    over; several seeds go round at most ``devices``. first_length: T of the random policy's rollout for ``init``; data
    [T, B, ...] takes its place. log: entries of the environments' info to be counted of episodes. look: as in
    ``CompiledLoop``.
    """
    envs = make_envs(num_envs if len(seeds) > 1 else num_envs // shards)

    def start(key: Key, data: Rollout | tuple[()]) -> LoopState:
        env_key, first_key, init_key, key = jax.random.split(key, 4)
        acting = begin(agent, envs, env_key, offset=shard_index() * envs.num_envs)
        if isinstance(data, Rollout):
            return LoopState(agent.init(init_key, data._replace(carry=acting.carry)), acting, key)
        acting, rollout, _ = unroll(random_policy(envs.spec), envs, acting, first_key, first_length)
        return LoopState(agent.init(init_key, rollout), acting, key)

    def update(state: LoopState, _: tuple[()]) -> tuple[LoopState, Episodes, Metrics]:
        act_key, update_key, key = jax.random.split(state.key, 3)
        act = partial(agent.act, state.agent, explore=True)
        acting, rollout, episodes = unroll(act, envs, state.acting, act_key, unroll_length, log)
        learned, metrics = agent.update(state.agent, rollout, update_key)
        return LoopState(learned, acting, key), episodes, metrics

    return CompiledLoop(
        start,
        update,
        seeds=seeds,
        shards=shards,
        devices=devices,
        first_steps=first_length * num_envs if data is None else 0,
        steps_per_update=unroll_length * num_envs,
        first=() if data is None else data,
        look=look,
    )
