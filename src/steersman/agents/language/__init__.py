"""What language models are aligned by: one file each, which ends in its ``METHOD``. The list says which there are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from steersman.errors import UsageError, nearest

if TYPE_CHECKING:
    from steersman.agents.language.common import Method

METHODS = {
    "sft": "sft",
    "reward": "reward_model",
    "dpo": "dpo",
    "rloo": "rloo",
    "grpo": "grpo",
    "ppo": "ppo",
}  # name -> module


def method(name: str) -> Method:
    """The method of that name, or UsageError with the nearest names."""
    if name not in METHODS:
        raise UsageError(f"There is no way to align called {name!r}; there are {', '.join(METHODS)}. "
                         f"{nearest(name, METHODS)}".rstrip())  # fmt: skip
    return import_module(f"{__name__}.{METHODS[name]}").METHOD
