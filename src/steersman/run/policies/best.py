"""The best policy of a run, of each seed its own: the one with the highest mean return in an evaluation on the way.

Where costs are limited, the highest among those that held the limits there; before there are any, the least over them.

On disk ``best/step_N.safetensors`` is the best as of step N: an agent as in a checkpoint, without its replay memory. So
the best as of a checkpoint is the newest file that is not newer, and a run that goes on from there cuts off the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.run.disk import checkpoint, run_folder
from steersman.run.disk.files import explained
from steersman.run.disk.leaves import is_key
from steersman.run.policy import agent_states
from steersman.types import PyTree


class Best:
    """The best of each seed so far, in memory; ``write`` puts it into a folder, as often as checkpoints are written."""

    def __init__(self, seeds: int):
        self.returns = np.full(seeds, -np.inf)  # of their evaluations
        self.excess = np.full(seeds, np.inf)  # how far over the limits on costs; 0 where they hold, or there are none
        self.steps = np.zeros(seeds, int)
        self.states: list[PyTree] = []  # one of each seed, once there are any

    def better(self, returns: np.ndarray, excess: np.ndarray) -> np.ndarray:
        """Which seeds [S] are at least as good as their best before: of equals the later is kept."""
        return (excess < self.excess) | ((excess == self.excess) & (returns >= self.returns))

    def keep(self, agents: list[PyTree], returns: np.ndarray, excess: np.ndarray, steps: int) -> None:
        """Take the agents that are better, copied: the loop writes over its own."""
        better = self.better(returns, excess)
        self.excess = np.where(better, excess, self.excess)
        self.returns, self.steps = np.where(better, returns, self.returns), np.where(better, steps, self.steps)
        before: list[PyTree] = self.states or [None] * len(better)
        self.states = [jax.tree.map(_copied, agents[i]) if new else before[i] for i, new in enumerate(better)]

    def on_device(self) -> list[PyTree]:
        """Each seed's, to act with."""
        return jax.device_put(self.states)

    def summary(self) -> dict[str, Any] | None:
        """At which steps it was, with what mean return: numbers, or a list each of several seeds."""
        if not self.states:
            return None
        found = {"steps": self.steps.tolist(), "return": self.returns.tolist()}
        return found if len(self.states) > 1 else {name: values[0] for name, values in found.items()}

    def write(self, folder: Path) -> None:
        """Save it, if it is not there, by the step of the newest."""
        at = int(self.steps.max())
        if not self.states or any(at == steps for steps, _ in checkpoint.saved(folder)):
            return
        many = len(self.states) > 1
        agent = jax.tree.map(_stacked, *self.states) if many else self.states[0]
        kept = {"steps": self.steps.tolist(), "returns": self.returns.tolist(), "excess": self.excess.tolist()}
        header = {"steps": at, "rows": len(self.states) if many else 0, "best": kept}
        checkpoint.save(checkpoint.step_path(folder, at), {"agent": agent}, header)

    def read(self, folder: Path, like: PyTree) -> None:
        """The newest that was written; without one nothing changes. like: as from ``policy.saved_agent``."""
        try:
            _, note, saved = checkpoint.latest(folder, checkpoint.read)
        except UsageError as error:  # damaged: the run is worth more than its best policy so far
            note, saved = f"The best policy so far is lost. {error}", None
        run_folder.warn(note)
        if saved is not None:
            kept = saved.header["best"]
            self.steps, self.returns = np.asarray(kept["steps"]), np.asarray(kept["returns"], float)
            self.excess = np.asarray(kept.get("excess", np.zeros_like(self.returns)), float)
            states = agent_states(saved, like, len(self.steps))
            self.states = [states(i) for i in range(len(self.steps))]


def _copied(leaf: Any) -> Any:
    """A leaf in memory of its own, numpy but for keys: nothing is compiled for it."""
    return leaf.copy() if is_key(leaf) else np.array(leaf)


def _stacked(*leaves: Any) -> Any:
    return jnp.stack(leaves) if is_key(leaves[0]) else np.stack(leaves)


def cut(folder: Path, steps: int) -> None:
    """Remove what is newer than so many steps: a run goes on from there."""
    _remove(path for at, path in checkpoint.saved(folder) if at > steps)


def prune(folder: Path, checkpoints: list[int]) -> None:
    """Remove what no run needs that goes on from one of these checkpoints, given by their steps."""
    kept = checkpoint.saved(folder)
    needed = {max((at for at, _ in kept if at <= limit), default=-1) for limit in checkpoints}
    _remove(path for at, path in kept if at not in needed)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with explained("removing", path):
            path.unlink(missing_ok=True)
