"""Observation groups: which entries of a Dict observation the policy sees, and which the value.

A critic is there in training alone, where a simulator says more than any sensor will: it may see what the policy does
not (Pinto et al. 2018, arXiv:1710.06542, asymmetric actor-critic). Groups enter where networks are made: one that is
made for some of the entries reads no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from steersman.agents.parts.config import ObservationGroupsConfig
from steersman.errors import UsageError, nearest
from steersman.spaces import MASK, abstract
from steersman.types import Agent, EnvSpec, Key, PyTree

ALL_BUT = "all but "


class Groups(NamedTuple):
    """What networks are made for: the environment's own spec where nothing is asked for, else one of some entries."""

    policy: EnvSpec
    value: EnvSpec

    @property
    def differ(self) -> bool:
        return _names(self.policy) != _names(self.value)


def groups_of(config: Any, spec: EnvSpec) -> Groups:
    """The groups that a config asks for; both all of it, of one that has no such settings.

    An action mask is no entry: the policy obeys it, and no network reads it. Raises UsageError for an observation that
    is no Dict, an entry that it has not, an empty group, and a mask among the entries of a group.
    """
    if not isinstance(config, ObservationGroupsConfig):
        return Groups(spec, spec)
    of = lambda name: _seeing(spec, name, getattr(config, name), mask=name == "policy_sees")
    return Groups(of("policy_sees"), of("value_sees"))


def entries(spec: EnvSpec, whole: EnvSpec) -> tuple[str, ...]:
    """The names that a group of ``whole`` is of; () where it is all of it."""
    return () if spec is whole else _names(spec)


def as_deployed(agent: Agent, config: Any, spec: EnvSpec) -> tuple[Agent, EnvSpec]:
    """The agent as it acts where nobody sees more than its policy, and the spec of that: its ``unseen`` may be there.

    In their place the value's networks are given zeros; what it makes of them, and remembers, no action depends on.
    """
    whole, seen = spec.observation_space, groups_of(config, spec).policy
    if seen is spec or not isinstance(whole, spaces.Dict) or not isinstance(seen.observation_space, spaces.Dict):
        return agent, spec
    shown = seen.observation_space.spaces
    unseen = {name: part for name, part in whole.spaces.items() if name not in shown}

    def act(state: PyTree, carry: PyTree, obs: PyTree, first: jax.Array, key: Key, *, explore: bool = True):
        blank = abstract(spaces.Dict(unseen), first.shape)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
        return agent.act(state, carry, {**blank, **{k: obs[k] for k in shown}}, first, key, explore=explore)

    return agent._replace(act=act), replace(seen, unseen=tuple(unseen))


def _names(spec: EnvSpec) -> tuple[str, ...]:
    space = spec.observation_space
    return tuple(name for name in space.spaces if name != MASK) if isinstance(space, spaces.Dict) else ()


def _seeing(spec: EnvSpec, setting: str, asked: Sequence[str], *, mask: bool) -> EnvSpec:
    """The spec with the entries of one group; mask: and with the action mask, where there is one."""
    if not asked:
        return spec
    whole, native = spec.observation_space, spec.native_observation_space
    given = f"{setting} = {', '.join(asked)!r}"
    if not isinstance(whole, spaces.Dict):
        raise UsageError(
            f"{given}, but {spec.id} observes {' '.join(str(whole).split())}, which has no entries to choose from. "
            f"Give it a Dict observation, or leave {setting} out."
        )
    has = _names(spec)
    names = _chosen(asked, has)
    if MASK in names or (not mask and any(_holds_mask(whole[name]) for name in names if name in has)):
        raise UsageError(
            f"{given}: {MASK} says which actions are legal; the policy obeys it in any case, and no value sees it. "
            f"Leave it out of {setting}, and have it at the top of the observation."
        )
    for name in names:
        if name not in has:
            raise UsageError(
                f"{given}: the observation of {spec.id} has no entry {name!r}. {nearest(name, has)} It has "
                f"{', '.join(has)}.".replace("  ", " ")
            )
    if not names:
        raise UsageError(f"{given} leaves nothing to see; the observation of {spec.id} has {', '.join(has)}.")
    kept = [name for name in whole.spaces if name in names or (mask and name == MASK)]
    part = lambda space: spaces.Dict({name: space[name] for name in kept})
    return replace(
        spec, observation_space=part(whole), native_observation_space=None if native is None else part(native)
    )


def _chosen(asked: Sequence[str], has: Sequence[str]) -> list[str]:
    """The names of a group, as they are written: ``a,b``, or ``all but a,b``."""
    text = ",".join(asked).strip()
    if ",".join(asked[:2]) == "all,but":  # three words of a command line
        text = ALL_BUT + ",".join(asked[2:])
    names = [name.strip() for name in text.removeprefix(ALL_BUT).split(",")]
    names = list(dict.fromkeys(filter(None, names)))
    if not text.startswith(ALL_BUT):
        return names
    unknown = [name for name in names if name not in has]
    return unknown or [name for name in has if name not in names]


def _holds_mask(space: spaces.Space) -> bool:
    inside = space.spaces.items() if isinstance(space, spaces.Dict) else ()
    return any(name == MASK or _holds_mask(part) for name, part in inside)
