"""From a policy to the machine: a straight-line program with several back ends, its contract, a control loop.

Names are imported on first use: what ``runner.py`` alone needs is numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {"ControlLoop": "control_loop", "Reading": "control_loop", "export": "export", "load": "loading"}

__all__ = [*_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"steersman.deploy.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'steersman.deploy' has no attribute {name!r}")
