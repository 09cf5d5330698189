"""Model-based policy optimisation (Janner et al. 2019, arXiv:1906.08253): SAC that learns inside an ensemble.

    every refit_every steps:  fit p_k(s', r | s, a) to all that was seen; from replayed states, pi acts for h steps in
                              each member k, and what happens there is kept
    every step:               update_ratio gradient steps of SAC, real_share of each batch real, the rest imagined

or, with ``imagination = in_batch``, each batch is imagined anew: simpler, without a schedule
(``model_based.imagination`` says both). SAC is whole: all its settings are here and mean the same
(``off_policy.sac``); the ensemble's are those of ``models.ensemble``.

Differences from the paper: the count of imagined steps after a fit does not grow with the horizon; members are asked in
equal shares, each for whole imagined episodes; termination is learned, unless a model of one's own knows it; targets
are normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

from steersman.agents.model_based.imagination import REFUSED, ImaginationConfig, check_imagination, imagining
from steersman.agents.off_policy.common import NetworkFactory
from steersman.agents.off_policy.sac import SACConfig, sac_learner
from steersman.agents.parts.algorithms import replayed
from steersman.config import Rules
from steersman.models.ensemble import EnsembleConfig
from steersman.models.model import Model
from steersman.types import Agent, EnvSpec


@dataclass(frozen=True)
class MBPOConfig(ImaginationConfig, EnsembleConfig, SACConfig):
    """Settings of MBPO."""

    update_ratio: float = 10.0
    """Gradient steps per environment step; times unroll_length * num_envs it must be whole."""
    replay_capacity: int = 100_000
    """Transitions that replay holds, over all environments; the oldest leave."""

    rules = Rules(
        refused=REFUSED
        | {
            "hindsight": "it replaces goals of replayed episodes, and what is imagined has no episode to take another "
            "from.",
            "cost_limit": "the model predicts no costs. Train sac with it.",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_imagination("MBPO", self)


def mbpo(
    config: MBPOConfig,
    spec: EnvSpec,
    *,
    budget: int | None = None,
    network: NetworkFactory | None = None,
    model: Model | None = None,
) -> Agent:
    """MBPO as an agent for an environment with vector observations and a bounded Box or a Discrete action space.

    network: as of ``sac``. model: in the place of the ensemble that the config describes, one whose reward or
    termination is known, ``ensemble(config, spec, terminated=...)``. Raises UsageError for other spaces.
    """
    return imagining(sac_learner(config, spec, budget=budget, network=network), config, spec, model)


ALGORITHM = replayed("mbpo", MBPOConfig, mbpo, "MBPO: soft actor-critic inside a learned ensemble of models, replay")
