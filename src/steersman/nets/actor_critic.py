"""Policy and value for one observation: the network of the on-policy agents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.nets.encoders import Encoder
from steersman.nets.heads import PolicyHead, ValueHead
from steersman.nets.layers.mlp import MLP
from steersman.spaces import MASK
from steersman.theory.distributions import Categorical
from steersman.types import EnvSpec, Key, PyTree

ActorCriticFactory = Callable[[Key, EnvSpec], Any]  # -> a module: obs -> (distribution, value)


class ActorCritic(eqx.Module):
    """``obs -> (distribution over actions, value)`` for one observation; ``vmap`` it over a batch.

    Two trunks (encoder, then MLP), one each for policy and value, or one for both (``share_trunk``). policy_sees,
    value_sees: the keys of a Dict observation that each reads; none: all. value_shape: of the value, a scalar, or
    (1 + C,) of the reward and of costs.
    """

    policy_encoder: Encoder
    policy_trunk: MLP
    value_encoder: Encoder | None  # None: the trunk is shared
    value_trunk: MLP | None
    policy_head: PolicyHead
    value_head: ValueHead
    has_mask: bool = eqx.field(static=True)

    def __init__(
        self,
        spec: EnvSpec,
        *,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        share_trunk: bool = False,
        encoder: str = "auto",
        channels: str = "auto",
        layer_norm: bool = False,
        log_std_init: float = 0.0,
        state_dependent_std: bool = False,
        policy_sees: Sequence[str] = (),
        value_sees: Sequence[str] = (),
        value_shape: tuple[int, ...] = (),
        key: Key,
    ):
        keys = jax.random.split(key, 6)
        space: Any = spec.observation_space
        self.has_mask = isinstance(space, spaces.Dict) and MASK in space.spaces
        of = lambda names: spaces.Dict({name: space[name] for name in names}) if names else space
        read = lambda names, key: Encoder(of(names), encoder, channels=channels, layer_norm=layer_norm, key=key)
        trunk = partial(MLP, sizes=hidden_sizes, activation=activation, layer_norm=layer_norm)
        self.policy_encoder = read(policy_sees, keys[0])
        self.policy_trunk = trunk(self.policy_encoder.out_size, key=keys[1])
        self.value_encoder = None if share_trunk else read(value_sees, keys[2])
        self.value_trunk = None if self.value_encoder is None else trunk(self.value_encoder.out_size, key=keys[3])
        width = self.policy_trunk.out_size
        self.policy_head = PolicyHead(
            width, spec.action_space, log_std_init=log_std_init, state_dependent_std=state_dependent_std, key=keys[4]
        )
        self.value_head = ValueHead(width, value_shape, key=keys[5])

    def __call__(self, obs: PyTree) -> tuple[Any, jax.Array]:
        features = self.policy_trunk(self.policy_encoder(obs))
        distribution = self.policy_head(features, obs[MASK] if self.has_mask else None)
        if self.value_encoder is not None and self.value_trunk is not None:
            features = self.value_trunk(self.value_encoder(obs))
        return distribution, self.value_head(features)

    def streams(self, obs: PyTree) -> tuple[jax.Array, jax.Array]:
        """V and, for the advantage, the policy's logits less their mean, ``[A]``: exp of them is the policy.

        V is the reward's where there are others. Raises UsageError where the policy is not over one set of actions.
        """
        distribution, value = self(obs)
        if not isinstance(distribution, Categorical):
            raise UsageError(
                f"Streams are of actions one can count (Discrete); this policy is a {type(distribution).__name__}."
            )
        value = value[0] if self.value_head.shape else value
        return value, distribution.logits - distribution.logits.mean()
