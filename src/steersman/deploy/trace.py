"""Any policy as a straight-line program: JAX traces what it does for one observation, and each primitive is translated.

Everything is inside: the door that observations come in by, the normaliser, the network, its memory, the mode of its
distribution, and the door to the environment's own units. What depends on no input is worked out here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from steersman import spaces
from steersman.deploy.program import BINARY, UNARY, UNKNOWN, Builder, Program
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.timesteps import flatten, unflatten
from steersman.errors import UsageError
from steersman.run.policy import Policy

FIRST = "first"  # the input that says whether an episode begins, of a policy that remembers
CARRY = "carry"
DRAWN = "random numbers"


def traced(policy: Policy) -> Program:
    """The program of a policy's greedy action.

    Inputs: an observation's arrays by ``input_names``, in the environment's own units; with a memory ``carry/0`` ...
    and ``first``. Outputs: ``action``, or ``action/NAME`` of a Dict; ``carry/0`` ... as it is afterwards.

    Raises UsageError where the policy needs an operation that no back end has.
    """
    spec, agent = policy.spec, policy.agent
    native = spec.native_observation_space or spec.observation_space
    leaves = leaves_of(native, spec.observation_space)
    carry, shape = jax.tree.flatten(jax.eval_shape(lambda: agent.begin(1)))

    def act(obs: list[Any], carry: list[Any], first: Any) -> tuple[list[Any], list[Any]]:
        inside = spaces.to_inside(native, unflatten(native)([x[None] for x in obs]))
        key = jax.random.key(0)
        memory = jax.tree.unflatten(shape, [x[None] for x in carry])
        action, memory, _ = agent.act(policy.state, memory, inside, first[None], key, explore=False)
        out = spaces.to_native(spec.native_action_space, jax.tree.map(jnp.asarray, action))
        return [x[0] for x in flatten(spec.native_action_space, out)], [x[0] for x in jax.tree.leaves(memory)]

    seen = [jax.ShapeDtypeStruct(leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves]
    kept = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in carry]
    jaxpr, out = jax.make_jaxpr(act, return_shape=True)(seen, kept, jax.ShapeDtypeStruct((), np.bool_))

    build = Builder()
    inputs = [build.input(name, *_as(x)) for name, x in zip(input_names(policy), seen, strict=True)]
    before = [build.input(f"{CARRY}/{i}", *_as(x)) for i, x in enumerate(kept)]
    first = build.input(FIRST, np.bool_, ())
    results = Translation(build).of(jaxpr, [*inputs, *before, first])
    actions, after = results[: len(out[0])], results[len(out[0]) :]
    outputs = dict(zip(output_names(policy), actions, strict=True))
    memory = {f"{CARRY}/{i}": x for i, x in enumerate(after)}
    program = build.program(outputs)
    # Of the memory what actions come to hang on: not a noise that is not drawn here, nor what a value remembers.
    while more := {name: memory[name] for name in program.inputs if name in memory and name not in outputs}:
        outputs |= more
        program = build.program(outputs)
    _check(program, policy)
    return program


def input_names(policy: Policy) -> list[str]:
    """Of an observation's arrays: the keys from the root joined by a stroke; ``observation`` where there is one."""
    native = policy.spec.native_observation_space or policy.spec.observation_space
    leaves = leaves_of(native, policy.spec.observation_space)
    return ["/".join(map(str, leaf.path)) or "observation" for leaf in leaves]


def output_names(policy: Policy) -> list[str]:
    """Of an action's arrays."""
    action = policy.spec.native_action_space
    return ["/".join(["action", *map(str, leaf.path)]) for leaf in leaves_of(action, action)]


def _as(x: Any) -> tuple[Any, tuple[int, ...]]:
    return x.dtype, x.shape


def _check(program: Program, policy: Policy) -> None:
    missing = sorted({op.name for op in program.ops if op.name.startswith(UNKNOWN)})
    if missing:
        names = ", ".join(name.removeprefix(UNKNOWN) for name in missing)
        if DRAWN in names:
            raise UsageError(
                f"The policy of {policy.spec.id} draws random numbers for each action, as one that plans in a model "
                "(pets) does, and no back end of an exported program has them. Run JAX on the robot, with policy = "
                "steersman.load(RUN), or train an agent whose policy is a network (sac, ppo, mbpo)."
            )
        raise UsageError(
            f"The policy of {policy.spec.id} needs {names} (JAX's names), which no back end of an exported program "
            "has. Write the network with sums, products, matrix products, slices and the usual activations; or run "
            "JAX on the robot, with policy = steersman.load(RUN), or jax.export of jax.jit(policy.agent.act)."
        )


INLINE = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
INLINE |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "remat": "jaxpr", "checkpoint": "jaxpr"}
INLINE |= {"custom_vjp_call_jaxpr": "fun_jaxpr", "remat2": "jaxpr"}


class Translation:
    """Of JAX's operations to a program's. A variable is the number of a value, or an array that no input changes."""

    def __init__(self, build: Builder):
        self.build = build

    def of(self, closed: Any, inputs: Sequence[Any]) -> list[int]:
        """The values of the outputs, by their numbers."""
        return [self.number(x) for x in self.run(closed, inputs)]

    def run(self, closed: Any, inputs: Sequence[Any]) -> list[Any]:
        jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
        known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
        read = lambda v: np.asarray(v.val, getattr(v.aval, "dtype", None)) if isinstance(v, Literal) else known[v]
        for eqn in jaxpr.eqns:
            known |= zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars]), strict=True)
        return [read(v) for v in jaxpr.outvars]

    def number(self, x: Any) -> int:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # a search in a model draws
            return self.build.op(f"{UNKNOWN}{DRAWN}", [], np.float32, ())
        return x if isinstance(x, int) else self.build.constant(x)

    def equation(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name == "platform_index":
            return [np.int32(next(i for i, names in enumerate(params["platforms"]) if names is None or "cpu" in names))]
        if name in INLINE and INLINE[name] in params:
            return self.run(params[INLINE[name]], inputs)
        build, avals = self.build, [v.aval for v in eqn.outvars]
        fixed = [build.constants.get(x) if isinstance(x, int) else x for x in inputs]
        if name == "cond" and fixed[0] is not None:
            return self.run(params["branches"][int(fixed[0])], inputs[1:])
        if name not in SAME_NAME and name not in RULES and all(x is not None for x in fixed):
            out = eqn.primitive.bind(*map(jnp.asarray, fixed), **params)  # keys and their like, which stay JAX's
            return list(out) if eqn.primitive.multiple_results else [out]
        numbers = [self.number(x) for x in inputs]
        if name in ("div", "pow") and avals[0].dtype != np.float32:
            name = f"{name} of whole numbers"
        if name in SAME_NAME:
            return [build.elementwise(SAME_NAME[name], numbers, *_as(avals[0]))]
        if name in RULES:
            out = RULES[name](build, numbers, avals[0], params)
            return out if isinstance(out, list) else [out]
        return [build.op(f"{UNKNOWN}{name}", numbers, np.float32, getattr(aval, "shape", ())) for aval in avals]


SAME_NAME = {name: name for name in (*UNARY, *BINARY) if name not in ("round", "and", "or", "not")}
SAME_NAME |= {"logistic": "sigmoid"}

Rule = Callable[[Builder, list[int], Any, dict[str, Any]], int | list[int]]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return keep


@_rule("stop_gradient", "copy", "copy_p", "optimization_barrier", "reduce_precision")
def _same(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> list[int]:
    return x


@_rule("convert_element_type")
def _cast(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.cast(x[0], aval.dtype)


@_rule("square")
def _square(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.elementwise("mul", [x[0], x[0]], *_as(aval))


@_rule("integer_pow")
def _integer_pow(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    out = x[0]
    for _ in range(abs(params["y"]) - 1):
        out = build.elementwise("mul", [out, x[0]], *_as(aval))
    return out if params["y"] > 0 else _inverse(build, out, aval)


@_rule("rsqrt")
def _rsqrt(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return _inverse(build, build.elementwise("sqrt", x, *_as(aval)), aval)


def _inverse(build: Builder, x: int, aval: Any) -> int:
    return build.elementwise("div", [build.constant(np.ones((), aval.dtype)), x], *_as(aval))


@_rule("round")
def _round(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    to_even = int(params["rounding_method"]) == int(jax.lax.RoundingMethod.TO_NEAREST_EVEN)
    return build.op("round" if to_even else f"{UNKNOWN}round away from zero", x, *_as(aval))


def _logic(name: str) -> Rule:
    def rule(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
        return build.elementwise(name if aval.dtype == np.bool_ else f"{UNKNOWN}{name} of bits", x, *_as(aval))

    return rule


RULES |= {name: _logic(name) for name in ("and", "or", "not")}


@_rule("select_n")
def _select(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    if len(x) != 3 or build.values[x[0]].dtype != "bool":
        return build.op(f"{UNKNOWN}select_n of many", x, *_as(aval))
    which, off, on = x
    return build.elementwise("where", [which, on, off], *_as(aval))


@_rule("clamp")
def _clamp(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.elementwise("min", [build.elementwise("max", [x[1], x[0]], *_as(aval)), x[2]], *_as(aval))


@_rule("reshape", "squeeze", "expand_dims")
def _reshape(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.reshape(x[0], aval.shape)


@_rule("broadcast_in_dim")
def _broadcast(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    given, axes = build.values[x[0]].shape, params["broadcast_dimensions"]
    shape = [given[axes.index(i)] if i in axes else 1 for i in range(len(aval.shape))]
    return build.broadcast(build.reshape(x[0], shape), aval.shape)


@_rule("transpose")
def _transpose(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.transpose(x[0], params["permutation"])


@_rule("slice")
def _slice(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    step = params["strides"] or (1,) * len(aval.shape)
    return _cut(build, x[0], params["start_indices"], params["limit_indices"], step)


def _cut(build: Builder, x: int, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> int:
    value = build.values[x]
    shape = [max(0, -(-(b - a) // s)) for a, b, s in zip(start, stop, step, strict=True)]
    if tuple(shape) == value.shape:
        return x
    return build.op("slice", [x], value.dtype, shape, start=list(start), stop=list(stop), step=list(step))


@_rule("split")
def _split(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> list[int]:
    axis, shape, at, parts = params["axis"], build.values[x[0]].shape, 0, []
    for size in params["sizes"]:
        start, stop = [0] * len(shape), list(shape)
        start[axis], stop[axis] = at, at + size
        parts.append(_cut(build, x[0], start, stop, [1] * len(shape)))
        at += size
    return parts


@_rule("concatenate")
def _concatenate(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.concat(x, params["dimension"])


@_rule("stack")
def _stack(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    axis = params["axis"]
    shape = [1 if i == axis else n for i, n in enumerate(aval.shape)]
    return build.concat([build.reshape(part, shape) for part in x], axis)


@_rule("pad")
def _pad(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    array, fill = x
    for axis, (low, high, inner) in enumerate(params["padding_config"]):
        if inner or min(low, high) < 0:
            return build.op(f"{UNKNOWN}pad between or below", x, *_as(aval))
        shape = list(build.values[array].shape)
        edges = []
        for size in (low, high):
            shape[axis] = size
            edges.append(build.broadcast(build.reshape(fill, (1,) * len(shape)), shape))
        array = build.concat([edges[0], array, edges[1]], axis)
    return array


def _reduction(name: str) -> Rule:
    def rule(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
        return build.op(name, x[:1], *_as(aval), axes=[int(i) for i in params["axes"]])

    return rule


RULES |= {"reduce_sum": _reduction("sum"), "reduce_max": _reduction("largest"), "reduce_min": _reduction("smallest")}


@_rule("argmax")
def _argmax(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    return build.cast(build.op("argmax", x, np.int32, aval.shape, axis=int(params["axes"][0])), aval.dtype)


@_rule("dot_general")
def _dot(build: Builder, x: list[int], aval: Any, params: dict[str, Any]) -> int:
    (left, right), batch = params["dimension_numbers"]
    shapes = [build.values[i].shape for i in x]
    if any(shapes[side][axis] != 1 for side in (0, 1) for axis in batch[side]):
        return build.op(f"{UNKNOWN}dot_general of batches on both sides", x, *_as(aval))
    a, b = shapes
    free = [
        [i for i in range(len(s)) if i not in (*c, *d)] for s, c, d in zip(shapes, (left, right), batch, strict=True)
    ]
    rows, inner = math.prod(a[i] for i in free[0]), math.prod(a[i] for i in left)
    columns = math.prod(b[i] for i in free[1])
    first = build.reshape(build.transpose(x[0], [*batch[0], *free[0], *left]), (rows, inner))
    second = build.reshape(build.transpose(x[1], [*batch[1], *right, *free[1]]), (inner, columns))
    return build.reshape(build.op("matmul", [first, second], aval.dtype, (rows, columns)), aval.shape)
