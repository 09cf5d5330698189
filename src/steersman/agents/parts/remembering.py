"""How agents have memory: their networks behind one, the acting carry, minibatches of whole sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts.config import MemoryConfig, ObservationGroupsConfig
from steersman.agents.parts.minibatches import shuffled_minibatches
from steersman.errors import UsageError
from steersman.nets.memory import remembering
from steersman.nets.memory.remembered import remembered
from steersman.types import EnvSpec, Key, PyTree, Rollout

Make = Callable[[EnvSpec, Mapping[str, Any], Key], Any]  # (what the network observes, NetworkConfig.network, key)


def behind_memory(
    config: Any, spec: EnvSpec, make: Make, *, sees: Mapping[str, EnvSpec] | None = None
) -> Callable[[Key], Any]:
    """key -> the network that ``make`` gives, behind the memory that a config names, or as it is.

    config: a MemoryConfig and NetworkConfig. sees: what each memory sees, by its name; none: one sees all.
    """
    if config.memory == "none":
        return lambda key: make(spec, config.network, key)
    return lambda key: remembered(spec, config.remembers, config.network, make, key, sees=sees)


def check_own(config: MemoryConfig, network: Any) -> None:
    """Raise UsageError where a user's network is given, and with it a memory or groups of observations."""
    if network is None:
        return
    if isinstance(config, ObservationGroupsConfig) and (config.policy_sees or config.value_sees):
        raise UsageError(
            "policy_sees and value_sees are of the agent's own networks; yours reads of the observation what it reads. "
            "Leave them out."
        )
    if config.memory != "none":
        raise UsageError(
            f"memory = {config.memory!r} is put before the agent's own network; yours is used as it is. Leave memory "
            "out, and let your network be a steersman.nets.memory.remembering.Remembering."
        )


def beginner(make: Callable[[Key], Any]) -> Callable[[int], PyTree]:
    """``Agent.begin`` of an agent that acts with the network that ``make`` gives. The carry is zeros: what is to be
    before an episode is put in its place where one begins."""
    found: list[Any] = []

    def begin(num: int) -> PyTree:
        if not found:
            found.append(jax.eval_shape(lambda key: remembering.begin(make(key), 1), jax.random.key(0)))
        return jax.tree.map(lambda x: jnp.zeros((num, *x.shape[1:]), x.dtype), found[0])

    return begin


class Recall(NamedTuple):
    """What brings a network with memory back to the rows of a minibatch: ``[L * n]``, n sequences of L steps."""

    carry: PyTree  # before each sequence's first row [n, ...]
    first: jax.Array  # [L * n]


def sequence_length(length: int, num_envs: int, num_minibatches: int, wanted: int | None) -> int:
    """L: ``wanted``, or the longest that divides ``length`` and leaves sequences for every minibatch.

    Raises UsageError where sequences of a rollout [length, num_envs] cannot be dealt out to equal minibatches.
    """
    for steps in [wanted] if wanted else range(length, 0, -1):
        if length % steps == 0 and length // steps * num_envs % num_minibatches == 0:
            return steps
    given = f"unroll_length {length} x num_envs {num_envs}"
    if wanted and length % wanted:
        divisors = ", ".join(str(n) for n in range(2, length + 1) if length % n == 0)
        raise UsageError(
            f"sequence_length = {wanted} does not divide unroll_length = {length}. Set it to one of {divisors}."
        )
    count = length // wanted * num_envs if wanted else length * num_envs
    divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    raise UsageError(
        f"A rollout of {given} has {count} sequences of {wanted or 1} steps, which cannot be dealt out to "
        f"num_minibatches = {num_minibatches}. Set num_minibatches to one of {divisors}, or change sequence_length."
    )


def shuffled_sequences(
    key: Key, batch: PyTree, rollout: Rollout, carries: PyTree, num_minibatches: int, length: int | None
) -> tuple[PyTree, Any]:
    """``[T, B, ...]`` -> (``[M, T * B / M, ...]``, what recalls them): as ``shuffled_minibatches``, whole sequences.

    Each is ``length`` steps of one environment, next to each other in time, and begins with the carry it then had;
    rows of a minibatch are [L, n] made flat. carries: after each row [T, B, ...]; () without memory: single steps.
    """
    if not jax.tree.leaves(carries):
        return shuffled_minibatches(key, batch, num_minibatches), ()
    steps, num_envs = rollout.reward.shape
    size = sequence_length(steps, num_envs, num_minibatches, length)
    cut = lambda x: jnp.swapaxes(jnp.asarray(x).reshape(steps // size, size, *x.shape[1:]), 1, 2)  # [S, B, L, ...]
    join = lambda start, after: jnp.concatenate([start[None], after[size - 1 : -1 : size]])
    before = jax.tree.map(join, rollout.carry, carries)
    dealt = shuffled_minibatches(key, (jax.tree.map(cut, (batch, rollout.first)), before), num_minibatches)
    (batch, first), carry = dealt
    flat = lambda x: jnp.swapaxes(x, 1, 2).reshape(num_minibatches, -1, *x.shape[3:])
    return jax.tree.map(flat, batch), Recall(carry, flat(first))


def seen_again(network: Any, recall: Any, obs: PyTree, action: PyTree) -> PyTree:
    """What a network sees at the rows [L * n, ...] of a minibatch, remembered anew; ``obs`` without memory."""
    if not isinstance(recall, Recall):
        return obs
    return remembering.flat_sequence(network, recall.carry, obs, recall.first, action)
