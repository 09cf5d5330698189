"""The worker's end of ``workers``: a fresh interpreter's life. Imports no JAX."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from steersman.envs.host import worker_wire as wire
from steersman.envs.host.members import Members
from steersman.envs.host.trial import Rehearsal, Trial
from steersman.envs.host.worker_wire import fence, get, put, watch
from steersman.errors import EnvironmentFault, UsageError


def serve(socket_fd: int, memory_fd: int) -> None:
    """Play trials as long as some come; make the members, then step them until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(socket_fd, False)  # not for processes that a simulator starts
    os.set_inheritable(memory_fd, False)
    end = socket.socket(fileno=socket_fd)
    members: Members | None = None
    try:
        try:
            factories, first = _after_trials(end)
            members = Members(factories, first)
            look = members.look()
        except Exception as error:
            _tell_of(error, end)
            return
        put(end, wire.ANSWER, look)
        _Server(members, end, memory_fd).run()
    except (EOFError, ConnectionError):
        pass
    finally:
        if members is not None:
            members.close()


def _after_trials(end: socket.socket) -> Any:
    """-> the first message that is of no trial. What the trials' environments print is nobody's result."""
    rehearsal: Rehearsal | None = None
    while True:
        with _silent():  # whatever the user's modules print as they are imported, they have printed in the parent
            message = get(end)[1]
        if isinstance(message, Trial):
            with _silent():
                rehearsal = Rehearsal(message)
            put(end, wire.ANSWER)
        elif message == wire.PLAY:
            assert rehearsal is not None
            with _silent():
                tried = rehearsal.play()
            put(end, wire.ANSWER, tried)
        else:
            if rehearsal is not None:
                with _silent():
                    rehearsal.members.close()
            return message


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is written to standard output and error, by whatever code."""
    streams = (sys.stdout, sys.stderr)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


class _Server:
    def __init__(self, members: Members, end: socket.socket, memory_fd: int):
        self.members, self.end, self.memory_fd = members, end, memory_fd

    def run(self) -> None:
        """Messages until the mapping is laid out; then steps, and messages between them."""
        while self._message(*get(self.end)):
            pass
        entries, end, mine, step = self.entries, self.end, self.actions, self.members.step
        while True:
            if watch(entries, wire.ASKED, entries[wire.DONE] + 1, wire.WORKER_SLEEPS, self.patience):
                entries[wire.WORKER_SLEEPS] = 0
                self._step(entries, end, mine, step)
                continue
            what, message = get(end)
            entries[wire.WORKER_SLEEPS] = 0
            if what == wire.MESSAGE:
                # Sent after an interrupt, it finds the step that was asked for before.
                if entries[wire.ASKED] != entries[wire.DONE]:
                    self._step(entries, end, mine, step)
                self._message(what, message)

    def _step(self, entries: memoryview, end: socket.socket, actions: list[np.ndarray], step: Any) -> None:
        try:
            # Copies, for an environment may keep its action.
            entries[wire.OUTCOME] = wire.ENDED if step([a.copy() for a in actions]) else wire.QUIET
        except Exception as error:
            entries[wire.OUTCOME] = wire.FAILED
            _tell_of(error, end)
        fence()
        entries[wire.DONE] += 1
        fence()
        if entries[wire.PARENT_SLEEPS]:
            put(end, wire.WAKE)

    def _message(self, what: bytes, message: Any) -> bool:
        """Answer one message; -> whether the mapping is still to be laid out."""
        assert what == wire.MESSAGE
        name, *args = message
        calls: dict[str, Callable[..., Any]] = {
            "attach": self._attach,
            "reset": self.members.reset,
            "render": self.members.render,
            "echo": lambda token: token,
        }
        try:
            answer = calls[name](*args)
        except Exception as error:
            _tell_of(error, self.end)
        else:
            put(self.end, wire.ANSWER, answer)
        return name != "attach"

    def _attach(self, layout: wire.Layout, k: int) -> None:
        counters, block, actions = layout.views(mmap.mmap(self.memory_fd, layout.size()))
        first, last = self.members.first, self.members.first + len(self.members.envs)
        self.patience = layout.patience()
        self.entries = counters[k * wire.ENTRIES : (k + 1) * wire.ENTRIES]
        self.actions = [a[first:last] for a in actions]
        block = block.rows(first, last, self.entries[wire.AT :])
        self.members.attach(layout.obs, layout.action, layout.mask, block, layout.log)


def _tell_of(error: Exception, end: socket.socket) -> None:
    """A fault in words, with the traceback of what the environment raised."""
    ours = isinstance(error, UsageError | EnvironmentFault)
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    cause = error.__cause__ if ours else error
    if cause is not None:
        text += "\n\nThe traceback in the worker:\n" + "".join(traceback.format_exception(cause)).rstrip()
    put(end, wire.FAULT, (UsageError if isinstance(error, UsageError) else EnvironmentFault, text))
