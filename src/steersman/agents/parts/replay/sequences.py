"""Learning from replay, whatever it gives: single transitions, n steps of each, or sequences for what remembers.

An algorithm asks for ``items_of`` a sample, and looks at observations through each of its networks (``sees``): one
without memory sees them as they are, one with memory what it knows there, its own carry brought through the burn-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from steersman.agents.parts.remembering import beginner
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.multi_step import Steps
from steersman.agents.parts.replay.with_replay import BatchLearner
from steersman.memory import Buffer, Sample, sequence_priority, sequences
from steersman.nets.memory import remembering
from steersman.nets.memory.remembering import Remembering
from steersman.types import Key, PyTree, Rollout


class Carry(NamedTuple):
    """The carry of an agent whose networks remember, and that keeps more than that."""

    memory: PyTree  # of the network that acts
    rest: PyTree  # what acting has beside it: noise


class Items(NamedTuple):
    """M transitions to learn from; of sequences [S, N] the M = L * N rows after burn-in.

    sees(network, carry) -> what it sees [M, ...], and at the states after [M, ...], or [n * M, ...] where there are
    steps. carry: of the network before each sequence [N, ...], the acting one's is ``carry``; none: it begins anew.
    """

    action: PyTree  # [M, ...]
    reward: jax.Array  # [M]; of n steps that are not corrected their discounted sum
    discount: jax.Array  # [M]
    weight: jax.Array  # [M]
    steps: Steps | None  # of corrected n steps; their obs_t is for ``sees`` to say
    sees: Callable[..., tuple[PyTree, PyTree]]
    sequences: int = 0  # N; 0: they are single transitions
    carry: PyTree = ()
    costs: Any = None  # [M, C], as ``reward``; None of steps that are corrected

    def mean(self, x: jax.Array) -> jax.Array:
        """Of x [M], over what is there."""
        if not self.sequences:
            return x.mean()
        there = self.weight > 0
        return jnp.where(there, x, 0.0).sum() / jnp.maximum(there.sum(dtype=jnp.float32), 1.0)

    def priority(self, error: jax.Array) -> jax.Array:
        """Of errors [M] what ``Buffer.update`` is given, [N]."""
        if not self.sequences:
            return error
        return sequence_priority(jnp.where(self.weight > 0, error, 0.0).reshape(-1, self.sequences))


def items_of(config: Any, sample: Sample) -> Items:
    """What a sample has to learn from. config: a ReplayConfig and ReplayedMemoryConfig."""
    batch = sample.batch
    if batch.reward.ndim == 1:
        steps = None if sample.path is None else multi_step.steps_of(config, sample.path)
        seen = batch.obs, batch.next_obs if steps is None else steps.obs_t
        reward, discount, weight = map(jnp.asarray, (batch.reward, sample.discount, sample.weight))
        see = lambda network, carry=None: seen
        return Items(batch.action, reward, discount, weight, steps, see, costs=jnp.asarray(batch.costs))
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    memory = batch.carry.memory if isinstance(batch.carry, Carry) else batch.carry
    rows = jax.tree.map(lambda x: x[config.burn_in :], batch._replace(carry=()))
    reward, costs, discount, steps, at = rows.reward, rows.costs, sample.discount[config.burn_in :], None, None
    if multi_step.corrects(config):
        steps = multi_step.steps_within(config, rows)
        at = steps.obs_t
    elif config.n_step > 1:
        reward, costs, discount, last = multi_step.joined(config, rows)
        at = flat(multi_step.flat_rows(last))

    def sees(network: Any, carry: PyTree = None) -> tuple[PyTree, PyTree]:
        carry = remembering.begin(network, reward.shape[1]) if carry is None else carry
        seen = recalled(network, batch._replace(carry=carry), config.burn_in)
        obs, obs_t = jax.tree.map(flat, (seen.obs, seen.next_obs))
        return obs, obs_t if at is None else jax.tree.map(lambda x: x[at], obs_t)

    weight = flat(sample.weight[config.burn_in :])
    action = jax.tree.map(flat, rows.action)
    costs = costs.reshape(reward.size, costs.shape[-1])  # of none too, which -1 cannot tell
    return Items(action, flat(reward), flat(discount), weight, steps, sees, reward.shape[1], memory, costs)


def recalled(network: Any, batch: Rollout, burn_in: int) -> Rollout:
    """The rows after burn-in, with what the network sees in the place of observations; ``batch.carry``: its own.

    No gradient flows through the burn-in.
    """
    rest = jax.tree.map(lambda x: x[burn_in:], batch._replace(carry=()))
    carry = batch.carry
    if burn_in and isinstance(network, Remembering):
        before = jax.tree.map(lambda x: x[:burn_in], (batch.obs, batch.first, batch.action))
        carries, _ = remembering.sequence(jax.lax.stop_gradient(network), carry, *before)
        carry = jax.lax.stop_gradient(jax.tree.map(lambda x: x[-1], carries))
    return remembering.recalled(network, rest._replace(carry=carry))[0]


def sequence_replay(config: Any, **options: Any) -> Buffer:
    """The memory of sequences that a config describes: a ReplayConfig, ReplayedMemoryConfig and RolloutConfig."""
    shape = {"period": config.unroll_length, "frame_stack": config.frame_stack, "stored_carry": config.stored_carry}
    size = config.replay_capacity, config.batch_size, config.sequence_steps
    return sequences(*size, gamma=config.gamma, **shape, **options)


Make = Callable[[Key], Any]


def with_memory(learner: BatchLearner, acting: Make, network: Callable[[Any], Any], *others: Make) -> BatchLearner:
    """The learner, whose ``act`` is given what the acting network sees, and keeps its memory in the carry: where one of
    its networks remembers. acting: key -> the network that acts; network: it, of a state; others: its other networks.
    """
    made = [jax.eval_shape(make, jax.random.key(0)) for make in (acting, *others)]
    if not any(isinstance(network, Remembering) for network in made):
        return learner
    begin, alone = beginner(acting), not jax.tree.leaves(learner.begin(1))
    joined = lambda memory, rest: memory if alone else Carry(memory, rest)

    def act(state: Any, carry: Any, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        memory, rest = (carry, ()) if alone else carry
        memory, seen = remembering.step(network(state), memory, obs, first)
        action, rest, extras = learner.act(state, rest, seen, first, key, explore=explore)
        return action, joined(remembering.acted(network(state), memory, action), rest), extras

    return learner._replace(begin=lambda num: joined(begin(num), learner.begin(num)), act=act, remembers=True)
