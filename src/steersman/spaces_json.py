"""Spaces on disk: plain JSON, read back without running anything. Use them through ``steersman.spaces``."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError

_MAX_ELEMENTS = 2**26  # of one space: a crafted file shall not fill the memory
_MAX_DEPTH = 16
_KNOWN = "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple"
_INTEGERS = tuple(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))
_DTYPES = ("float16", "float32", "float64", "bool", *_INTEGERS)


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as plain JSON values: no NaN, no Infinity (bounds are then the words "inf" and "-inf").

    Raises UsageError for a space other than Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple.
    """
    match space:
        case spaces.Box():
            bounds = {"low": _numbers_to_json(space.low), "high": _numbers_to_json(space.high)}
            return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            counts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **counts, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict():
            return {"type": "Dict", "spaces": {name: space_to_json(s) for name, s in space.spaces.items()}}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(s) for s in space.spaces]}
    raise UsageError(f"Cannot save the space {space}: known are {_KNOWN}.")


def space_from_json(data: object, *, depth: int = 0) -> spaces.Space:
    """The space that ``space_to_json`` wrote.

    Raises UsageError when ``data`` is anything else, or describes a space too large or too deep to be meant.

    >>> space_from_json(space_to_json(spaces.Discrete(3)))
    Discrete(3)
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"A space in JSON is an object with a type; got {_short(data)}.")
    if depth > _MAX_DEPTH:
        raise UsageError(f"A space in JSON is nested deeper than {_MAX_DEPTH}: the file is damaged.")
    try:
        match data["type"]:
            case "Box":
                shape, dtype = _shape(data["shape"]), _dtype(data["dtype"])
                low = _numbers_from_json(data["low"], shape, dtype)
                high = _numbers_from_json(data["high"], shape, dtype)
                if not np.all(low <= high):
                    raise ValueError("low above high")
                return spaces.Box(low, high, dtype=dtype.type)
            case "Discrete":
                dtype = _dtype(data["dtype"])
                n, start = _int(data["n"]), _int(data["start"])
                if dtype == np.int64:  # the only dtype that Gymnasium 1.2 has
                    return spaces.Discrete(n, start=start)
                return spaces.Discrete(n, start=start, dtype=dtype.type)
            case "MultiDiscrete":
                dtype = _dtype(data["dtype"])
                nvec, start = (np.array(data[name], dtype=dtype) for name in ("nvec", "start"))
                return spaces.MultiDiscrete(nvec, dtype=dtype.type, start=start)
            case "MultiBinary":
                shape = _shape(data["shape"])
                return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
            case "Dict":
                return spaces.Dict({str(k): space_from_json(v, depth=depth + 1) for k, v in data["spaces"].items()})
            case "Tuple":
                return spaces.Tuple([space_from_json(v, depth=depth + 1) for v in data["spaces"]])
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        raise UsageError(
            f"Not a space: {_short(data)} ({type(error).__name__}: {error}). The file is damaged."
        ) from None
    raise UsageError(f"Unknown space type {_short(data['type'])}; known are {_KNOWN}.")


def _numbers_to_json(x: np.ndarray) -> Any:
    if x.size and np.all(x == x.flat[0]):
        return _number_to_json(x.flat[0].item())  # one number stands for all: images stay short
    return [_number_to_json(v) for v in x.ravel().tolist()]


def _number_to_json(x: float) -> float | str:
    return x if np.isfinite(x) else "inf" if x > 0 else "-inf"


def _numbers_from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    def number(x: Any) -> Any:
        if x in ("inf", "-inf"):
            return float(x)
        if (isinstance(x, bool) and dtype != np.bool_) or not isinstance(x, int | float):
            raise TypeError(f"{_short(x)} is not a number")
        return x

    if isinstance(data, list):
        return np.array([number(x) for x in data], dtype=dtype).reshape(shape)
    return np.full(shape, number(data), dtype=dtype)


def _shape(data: Any) -> tuple[int, ...]:
    shape = tuple(_int(n) for n in data)
    if any(n < 0 for n in shape) or len(shape) > 32 or int(np.prod(np.array(shape, object))) > _MAX_ELEMENTS:
        raise ValueError(f"shape {shape}")
    return shape


def _int(data: Any) -> int:
    if isinstance(data, bool) or not isinstance(data, int):
        raise TypeError(f"{_short(data)} is not a whole number")
    return data


def _dtype(data: Any) -> np.dtype:
    if data not in _DTYPES:
        raise ValueError(f"dtype {_short(data)}")
    return np.dtype(data)


def _short(data: object) -> str:
    return reprlib.repr(data)  # bounded in length and depth
