"""Recorded transitions as a part of a run: whether an algorithm can learn from them, as its first rollout or alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from steersman.agents.parts.config import ReplayConfig
from steersman.errors import UsageError
from steersman.memory import nbytes, uniform
from steersman.run.disk.dataset import Dataset
from steersman.run.disk.spec_json import transitions_like
from steersman.run.loops.data_loop import data_loop
from steersman.run.loops.devices import check_memory
from steersman.run.loops.loop import Loop
from steersman.run.parts.setup import Setup, seeds_of
from steersman.run.settings import RunConfig, values_of
from steersman.types import Agent, Algorithm, EnvSpec, Rollout


def loop_over(agent: Agent, data: Dataset, run: RunConfig, look: Any) -> Loop:
    """The loop over data alone, which it holds as a memory to draw from: each observation once."""
    if run.overlap:
        raise UsageError("overlap is for host environments; learning from data alone steps none. Leave overlap out.")
    rollout, memory = data.rollout(1), uniform(data.room, 1)
    size = nbytes(jax.eval_shape(memory.init, rollout)) * min(run.seeds, run.devices or run.seeds, len(jax.devices()))
    check_memory(size, f"What {run.from_data} holds, on every device", "Take less data, or fewer devices.")
    held = jax.jit(memory.init)(rollout)
    return data_loop(agent, held, first=rollout, seeds=seeds_of(run), devices=run.devices, look=look)


def check_data(entry: Algorithm, environment: Any, run: RunConfig) -> None:
    """Raise UsageError where an algorithm cannot learn from recorded data, or from anything else."""
    if run.from_data is None and entry.data == "only":
        place = environment if isinstance(environment, str) else "ENVIRONMENT"
        raise UsageError(
            f"{entry.name} learns from recorded transitions alone. Name them, a folder or a Minari id: steersman train "
            f"{entry.name} {place} --from-data FOLDER. Record some with: steersman collect RUN --out FOLDER"
        )
    if run.from_data is not None and entry.data == "none":
        raise UsageError(
            f"{entry.name} learns from what it has just done itself, not from recorded transitions. Leave from_data = "
            f"{run.from_data!r} out, or train an agent with replay (sac, td3, dqn ...) or an offline one (bc, iql)."
        )


def check_same_data(saved: Mapping[str, Any], setup: Setup) -> None:
    """Raise UsageError where a run's data is not what its ``config.json`` says it began with."""
    then, now = saved.get("data_sha256"), setup.data_sha256
    if then is not None and now is not None and then != now:
        raise UsageError(
            f"The run learns from {setup.run.from_data}, which holds other transitions than when it began (SHA-256 "
            f"{now[:12]}, not {then[:12]}). Put those back, or start a new run."
        )


def without_random_steps(run: RunConfig, config: Any) -> Any:
    """The settings that the agent is made with: recorded data takes the place of random steps, so it counts from 0."""
    if run.from_data is None or not isinstance(config, ReplayConfig):
        return config
    return dataclasses.replace(config, learning_starts=0)


def first_rollout(run: RunConfig, config: Any, spec: EnvSpec, data: Dataset | None) -> Rollout | None:
    """Recorded data as the first rollout, numpy; its shapes alone where a checkpoint has what came of it."""
    if run.from_data is None:
        return None
    if data is None:
        return transitions_like(spec, (1, run.num_envs))
    if config.replay_capacity < data.room:
        raise UsageError(
            f"replay_capacity = {config.replay_capacity:,} does not hold the {len(data):,} transitions of "
            f"{run.from_data} and the ends of their episodes. Set it to {data.room:,} or more."
        )
    rollout, length = data.rollout(run.num_envs), config.unroll_length
    memory, steps = values_of(config).get("memory", "none"), len(rollout.reward)
    if memory != "none" and steps < length:
        raise UsageError(
            f"memory = {memory!r} learns from whole unrolls, of unroll_length = {length} steps; {run.from_data} has "
            f"{steps} for each of num_envs = {run.num_envs}. Lower num_envs or unroll_length."
        )
    return rollout
