"""What an algorithm's file ends in, its ``ALGORITHM``, made for the three ways to get experience."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from steersman.agents.parts.checks import check_minibatches
from steersman.agents.parts.remembering import sequence_length
from steersman.agents.parts.replay.with_replay import check_replay, first_rows
from steersman.types import Agent, Algorithm

Factory = Callable[..., Agent]


def on_policy(
    name: str,
    config: type,
    factory: Factory,
    summary: str,
    check: Callable[[Any, int], None] = lambda config, num_envs: None,
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Algorithm:
    """An algorithm that learns from each rollout once it is there, and then leaves it."""

    def first_length(c: Any, num_envs: int) -> int:
        return c.unroll_length if c.normalize_observations or c.scale_rewards else 1  # they seed a normaliser

    return Algorithm(name, config, factory, summary, first_length, check, presets=presets)


def whole_minibatches(config: Any, num_envs: int) -> None:
    """The check of an algorithm that cuts its rollouts into ``num_minibatches``, of whole sequences with memory."""
    check_minibatches(config.unroll_length, num_envs, config.num_minibatches)
    if config.memory != "none":
        sequence_length(config.unroll_length, num_envs, config.num_minibatches, config.sequence_length)


def replayed(
    name: str,
    config: type,
    factory: Factory,
    summary: str,
    with_memory: Mapping[str, Any] = MappingProxyType({}),
) -> Algorithm:
    """An algorithm that learns from replay: a random policy fills it first, and one seed trains on one device."""

    def check(c: Any, num_envs: int) -> None:
        check_replay(c.update_ratio, c.unroll_length, num_envs, c.replay_capacity)

    def first_length(c: Any, num_envs: int) -> int:
        return first_rows(c.learning_starts, num_envs)

    one: Any = {"data": "start", "shardable": False, "with_memory": with_memory}
    return Algorithm(name, config, factory, summary, first_length, check, **one)


def offline(name: str, config: type, factory: Factory, summary: str) -> Algorithm:
    """An algorithm that learns from recorded transitions alone; the environment is for its evaluation."""
    return Algorithm(name, config, factory, summary, data="only", shardable=False)
