"""Runs an exported policy with numpy and Python alone: copy this file to the robot, beside the exported folder.

    from runner import Policy

    policy = Policy("exported")            # policy.json and policy.npz, checked
    policy.reset()                         # before each episode, where the policy remembers
    action = policy(observation)           # the environment's own units, both ways

One observation at a time, in one thread: the buffers are used again at each call. Everything wrong, with the folder or
with an observation, is a ``PolicyError``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FORMAT, VERSION = "steersman-policy", 1
CONTRACT, WEIGHTS = "policy.json", "policy.npz"

UFUNCS: dict[str, Any] = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum},
    **{"pow": np.power, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater},
    **{"ge": np.greater_equal, "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "neg": np.negative},
    **{"abs": np.absolute, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "sqrt": np.sqrt},
    **{"exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos},
    **{"tanh": np.tanh, "matmul": np.dot},
}
REDUCTIONS: dict[str, Any] = {"sum": np.add.reduce, "largest": np.maximum.reduce, "smallest": np.minimum.reduce}


class PolicyError(ValueError):
    """What is wrong with an exported policy, or with what it was given; the message says what to do."""


class Policy:
    """``policy(observation) -> action``: an exported policy's most likely action.

    folder: what ``steersman export`` wrote. Raises PolicyError where it is not whole: another version of the contract,
    weights that are not the ones that were exported.
    """

    def __init__(self, folder: str | Path):
        contract = read_contract(folder)
        try:
            self._prepare(contract, read_weights(folder, contract))
        except PolicyError:
            raise
        except Exception as error:  # whatever is missing in a file that somebody changed
            raise PolicyError(
                f"{Path(folder) / CONTRACT} does not fit together ({type(error).__name__}: {error}). Copy the whole "
                "exported folder again, or export again: steersman export RUN --to DIR"
            ) from None

    @classmethod
    def of(cls, contract: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> Policy:
        """From a contract and its weights that are in memory already."""
        policy = cls.__new__(cls)
        policy._prepare(contract, weights)
        return policy

    def __repr__(self) -> str:
        sees, does = ([_shown(x) for x in self.contract[part]] for part in ("inputs", "outputs"))
        return f"Policy({self.contract['environment']}: {', '.join(sees)} -> {', '.join(does)})"

    def reset(self) -> None:
        """Forget the episode so far. A policy that remembers demands it before its first step."""
        self._begun = True
        for buffer in self._carry.values():
            buffer.fill(0)
        if self._first is not None:
            self._first.fill(True)

    @property
    def carry(self) -> dict[str, np.ndarray]:
        """The memory after the last call, by the contract's names; empty for a policy without one."""
        return {name: buffer.copy() for name, buffer in self._carry.items()}

    def value(self, number: int) -> np.ndarray:
        """What a value of the program was in the last call."""
        return self._at[number].copy()

    def __call__(self, observation: Any) -> Any:
        """The action for one observation. Raises PolicyError for one that is not as the contract says: another
        structure, shape or kind of numbers, counts out of range, NaN or infinity."""
        if not self._begun:
            raise PolicyError("The policy remembers: call reset() before the first step of an episode.")
        for take in self._takes:
            take(observation)
        if self._is_dict and (self._is_deep or len(observation) != len(self._takes)):
            self._check_keys(observation)
        for step in self._steps:
            step()
        for x, finite in self._finite:
            np.isfinite(x, finite)
            if np.count_nonzero(finite) != finite.size:
                raise PolicyError("The action, or the memory, is not finite: the observation is far beyond training's.")
        for step in self._ends:
            step()
        if self._only is not None:
            buffer, dtype = self._only
            return buffer.astype(dtype) if buffer.ndim else dtype.type(buffer)
        return assembled(self.contract["outputs"], [b.astype(d) for b, d in self._outputs])

    # --- once ---

    def _prepare(self, contract: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        self.contract, program = contract, contract["program"]
        at: dict[int, np.ndarray] = {int(name): np.ascontiguousarray(x) for name, x in weights.items()}
        for number in program["inputs"].values():
            dtype, shape = program["values"][number]
            at[number] = np.zeros(shape, dtype)
        self._steps: list[Callable[[], Any]] = []
        for name, inputs, output, attributes in program["ops"]:
            dtype, shape = program["values"][output]
            at[output] = operation(self._steps, name, [at[i] for i in inputs], np.dtype(dtype), shape, attributes)
        self._at = at
        for side in ("inputs", "outputs"):
            for part in contract[side]:
                shape = at[program[side][part["name"]]].shape
                if tuple(part["shape"]) != shape:
                    raise ValueError(f"{part['name']} is {tuple(part['shape'])}, in its program {shape}")
        self._carry = {name: at[i] for name, i in program["inputs"].items() if name.startswith("carry/")}
        self._first = at[program["inputs"]["first"]] if "first" in program["inputs"] else None
        self._begun = not self._carry
        after = [(self._carry[name], at[program["outputs"][name]]) for name in self._carry]
        self._outputs = [(at[program["outputs"][x["name"]]], np.dtype(x["dtype"])) for x in contract["outputs"]]
        held = [x.copy() for _, x in after]  # one memory may be what another was: all are read, then all are written
        self._steps += [partial(np.copyto, a, b) for a, (_, b) in zip(held, after, strict=True)]
        self._ends = [partial(np.copyto, a, b) for (a, _), b in zip(after, held, strict=True)]
        if self._first is not None:
            self._ends.append(partial(self._first.fill, False))
        floats = [x for x in [*(x for x, _ in self._outputs), *held] if x.dtype == np.float32]
        self._finite = [(x, np.zeros(x.shape, bool)) for x in floats]
        self._only = self._outputs[0] if [x["path"] for x in contract["outputs"]] == [[]] else None
        depths = [len(x["path"]) for x in contract["inputs"]]
        self._is_dict, self._is_deep = max(depths) > 0, max(depths) > 1
        self._takes = [self._taker(x, at[program["inputs"][x["name"]]]) for x in contract["inputs"]]

    def _taker(self, part: Mapping[str, Any], buffer: np.ndarray) -> Callable[[Any], None]:
        """A function that checks one entry of an observation and puts it where the program reads it."""
        path, shape, kind = part["path"], tuple(part["shape"]), buffer.dtype.kind
        finite, size = np.zeros(shape, bool), buffer.size
        bounds = None if "count" not in part else (np.asarray(part["start"]), np.asarray(part["count"]))
        kinds = {"f": "fiub", "i": "iu", "u": "u"}[kind]
        name = "".join(f"[{key!r}]" for key in path)

        def take(observation: Any) -> None:
            for key in path:
                try:
                    observation = observation[key]
                except (KeyError, IndexError, TypeError):
                    raise PolicyError(f"The observation lacks {name}; the contract has {self._names()}.") from None
            x = observation if type(observation) is np.ndarray else _array(observation, name)
            if x.shape != shape:
                raise PolicyError(
                    f"The observation{name} has shape {x.shape}; the contract says {shape}, one at a time."
                )
            if x.dtype.kind not in kinds or (kind == "u" and x.dtype != buffer.dtype):
                raise PolicyError(f"The observation{name} is of {x.dtype}; the contract says {buffer.dtype}.")
            if kind == "f":
                buffer[...] = x
                np.isfinite(buffer, finite)
                if np.count_nonzero(finite) != size:
                    raise PolicyError(
                        f"The observation{name} holds NaN or infinity, in float32; a policy cannot act on it."
                    )
                return
            if bounds is not None and not ((x >= bounds[0]) & (x < bounds[0] + bounds[1])).all():
                low, count = (b.tolist() for b in bounds)
                raise PolicyError(f"The observation{name} is {x.tolist()}; the contract counts {count} from {low}.")
            buffer[...] = x

        return take

    def _names(self) -> str:
        return ", ".join(str(x["name"]) for x in self.contract["inputs"])

    def _check_keys(self, observation: Any) -> None:
        """No entry that the contract does not know; those that it calls unseen are looked past."""
        unseen = self.contract.get("unseen", ())
        known = {tuple(x["path"][:depth]) for x in self.contract["inputs"] for depth in range(len(x["path"]) + 1)}
        stack: list[tuple[tuple[Any, ...], Any]] = [((), observation)]
        while stack:
            path, part = stack.pop()
            if path[:1] and path[0] in unseen:
                continue
            if path not in known:
                shown = "".join(f"[{key!r}]" for key in path)
                raise PolicyError(f"The observation has {shown}, which the policy does not see; leave it out.")
            if any(
                len(path) < len(x["path"]) and tuple(x["path"][: len(path)]) == path for x in self.contract["inputs"]
            ):
                keys = part.keys() if isinstance(part, Mapping) else range(len(part))
                stack.extend(((*path, key), part[key]) for key in keys)


def read_contract(folder: str | Path) -> dict[str, Any]:
    """``policy.json``, of the format and version that are known here."""
    path = Path(folder) / CONTRACT
    try:
        contract = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} cannot be read ({error}). Export again: steersman export RUN --to DIR") from None
    found = (contract.get("format"), contract.get("version")) if isinstance(contract, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise PolicyError(
            f"{path} is of {found[0]}, version {found[1]}; this runner reads {FORMAT}, version {VERSION}. Copy the "
            "runner.py of the steersman that exported it, or export again with this one."
        )
    return contract


def read_weights(folder: str | Path, contract: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``policy.npz``, whose digest is the contract's."""
    path = Path(folder) / WEIGHTS
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PolicyError(f"{path} cannot be read ({error}). Copy the whole exported folder.") from None
    if found != contract["weights"]["sha256"]:
        raise PolicyError(
            f"{path} is not what was exported: its SHA-256 is {found[:12]}..., the contract's "
            f"{str(contract['weights']['sha256'])[:12]}... Copy the folder again, as a whole."
        )
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def operation(
    steps: list[Callable[[], Any]], name: str, x: list[np.ndarray], dtype: np.dtype, shape: list[int], options: Any
) -> np.ndarray:
    """The array that an operation's result is in; what has to be done at each call is added to ``steps``. What only
    looks at numbers in another way is a view, made once."""
    if name == "transpose":
        return x[0].transpose(options["permutation"])
    if name == "slice":
        parts = zip(options["start"], options["stop"], options["step"], strict=True)
        return x[0][tuple(slice(*part) for part in parts)]
    if name == "broadcast":
        return np.broadcast_to(x[0], shape)
    if name == "reshape" and x[0].flags.c_contiguous:
        return x[0].reshape(shape)
    out = np.zeros(shape, dtype)
    if name == "reshape":
        steps.append(partial(np.copyto, out.reshape(x[0].shape), x[0]))
    elif name in UFUNCS:
        steps.append(partial(UFUNCS[name], *x, out=out))
    elif name == "cast":
        steps.append(partial(np.copyto, out, x[0], casting="unsafe"))
    elif name == "where":
        steps += [partial(np.copyto, out, x[2]), partial(np.copyto, out, x[1], where=x[0])]
    elif name == "sigmoid":  # 1/2 + tanh(x / 2) / 2: nothing overflows
        half = np.float32(0.5)
        steps += [partial(np.multiply, x[0], half, out), partial(np.tanh, out, out)]
        steps += [partial(np.multiply, out, half, out), partial(np.add, out, half, out)]
    elif name in REDUCTIONS:
        steps.append(partial(REDUCTIONS[name], x[0], axis=tuple(options["axes"]), out=out))
    elif name == "argmax":
        found = np.zeros(shape, np.intp)
        steps += [partial(np.argmax, x[0], options["axis"], found), partial(np.copyto, out, found, casting="unsafe")]
    elif name == "concat":
        steps.append(partial(np.concatenate, x, options["axis"], out))
    else:
        raise PolicyError(
            f"The program has an operation {name!r} that this runner does not know. Copy a newer runner.py."
        )
    return out


def _array(x: Any, name: str) -> np.ndarray:
    if isinstance(x, Mapping):
        raise PolicyError(f"The observation{name} is a dict; the contract says an array.")
    try:
        return np.asarray(x)
    except ValueError:
        raise PolicyError(f"The observation{name} has uneven parts; the contract says an array.") from None


def assembled(parts: list[Any], values: list[Any]) -> Any:
    """Dicts and tuples again, out of the leaves and their paths."""
    if parts[0]["path"] == []:
        return values[0]
    root: dict[Any, Any] = {}
    for part, value in zip(parts, values, strict=True):
        node = root
        for key in part["path"][:-1]:
            node = node.setdefault(key, {})
        node[part["path"][-1]] = value
    whole = lambda node: node if not isinstance(node, dict) else _grown({k: whole(v) for k, v in node.items()})
    return whole(root)


def _grown(node: dict[Any, Any]) -> Any:
    return tuple(node[i] for i in range(len(node))) if all(isinstance(key, int) for key in node) else node


def _shown(part: Mapping[str, Any]) -> str:
    return f"{part['name']} {part['dtype']}{list(part['shape'])}"
