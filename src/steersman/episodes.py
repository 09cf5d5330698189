"""What is counted of episodes that ended: sums, and the newest hundred of each seed for rolling means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from steersman import shards
from steersman.errors import UsageError, no_such_info
from steersman.types import Array, EnvSpec, TimeStep

NEWEST = 100  # episodes of a rolling mean: what the field calls a training return
SUCCESS = ("is_success", "success")  # what an environment's info may call it
ALWAYS = ("return", "length", "cost")
TOLD = ("discounted_return",)  # what is counted wherever a compiled environment's info says it


def cost_suffixes(names: Sequence[str]) -> list[str]:
    """What tells several costs apart in the names of metrics; one cost needs nothing.

    >>> cost_suffixes(["speed"]), cost_suffixes(["cost_0", "cost_1"]), cost_suffixes(["speed", "z < 0.2"])
    ([''], ['_0', '_1'], ['_speed', '_z_below_0.2'])
    """
    if len(names) == 1:
        return [""]
    said = [re.sub(r"<=?", " below ", re.sub(r">=?", " above ", name)) for name in names]
    plain = [re.sub(r"[^\w.]+", "_", name).strip("_").removeprefix("cost_") for name in said]
    told_apart = all(plain) and len(set(plain)) == len(plain)
    return [f"_{name}" for name in (plain if told_apart else range(len(names)))]


class Newest(NamedTuple):
    """The newest episodes, in the order of the steps they ended at and, within a step, of their members; newest last.

    Of several seeds, every array has the leading axis [S].
    """

    when: Any  # int32 [100]: a place in that order, from 0; -1, in front, where fewer have ended
    numbers: Mapping[str, Any]  # float32 [100], NaN in front: "return", "length", "cost" [100, C], what else is logged

    def then(self, later: Newest, xp: Any = np) -> Newest:
        """The newest of these and of ``later`` ones."""
        return Newest(*jax.tree.map(lambda a, b: xp.concatenate([a, b], self.when.ndim - 1), self, later)).last(xp)

    def last(self, xp: Any = np, *, ordered: bool = True) -> Newest:
        """The newest 100 of those that are there. ordered: as they lie; else by ``when``."""
        axis = self.when.ndim - 1
        by = self.when >= 0 if ordered else self.when
        order = xp.argsort(by, axis, stable=True)
        order = order[..., order.shape[axis] - NEWEST :]
        pick = lambda x: xp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 1 - axis)), axis)
        return jax.tree.map(pick, self)


class Episodes(NamedTuple):
    """Episodes that ended: as sums, which add up over unrolls and shards, and the newest of them one by one."""

    count: Any
    returns: Any
    lengths: Any
    costs: Any  # [C]
    logged: Mapping[str, Any]  # name -> [2]: the sum of what ``info`` said at the end, how many episodes it said it of
    newest: Any  # Newest

    @property
    def sums(self) -> Episodes:
        return self._replace(newest=())

    def plus(self, later: Episodes, xp: Any = np) -> Episodes:
        """Of both; ``later`` ended at later steps."""
        if isinstance(later.count, int) and not later.count:  # most steps of simulators end no episode
            return self
        both = jax.tree.map(lambda a, b: a + b, self.sums, later.sums)
        return both._replace(newest=self.newest.then(later.newest, xp))


def numbers_of(spec: EnvSpec, seen: TimeStep, log: Sequence[str]) -> dict[str, Array]:
    """What is counted of the running episodes, [B] by name; it is meant where one ends.

    log: names in ``info``. Whether an episode was a success is counted wherever ``info`` says it, as "success", and its
    discounted return too. Raises UsageError for a name that ``info`` does not have, or has as something else than a
    number.
    """
    numbers = {name: seen.info[f"episode_{name}"] for name in ALWAYS}
    if not spec.num_costs:
        del numbers["cost"]
    success = next((seen.info[name] for name in SUCCESS if name in seen.info), None)
    if success is not None:
        numbers["success"] = success
    for name in (*(name for name in TOLD if name in seen.info and name not in log), *log):
        if name not in SUCCESS or success is None:
            numbers[name] = _number(spec, seen, name)
    return numbers


def _number(spec: EnvSpec, seen: TimeStep, name: str) -> Array:
    if name not in seen.info:
        raise no_such_info(spec.id, name, [n for n in seen.info if not n.startswith("episode_")])
    value = seen.info[name]
    shape = np.shape(value)[seen.reward.ndim :]
    if shape:
        raise UsageError(f"log_info: {name} in the info of {spec.id} is an array of shape {shape}, not one number.")
    return value


def logged_names(log: Sequence[str]) -> list[str]:
    """What is counted beside returns, lengths and costs of host environments, some of which say of success only late.

    >>> logged_names(["distance", "is_success"])
    ['success', 'distance']
    """
    return ["success", *(name for name in log if name not in SUCCESS)]


def finished(over: jax.Array, numbers: Mapping[str, jax.Array]) -> Episodes:
    """The episodes that ended in a rollout, in compiled code. over: [T, B]; numbers: of ``numbers_of``, [T, B, ...]."""
    ended = lambda x: jnp.where(over.reshape(over.shape + (1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))
    total = lambda x: ended(x).sum(1, dtype=x.dtype).sum(0, dtype=x.dtype)
    costs = total(numbers["cost"]) if "cost" in numbers else jnp.zeros((0,), jnp.float32)
    logged = {name: _said(over, x) for name, x in numbers.items() if name not in ALWAYS}
    sums = total(numbers["return"]), total(numbers["length"])
    return Episodes(over.sum(dtype=jnp.int32), *sums, costs, logged, _newest(over, numbers))


def _said(over: jax.Array, x: jax.Array) -> jax.Array:
    """-> [2]: the sum of what was said of the episodes that ended, and of how many it was."""
    number = x.astype(jnp.float32)
    there = over & jnp.isfinite(number)
    return jnp.stack([jnp.where(there, number, jnp.float32(0)).sum(), there.sum(dtype=jnp.int32).astype(jnp.float32)])


def _newest(over: jax.Array, numbers: Mapping[str, jax.Array]) -> Newest:
    """Those of this shard, ``when`` counted in steps of all members."""
    length, num = over.shape
    flat = {name: x.astype(jnp.float32).reshape(length * num, *x.shape[2:]) for name, x in numbers.items()}
    ended = jnp.cumsum(over.reshape(-1), dtype=jnp.int32)  # up to and with each, [T * B]

    def some() -> Newest:
        rank = ended[-1] - jnp.arange(NEWEST - 1, -1, -1, dtype=jnp.int32)  # from 1
        at = jnp.minimum(jnp.searchsorted(ended, rank).astype(jnp.int32), np.int32(length * num - 1))
        member = at % np.int32(num) + jnp.asarray(shards.shard_index(), jnp.int32) * np.int32(num)
        when = at // np.int32(num) * np.int32(num * shards.shard_count()) + member
        keep = lambda x: jnp.where((rank > 0).reshape((-1,) + (1,) * (x.ndim - 1)), x[at], jnp.float32(jnp.nan))
        return Newest(jnp.where(rank > 0, when, jnp.int32(-1)), jax.tree.map(keep, flat))

    def none() -> Newest:
        empty = lambda x: jnp.full((NEWEST, *x.shape[1:]), jnp.nan, jnp.float32)
        return Newest(jnp.full((NEWEST,), -1, jnp.int32), jax.tree.map(empty, flat))

    return jax.lax.cond(ended[-1] > 0, some, none)  # most rollouts of a single step end no episode


def episodes_of(rows: Sequence[Mapping[str, Any]], costs: int, log: Sequence[str]) -> Episodes:
    """The same of host environments. rows: ``numbers_of`` of one member each, in the order of ``Newest``."""
    kept = rows[-NEWEST:]
    names = [*ALWAYS[: 3 if costs else 2], *log]
    numbers = {n: np.full((NEWEST, costs) if n == "cost" else (NEWEST,), np.nan, np.float32) for n in names}
    for name, column in numbers.items():
        if kept:
            column[-len(kept) :] = [row.get(name, np.nan) for row in kept]
    when = np.arange(NEWEST, dtype=np.int32) - np.int32(NEWEST - len(kept))
    total = lambda name, zero: sum((row[name].astype(np.float64) for row in rows), zero)
    said = {name: [x for row in rows if np.isfinite(x := float(row.get(name, np.nan)))] for name in log}
    return Episodes(
        len(rows),
        float(total("return", 0.0)),
        int(total("length", 0)),
        total("cost", np.zeros(costs)) if costs else np.zeros(0),
        {name: np.array([sum(some), len(some)], np.float64) for name, some in said.items()},
        Newest(np.maximum(when, -1), numbers),
    )
