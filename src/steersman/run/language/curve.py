"""The picture of a training on texts: its loss, beside that of what is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steersman.run.disk.logs import columns
from steersman.run.show.plots import blank, in_steps, save, style, tidy

PANELS = ("loss", "accuracy", "reward", "kl")  # each where it is logged


def loss_curve(history: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw the rows of a run's log: a panel for the loss, others for accuracy and reward where there are such.

    Nothing is drawn where no update was logged.
    """
    table = columns([dict(row) for row in history])
    shown = [name for name in PANELS if np.isfinite(table.get(name, np.nan)).any()]
    if not shown:
        return
    figure = blank(7.5, 1.6 + 2.4 * len(shown))
    for axes, name in zip(figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0], shown, strict=True):
        lines = ((name, "training", "-"), (f"held_out_{name}", "held out", "o:"))
        for i, (column, label, look) in enumerate(lines):
            values = table.get(column, np.full(len(history), np.nan))
            there = np.isfinite(values)
            if there.any():
                axes.plot(table["steps"][there], values[there], look, color=style(i)[0], label=label, markersize=4.5)
        tidy(axes, "updates" if name == shown[-1] else "", name)
        in_steps(axes.xaxis)
        axes.legend(frameon=False, fontsize="small", loc="best")
    save(figure, out)
