"""The program of a policy as C99: no allocation, no library but ``libm``, buffers of known size.

``policy.h`` has the structs and two functions, ``policy.c`` the weights and the arithmetic, in hexadecimal so that they
are the same bits. Built with ``-DPOLICY_MAIN`` it replays ``golden.h`` and says how far it is off.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.deploy.golden import Golden, tolerances
from steersman.deploy.program import Op, Program
from steersman.errors import UsageError

TYPES = {"float32": "float", "int32": "int32_t", "uint8": "uint8_t", "bool": "uint8_t"}
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">"}
INFIX |= {"ge": ">=", "and": "&&", "or": "||"}
CALLS = {"pow": "powf", "floor": "floorf", "ceil": "ceilf", "round": "rintf", "sqrt": "sqrtf", "exp": "expf"}
CALLS |= {"expm1": "expm1f", "log": "logf", "log1p": "log1pf", "sin": "sinf", "cos": "cosf", "tanh": "tanhf"}
KEYWORDS = re.findall(
    r"\w+",
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while",
)
FORMS = {  # of a, b and c
    "max": "({0} > {1} ? {0} : {1})",
    "min": "({0} < {1} ? {0} : {1})",
    "neg": "-{0}",
    "abs": "({0} < 0 ? -{0} : {0})",
    "sign": "(({0} > 0) - ({0} < 0))",
    "not": "!{0}",
    "sigmoid": "(0.5f + 0.5f * tanhf(0.5f * {0}))",
    "where": "({0} ? {1} : {2})",
    **{name: f"({{0}} {sign} {{1}})" for name, sign in INFIX.items()},
    **{name: f"{call}({{0}})" for name, call in CALLS.items()},
    "pow": "powf({0}, {1})",
}


class Place(NamedTuple):
    """Where the numbers of a value lie: steps through an array, as a view has them."""

    array: str
    start: int
    strides: tuple[int, ...]

    def at(self, indices: Sequence[str]) -> str:
        terms = [str(self.start)] if self.start else []
        terms += [i if step == 1 else f"{i} * {step}" for i, step in zip(indices, self.strides, strict=True) if step]
        terms = [term for term in terms if not term.startswith("0 *") and term != "0"]
        return f"{self.array}[{' + '.join(terms) or '0'}]"


class Source:
    """Writes a program as C, operation by operation."""

    def __init__(self, program: Program):
        self.program = program
        self.declared: list[str] = []
        self.lines: list[str] = []
        self.places: dict[int, Place] = {}
        for number, array in program.constants.items():
            self.declared.append(_array(f"const {TYPES[array.dtype.name]} w{number}", array.reshape(-1)))
            self.places[number] = self._whole(f"w{number}", number)
        for name, number in program.inputs.items():
            owner = "memory" if name == "first" or name.startswith("carry/") else "in"
            self.places[number] = self._whole(f"{owner}->{identifier(name)}", number)
        for op in program.ops:
            self.operation(op)

    def _whole(self, array: str, number: int) -> Place:
        shape = self.program.values[number].shape
        return Place(array, 0, _strides(shape))

    def _new(self, number: int) -> Place:
        value = self.program.values[number]
        self.declared.append(f"static {TYPES[value.dtype]} v{number}[{max(1, math.prod(value.shape))}];")
        self.places[number] = self._whole(f"v{number}", number)
        return self.places[number]

    def loop(self, shape: Sequence[int], body: str, indices: Sequence[str]) -> None:
        heads = [f"for (int {i} = 0; {i} < {n}; ++{i})" for i, n in zip(indices, shape, strict=True) if n != 1]
        self.lines.append(" ".join([*heads, body]))

    def operation(self, op: Op) -> None:
        shape = self.program.values[op.output].shape
        given = [(self.places[i], self.program.values[i].shape) for i in op.inputs]
        source, inner = given[0]
        options = op.attributes
        if op.name == "transpose":
            order = options["permutation"]
            self.places[op.output] = source._replace(strides=tuple(source.strides[i] for i in order))
        elif op.name == "slice":
            start = source.start + sum(a * s for a, s in zip(options["start"], source.strides, strict=True))
            steps = tuple(a * s for a, s in zip(options["step"], source.strides, strict=True))
            self.places[op.output] = Place(source.array, start, steps)
        elif op.name == "broadcast":
            self.places[op.output] = source._replace(strides=_spread(source, inner, shape))
        elif op.name == "reshape" and _dense(source.strides, inner):
            self.places[op.output] = source._replace(strides=_strides(shape))
        elif op.name == "reshape":
            target = self._new(op.output)._replace(strides=_strides(inner))
            self.assign(target, "{0}", [source], inner)
        elif op.name == "concat":
            target, offset = self._new(op.output), 0
            for part, size in given:
                step = target.strides[options["axis"]]
                self.assign(target._replace(start=offset * step), "{0}", [part], size)
                offset += size[options["axis"]]
        elif op.name == "matmul":
            self.matmul(op, shape)
        elif op.name in ("sum", "largest", "smallest"):
            self.reduction(op, source, inner)
        elif op.name == "argmax":
            self.argmax(op, source, inner)
        else:
            form = FORMS.get(op.name, f"({TYPES[self.program.values[op.output].dtype]}) {{0}}")  # cast
            if op.name == "cast" and self.program.values[op.output].dtype == "bool":
                form = "({0} != 0)"
            operands = [place._replace(strides=_spread(place, size, shape)) for place, size in given]
            self.assign(self._new(op.output), form, operands, shape)

    def assign(self, target: Place, form: str, operands: Sequence[Place], shape: Sequence[int]) -> None:
        indices = _indices(shape)
        self.loop(shape, f"{target.at(indices)} = {form.format(*(x.at(indices) for x in operands))};", _names(shape))

    def matmul(self, op: Op, shape: Sequence[int]) -> None:
        (a, b), out = (self.places[i] for i in op.inputs), self._new(op.output)
        i, k, j = *_indices((shape[0],)), "k", "j"
        inner = self.program.values[op.inputs[0]].shape[1]
        heads = "" if shape[0] == 1 else f"for (int i0 = 0; i0 < {shape[0]}; ++i0) "
        cell = out.at([i, j])
        self.lines.append(
            f"{heads}{{ for (int j = 0; j < {shape[1]}; ++j) {cell} = 0;\n"
            f"    for (int k = 0; k < {inner}; ++k) {{ const float x = {a.at([i, k])}; "
            f"for (int j = 0; j < {shape[1]}; ++j) {cell} += x * {b.at([k, j])}; }} }}"
        )

    def reduction(self, op: Op, source: Place, inner: Sequence[int]) -> None:
        axes, out = op.attributes["axes"], self._new(op.output)
        names = [f"i{axis}" for axis in range(len(inner))]
        indices = [name if n != 1 else "0" for name, n in zip(names, inner, strict=True)]
        kept = [i for axis, i in enumerate(indices) if axis not in axes]
        shape = [n for axis, n in enumerate(inner) if axis not in axes]
        cell, x = out.at(kept), source.at(indices)
        start = {"sum": "0", "largest": "-INFINITY", "smallest": "INFINITY"}[op.name]
        step = {"sum": "{0} += {1};", "largest": "if ({1} > {0}) {0} = {1};", "smallest": "if ({1} < {0}) {0} = {1};"}
        heads = lambda which: " ".join(
            f"for (int {names[a]} = 0; {names[a]} < {inner[a]}; ++{names[a]})" for a in which if inner[a] != 1
        )
        outside = [axis for axis in range(len(inner)) if axis not in axes]
        self.lines.append(
            f"{heads(outside)} {{ {cell} = {start}; {heads(axes)} {{ {step[op.name].format(cell, x)} }} }}".strip()
        )
        assert len(shape) == len(kept)

    def argmax(self, op: Op, source: Place, inner: Sequence[int]) -> None:
        axis, out = op.attributes["axis"], self._new(op.output)
        indices = [f"i{a}" if n != 1 else "0" for a, n in enumerate(inner)]
        kept = [i for a, i in enumerate(indices) if a != axis]
        cell = out.at(kept)
        at = lambda i: source.at([i if a == axis else index for a, index in enumerate(indices)])
        heads = " ".join(f"for (int i{a} = 0; i{a} < {n}; ++i{a})" for a, n in enumerate(inner) if n != 1 and a != axis)
        body = f"for (int k = 1; k < {inner[axis]}; ++k) if ({at('k')} > {at(cell)}) {cell} = k;"
        self.lines.append(f"{heads} {{ {cell} = 0; {body} }}".strip())


def sources(program: Program, contract: Mapping[str, Any], golden: Golden) -> dict[str, str]:
    """``policy.h``, ``policy.c`` and ``golden.h``. Raises UsageError where two names become one in C."""
    names = {}
    for name in [*(x["name"] for x in contract["inputs"]), *(x["name"] for x in contract["outputs"])]:
        if (other := names.setdefault(identifier(name), name)) != name:
            raise UsageError(f"{other!r} and {name!r} are both {identifier(name)} in C. Rename one in the environment.")
    return {
        "policy.h": _header(program, contract),
        "policy.c": _body(program, contract),
        "golden.h": _golden(golden, contract),
    }


def _header(program: Program, contract: Mapping[str, Any]) -> str:
    def fields(names: Sequence[str], numbers: Mapping[str, int]) -> str:
        values = [(identifier(name), program.values[numbers[name]]) for name in names if name in numbers]
        lines = [
            f"    {TYPES[v.dtype]} {name}[{max(1, math.prod(v.shape))}]; /* {list(v.shape)} */" for name, v in values
        ]
        return "\n".join(lines) or "    char none;"

    inputs = [x["name"] for x in contract["inputs"]]
    memory = [name for name in program.inputs if name not in inputs]
    place = contract["environment"].replace("*/", "")
    return f"""/* A policy of {place}, written by steersman: see policy.json. Not reentrant. */
#ifndef POLICY_H
#define POLICY_H
#include <stdint.h>

typedef struct {{ /* in the environment's own units */
{fields(inputs, program.inputs)}
}} policy_input;

typedef struct {{
{fields([x["name"] for x in contract["outputs"]], program.outputs)}
}} policy_output;

typedef struct {{
    uint8_t begun;
{fields(memory, program.inputs)}
}} policy_memory;

enum {{ POLICY_OK = 0, POLICY_NOT_FINITE = 1, POLICY_NOT_RESET = 2, POLICY_OUT_OF_RANGE = 3 }};

void policy_reset(policy_memory *memory); /* before each episode */
int policy_step(policy_memory *memory, const policy_input *in, policy_output *out); /* POLICY_OK, or out is untouched */
#endif
"""


def _body(program: Program, contract: Mapping[str, Any]) -> str:
    source = Source(program)
    carry = [name for name in program.inputs if name.startswith("carry/")]
    size = lambda number: max(1, math.prod(program.values[number].shape))
    checks = []
    for part in contract["inputs"]:
        if part["name"] not in program.inputs:
            continue
        number, field = program.inputs[part["name"]], identifier(part["name"])
        every = f"for (int i = 0; i < {size(number)}; ++i)"
        if program.values[number].dtype == "float32":
            checks.append(f"{every} if (!isfinite(in->{field}[i])) return POLICY_NOT_FINITE;")
        elif "count" in part:
            low, count = (np.broadcast_to(part[k], part["shape"]).reshape(-1) for k in ("start", "count"))
            for i, (a, n) in enumerate(zip(low.tolist(), count.tolist(), strict=True)):
                x = f"in->{field}[{i}]"
                checks.append(f"if ({x} < {a} || {x} >= {a + n}) return POLICY_OUT_OF_RANGE;")
    ends, finite = [], []
    for name, number in program.outputs.items():
        place, shape = source.places[number], program.values[number].shape
        held = f"r_{identifier(name)}"
        source.declared.append(f"static {TYPES[program.values[number].dtype]} {held}[{size(number)}];")
        source.assign(Place(held, 0, _strides(shape)), "{0}", [place], shape)
        target = f"memory->{identifier(name)}" if name in carry else f"out->{identifier(name)}"
        every = f"for (int i = 0; i < {size(number)}; ++i)"
        if program.values[number].dtype == "float32":
            finite.append(f"{every} if (!isfinite({held}[i])) return POLICY_NOT_FINITE;")
        ends.append(f"{every} {target}[i] = {held}[i];")
    if "first" in program.inputs:
        ends.append("memory->first[0] = 0;")
    guard = ["if (!memory->begun) return POLICY_NOT_RESET;"] if carry else ["(void)memory;"]
    unused = [] if checks else ["(void)in;"]
    lines = "\n".join(f"    {line}" for line in [*guard, *unused, *checks, *source.lines, *finite, *ends])
    first = "\n    memory->first[0] = 1;" if "first" in program.inputs else ""
    return f"""#include "policy.h"
#include <math.h>
#include <string.h>

{chr(10).join(source.declared)}

void policy_reset(policy_memory *memory) {{
    memset(memory, 0, sizeof *memory);
    memory->begun = 1;{first}
}}

int policy_step(policy_memory *memory, const policy_input *in, policy_output *out) {{
{lines}
    return POLICY_OK;
}}

#ifdef POLICY_MAIN
{_main(program, contract)}
#endif
"""


def _main(program: Program, contract: Mapping[str, Any]) -> str:
    copies, compares = [], []
    for part in contract["inputs"]:
        if part["name"] in program.inputs:
            field = identifier(part["name"])
            size = max(1, math.prod(part["shape"]))
            copies.append(f"memcpy(in.{field}, golden_{field} + n * {size}, sizeof in.{field});")
    for part in contract["outputs"]:
        field, number = identifier(part["name"]), program.outputs[part["name"]]
        size = max(1, math.prod(program.values[number].shape))
        compares.append(
            f"for (int i = 0; i < {size}; ++i) {{\n"
            f"            double off = fabs((double)out.{field}[i] - (double)golden_{field}[n * {size} + i]);\n"
            f"            double share = off == 0 ? 0 : off / tolerance_{field}[i];\n"
            f"            if (!(share <= worst)) worst = share;\n        }}"
        )
    return f"""#include "golden.h"
#include <stdio.h>

int main(void) {{
    static policy_memory memory;
    static policy_input in;
    static policy_output out;
    double worst = 0;
    policy_reset(&memory);
    for (int n = 0; n < GOLDEN; ++n) {{
        if (golden_first[n]) policy_reset(&memory);
        {(chr(10) + "        ").join(copies)}
        int status = policy_step(&memory, &in, &out);
        if (status) {{
            printf("vector %d: status %d\\n", n, status);
            return 1;
        }}
        {(chr(10) + "        ").join(compares)}
    }}
    printf("%.6g tolerances off, of 1 allowed\\n", worst);
    return worst <= 1 ? 0 : 1;
}}"""


def _golden(golden: Golden, contract: Mapping[str, Any]) -> str:
    parts = [f"#define GOLDEN {len(golden.first)}", _array("const uint8_t golden_first", golden.first.astype(np.uint8))]
    for name, x in golden.inputs.items():
        parts.append(_table(f"golden_{identifier(name)}", x))
    allowed = tolerances(golden, contract)
    for name, x in golden.outputs.items():
        parts.append(_table(f"golden_{identifier(name)}", x))
        parts.append(_array(f"const double tolerance_{identifier(name)}", np.atleast_1d(allowed[name]).reshape(-1)))
    return (
        "/* Golden vectors: what the trained policy did. The last tells when a C compiler has it wrong. */\n"
        + "\n".join(parts)
    )


def compiler() -> str | None:
    """The system's C compiler."""
    return shutil.which("cc")


def replay(folder: Path, build: Path, *flags: str) -> float:
    """Compile ``policy.c`` with its golden vectors in ``build`` and run it: how far it is off, in tolerances."""
    program = build / "replay"
    command = ["cc", "-std=c99", "-O2", *flags, "-DPOLICY_MAIN", str(folder / "policy.c"), "-o", str(program), "-lm"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"policy.c does not compile:\n{made.stderr[:2000]}")
    done = subprocess.run([str(program)], capture_output=True, text=True)
    try:
        return float(done.stdout.split()[0])
    except (ValueError, IndexError):
        return math.inf


def identifier(name: str) -> str:
    """A name as C has them: ``action/left arm`` is ``action_left_arm``; one that C keeps for itself ends in a stroke.

    >>> identifier("0"), identifier("short")
    ('_0', 'short_')
    """
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    plain = f"_{plain}" if plain[:1].isdigit() else plain
    return f"{plain}_" if plain in KEYWORDS else plain


def _array(declaration: str, x: np.ndarray) -> str:
    end = "f" if x.dtype == np.float32 else ""
    number = (lambda v: v.hex() + end if math.isfinite(v) else _infinite(v)) if x.dtype.kind == "f" else str
    numbers = list(map(number, x.astype(np.uint8 if x.dtype == np.bool_ else x.dtype).tolist()))
    rows = ",\n".join(", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8))
    return f"static {declaration}[{max(1, len(numbers))}] = {{\n{re.sub('0+p', 'p', rows) or '0'}\n}};"


def _infinite(v: float) -> str:
    return "NAN" if math.isnan(v) else ("INFINITY" if v > 0 else "-INFINITY")


def _table(name: str, x: np.ndarray) -> str:
    """Rows, one after another."""
    kind = {"f": np.float32, "u": np.uint8}.get(x.dtype.kind, np.int32)
    return _array(f"const {TYPES[np.dtype(kind).name]} {name}", x.astype(kind).reshape(-1))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _dense(strides: Sequence[int], shape: Sequence[int]) -> bool:
    return all(n == 1 or s == t for n, s, t in zip(shape, strides, _strides(shape), strict=True))


def _spread(place: Place, given: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a value that broadcasts to ``shape``."""
    steps = [0 if n == 1 else s for n, s in zip(given, place.strides, strict=True)]
    return (0,) * (len(shape) - len(given)) + tuple(steps)


def _names(shape: Sequence[int]) -> list[str]:
    return [f"i{axis}" for axis in range(len(shape))]


def _indices(shape: Sequence[int]) -> list[str]:
    return [name if n != 1 else "0" for name, n in zip(_names(shape), shape, strict=True)]
