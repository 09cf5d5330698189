"""Spaces: what actions and observations look like on the inside, at the environment's door, and on disk.

Inside, a bounded Box action is canonical, in [-1, 1]; counts start at 0 and are int32; floats are float32. The
functions here are the only place where these forms meet the environment's own (*native*) ones. They read the space as
plain Python: inside compiled code spaces are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.spaces_json import space_from_json as space_from_json
from steersman.spaces_json import space_to_json as space_to_json
from steersman.types import Array, Key, PyTree

MASK = "action_mask"  # the entry of a Dict observation that says which actions are legal: (A,), 1 = allowed


def canonical_action_space(native: spaces.Space) -> spaces.Space:
    """The space agents act in, for an environment whose own action space is ``native``.

    Box: float32, every entry with two finite bounds becomes [-1, 1], the others keep theirs. Discrete, MultiDiscrete
    and MultiBinary: int32, counted from 0, one flat axis. Dict and Tuple: entry by entry.

    Raises UsageError for a space no agent can act in (Text, Graph, Sequence ...).

    >>> canonical_action_space(spaces.Box(-2, 2, (1,)))
    Box(-1.0, 1.0, (1,), float32)
    """
    match native:
        case spaces.Box():
            bounded, (low, high) = _bounded(native), (_as(x, np.dtype(np.float32)) for x in (native.low, native.high))
            return spaces.Box(np.where(bounded, np.float32(-1), low), np.where(bounded, np.float32(1), high))
        case spaces.Discrete():
            return spaces.Discrete(int(native.n))
        case spaces.MultiDiscrete():
            return spaces.MultiDiscrete(native.nvec.ravel().astype(np.int32), dtype=np.int32)
        case spaces.MultiBinary():
            return spaces.MultiBinary(int(np.prod(native.shape)))
        case spaces.Dict() | spaces.Tuple():
            return _rebuild(native, canonical_action_space)
    raise _unsupported(native, "act in")


def to_native(native: spaces.Space, action: PyTree) -> PyTree:
    """Canonical actions in the environment's own units: clip, then one affine map.

        a_native = low + (clip(a, -1, 1) + 1) / 2 * (high - low)

    Entries of a Box with only one finite bound are clipped to it; without any they pass as they are. Integer Boxes are
    rounded. ``action`` has any leading axes and is numpy (worked out in float64; the result has the native dtype) or
    JAX, also under a trace (in float32; the result is float32 or int32, and so are bounds beyond those). -1 and 1 are
    the bounds exactly, and nothing overflows on the way.

    >>> to_native(spaces.Box(0, 4, (1,)), np.array([[-1.0], [0.5], [7.0]], np.float32)).ravel().tolist()
    [0.0, 3.0, 4.0]
    """
    return native_map(native)(action)


def native_map(native: spaces.Space) -> Callable[[PyTree], PyTree]:
    """``to_native`` of one space with its constants worked out once: for a loop that calls it at every step."""
    match native:
        case spaces.Box():
            return _box_map(native)
        case spaces.Discrete():
            return lambda action: _from_zero(action, np.asarray(native.start), native.dtype)
        case spaces.MultiDiscrete():
            start, shape, dtype = native.start.ravel(), native.shape, native.dtype
            return lambda action: _from_zero(action, start, dtype).reshape(action.shape[:-1] + shape)
        case spaces.MultiBinary():
            shape = native.shape
            return lambda action: _from_zero(action, np.zeros((), np.int32), np.int8).reshape(action.shape[:-1] + shape)
        case spaces.Dict():
            maps = {name: native_map(space) for name, space in native.spaces.items()}
            return lambda action: {name: part(action[name]) for name, part in maps.items()}
        case spaces.Tuple():
            parts = [native_map(space) for space in native.spaces]
            return lambda action: tuple(part(a) for part, a in zip(parts, action, strict=True))
    raise _unsupported(native, "act in")


def from_native(native: spaces.Space, action: PyTree) -> PyTree:
    """Actions in the environment's own units, any leading axes, as canonical ones: undoes ``to_native``.

        a = (clip(a_native, low, high) - center) / ((high - low) / 2),    in float64; 0 where low = high

    To the precision of float32: of whole numbers, up to 2^23 of them come back as they were.

    >>> from_native(spaces.Box(0, 4, (1,)), np.array([3.0], np.float32)).tolist()
    [0.5]
    """
    match native:
        case spaces.Box():
            center, half = _line(native)
            action = np.clip(np.asarray(action, np.float64), native.low, native.high)
            return _as((action - center) / np.where(half > 0, half, 1.0), np.dtype(np.float32))
        case spaces.Discrete():
            return np.asarray(action - native.start).astype(np.int32)
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            start = native.start if isinstance(native, spaces.MultiDiscrete) else 0
            counts = np.asarray(action - start).astype(np.int32)
            return counts.reshape(*counts.shape[: counts.ndim - len(native.shape)], -1)
        case spaces.Dict():
            return {name: from_native(space, action[name]) for name, space in native.spaces.items()}
        case spaces.Tuple():
            return tuple(from_native(space, part) for space, part in zip(native.spaces, action, strict=True))
    raise _unsupported(native, "act in")


def inside_space(native: spaces.Space) -> spaces.Space:
    """The observation space as agents see it, for an environment that yields observations of ``native``.

    Box: float32, except that uint8 of two or more axes (an image) stays uint8. Discrete and MultiDiscrete: int32,
    counted from 0. MultiBinary: a float32 Box of 0 and 1. Dict and Tuple: entry by entry.

    Raises UsageError for other spaces.

    >>> inside_space(spaces.Discrete(5, start=-2)).start
    np.int64(0)
    """
    match native:
        case spaces.Box() if is_image(native):
            return spaces.Box(native.low, native.high, dtype=np.uint8)
        case spaces.Box():
            return spaces.Box(_float32(native.low), _float32(native.high))
        case spaces.Discrete():
            return spaces.Discrete(int(native.n))
        case spaces.MultiDiscrete():
            return spaces.MultiDiscrete(native.nvec.astype(np.int32), dtype=np.int32)
        case spaces.MultiBinary():
            return spaces.Box(np.zeros(native.shape, np.float32), np.ones(native.shape, np.float32))
        case spaces.Dict() | spaces.Tuple():
            return _rebuild(native, inside_space)
    raise _unsupported(native, "observe")


def to_inside(native: spaces.Space, obs: PyTree) -> PyTree:
    """Observations of ``native`` in the form and dtype of ``inside_space(native)``; any leading axes, numpy or JAX."""
    match native:
        case spaces.Box() | spaces.MultiBinary():
            return _cast(obs, np.uint8 if is_image(native) else np.float32)
        case spaces.Discrete():
            return _cast(obs, np.int32) - np.int32(native.start)
        case spaces.MultiDiscrete():
            obs = _cast(obs, np.int32)
            return obs - native.start.astype(np.int32).reshape((1,) * (obs.ndim - native.start.ndim) + native.shape)
        case spaces.Dict():
            return {name: to_inside(space, obs[name]) for name, space in native.spaces.items()}
        case spaces.Tuple():
            return tuple(to_inside(space, part) for space, part in zip(native.spaces, obs, strict=True))
    raise _unsupported(native, "observe")


def counts_fit(inside: spaces.Space, obs: PyTree) -> bool:
    """Whether the Discrete and MultiDiscrete parts of numpy observations in the inside form are within their counts."""
    match inside:
        case spaces.Discrete():
            return bool(np.all((obs >= 0) & (obs < inside.n)))
        case spaces.MultiDiscrete():
            return bool(np.all((obs >= 0) & (obs < inside.nvec)))
        case spaces.Dict():
            return all(counts_fit(part, obs[name]) for name, part in inside.spaces.items())
        case spaces.Tuple():
            return all(counts_fit(part, x) for part, x in zip(inside.spaces, obs, strict=True))
    return True


def alike(one: spaces.Space, other: spaces.Space) -> bool:
    """Whether two spaces are equal, but for bounds where one of them has none: noise takes them away.

    >>> alike(spaces.Box(-1, 1, (2,)), spaces.Box(-np.inf, np.inf, (2,)))
    True
    """
    match one, other:
        case (spaces.Box(), spaces.Box()) if (one.shape, one.dtype) == (other.shape, other.dtype):
            ends = ((one.low, other.low), (one.high, other.high))
            return all(np.all((a == b) | np.isinf(a) | np.isinf(b)) for a, b in ends)
        case (spaces.Dict(), spaces.Dict()):
            same = one.spaces.keys() == other.spaces.keys()
            return same and all(alike(part, other[name]) for name, part in one.spaces.items())
        case (spaces.Tuple(), spaces.Tuple()):
            same = len(one.spaces) == len(other.spaces)
            return same and all(alike(a, b) for a, b in zip(one.spaces, other.spaces, strict=True))
    return space_to_json(one) == space_to_json(other)


def is_image(space: spaces.Space) -> bool:
    """Whether the entry is kept as uint8 on the inside: a uint8 Box of two or more axes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 2


def abstract(inside: spaces.Space, leading: tuple[int, ...] = ()) -> PyTree:
    """Shapes and dtypes of arrays of a space in its inside form, as a tree of ``jax.ShapeDtypeStruct``.

    >>> abstract(spaces.Discrete(3), (8,))
    ShapeDtypeStruct(shape=(8,), dtype=int32)
    """
    match inside:
        case spaces.Box():
            return jax.ShapeDtypeStruct(leading + inside.shape, np.uint8 if is_image(inside) else np.float32)
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return jax.ShapeDtypeStruct(leading + tuple(inside.shape or ()), np.int32)
        case spaces.Dict():
            return {name: abstract(space, leading) for name, space in inside.spaces.items()}
        case spaces.Tuple():
            return tuple(abstract(space, leading) for space in inside.spaces)
    raise _unsupported(inside, "observe")


def sample_action(space: spaces.Space, key: Key, num: int, mask: Array | None = None) -> PyTree:
    """Uniformly random canonical actions ``[num, ...]``, for compiled random policies.

    Entries of a Box without bounds are standard normal; with one bound, that bound and an exponential away from it.
    ``mask`` [num, A] (1 = allowed) restricts a Discrete space to its legal actions.

    >>> sample_action(spaces.Discrete(2), jax.random.key(0), 3).shape
    (3,)
    """
    match space:
        case spaces.Discrete() if mask is not None:
            return jax.random.categorical(key, jnp.where(mask > 0, 0.0, -jnp.inf), axis=-1).astype(jnp.int32)
        case spaces.Discrete():
            return jax.random.randint(key, (num,), 0, int(space.n), jnp.int32)
        case spaces.MultiDiscrete():
            return jax.random.randint(key, (num, *space.shape), 0, space.nvec[None].astype(np.int32), jnp.int32)
        case spaces.MultiBinary():
            return jax.random.randint(key, (num, *space.shape), 0, 2, jnp.int32)
        case spaces.Box():
            return _sample_box(space, key, num)
        case spaces.Dict():
            keys = jax.random.split(key, len(space.spaces))
            return {name: sample_action(s, k, num) for (name, s), k in zip(space.spaces.items(), keys, strict=True)}
        case spaces.Tuple():
            keys = jax.random.split(key, len(space.spaces))
            return tuple(sample_action(s, k, num) for s, k in zip(space.spaces, keys, strict=True))
    raise _unsupported(space, "act in")


def random_log_prob(space: spaces.Space, action: PyTree, mask: Array | None = None) -> jax.Array:
    """log p of actions ``[num, ...]`` that ``sample_action`` drew, float32 ``[num]``: a density where a Box is in it.

    >>> random_log_prob(spaces.Discrete(4), jnp.zeros(2, jnp.int32), jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]])).tolist()
    [-0.6931471824645996, -1.3862943649291992]
    """
    match space:
        case spaces.Discrete() if mask is not None:
            return -jnp.log((mask > 0).sum(-1).astype(jnp.float32))
        case spaces.Dict():
            return sum((random_log_prob(s, action[name]) for name, s in space.spaces.items()), jnp.float32(0.0))
        case spaces.Tuple():
            parts = zip(space.spaces, action, strict=True)
            return sum((random_log_prob(s, part) for s, part in parts), jnp.float32(0.0))
        case spaces.Box():
            low, high = (x[None] for x in (space.low, space.high))
            size = np.where(_bounded(space), high - low, 1.0)
            beyond = jnp.where(np.isfinite(low), action - low, high - action)  # of an exponential
            half, free = np.isfinite(low) != np.isfinite(high), ~np.isfinite(low) & ~np.isfinite(high)
            log_p = -np.log(size).astype(np.float32) - jnp.where(half, beyond, 0.0)
            log_p = log_p + jnp.where(free, jax.scipy.stats.norm.logpdf(action), 0.0)
            return log_p.reshape(action.shape[0], -1).sum(-1)
    counts = {spaces.Discrete: lambda s: s.n, spaces.MultiDiscrete: lambda s: s.nvec, spaces.MultiBinary: lambda s: 2}
    for kind, count in counts.items():
        if isinstance(space, kind):
            of_one = -np.log(np.broadcast_to(count(space), space.shape or ())).sum()
            return jnp.full(jnp.shape(action)[:1], of_one, jnp.float32)
    raise _unsupported(space, "act in")


# --- the parts of the above ---


def _bounded(space: spaces.Box) -> np.ndarray:
    return np.isfinite(space.low) & np.isfinite(space.high)


def _float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float32)


def _range(dtype: np.dtype, real: np.dtype) -> tuple[Any, Any]:
    """The least and the greatest number of a float dtype ``real`` that ``dtype`` holds."""
    if dtype.kind == "f":
        return real.type(np.finfo(dtype).min), real.type(np.finfo(dtype).max)
    if dtype.kind == "b":
        return real.type(0), real.type(1)
    most = real.type(np.iinfo(dtype).max)
    fits = int(most) <= np.iinfo(dtype).max
    return real.type(np.iinfo(dtype).min), most if fits else np.nextafter(most, real.type(0))


def _as(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """In another dtype; finite numbers beyond it become the last that it holds."""
    x = np.asarray(x, np.float64)
    return np.where(np.isinf(x), x, np.clip(x, *_range(dtype, np.dtype(np.float64)))).astype(dtype)


def _cast(x: Any, dtype: Any) -> Any:
    return x.astype(dtype) if isinstance(x, jax.Array) else np.asarray(x).astype(dtype)


def _rebuild(space: spaces.Dict | spaces.Tuple, function: Callable[[spaces.Space], spaces.Space]) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: function(part) for name, part in space.spaces.items()})
    return spaces.Tuple([function(part) for part in space.spaces])


def _unsupported(space: object, verb: str) -> UsageError:
    return UsageError(
        f"Cannot {verb} the space {space}: known are Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple. "
        "Wrap the environment so that its spaces are made of these."
    )


def _line(native: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Center and half-width of every entry, float64: a_native = center + half a; 0 and 1 without two finite bounds."""
    bounded = _bounded(native)
    low, high = (np.where(bounded, x, 0).astype(np.float64) / 2 for x in (native.low, native.high))
    return low + high, np.where(bounded, high - low, 1.0)


def _box_map(native: spaces.Box) -> Callable[[Any], Any]:
    integer = native.dtype.kind != "f"
    on_host = _affine(native, np.dtype(np.float64), native.dtype)
    on_device = _affine(native, np.dtype(np.float32), np.dtype(np.int32 if integer else np.float32))

    def apply(action: Any) -> Any:
        if not isinstance(action, jax.Array):
            return on_host(np, action)
        shape = (1,) * (action.ndim - len(native.shape)) + native.shape  # equal ranks by hand: strict promotion holds
        return on_device(jnp, action, lambda x: x.reshape(shape))

    return apply


def _affine(native: spaces.Box, real: np.dtype, out: np.dtype) -> Callable[..., Any]:
    """``to_native`` of a Box, computed in one precision, to numbers of the dtype ``out``: (numpy or jnp, action)."""
    bounded, (center, half), integer = _bounded(native), (_as(x, real) for x in _line(native)), out.kind != "f"
    low, high = (x if x.dtype == out else _as(x, out) for x in (native.low, native.high))
    first, last = (np.where(bounded, end, _as(x, real)) for end, x in ((-1.0, native.low), (1.0, native.high)))
    affine = bool(np.any(half != 1) or np.any(center != 0))
    # Where the line misses an end, by an ulp or because ``real`` has no such number, the ends are put there by hand.
    with np.errstate(over="ignore"):
        exact = (center - half == native.low) & (center + half == native.high)
    if integer:
        exact &= np.maximum(np.abs(_as(native.low, real)), np.abs(_as(native.high, real))) < 1 / np.finfo(real).eps
    by_hand = affine and not np.all(exact | ~bounded)
    constants = [first.astype(real), last.astype(real), half, center, bounded, low, high]
    least, most = _range(out, real)

    def apply(xp: Any, action: Any, shaped: Callable[[Any], Any] = lambda x: x) -> Any:
        first, last, half, center, bounded, low, high = map(shaped, constants)
        at = x = xp.clip(action.astype(real), first, last)
        if affine:
            x = x * half + center
        if affine and xp is jnp and not by_hand:
            x = xp.clip(x, low.astype(real), high.astype(real))
        x = xp.rint(x) if integer else x
        if by_hand:
            x = xp.clip(xp.clip(x, least, most).astype(out), low, high)
            x = xp.where(bounded & (at == -1), low, xp.where(bounded & (at == 1), high, x))
        return x.astype(out)

    return apply


def _from_zero(action: Any, start: np.ndarray, dtype: Any) -> Any:
    """Counts from 0 to counts from ``start``."""
    if isinstance(action, jax.Array):
        return action + start.astype(np.int32).reshape((1,) * (action.ndim - start.ndim) + start.shape)
    return (action + start).astype(dtype)


def _sample_box(space: spaces.Box, key: Key, num: int) -> jax.Array:
    below, above = np.isfinite(space.low)[None], np.isfinite(space.high)[None]
    low, high = (jnp.asarray(np.where(np.isfinite(x), x, 0)[None], jnp.float32) for x in (space.low, space.high))
    shape = (num, *space.shape)
    if np.all(below & above):
        return low + jax.random.uniform(key, shape, jnp.float32) * (high - low)
    one, two, three = jax.random.split(key, 3)
    x = low + jax.random.uniform(one, shape, jnp.float32) * (high - low)
    away = jax.random.exponential(two, shape, jnp.float32)
    x = jnp.where(below & ~above, low + away, jnp.where(above & ~below, high - away, x))
    return jnp.where(~below & ~above, jax.random.normal(three, shape, jnp.float32), x)
