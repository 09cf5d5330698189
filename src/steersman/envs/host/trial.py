"""How many workers are the fastest: a trial in processes of its own, before any member is stepped for its results.

Some members are played in one process alone and then in several at a time, from the same seeds and by the same actions.
What they cost then is what they will cost, whatever the machine does besides; and where a member does otherwise in
another process, because members share a module's state, it is left where it is. Imports no JAX: workers use it.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from steersman.envs.host.contract import MASK, Leaf
from steersman.envs.host.members import Block, Factory, Members
from steersman.envs.host.worker_wire import PLAY

PAYS = 1.0  # seconds that workers may save at best, below which none is tried: starting them takes about half of it
WIRE, MORE = 20e-6, 5e-6  # seconds that a step costs on top with one worker, and with each further one
GAIN = 0.95  # how long a step may take, of what it takes here, to be worth a process
PLAYED = 0.05  # seconds of stepping, about, in one play of a trial
PATIENCE = 30.0  # seconds for all processes to make their members, or to play
LARGEST = 10**7  # bytes of a factory that is sent to other processes unasked


class Trial(NamedTuple):
    """What a worker is told to try."""

    factories: Sequence[Factory]
    first: int
    seeds: list[int]
    obs: list[Leaf]
    action: list[Leaf]
    actions: list[np.ndarray]  # native ones, each leaf [steps, n, ...]
    mask: bool
    costs: int


class Tried(NamedTuple):
    """What came of it."""

    seconds: np.ndarray  # of each step of all members
    traces: list[str]  # a digest of all that each member gave


class Rehearsal:
    """The worker's end: the members of a trial, played as often as asked for."""

    def __init__(self, trial: Trial):
        self.trial, self.members = trial, Members(trial.factories, trial.first)
        self.block = Block.allocate(trial.obs, len(trial.factories), trial.costs)
        self.members.attach(trial.obs, trial.action, trial.mask, self.block)
        paths, first = [leaf.path for leaf in trial.obs], trial.action[0]
        discrete = len(trial.action) == 1 and first.high is not None and not first.shape
        self.legal = self.block.obs[paths.index((MASK,))] if discrete and (MASK,) in paths else None

    def play(self) -> Tried:
        self.members.reset(self.trial.seeds)
        seconds, digests = [], [hashlib.blake2b(digest_size=16) for _ in self.trial.seeds]
        for step in zip(*self.trial.actions, strict=True):
            actions = [self._allowed(step[0])] if self.legal is not None else [x.copy() for x in step]
            began = time.perf_counter()
            self.members.step(actions)
            seconds.append(time.perf_counter() - began)
            given = [*self.block.obs, self.block.reward, self.block.terminated, self.block.truncated]
            for i, digest in enumerate(digests):
                for part in given:
                    digest.update(part[i].tobytes())
        return Tried(np.asarray(seconds), [digest.hexdigest() for digest in digests])

    def _allowed(self, actions: np.ndarray) -> np.ndarray:
        """Actions [n] of a Discrete space, exchanged for some that the masks allow."""
        assert self.legal is not None
        start = self.trial.action[0].start
        start = 0 if start is None else start
        choices = [np.flatnonzero(row) for row in self.legal]
        picked = [a if not len(c) else c[(a - start) % len(c)] + start for a, c in zip(actions, choices, strict=True)]
        return np.asarray(picked, actions.dtype)


def can_be_sent(factories: Sequence[Factory]) -> bool:
    """Whether another process finds the factory where this one has it: neither in ``__main__`` nor made on the spot."""
    try:
        data = pickle.dumps(factories[0])
    except Exception:  # whatever an object's own way of being pickled raises
        return False
    return b"__main__" not in data and len(data) < LARGEST


def may_pay(step_seconds: float, num_envs: int, steps: int, processes: int) -> bool:
    """Whether workers could be worth their start. step_seconds: of a member's first step, about twice a later one's."""
    shared = min(processes, num_envs)
    return shared > 1 and 0.5 * step_seconds * num_envs * steps * (1 - 1 / shared) > PAYS


def shares(processes: int) -> list[int]:
    """The numbers of processes to try: 2, 4, 8 ... and all.

    >>> shares(2), shares(6)
    ([2], [2, 4, 6])
    """
    return sorted({processes, *(2**i for i in range(1, processes.bit_length()) if 2**i < processes)})


def steps_of(step_seconds: float) -> int:
    """How many steps a play has, by what a member's first one took."""
    return int(np.clip(PLAYED / max(step_seconds, 1e-6), 4, 400))


def trials(
    factories: Sequence[Factory], seeds: list[int], actions: list[np.ndarray], processes: int, **layout: Any
) -> list[Trial]:
    """One for each process: members i and i + 1, so that each but the first is played in two processes, in one of them
    as the second that was made there. actions: leaves [steps, processes + 1, ...]."""
    both = lambda i: [x[:, i : i + 2] for x in actions]
    last = len(factories) - 1
    return [
        Trial([factories[min(i + k, last)] for k in (0, 1)], i, seeds[i : i + 2], actions=both(i), **layout)
        for i in range(processes)
    ]


def fastest(ask: Callable[[Sequence[Any], float], list[Any] | None], tried: Sequence[Trial], num_envs: int) -> int:
    """The number of workers for ``num_envs`` members that is the fastest.

    ask: a message for each of the first processes -> their answers, None where one fails: then all stays here, where
    the same failure has its name. tried: a trial for each process.
    """
    if ask(tried, PATIENCE) is None:
        return 0
    alone, together = math.inf, dict.fromkeys(shares(len(tried)), math.inf)
    for turn in range(2):
        for j in [*reversed(together), 1]:  # first all of them, each for the first time
            played = ask([PLAY] * j, PATIENCE)
            if played is None or (j == len(tried) and turn == 0 and not same_everywhere(played)):
                return 0
            if j == 1:
                alone = min(alone, seconds_of(played))
            else:
                together[j] = min(together[j], seconds_of(played))
    return best(alone, together, num_envs)


def best(alone: float, together: Mapping[int, float], num_envs: int) -> int:
    """The number of workers that is the fastest.

    alone: seconds of one member's step, in one process by itself. together: the same in so many processes at a time; of
    those one is the main process, so j processes are j - 1 workers.

    >>> best(100e-6, {2: 110e-6}, 8), best(100e-6, {2: 200e-6}, 8), best(2e-6, {2: 2e-6}, 8)
    (1, 0, 0)
    """
    here = num_envs * alone
    times = {j - 1: math.ceil(num_envs / j) * each + WIRE + MORE * (j - 2) for j, each in together.items()}
    fastest = min(times, key=lambda k: times[k], default=0)
    return fastest if fastest and times[fastest] < GAIN * here else 0


def same_everywhere(tried: Sequence[Tried]) -> bool:
    """Whether each member did the same in both processes that played it."""
    return all(a.traces[1] == b.traces[0] for a, b in pairwise(tried))


def seconds_of(tried: Sequence[Tried]) -> float:
    """Of one member's step, where each step waits for the slowest process."""
    return float(np.max([t.seconds for t in tried], axis=0).mean() / len(tried[0].traces))
