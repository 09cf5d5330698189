"""Ctrl-C and SIGTERM ask a run to stop at the next safe point; a second one stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether a stop was asked for; ``at_once`` is set where nothing can be lost any more: then it interrupts."""

    requested = False
    at_once = False


@contextmanager
def stop_on_signals() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into ``Interruption.requested`` for the length of the block (in the main thread only).

    A second signal, or the first one ``at_once``, raises KeyboardInterrupt.
    """
    stop = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number, frame):
        now = stop.requested or stop.at_once
        stop.requested = True
        if now:
            raise KeyboardInterrupt

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
