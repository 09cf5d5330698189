"""Deep Dyna (Sutton 1991, with networks): DQN that learns inside an ensemble, as MBPO is SAC that does.

    every refit_every steps:  fit p_k(s', r | s, a) to all that was seen; from replayed states, DQN's exploring policy
                              acts for h steps in each member k, and what happens there is kept
    every step:               update_ratio gradient steps of DQN, real_share of each batch real, the rest imagined

or, with ``imagination = in_batch``, each batch is imagined anew (``model_based.imagination`` says both). DQN is whole,
its switches too (``value_based.dqn``), but for prioritized replay and memory. Dyna-Q itself, whose model is a table, is
in ``tabular.learning.dyna``.
"""

from __future__ import annotations

from dataclasses import dataclass

from steersman.agents.model_based.imagination import REFUSED, ImaginationConfig, check_imagination, imagining
from steersman.agents.parts.algorithms import replayed
from steersman.agents.value_based.dqn import DQNConfig, dqn_learner
from steersman.config import Rules
from steersman.models.ensemble import EnsembleConfig
from steersman.models.model import Model
from steersman.nets.value import QNetworkFactory
from steersman.types import Agent, EnvSpec


@dataclass(frozen=True)
class DynaConfig(ImaginationConfig, EnsembleConfig, DQNConfig):
    """Settings of deep Dyna."""

    update_ratio: float = 1.0
    """Gradient steps per environment step; with T and num_envs it must make a whole number."""

    rules = Rules(
        refused=REFUSED
        | {
            "prioritized": "it orders what was seen by its TD error, and what is imagined has no place in that. Train "
            "dqn with it."
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_imagination("Dyna", self)


def dyna(
    config: DynaConfig,
    spec: EnvSpec,
    *,
    budget: int | None = None,
    network: QNetworkFactory | None = None,
    model: Model | None = None,
) -> Agent:
    """Deep Dyna as an agent for an environment with vector observations and Discrete actions, or UsageError.

    network: as of ``dqn``. model: in the place of the ensemble that the config describes, as of ``mbpo``.
    """
    return imagining(dqn_learner(config, spec, budget=budget, network=network), config, spec, model)


ALGORITHM = replayed("dyna", DynaConfig, dyna, "deep Dyna: DQN inside a learned ensemble of models, discrete actions")
