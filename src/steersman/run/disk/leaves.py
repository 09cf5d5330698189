"""The leaves of a state: their names, their kinds, and the way into a file and out of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from steersman.types import PyTree

IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")  # of PRNG keys


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, as in ``agent/params/kernel``, in tree order; ValueError where two share a name."""
    pairs = [
        (keystr(path, simple=True, separator="/") or "value", leaf) for path, leaf in tree_flatten_with_path(tree)[0]
    ]
    named = dict(pairs)
    if len(named) != len(pairs) or "__metadata__" in named:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1 or name == "__metadata__"})
        raise ValueError(f"leaves of the state share a name, or have a reserved one: {', '.join(twice[:8])}")
    return named


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, or the shape of one."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def impl_of(name: str, key: jax.Array) -> str:
    """The implementation of a key; TypeError for one that a file cannot hold."""
    impl = jax.random.key_impl(key)
    if impl not in IMPLS:
        raise TypeError(f"{name} is a PRNG key of kind {impl}; a checkpoint holds {', '.join(IMPLS)}")
    return str(impl)


def to_numpy(name: str, leaf: Any) -> np.ndarray:
    """What a file holds of a leaf; TypeError for what is not an array, a key or a number."""
    if is_key(leaf):
        return np.asarray(jax.random.key_data(leaf))
    match leaf:
        case jax.Array() | np.ndarray() | np.generic():
            return np.asarray(leaf)
        case bool() | int() | float():
            return np.asarray(leaf, _number(leaf))
    raise TypeError(f"{name} is a {type(leaf).__name__}; a state holds arrays, PRNG keys and numbers")


def _number(leaf: bool | int | float) -> type:
    return np.bool_ if isinstance(leaf, bool) else np.int64 if isinstance(leaf, int) else np.float64


def kind(leaf: Any) -> str:
    """The dtype and shape of a leaf, as in ``float32[3,4]``."""
    return _describe(*shape_of(leaf))


def shape_of(leaf: Any) -> tuple[Any, tuple[int, ...]]:
    """-> (dtype, shape) of a leaf; TypeError for what a state cannot hold."""
    match leaf:
        case jax.Array() | jax.ShapeDtypeStruct() | np.ndarray() | np.generic():
            return leaf.dtype, leaf.shape
        case bool() | int() | float():
            return np.dtype(_number(leaf)), ()
    raise TypeError(f"a {type(leaf).__name__} cannot be loaded; a state holds arrays, PRNG keys and numbers")


def kind_in_file(array: np.ndarray, impl: str | None) -> str:
    """``kind`` of an array out of a file, that holds the data of keys where ``impl`` says of which."""
    if impl is not None:
        key = jax.eval_shape(lambda: jax.random.key(0, impl=impl))
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
        if array.dtype == data.dtype and array.shape[-1:] == data.shape:
            return _describe(key.dtype, array.shape[:-1])
    return _describe(array.dtype, array.shape)


def _describe(dtype: Any, shape: tuple[int, ...]) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def restore(array: np.ndarray, leaf: Any, impl: str | None) -> Any:
    """An array out of a file as the kind of leaf that ``leaf`` is, on its devices."""
    match leaf:
        case jax.Array() | jax.ShapeDtypeStruct():
            value = jnp.asarray(array) if impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
            spread = leaf.sharding is not None and len(leaf.sharding.device_set) > 1
            return jax.device_put(value, leaf.sharding) if spread else value
        case np.ndarray():
            return array
        case np.generic():
            return array[()]
    return array.item()
