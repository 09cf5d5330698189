"""What a control loop saw and did, as the transitions that ``steersman collect`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steersman import spaces
from steersman.deploy.reading import Reading
from steersman.errors import UsageError
from steersman.run.disk import dataset
from steersman.run.disk.dataset import Dataset
from steersman.run.disk.files import FULL
from steersman.run.disk.run_folder import versions, warn
from steersman.types import EnvSpec, PyTree, Rollout


class Recording:
    """Turns of a control loop, in order; ``save(folder)`` writes them for ``--from-data`` and ``read_dataset``.

    An action that a limit changed is recorded as it was written. Where an observation was missing the episode is
    truncated before: a step whose end nobody saw is no transition. Rewards and costs are a ``Reading``'s, else 0.
    """

    def __init__(self, spec: EnvSpec, origin: Mapping[str, Any] | None = None):
        self.spec, self.origin = spec, dict(origin or {})
        self._rows: list[tuple[Any, ...]] = []  # obs, action, reward, terminated, truncated, next_obs, first, costs
        self._open: tuple[PyTree, PyTree, bool] | None = None  # obs, action, first: of the step whose end is awaited
        self._joined = False  # the last row is what came just before

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, reading: Reading | None, action: Any) -> None:
        """One turn: what was read (None: nothing that was of use), and the action that was then written."""
        if reading is None:
            return self.cut()
        ended = reading.terminated or reading.truncated
        if self._open is not None:
            obs, done, first = self._open
            after = reading.obs if reading.final_obs is None else reading.final_obs
            flags = bool(reading.terminated), bool(reading.truncated)
            costs = np.broadcast_to(np.asarray(reading.costs, np.float32), (self.spec.num_costs,))
            self._rows.append((obs, done, float(reading.reward), *flags, _copied(after), first, costs))
        self._joined = self._open is not None and not ended
        self._open = (_copied(reading.obs), _copied(action), not self._joined)

    def cut(self) -> None:
        """What comes next does not follow from what is there."""
        self._open = None
        if self._joined:
            obs, action, reward, terminated, _, *rest = self._rows[-1]
            self._rows[-1] = (obs, action, reward, terminated, True, *rest)
            self._joined = False

    def save(self, out: str | Path) -> Dataset:
        """Write the folder ``out``, which must not exist -> what it holds.

        On a disk that becomes full those are the first half, quarter ... of the transitions, and a warning says so.
        Raises UsageError where nothing was recorded, or nothing can be written.
        """
        self.cut()
        if not self._rows:
            raise UsageError("Nothing was recorded: no step of the loop had an observation before it and after it.")
        stack = lambda column: jax.tree.map(lambda *x: np.stack(x), *(row[column] for row in self._rows))
        native = self.spec.native_observation_space or self.spec.observation_space
        obs, after = (spaces.to_inside(native, stack(column)) for column in (0, 5))
        action = spaces.from_native(self.spec.native_action_space, stack(1))
        reward, terminated, truncated, first = (np.array([row[i] for row in self._rows]) for i in (2, 3, 4, 6))
        costs = np.stack([row[7] for row in self._rows])
        rows = Rollout(obs, action, reward.astype(np.float32), terminated, truncated, after, first, costs, {})
        data = Dataset(rows, self.spec, str(out), {**self.origin, "control_loop": True, "versions": versions()})
        while True:
            try:
                with dataset.creating(out) as temporary:
                    dataset.write(temporary, data)
                break
            except UsageError as error:
                if len(data) < 2 or not isinstance(error.__cause__, OSError) or error.__cause__.errno not in FULL:
                    raise
                data = data.first(len(data) // 2)
        if len(data) < len(rows.reward):
            warn(f"The disk is full: {out} holds the first {len(data):,} of {len(rows.reward):,} transitions alone.")
        return data


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.array(x), tree)
