"""A policy at a fixed rate: the loop between the sensors and the motors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from steersman.deploy import runner
from steersman.deploy.reading import Reading
from steersman.deploy.recording import Recording
from steersman.errors import UsageError
from steersman.run.disk.spec_json import spec_from_json
from steersman.run.policy import Policy
from steersman.types import EnvSpec, PyTree

BINS = (0.0001, 0.001, 0.005, 0.02, 0.05, 0.1)  # upper ends of the histogram of how late turns begin, seconds


@dataclass
class Report:
    """What a control loop did, and when."""

    hz: float
    turns: int = 0
    missed: int = 0  # deadlines that a turn was not yet done at
    stale: int = 0  # turns without an observation, or with one that was not finite
    limited: int = 0  # actions that a limit changed
    seconds: float = 0.0
    late: list[float] = field(default_factory=list)  # how much after its time each turn began, seconds
    took: list[float] = field(default_factory=list)  # from the reading to the end of the writing, seconds
    ended: str = ""  # why

    @property
    def histogram(self) -> dict[str, int]:
        """How many turns began how late."""
        counts = np.bincount(np.searchsorted(BINS, self.late), minlength=len(BINS) + 1)
        names = [*(f"<= {1000 * b:g} ms" for b in BINS), f"> {1000 * BINS[-1]:g} ms"]
        return dict(zip(names, counts.tolist(), strict=True))

    def summary(self) -> dict[str, Any]:
        """As JSON values, times in milliseconds."""
        named = lambda x: dict(
            zip(
                ("p50", "p99", "max"), np.round(np.percentile(x or [0.0], (50, 99, 100)) * 1e3, 4).tolist(), strict=True
            )
        )
        counts = {name: getattr(self, name) for name in ("turns", "missed", "stale", "limited")}
        times = {"late_ms": named(self.late), "turn_ms": named(self.took), "late": self.histogram}
        return {"hz": self.hz, "seconds": round(self.seconds, 3), "ended": self.ended, **counts, **times}


class ControlLoop:
    """``ControlLoop(policy, read, write, hz=50).run(seconds=60)``: read, decide, limit, write; every 20 ms.

    policy: of ``steersman.load``, an exported one, or a function of an observation. read() -> an observation, a
    ``Reading``, or None where nothing came since the last time. write(action): to the motors, in the policy's units.
    Turns begin on a grid of the monotonic clock. One that is not done when the next is due has missed a deadline; where
    more than one was, the grid goes on without them, so that no burst follows a delay.

    low, high: bounds of what is written, within those of the policy. max_rate: how fast an entry may change, in units a
    second. Each is a number, or one for each entry. Watchdog: where the observation is late or not finite the last
    action is held for ``hold`` seconds; then ``safe`` is written, or without it the loop ends. ``safe`` is also written
    when the loop ends, whyever it does, as it is. recording: keeps what was seen and done.

    ``run`` raises UsageError where, after a second, half of the turns take longer than there is: a rate that cannot be
    met.
    """

    def __init__(
        self,
        policy: Callable[[PyTree], Any],
        read: Callable[[], Any],
        write: Callable[[Any], None],
        *,
        hz: float = 50.0,
        low: Any = None,
        high: Any = None,
        max_rate: Any = None,
        hold: float = 0.1,
        safe: Any = None,
        recording: Recording | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        spec = spec_of(policy)
        space = None if spec is None else spec.native_action_space
        for name, value in (("low", low), ("high", high), ("max_rate", max_rate), ("hz", hz)):
            _check_numbers(name, value, space if name != "hz" else None)
        for name, value in (("hz", hz), ("max_rate", max_rate)):
            if value is not None and not np.all(np.isfinite(value) & (np.asarray(value) > 0)):
                raise UsageError(f"{name} = {value}; it must be finite and above 0.")
        if low is not None and high is not None and not np.all(np.asarray(low) <= np.asarray(high)):
            raise UsageError(f"low = {low} and high = {high}; low is the lesser.")
        if safe is not None and isinstance(space, spaces.Box) and np.shape(safe) != space.shape:
            raise UsageError(f"safe = {safe}; it is written as it is, an action of shape {space.shape}.")
        if not hold >= 0:
            raise UsageError(f"hold = {hold}; it is how many seconds the last action may stand for a new one.")
        limits = {"low": low, "high": high, "max_rate": max_rate}
        given = [name for name, value in limits.items() if value is not None]
        if given and space is not None and not isinstance(space, spaces.Box):
            raise UsageError(f"{given[0]} is for numbers; the actions are {space}. Leave it out.")
        self.policy, self.read, self.write, self.hz = policy, read, write, hz
        self.low, self.high, self.max_rate = low, high, max_rate
        self.hold, self.safe, self.recording = hold, safe, recording
        self.clock, self.sleep = clock, sleep
        self._why = ""

    def stop(self, why: str = "stopped") -> None:
        """Let the loop end after the turn it is in; for a signal handler, or another thread."""
        self._why = why

    def run(self, seconds: float | None = None, *, turns: int | None = None) -> Report:
        """Until so many seconds or turns are over, ``stop`` is called, or Ctrl-C comes."""
        if seconds is not None and not 0 < seconds < math.inf:
            raise UsageError(f"seconds = {seconds}; it must be finite and above 0. In Python, None is without an end.")
        self._why = ""
        report, period = Report(self.hz), 1.0 / self.hz
        last: Any = None  # the action that stands
        opens, tried = True, False  # tried: whether the rate can be met
        begun = seen = due = self.clock()
        try:
            while not self._why:
                if (now := self.clock()) < due:
                    self.sleep(due - now)
                    now = self.clock()
                report.late.append(max(0.0, now - due))
                reading = self._reading()
                if reading is None:
                    report.stale += 1
                    action = self._instead(last, now - seen)
                else:
                    if opens or reading.terminated or reading.truncated:
                        self._reset()
                    seen, opens = now, False
                    action = self._limited(decided := self.policy(reading.obs), last)
                    report.limited += action is not decided
                if self.recording is not None:
                    self.recording.add(reading, action)
                if action is not None:
                    self.write(action)
                    last = action
                over = self.clock()
                report.turns += 1
                report.took.append(over - now)
                report.seconds, due = over - begun, due + period
                if over > due:
                    behind = int((over - due) / period)
                    report.missed += 1 + behind
                    due += behind * period
                if not tried and report.seconds >= 1.0 and report.turns >= 5:
                    tried = True
                    self._check_rate(report)
                if (turns is not None and report.turns >= turns) or (
                    seconds is not None and due - begun > seconds - period / 2
                ):
                    self.stop("done")
        except KeyboardInterrupt:
            self.stop("interrupted")
        finally:
            if self.safe is not None:
                self.write(self.safe)
        report.ended = self._why
        return report

    def _reading(self) -> Reading | None:
        """What was read, if there is something and all of it is finite."""
        given = self.read()
        if given is None:
            return None
        reading = given if isinstance(given, Reading) else Reading(given)
        finite = all(np.isfinite(x).all() for x in jax.tree.leaves(reading.obs))
        return reading if finite else None

    def _reset(self) -> None:
        if isinstance(self.policy, Policy | runner.Policy):
            self.policy.reset()

    def _instead(self, last: Any, age: float) -> Any:
        """The action of a turn without an observation, which is ``age`` seconds old; None: nothing is written."""
        if last is not None and age <= self.hold:
            return last
        if last is not None and self.safe is None:
            self.stop(f"no observation of use for {age:.3g} s")
        return self.safe

    def _limited(self, action: Any, last: Any) -> Any:
        """The action within the limits; itself where it is."""
        if self.low is None and self.high is None and self.max_rate is None:
            return action
        limited = np.clip(action, self.low, self.high) if (self.low, self.high) != (None, None) else np.asarray(action)
        if self.max_rate is not None and last is not None:
            step = np.asarray(self.max_rate) / self.hz
            limited = np.clip(limited, last - step, last + step)
        return action if np.array_equal(limited, action) else limited.astype(np.asarray(action).dtype)

    def _check_rate(self, report: Report) -> None:
        if (took := float(np.median(report.took))) * self.hz > 1:
            raise UsageError(
                f"hz = {_shown(self.hz)} cannot be met: {report.missed:,} deadlines were missed in the first "
                f"{report.seconds:.2g} s, where a turn takes {1000 * took:.3g} ms. Set hz below {_shown(1 / took)}, or "
                "make read, write or the policy (backend numpy) faster."
            )


def _check_numbers(name: str, value: Any, space: spaces.Space | None) -> None:
    """Raise UsageError unless it is a number, or one for each entry of the actions, where they are known."""
    if value is None:
        return
    shape, each = (space.shape, f", or one for each entry of {space}") if isinstance(space, spaces.Box) else (None, "")
    try:
        np.broadcast_to(np.asarray(value, np.float64), np.shape(value) if shape is None else shape)
    except (TypeError, ValueError):
        raise UsageError(f"{name} = {value!r}; it is a number{each}.") from None


def _shown(x: float) -> str:
    return f"{x:.3g}" if x < 1000 else f"{x:,.0f}"


def spec_of(policy: Any) -> EnvSpec | None:
    """What a policy was trained on; None of a plain function."""
    if isinstance(policy, Policy):
        return policy.spec
    return spec_from_json(policy.contract["spec"]) if isinstance(policy, runner.Policy) else None
