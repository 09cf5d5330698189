"""Reinforcement learning, from a Bellman equation to a policy that runs on the machine.

    import steersman
    result = steersman.train("ppo", "CartPole-v1", steps=500_000)
    policy = steersman.load("runs/cartpole")
    action = policy(obs)

    steersman.align("sft", "smollm2", "texts.jsonl", lora=8, out="runs/texts")

The lower level: ``steersman.agents`` (an agent is four pure functions), ``steersman.envs`` (``make``),
``steersman.vector`` (``vectorize``), ``steersman.unroll``, ``steersman.run`` (loops, ``evaluate``),
``steersman.theory`` (the equations).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steersman.deploy.loading import load
    from steersman.errors import EnvironmentFault, TrainingFault, UsageError
    from steersman.run.collect import collect
    from steersman.run.compare.compare import compare
    from steersman.run.compare.picture import plot
    from steersman.run.compare.results import Comparison
    from steersman.run.disk.dataset import Dataset, read_dataset
    from steersman.run.language.align import align
    from steersman.run.policy import Policy
    from steersman.run.train import Result, resume, train

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Dataset",
    "EnvironmentFault",
    "Policy",
    "Result",
    "TrainingFault",
    "UsageError",
    "align",
    "collect",
    "compare",
    "load",
    "plot",
    "read_dataset",
    "resume",
    "train",
]

_HOME = {
    "EnvironmentFault": "errors",
    "TrainingFault": "errors",
    "UsageError": "errors",
    "Comparison": "run.compare.results",
    "align": "run.language.align",
    "collect": "run.collect",
    "compare": "run.compare.compare",
    "Dataset": "run.disk.dataset",
    "read_dataset": "run.disk.dataset",
    "Policy": "run.policy",
    "load": "deploy.loading",
    "plot": "run.compare.picture",
    "Result": "run.train",
    "resume": "run.train",
    "train": "run.train",
}


def __getattr__(name: str) -> Any:
    """Import on first use: JAX takes a second to start, and ``import steersman`` shall not."""
    if name in _HOME:
        return getattr(import_module(f"steersman.{_HOME[name]}"), name)
    raise AttributeError(f"module 'steersman' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
