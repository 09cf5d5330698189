"""What cannot end well is refused before it begins: budgets that end in the warm-up, more copies than memory holds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from steersman.errors import UsageError
from steersman.run.loops.devices import check_memory

MANY = 1_000  # copies of a host environment, above which some are made first, to see what all will take
TRIED = 8


def check_warm_up(steps: int, first_steps: int, unroll_length: int, num_envs: int, learning_starts: int | None) -> None:
    """Raise UsageError unless the budget goes on after what a random policy plays first.

    learning_starts: of an agent with replay; the others seed their normalisers with a first rollout.
    """
    if max(first_steps, learning_starts or 0) < steps or (first_steps <= num_envs and (learning_starts or 0) < steps):
        return
    if learning_starts is not None:
        raise UsageError(
            f"learning_starts = {learning_starts:,}: so many steps of a random policy fill replay before anything is "
            f"learned, and the whole budget is steps = {steps:,}. Set learning_starts to {steps // 10:,} "
            f"(--learning-starts {steps // 10}), or steps to {10 * first_steps:,} or so."
        )
    raise UsageError(
        f"steps = {steps:,} ends in the warm-up: a first rollout of a random policy, unroll_length {unroll_length} x "
        f"num_envs {num_envs} = {first_steps:,} steps, seeds the normalisers. Set steps to more than {first_steps:,}, "
        "or lower unroll_length or num_envs."
    )


def check_copies(make: Callable[[int], Any], num_envs: int) -> None:
    """Raise UsageError where memory does not hold so many host environments. make: makes some, which are closed."""
    make(1).close()  # what is imported is imported now
    tracemalloc.start()
    try:
        before = _resident()
        some = make(TRIED)
        size = max(_resident() - before, tracemalloc.get_traced_memory()[0]) // TRIED * num_envs
    finally:
        tracemalloc.stop()
    some.close()
    what = f"What num_envs = {num_envs:,} copies of {some.spec.id} hold, by a sample of {TRIED},"
    check_memory(size, what, "Lower num_envs.")


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
    return 0
