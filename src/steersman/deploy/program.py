"""The straight-line program of a policy: what every back end reads.

A program is a list of operations in the order they are done, over numbered values of known shape: no loop, no branch,
no size that is not known beforehand. Operands of elementwise operations broadcast as numpy's do.

    elementwise   add sub mul div max min pow  eq ne lt le gt ge and or
                  neg abs sign floor ceil round sqrt exp expm1 log log1p sin cos tanh sigmoid not  where cast
    over axes     sum largest smallest (axes) argmax (axis)
    a product     matmul, of [m, k] and [k, n]
    of shape      reshape broadcast transpose (permutation) slice (start, stop, step) concat (axis)

``where`` is (condition, where it holds, where not); ``round`` goes to even; values are float32, int32, uint8 or bool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from steersman.deploy.runner import operation

UNARY = ("neg", "abs", "sign", "floor", "ceil", "round", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos")
UNARY += ("tanh", "sigmoid", "not")
BINARY = ("add", "sub", "mul", "div", "max", "min", "pow", "eq", "ne", "lt", "le", "gt", "ge", "and", "or")
UNKNOWN = "unknown "  # the prefix of an operation that nothing here reads: an error only where an output needs it


class Value(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


class Op(NamedTuple):
    name: str
    inputs: tuple[int, ...]
    output: int
    attributes: dict[str, Any]


class Program(NamedTuple):
    """Values by number: some are ``inputs`` or ``constants``, every other is the output of one operation."""

    values: list[Value]
    inputs: dict[str, int]
    outputs: dict[str, int]
    constants: dict[int, np.ndarray]
    ops: list[Op]

    def to_json(self) -> dict[str, Any]:
        """All but the constants' numbers, as JSON values."""
        return {
            "values": [[value.dtype, list(value.shape)] for value in self.values],
            "inputs": self.inputs,
            "outputs": self.outputs,
            "constants": sorted(self.constants),
            "ops": [[op.name, list(op.inputs), op.output, op.attributes] for op in self.ops],
        }


class Builder:
    """Makes a program, operation by operation; what changes nothing is left out."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.inputs: dict[str, int] = {}
        self.constants: dict[int, np.ndarray] = {}
        self.made: dict[int, Op] = {}  # by output

    def value(self, dtype: Any, shape: Sequence[int]) -> int:
        self.values.append(Value(np.dtype(dtype).name, tuple(map(int, shape))))
        return len(self.values) - 1

    def input(self, name: str, dtype: Any, shape: Sequence[int]) -> int:
        self.inputs[name] = self.value(dtype, shape)
        return self.inputs[name]

    def constant(self, array: Any) -> int:
        array = np.asarray(array)
        number = self.value(array.dtype, array.shape)
        self.constants[number] = array
        return number

    def op(self, name: str, inputs: Sequence[int], dtype: Any, shape: Sequence[int], **attributes: Any) -> int:
        """The number of an operation's output; what depends on constants alone is one, worked out here and now."""
        if all(i in self.constants for i in inputs) and not name.startswith(UNKNOWN):
            steps: list[Any] = []
            given = [self.constants[i] for i in inputs]
            out = operation(steps, name, given, np.dtype(dtype), list(shape), attributes)
            for step in steps:
                step()
            return self.constant(out.copy())
        output = self.value(dtype, shape)
        attributes = {k: [int(i) for i in v] if isinstance(v, list) else int(v) for k, v in attributes.items()}
        self.made[output] = Op(name, tuple(inputs), output, attributes)
        return output

    def elementwise(self, name: str, inputs: Sequence[int], dtype: Any, shape: Sequence[int]) -> int:
        """Operands are taken as small as broadcasting lets them be."""
        shape = tuple(shape)
        thin = [self._thin(i) for i in inputs]
        if np.broadcast_shapes(*(self.values[i].shape for i in thin)) != shape:
            thin = list(inputs)
        if (same := self._unchanged(name, thin, shape)) is not None:
            return same
        return self.op(name, thin, dtype, shape)

    def cast(self, x: int, dtype: Any) -> int:
        if self.values[x].dtype == np.dtype(dtype).name:
            return x
        return self.op("cast", [x], dtype, self.values[x].shape)

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        shape = tuple(map(int, shape))
        while x in self.made and self.made[x].name == "reshape":
            x = self.made[x].inputs[0]
        return x if self.values[x].shape == shape else self.op("reshape", [x], self.values[x].dtype, shape)

    def transpose(self, x: int, permutation: Sequence[int]) -> int:
        value = self.values[x]
        shape = [value.shape[i] for i in permutation]
        moved = [i for i in permutation if value.shape[i] != 1]
        if moved == sorted(moved):  # axes of one entry alone change places
            return self.reshape(x, shape)
        return self.op("transpose", [x], value.dtype, shape, permutation=[int(i) for i in permutation])

    def broadcast(self, x: int, shape: Sequence[int]) -> int:
        return x if self.values[x].shape == tuple(shape) else self.op("broadcast", [x], self.values[x].dtype, shape)

    def concat(self, parts: Sequence[int], axis: int) -> int:
        parts = [x for x in parts if math.prod(self.values[x].shape)] or [parts[0]]
        if len(parts) == 1:
            return parts[0]
        shape = list(self.values[parts[0]].shape)
        shape[axis] = sum(self.values[x].shape[axis] for x in parts)
        return self.op("concat", parts, self.values[parts[0]].dtype, shape, axis=int(axis))

    def program(self, outputs: dict[str, int]) -> Program:
        """What the outputs need, numbered anew."""
        needed, stack = set(), [*outputs.values()]
        while stack:
            x = stack.pop()
            if x not in needed:
                needed.add(x)
                stack.extend(self.made[x].inputs if x in self.made else ())
        kept = sorted(needed)
        new = {old: i for i, old in enumerate(kept)}
        return Program(
            [self.values[x] for x in kept],
            {name: new[x] for name, x in self.inputs.items() if x in needed},
            {name: new[x] for name, x in outputs.items()},
            {new[x]: array for x, array in self.constants.items() if x in needed},
            [
                Op(op.name, tuple(new[i] for i in op.inputs), new[op.output], op.attributes)
                for x, op in sorted(self.made.items())
                if x in needed
            ],
        )

    def _thin(self, x: int) -> int:
        """A value that broadcasts to the same: as it was before it was spread out."""
        if x in self.made and self.made[x].name == "broadcast":
            return self.made[x].inputs[0]
        array = self.constants.get(x)
        if array is None or array.size <= 1:
            return x
        for axis in range(array.ndim):
            one = array.take([0], axis)
            array = one if (array == one).all() else array
        return self.constant(array.reshape(()) if array.size == 1 else array)

    def _unchanged(self, name: str, inputs: Sequence[int], shape: tuple[int, ...]) -> int | None:
        """The operand that the result is equal to, where a glance shows it."""
        neutral = {"mul": 1, "div": 1, "add": 0, "sub": 0, "max": -np.inf, "min": np.inf}
        if name not in neutral:
            return None
        for x, other in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
            array = self.constants.get(other)
            if array is None or self.values[x].shape != shape or (x is inputs[1] and name in ("div", "sub")):
                continue
            if (array == neutral[name]).all():
                return x
        return None
