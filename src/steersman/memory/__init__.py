"""Replay: what was seen, kept in arrays and drawn again. Pure functions over an explicit state (``Buffer``)."""

from __future__ import annotations

from steersman.memory.buffer import Buffer, Sample, nbytes
from steersman.memory.hindsight import hindsight
from steersman.memory.prioritized import prioritized
from steersman.memory.sequences import sequence_priority, sequences
from steersman.memory.uniform import uniform

__all__ = ["Buffer", "Sample", "hindsight", "nbytes", "prioritized", "sequence_priority", "sequences", "uniform"]
