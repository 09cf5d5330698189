"""What memories have in common: their interface, how slowly they forget at the start, the linear recurrence."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from steersman.errors import UsageError
from steersman.types import Key, PyTree

SCANS = ("auto", "sequential", "parallel")


class Memory(eqx.Module):
    """One vector a step in, one out, for one environment; every carry begins as zeros, float arrays only.

        begin() -> carry                                     before an episode
        step(carry, x [F]) -> (carry, y [out_size])
        sequence(carry, xs [T, F], first [T]) -> (the carry after each row [T, ...], ys [T, out_size])

    ``sequence`` is ``step`` row by row, from ``carry``, emptied where ``first``.
    """

    out_size: eqx.AbstractVar[int]

    @abstractmethod
    def begin(self) -> PyTree: ...

    @abstractmethod
    def step(self, carry: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]: ...

    @abstractmethod
    def sequence(self, carry: PyTree, xs: jax.Array, first: jax.Array) -> tuple[PyTree, jax.Array]: ...


def slow_gates(key: Key, size: int, context: int) -> jax.Array:
    """Biases [size] of gates that keep: sigmoid(b) = 1 - 1 / tau, with time constants tau log-uniform from 2 to
    ``context`` steps, so some units forget at once and some remember as long.

    After the chrono initialisation of Tallec and Ollivier (2018), arXiv:1804.11188, whose tau are uniform: few would be
    fast. A gate that starts at 1/2 has lost a cue to 2^-20 in 20 steps, and its gradient as well.
    """
    if context < 2:
        raise UsageError(f"memory_context = {context}; the slowest gate keeps for 2 steps or more.")
    tau = jnp.exp(jax.random.uniform(key, (size,), jnp.float32, math.log(2.0), math.log(context)))
    return jnp.log(tau - 1.0 + 1e-6)


def carries(step: Callable[[Any, Any], Any], start: PyTree, rows: PyTree) -> PyTree:
    """The carry after each of rows [T, ...], of ``step(carry, row) -> carry`` from ``start``: [T, ...].

    Each row comes to its step in the carry of the scan: with its slice fused into them, gates are not vectorised on
    CPUs, and take three times as long.
    """

    def scanned(now: tuple[PyTree, PyTree], following: PyTree):
        carry = step(*now)
        return (carry, following), carry

    following = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), rows)
    return jax.lax.scan(scanned, (start, jax.tree.map(lambda x: x[0], rows)), following)[1]


Pair = tuple[jax.Array, jax.Array]  # real and imaginary parts, floats: what every format can keep


def times(a: Pair, b: Pair) -> Pair:
    """a b, of complex numbers."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def plus_times(a: Pair, b: Pair, c: Pair) -> Pair:
    """a b + c, of complex numbers."""
    re, im = times(a, b)
    return re + c[0], im + c[1]


def linear_scan(decay: Pair, inputs: Pair, start: Pair, scan: str = "auto") -> Pair:
    """h_t = decay_t h_{t-1} + inputs_t, [T, size], from h_{-1} = ``start`` [size]; complex numbers.

    scan: ``sequential``, T small steps; ``parallel``, an associative scan of log T large ones (Blelloch 1990);
    ``auto``, the first on CPUs, where passes over memory cost more than steps, and the second elsewhere.
    """
    if scan not in SCANS:
        raise UsageError(f"memory_scan = {scan!r}; it must be one of {', '.join(SCANS)}.")
    if scan == "parallel" or (scan == "auto" and jax.default_backend() != "cpu"):
        at = lambda pair, t: (pair[0][t], pair[1][t])
        begun = plus_times(at(decay, 0), start, at(inputs, 0))
        inputs = inputs[0].at[0].set(begun[0]), inputs[1].at[0].set(begun[1])

        def join(left: tuple[Pair, Pair], right: tuple[Pair, Pair]) -> tuple[Pair, Pair]:
            return times(right[0], left[0]), plus_times(right[0], left[1], right[1])

        return jax.lax.associative_scan(join, (decay, inputs))[1]

    def row(h: Pair, given: tuple[Pair, Pair]) -> tuple[Pair, Pair]:
        h = plus_times(given[0], h, given[1])
        return h, h

    return jax.lax.scan(row, start, (decay, inputs))[1]
