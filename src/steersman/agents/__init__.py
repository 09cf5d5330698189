"""The algorithms: one file each, which ends in its ``ALGORITHM``. The list says in which module each is.

What is listed is imported when it is asked for: the names alone need neither JAX nor any algorithm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from steersman.agents.language import METHODS
from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    from steersman.types import Algorithm

_MODULES = {
    "ppo": "policy_gradient.ppo",
    "reinforce": "policy_gradient.reinforce",
    "a2c": "policy_gradient.a2c",
    "actor_critic": "policy_gradient.actor_critic",
    "trpo": "policy_gradient.trpo",
    "cpo": "policy_gradient.cpo",
    "impala": "policy_gradient.impala",
    "pqn": "value_based.pqn",
    "dqn": "value_based.dqn",
    "ddpg": "off_policy.ddpg",
    "td3": "off_policy.td3",
    "sac": "off_policy.sac",
    "tqc": "off_policy.tqc",
    "crossq": "off_policy.crossq",
    "pets": "model_based.pets",
    "mbpo": "model_based.mbpo",
    "dyna": "model_based.dyna",
    "bc": "offline.bc",
    "iql": "offline.iql",
}


class _Listed(Mapping[str, "Algorithm"]):
    def __getitem__(self, name: str) -> Algorithm:
        return import_module(f"{__name__}.{_MODULES[name]}").ALGORITHM

    def __contains__(self, name: object) -> bool:
        return name in _MODULES

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


ALGORITHMS: Mapping[str, Algorithm] = _Listed()


def algorithm(name: str, *others: str) -> Algorithm:
    """The algorithm of that name, or UsageError with the nearest names; others: names that are known elsewhere."""
    if name in METHODS and name not in ALGORITHMS:
        raise UsageError(f"{name} is of language models: steersman align {name} MODEL DATA")
    if name not in ALGORITHMS:
        known = sorted([*ALGORITHMS, *others])
        offer = nearest(name, known)
        raise UsageError(f"There is no algorithm {name!r}. {offer or 'Known: ' + ', '.join(known) + '.'}")
    return ALGORITHMS[name]
