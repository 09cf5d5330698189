"""What a training of a language model shows on a terminal: the bar of every training, with tokens/s and losses."""

from __future__ import annotations

from typing import Any

from steersman.cli.display import TrainingDisplay, left, number, short
from steersman.run.events import AlreadyDone, Learned

SHOWN = ("loss", "accuracy", "reward", "kl")  # of an update's metrics, each where it is there
HELD = ("held_out_loss", "held_out_perplexity", "held_out_accuracy", "held_out_reward")


class AlignmentDisplay(TrainingDisplay):
    """A listener as ``TrainingDisplay``."""

    def __init__(self, notes: list[str], bar_width: int = 12) -> None:
        super().__init__(notes, bar_width)
        self.held = ""

    def __call__(self, event: Any) -> None:
        if isinstance(event, AlreadyDone):
            self.console.print(f"This run is {event.summary['status']} already.")
            return
        if not isinstance(event, Learned):
            super().__call__(event)
            return
        row = event.row or {}
        held = [f"{name.removeprefix('held_out_')} {number(row[name], 3)}" for name in row if name in HELD]
        self.held = f", held out {', '.join(held)}" if held else self.held
        scores = [f"{name} {number(event.metrics[name], 3)}" for name in SHOWN if name in event.metrics]
        self._show(
            self.name or "training",
            completed=event.steps,
            total=event.total,
            steps=f"{short(event.steps)}/{short(event.total)}",
            speed=f"{short(event.tokens_per_second)} tokens/s",
            score=", ".join(scores) + self.held,
            left=left(self.progress.tasks[0].time_remaining),
        )
