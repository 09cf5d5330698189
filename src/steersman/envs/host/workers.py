"""Processes that step the members together with this one, for simulators that are slow enough to share out.

Workers are started as fresh interpreters, never forked (JAX has threads), and do not run the caller's main module. The
kernel ends everything with the parent: nothing has a name, and a socket without its other end says so at once.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from steersman.envs.host.members import Block, Factory, Look, Members
from steersman.envs.host.worker_wire import (
    ANSWER,
    ASKED,
    AT,
    DONE,
    ENDED,
    ENTRIES,
    FAILED,
    FAULT,
    MESSAGE,
    OUTCOME,
    PARENT_SLEEPS,
    WAKE,
    WORKER_SLEEPS,
    Layout,
    fence,
    get,
    put,
    watch,
)
from steersman.errors import EnvironmentFault, UsageError

_ALIVE_EVERY_MS = 1000  # between two looks at whether a silent worker still lives


class Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    socket: socket.socket
    poll: select.poll
    first: int = 0
    stop: int = 0  # its members are first ... stop - 1


def lacking() -> str:
    """What workers are made of and this Python has not, in words; "" if it has all."""
    parts = {"os.memfd_create" if sys.platform == "linux" else "os.dup": os, "select.poll": select}
    missing = [name for name, module in parts.items() if name.partition(".")[2] not in dir(module)]
    return ", ".join(missing) or ("" if os.name == "posix" else "such processes")


def check_system() -> None:
    """Raise UsageError where the operating system, or this Python on it, lacks what workers are made of."""
    if missing := lacking():
        raise UsageError(
            f"workers need a POSIX system (Linux, macOS); this Python on {sys.platform} has no {missing}. Leave "
            "workers out, or give workers=0: then this process steps all members, with the same results."
        )


class Workers:
    """The parent's end. ``looks`` says what the members are; then ``attach``; then ``reset`` and ``step``.

    This process steps the first share itself while the workers step theirs: it has nothing else to do then. With a
    worker for each member it steps none, and no simulator can take it down.
    """

    def __init__(
        self, factories: Sequence[Factory], workers: int, *, here: Members | None = None, crew: Crew | None = None
    ):
        """here: members that this process has made, of which it keeps its share. crew: processes that run already."""
        check_system()
        self._fd, self._workers = (crew or Crew(0)).handed_over()
        self._here: list[Members] = []  # those of this process, if it has a share
        self.close = weakref.finalize(self, _stop, self._workers, self._here, self._fd)
        self._entries: list[memoryview] = []
        self._busy = False  # left True by an interrupt, when answers may be under way that nobody waits for
        try:
            shares = min(workers + 1, len(factories))
            cuts = np.linspace(0, len(factories), shares + 1).round().astype(int).tolist()[shares - workers :]
            _stop(self._workers[workers:])
            del self._workers[workers:]
            while len(self._workers) < workers:
                self._workers.append(_launch(self._fd))
            for k, (first, stop) in enumerate(pairwise(cuts)):
                self._workers[k] = self._workers[k]._replace(first=first, stop=stop)
                self._send(k, MESSAGE, (factories[first:stop], first))
            self._own = slice(0, cuts[0])
            if here is not None:
                here.keep(cuts[0])
            if cuts[0]:
                self._here.append(here or Members(factories[self._own]))
            self.looks: list[Look] = [members.look() for members in self._here if members is not here]
            self.looks += [self._answer(k) for k in range(workers)]
        except BaseException:
            self.close()
            raise

    def attach(self, layout: Layout) -> Block:
        """Lay out the mapping; -> what members write."""
        os.ftruncate(self._fd, layout.size())
        self._memory = mmap.mmap(self._fd, layout.size())
        counters, block, self._actions = layout.views(self._memory)
        self._entries = [counters[k * ENTRIES : (k + 1) * ENTRIES] for k in range(len(self._workers))]
        self._patience = layout.patience()
        self._tell({k: ("attach", layout, k) for k in range(len(self._workers))})
        for members in self._here:
            members.attach(layout.obs, layout.action, layout.mask, block.rows(0, self._own.stop, block.at), layout.log)
        return block

    def reset(self, seeds: Sequence[int]) -> None:
        """Start every member's episode from its own seed."""
        self._tell(
            {k: ("reset", seeds[w.first : w.stop]) for k, w in enumerate(self._workers)},
            *(partial(members.reset, seeds[self._own]) for members in self._here),
        )

    def render(self) -> Any:
        """What ``render`` of member 0 gives."""
        return self._here[0].render() if self._here else self._tell({0: ("render",)})[0]

    def step(self, actions: list[np.ndarray]) -> bool:
        """Step every member with native actions [B, ...], leaf by leaf; -> whether an episode ended."""
        if self._busy:
            self._calm()
        self._busy = True
        for shared, given in zip(self._actions, actions, strict=True):
            shared[...] = given
        entries = self._entries
        fence()
        for own in entries:
            own[ASKED] += 1
        fence()
        for k, own in enumerate(entries):
            if own[WORKER_SLEEPS]:
                self._send(k, WAKE)
        ended = False
        for members in self._here:
            ended |= members.step([given[self._own] for given in actions])
        for k, own in enumerate(entries):
            while not watch(own, DONE, own[ASKED], PARENT_SLEEPS, self._patience):
                self._next(k)
            own[PARENT_SLEEPS] = 0
            if own[OUTCOME] == FAILED:
                self._answer(k)
            ended |= own[OUTCOME] == ENDED
        self._busy = False
        return ended

    # --- talking to workers ---

    def _tell(self, messages: dict[int, Any], *meanwhile: Callable[[], None]) -> list[Any]:
        if self._busy:
            self._calm()
        self._busy = True
        for k, message in messages.items():
            self._send(k, MESSAGE, message)
        for call in meanwhile:
            call()
        answers = [self._answer(k) for k in messages]
        self._busy = False
        return answers

    def _send(self, k: int, what: bytes, message: Any = None) -> None:
        try:
            put(self._workers[k].socket, what, message)
        except OSError:
            raise self._died(k) from None

    def _answer(self, k: int) -> Any:
        while True:
            what, message = self._next(k)
            if what != WAKE:
                return message

    def _next(self, k: int) -> tuple[bytes, Any]:
        """What worker k says next; a fault it tells of is raised."""
        worker = self._workers[k]
        while not worker.poll.poll(_ALIVE_EVERY_MS):
            if worker.process.poll() is not None:  # its socket may be held open by a child of its own
                raise self._died(k)
        try:
            what, message = get(worker.socket)
        except (EOFError, ConnectionError):
            raise self._died(k) from None
        if what == FAULT:
            kind, text = message
            raise kind(text)
        return what, message

    def _calm(self) -> None:
        """After an interrupt or a fault: pass over the answers nobody waited for."""
        token = time.monotonic_ns()
        for k, worker in enumerate(self._workers):
            self._send(k, MESSAGE, ("echo", token))
            while True:
                try:
                    if self._next(k) == (ANSWER, token):
                        break
                except EnvironmentFault:
                    if worker.process.poll() is not None:
                        raise
        self._busy = False

    def _died(self, k: int) -> EnvironmentFault:
        worker = self._workers[k]
        try:
            code = worker.process.wait(2)
            how = f"ended with exit code {code}"
            if code < 0:
                name = signal.Signals(-code).name
                how = f"was killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")
        except subprocess.TimeoutExpired:
            how = "closed its connection"
        when = "while its environments were being made"
        if self._entries:
            at = self._entries[k][AT]
            when = f"while member {at} was being stepped or reset" if at >= 0 else "between two steps"
        last = worker.stop - 1
        members = f"member {last}" if worker.first == last else f"members {worker.first} to {last}"
        return EnvironmentFault(
            f"The worker of {members} (process {worker.process.pid}) {how} {when}. With workers=0 the environments run "
            "in this process, where a debugger can follow them."
        )


class Crew:
    """Processes that have no members yet: each can play trials, and then be a worker."""

    def __init__(self, size: int):
        self._fd, self._workers = _anonymous(), list[Worker]()
        self.close = weakref.finalize(self, _stop, self._workers, [], self._fd)
        try:
            for _ in range(size):
                self._workers.append(_launch(self._fd))
        except BaseException:
            self.close()
            raise

    def ask(self, messages: Sequence[Any], patience: float) -> list[Any] | None:
        """A message for each of the first processes; -> their answers, None where one fails or takes too long."""
        asked = self._workers[: len(messages)]
        until = time.monotonic() + patience
        try:
            for worker, message in zip(asked, messages, strict=True):
                put(worker.socket, MESSAGE, message)
            answers = []
            for worker in asked:
                if not worker.poll.poll(1000 * max(0.0, until - time.monotonic())):
                    return None
                what, answer = get(worker.socket)
                if what == FAULT:
                    return None
                answers.append(answer)
        except (OSError, EOFError):
            return None
        return answers

    def handed_over(self) -> tuple[int, list[Worker]]:
        """Give the processes away; -> (the descriptor of the memory that they share, they)."""
        self.close.detach()
        return self._fd, self._workers


def _launch(fd: int) -> Worker:
    ours, theirs = socket.socketpair()
    code = (
        "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('path'); "
        "from steersman.envs.host.worker_main import serve; serve(**a)"
    )
    args = {"path": [str(p) for p in sys.path], "socket_fd": theirs.fileno(), "memory_fd": fd}
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(args)],
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(), fd),
        process_group=0,  # a Ctrl-C in the terminal is for the parent
    )
    theirs.close()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    return Worker(process, ours, poll)


def _stop(workers: list[Worker], here: Sequence[Members] = (), fd: int | None = None) -> None:
    for members in here:
        members.close()
    for worker in workers:  # each closes its environments and leaves when it finds nobody at the other end
        worker.socket.close()
    patience = time.monotonic() + 3
    for worker in workers:
        for end in (worker.process.terminate, worker.process.kill, worker.process.kill):
            try:
                worker.process.wait(max(patience - time.monotonic(), 0.5))
                break
            except subprocess.TimeoutExpired:
                end()
    workers.clear()
    if fd is not None:
        os.close(fd)


def _anonymous() -> int:
    """Memory to share by its file descriptor; it has no name that could be left behind."""
    if sys.platform == "linux":
        return os.memfd_create("steersman")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
