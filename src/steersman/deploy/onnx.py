"""The program of a policy as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from steersman.deploy.golden import Golden
from steersman.deploy.program import Op, Program, Value
from steersman.errors import UsageError, to_install

OPSET, IR = 17, 8  # read by every onnxruntime since 1.13
AFTER = "/after"  # ends the name of a memory's output: its input has the plain one

NODES = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow", "eq": "Equal"},
    **{"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "and": "And", "or": "Or"},
    **{"neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sqrt": "Sqrt"},
    **{"exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sigmoid": "Sigmoid", "not": "Not"},
    **{"where": "Where", "matmul": "MatMul"},
}


def model(program: Program, contract: Mapping[str, Any]) -> Any:
    """An ``onnx.ModelProto``: inputs and outputs by the contract's names, which is in its metadata.

    Raises UsageError where onnx is not installed.
    """
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError:
        raise UsageError(f"policy.onnx needs onnx: {to_install('onnx')}.") from None
    kind = lambda dtype: helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    info = lambda name, i: helper.make_tensor_value_info(name, kind(program.values[i].dtype), program.values[i].shape)
    names = {i: f"v{i}" for i in range(len(program.values))} | {i: name for name, i in program.inputs.items()}
    constants = {names[i]: x for i, x in program.constants.items()}

    def constant(values: Any, dtype: Any = np.int64) -> str:
        name = f"k{len(constants)}"
        constants[name] = np.asarray([*values] if isinstance(values, range) else values, dtype)
        return name

    nodes = []
    for op in program.ops:
        out, x = names[op.output], [names[i] for i in op.inputs]
        for i, (made, attributes, *more) in enumerate(steps := _nodes(op, program.values[op.output], constant, kind)):
            last = i == len(steps) - 1
            nodes.append(helper.make_node(made, [*x, *more], [out if last else f"{out}.inner"], **attributes))
            x = [f"{out}.inner"]
    for name, i in program.outputs.items():
        nodes.append(helper.make_node("Identity", [names[i]], [_after(name)]))
    graph = helper.make_graph(
        nodes,
        "policy",
        [info(name, i) for name, i in program.inputs.items()],
        [info(_after(name), i) for name, i in program.outputs.items()],
        [numpy_helper.from_array(x.copy(order="C"), name) for name, x in constants.items()],
    )
    made = helper.make_model(
        graph, producer_name="steersman", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR
    )
    helper.set_model_props(made, {"steersman": json.dumps({k: v for k, v in contract.items() if k != "program"})})
    checker.check_model(made, full_check=True)
    return made


def _after(name: str) -> str:
    return name + AFTER if name.startswith("carry/") else name


def play(made: Any) -> Callable[[Golden], dict[str, np.ndarray]] | None:
    """The golden inputs -> what onnxruntime makes of them, one thread; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    takes = {x.name: x for x in session.get_inputs()}
    gives = [x.name for x in session.get_outputs()]

    def run(golden: Golden) -> dict[str, np.ndarray]:
        rows: dict[str, list[np.ndarray]] = {name: [] for name in golden.outputs}
        empty = {name: np.zeros(x.shape, np.float32) for name, x in takes.items() if name.startswith("carry/")}
        carry = empty
        for i, first in enumerate(golden.first):
            carry = empty if first else carry
            feed = {name: np.asarray(x[i]) for name, x in golden.inputs.items() if name in takes}
            feed |= {"first": np.asarray(first)} if "first" in takes else {}
            out = dict(zip(gives, session.run(gives, feed | carry), strict=True))
            carry = {name: out[name + AFTER] for name in carry}
            for name, values in rows.items():
                values.append(np.asarray(out[name]))
        return {name: np.stack(values) for name, values in rows.items()}

    return run


def _nodes(op: Op, value: Value, constant: Callable[..., str], kind: Callable[[Any], int]) -> list[tuple[Any, ...]]:
    """The nodes of one operation, each fed by the one before, as (ONNX's name, attributes, further inputs ...)."""
    options = op.attributes
    match op.name:
        case "reshape":
            return [("Reshape", {}, constant(value.shape))]
        case "broadcast":
            return [("Expand", {}, constant(value.shape))]
        case "transpose":
            return [("Transpose", {"perm": options["permutation"]})]
        case "slice":
            parts = options["start"], options["stop"], range(len(value.shape)), options["step"]
            return [("Slice", {}, *map(constant, parts))]
        case "concat":
            return [("Concat", {"axis": options["axis"]})]
        case "cast":
            return [("Cast", {"to": kind(value.dtype)})]
        case "sum":
            return [("ReduceSum", {"keepdims": 0}, constant(options["axes"]))]
        case "largest":
            return [("ReduceMax", {"axes": options["axes"], "keepdims": 0})]
        case "smallest":
            return [("ReduceMin", {"axes": options["axes"], "keepdims": 0})]
        case "argmax":
            return [("ArgMax", {"axis": options["axis"], "keepdims": 0}), ("Cast", {"to": kind(value.dtype)})]
        case "expm1":
            return [("Exp", {}), ("Sub", {}, constant(1, value.dtype))]
        case "log1p":
            return [("Add", {}, constant(1, value.dtype)), ("Log", {})]
        case "ne":
            return [("Equal", {}), ("Not", {})]
    return [(NODES[op.name], {})]
