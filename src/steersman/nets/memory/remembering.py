"""What remembers, and how it is run: one step when acting, whole sequences when learning.

A network that remembers is a ``Remembering``. For others the functions here are ``vmap`` or nothing at all, their carry
is ``()`` and what they see is the observation: an algorithm is written once.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.types import Array, PyTree, Rollout


class Remembering(eqx.Module):
    """A network with a memory, for one environment: subclass it for one of your own.

        begin() -> carry                        before an episode; float arrays only
        step(carry, obs) -> (carry, seen)       take in one observation; seen: what it now knows
        __call__(seen) -> out                   what a network without memory gives for an observation
        acted(carry, action) -> carry           note what was done, where that is to be known at the next step

    ``sequence`` is ``step`` and ``acted`` in a scan; a memory that can do better overrides it. Where the observation
    has an ``action_mask``, ``seen`` is a dict that keeps it.
    """

    @abstractmethod
    def begin(self) -> PyTree: ...

    @abstractmethod
    def step(self, carry: PyTree, obs: PyTree) -> tuple[PyTree, PyTree]: ...

    def acted(self, carry: PyTree, action: PyTree) -> PyTree:
        return carry

    def sequence(self, carry: PyTree, obs: PyTree, first: jax.Array, action: PyTree) -> tuple[PyTree, PyTree]:
        """obs [T, ...], first [T]: obs opens an episode, action [T, ...] that followed -> (the carry after each row
        [T, ...], seen [T, ...]); ``carry`` is that before the first row."""

        def row(carry: PyTree, seen: tuple[PyTree, jax.Array, PyTree]):
            obs, first, action = seen
            carry, out = self.step(restarted(carry, first, self.begin()), obs)
            carry = self.acted(carry, action)
            return carry, (carry, out)

        return jax.lax.scan(row, carry, (obs, first, action))[1]


def restarted(carry: PyTree, first: jax.Array, start: PyTree) -> PyTree:
    """The carry, or ``start`` where an episode begins: the one place where a memory is emptied."""
    return jax.tree.map(lambda c, s: jnp.where(first, s, c), carry, start)


def begin(network: Any, num: int) -> PyTree:
    """The carry of ``num`` environments before an episode, [num, ...]."""
    if not isinstance(network, Remembering):
        return ()
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *jnp.shape(x))), network.begin())


def step(network: Any, carry: PyTree, obs: PyTree, first: jax.Array) -> tuple[PyTree, PyTree]:
    """carry, obs [B, ...], first [B] -> (carry, what the network sees [B, ...])."""
    if not isinstance(network, Remembering):
        return carry, obs

    def one(carry: PyTree, obs: PyTree, first: jax.Array):
        return network.step(restarted(carry, first, network.begin()), obs)

    return jax.vmap(one)(carry, obs, first)


def acted(network: Any, carry: PyTree, action: PyTree) -> PyTree:
    """The carry [B, ...] once these actions [B, ...] are chosen."""
    return jax.vmap(network.acted)(carry, action) if isinstance(network, Remembering) else carry


def sequence(network: Any, carry: PyTree, obs: PyTree, first: Array, action: PyTree) -> tuple[PyTree, PyTree]:
    """carry [B, ...] before the first of rows obs, first, action [T, B, ...] -> (the carries after each row, what the
    network sees at it), both [T, B, ...]."""
    if not isinstance(network, Remembering):
        return (), obs
    return jax.vmap(network.sequence, in_axes=(0, 1, 1, 1), out_axes=1)(carry, obs, jnp.asarray(first), action)


def recalled(network: Any, rollout: Rollout) -> tuple[Rollout, PyTree]:
    """-> (the rollout [T, B, ...] with what the network sees in the place of ``obs`` and ``next_obs``, the carries
    after each row [T, B, ...]).

    The true successor is one step on from the carry after its row, all rows at once: where the clock cut an episode it
    is not the next row.
    """
    if not isinstance(network, Remembering):
        return rollout, ()
    carries, seen = sequence(network, rollout.carry, rollout.obs, rollout.first, rollout.action)
    following = jax.vmap(jax.vmap(lambda carry, obs: network.step(carry, obs)[1]))(carries, rollout.next_obs)
    return rollout._replace(obs=seen, next_obs=following), carries


def flat_sequence(network: Any, carry: PyTree, obs: PyTree, first: Any, action: PyTree) -> PyTree:
    """What the network sees at rows [L * n, ...], of ``n`` sequences side by side whose carries were ``carry`` [n, ...]
    before their first rows; of a network without memory the rows are single steps, and it sees ``obs``."""
    if not isinstance(network, Remembering):
        return obs
    num = jax.tree.leaves(carry)[0].shape[0]
    fold = lambda x: jnp.asarray(x).reshape(-1, num, *x.shape[1:])
    _, seen = sequence(network, carry, *jax.tree.map(fold, (obs, first, action)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)
