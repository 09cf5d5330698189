"""Any network behind a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.encoders import Encoder
from steersman.nets.layers.initialisers import orthogonal_linear
from steersman.nets.layers.linear import Linear
from steersman.nets.layers.mlp import ACTIVATIONS
from steersman.nets.memory.cells import Memory
from steersman.nets.memory.gru import GRU
from steersman.nets.memory.lru import LRU
from steersman.nets.memory.lstm import LSTM
from steersman.nets.memory.remembering import Remembering
from steersman.nets.memory.windows import TCN, Window
from steersman.spaces import MASK
from steersman.types import EnvSpec, Key, PyTree

MEMORIES = ("none", "gru", "lstm", "lru", "tcn", "window")
CONTEXT = {"gru": 64, "lstm": 64, "lru": 1000, "tcn": 32, "window": 4}  # where none is given


@dataclass(frozen=True)
class MemorySettings:
    """What a memory is, of a network that has one."""

    kind: str
    size: int = 64
    context: int | None = None  # None: as CONTEXT says
    slow: bool = True
    scan: str = "auto"
    previous_action: bool = True


def make_memory(settings: MemorySettings, in_size: int, key: Key) -> Memory:
    """The memory that settings name, of inputs ``[in_size]``."""
    size, context = settings.size, settings.context or CONTEXT[settings.kind]
    if context < 2 and settings.kind != "window":
        raise UsageError(
            f"memory_context = {context}; {settings.kind} looks back 2 steps or more. Leave it out, or raise it."
        )
    match settings.kind:
        case "gru":
            return GRU(in_size, size, context=context, slow=settings.slow, key=key)
        case "lstm":
            return LSTM(in_size, size, context=context, slow=settings.slow, key=key)
        case "lru":
            largest = 1.0 - 1.0 / context if settings.slow else 0.99
            smallest = min(0.9, 1.0 - 2.0 / context) if settings.slow else 0.0
            return LRU(in_size, size, smallest=smallest, largest=largest, scan=settings.scan, key=key)
        case "tcn":
            return TCN(size, context=context, key=key)
    return Window(in_size, context=context)


class Recollection(NamedTuple):
    """The carry of a torso."""

    memory: PyTree
    action: jax.Array  # [P] the last action and a 1; zeros: there was none. P = 0 where it is not asked for


class Torso(eqx.Module):
    """An encoder, a layer (not before a window) and a memory: what has been seen so far, as one vector."""

    encoder: Encoder
    action_encoder: Encoder | None  # None: the previous action is not asked for
    layer: Linear | None
    memory: Memory
    activation: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def __init__(self, spec: EnvSpec, settings: MemorySettings, network: Mapping[str, Any], key: Key):
        keys = jax.random.split(key, 3)
        read = {name: network[name] for name in ("channels", "layer_norm")}
        self.encoder = Encoder(spec.observation_space, network["encoder"], **read, key=keys[0])
        self.activation = ACTIVATIONS[network["activation"]]
        self.action_encoder = Encoder(spec.action_space, "flatten", key=keys[0]) if settings.previous_action else None
        size = self.encoder.out_size + self.action_size
        self.layer = None if settings.kind == "window" else orthogonal_linear(size, settings.size, keys[1])
        self.memory = make_memory(settings, settings.size if self.layer else size, keys[2])

    @property
    def action_size(self) -> int:
        return 0 if self.action_encoder is None else self.action_encoder.out_size + 1

    def begin(self) -> Recollection:
        return Recollection(self.memory.begin(), jnp.zeros((self.action_size,)))

    def step(self, carry: Recollection, obs: PyTree) -> tuple[Recollection, jax.Array]:
        memory, y = self.memory.step(carry.memory, self.read(obs, carry.action))
        return carry._replace(memory=memory), y

    def acted(self, carry: Recollection, action: PyTree) -> Recollection:
        return carry._replace(action=self.noted(action))

    def sequence(self, carry: Recollection, obs: PyTree, first: jax.Array, action: PyTree):
        noted = jax.vmap(self.noted)(action)
        previous = jnp.concatenate([carry.action[None], noted[:-1]])
        xs = jax.vmap(self.read)(obs, jnp.where(first[:, None], 0.0, previous))
        memories, ys = self.memory.sequence(carry.memory, xs, first)
        return Recollection(memories, noted), ys

    def noted(self, action: PyTree) -> jax.Array:
        """An action as it is remembered: of a Box within its bounds, which is what was done; others one-hot."""
        if self.action_encoder is None:
            return jnp.zeros((0,))
        return jnp.append(jnp.clip(self.action_encoder(action), -1.0, 1.0), 1.0)

    def read(self, obs: PyTree, previous: jax.Array) -> jax.Array:
        x = jnp.concatenate([self.encoder(obs), previous])
        return x if self.layer is None else self.activation(self.layer(x))


class Remembered(Remembering):
    """A network behind torsos of names, each with a memory of its own: it sees a Dict of what they know (one torso: no
    Dict), with the observation's ``action_mask`` where it has one."""

    torsos: dict[str, Torso]
    network: Any
    has_mask: bool = eqx.field(static=True)

    def begin(self) -> PyTree:
        return {name: torso.begin() for name, torso in self.torsos.items()}

    def step(self, carry: PyTree, obs: PyTree) -> tuple[PyTree, PyTree]:
        return self._each(lambda torso, carry: torso.step(carry, obs), carry, obs)

    def acted(self, carry: PyTree, action: PyTree) -> PyTree:
        return {name: torso.acted(carry[name], action) for name, torso in self.torsos.items()}

    def sequence(self, carry: PyTree, obs: PyTree, first: jax.Array, action: PyTree) -> tuple[PyTree, PyTree]:
        return self._each(lambda torso, carry: torso.sequence(carry, obs, first, action), carry, obs)

    def _each(self, of: Callable[[Torso, Any], tuple[Any, jax.Array]], carry: PyTree, obs: PyTree):
        both = {name: of(torso, carry[name]) for name, torso in self.torsos.items()}
        seen: Any = {name: known for name, (_, known) in both.items()}
        if self.has_mask:
            seen[MASK] = obs[MASK]
        elif len(seen) == 1:
            (seen,) = seen.values()
        return {name: after for name, (after, _) in both.items()}, seen

    def __call__(self, seen: PyTree, *more: Any) -> Any:
        return self.network(seen, *more)

    def streams(self, seen: PyTree) -> tuple[jax.Array, jax.Array]:
        return self.network.streams(seen)


def remembered(
    spec: EnvSpec,
    settings: MemorySettings,
    network: Mapping[str, Any],
    make: Callable[[EnvSpec, Mapping[str, Any], Key], Any],
    key: Key,
    *,
    sees: Mapping[str, EnvSpec] | None = None,
) -> Remembered:
    """The network that ``make(spec, network settings, key)`` gives for what memories know, behind them.

    network: hidden_sizes, activation, encoder, channels, layer_norm. sees: what each torso sees, by its name.
    """
    sees = {"known": spec} if sees is None else sees
    keys = jax.random.split(key, len(sees) + 1)
    torsos = {name: Torso(seen, settings, network, k) for (name, seen), k in zip(sees.items(), keys[1:], strict=True)}
    parts: dict[str, spaces.Space] = {
        name: spaces.Box(-np.inf, np.inf, (torso.memory.out_size,), np.float32) for name, torso in torsos.items()
    }
    space = spec.observation_space
    masked = isinstance(space, spaces.Dict) and MASK in space.spaces
    if isinstance(space, spaces.Dict) and masked:
        parts[MASK] = space[MASK]
    known = spaces.Dict(parts) if masked or len(parts) > 1 else next(iter(parts.values()))
    inside = replace(spec, observation_space=known, native_observation_space=None)
    return Remembered(torsos, make(inside, {**network, "encoder": "auto", "channels": "auto"}, keys[0]), masked)
