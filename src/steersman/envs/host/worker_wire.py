"""What a worker and its parent share: the layout of the mapping, the counters they watch, the socket's messages.

Observations, rewards, flags and actions lie in one anonymous shared mapping, and so do two counters for each worker:
the steps it was asked for and the steps it has done. Whoever waits watches a counter for a moment, yielding, and then
sleeps on the worker's socket after saying so; a byte wakes a sleeper. Being woken costs 40 us on an idle core, as
much as six steps of CartPole, so a step between two that are awake makes no system call but the yields. Everything
rare (set-up, seeds, faults, frames) goes over the socket as a message. Imports no JAX.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from steersman.envs.host.contract import Leaf
from steersman.envs.host.members import Block

# What travels on a socket: one byte; after those of _WITH_MESSAGE its length in 8 bytes, and the message.
WAKE, MESSAGE, ANSWER, FAULT = b"w", b"m", b"a", b"f"
_WITH_MESSAGE = (MESSAGE, ANSWER, FAULT)
PLAY = "play"  # a message: what a trial is to do
# Entries of a worker in the shared int64 array, a cache line each: steps asked and done, whether the parent or the
# worker sleeps, what the last step came to, the member at work.
LINE = 8
ASKED, DONE, PARENT_SLEEPS, WORKER_SLEEPS, OUTCOME, AT = range(0, 6 * LINE, LINE)
ENTRIES = 6 * LINE
QUIET, ENDED, FAILED = 0, 1, 2
_PATIENCE = 200e-6
_lock = threading.Lock()


class Layout(NamedTuple):
    """All that either side has to know to find its arrays in the mapping."""

    num_envs: int
    workers: int
    obs: list[Leaf]
    action: list[Leaf]
    mask: bool
    costs: int
    log: tuple[str, ...]  # of infos at the ends of episodes

    def arrays(self) -> list[tuple[tuple[int, ...], str]]:
        n = self.num_envs
        obs = [((n, *leaf.shape), leaf.dtype) for leaf in self.obs]
        action = [((n, *leaf.shape), leaf.native) for leaf in self.action]
        outcome = [((n,), "<f8"), ((n,), "|b1"), ((n,), "|b1"), ((n, self.costs), "<f8"), ((n, len(self.log)), "<f8")]
        return [((self.workers * ENTRIES,), "<i8"), *outcome, *obs, *obs, *action]

    def patience(self) -> float:
        """Seconds that either side watches a counter before it sleeps: none where others need the core."""
        return _PATIENCE if cores() > self.workers else 0.0

    def size(self) -> int:
        return sum(_padded(shape, dtype) for shape, dtype in self.arrays())

    def views(self, memory: mmap.mmap) -> tuple[memoryview, Block, list[np.ndarray]]:
        """-> (counters, what members write, native actions)"""
        views, offset = [], 0
        for shape, dtype in self.arrays():
            views.append(np.ndarray(shape, dtype, memory, offset))
            offset += _padded(shape, dtype)
        n = len(self.obs)
        counters, reward, terminated, truncated, costs, logged, *rest = views
        block = Block(rest[:n], rest[n : 2 * n], reward, terminated, truncated, costs, logged, [-1])
        return memoryview(counters), block, rest[2 * n :]


def put(end: socket.socket, what: bytes, message: Any = None) -> None:
    """Say something, in one piece, so that an interrupt does not cut it."""
    if what not in _WITH_MESSAGE:
        end.send(what)
        return
    data = cloudpickle.dumps(message)
    end.sendall(what + len(data).to_bytes(8, "little") + data)


def get(end: socket.socket) -> tuple[bytes, Any]:
    """-> (what was said, its message). Raises EOFError when nobody is at the other end."""
    what = end.recv(1)
    if not what:
        raise EOFError
    if what not in _WITH_MESSAGE:
        return what, None
    return what, cloudpickle.loads(_exactly(end, int.from_bytes(_exactly(end, 8), "little")))


def _exactly(end: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        parts.append(end.recv(count))
        count -= len(parts[-1])
        if not parts[-1]:
            raise EOFError
    return b"".join(parts)


def watch(entries: memoryview, index: int, value: int, sleeps: int, patience: float) -> bool:
    """Watch a counter for a moment, giving way to whoever else wants to run; -> whether it has the value.

    If not, ``entries[sleeps]`` is 1 now, and whoever writes the counter after this sends a byte.
    """
    if entries[index] != value:
        until = time.perf_counter() + patience
        while entries[index] != value and time.perf_counter() < until:
            os.sched_yield()
        if entries[index] != value:
            entries[sleeps] = 1
            fence()  # said before the last look
    arrived = entries[index] == value
    fence()  # what the other side wrote before the counter is read after it
    return arrived


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fence() -> None:
    """Order the reads and writes of shared memory before this with those after it.

    Some processors (ARM) let others see a counter before the data it announces. A lock that is free costs 50 ns and
    is the barrier that Python has: what is before a release stays before it, what is after an acquire stays after.
    """
    _lock.acquire()
    _lock.release()
    _lock.acquire()
    _lock.release()


def _padded(shape: tuple[int, ...], dtype: str) -> int:
    return -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64
