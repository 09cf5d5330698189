"""``steersman deploy RUN|DIR --env ID``: a control loop in real time, against a simulator."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from steersman.cli.display import number, print_json, working
from steersman.cli.flags import parsed
from steersman.deploy.control_loop import ControlLoop, Report, spec_of
from steersman.deploy.loading import load
from steersman.deploy.plant import Plant
from steersman.deploy.recording import Recording
from steersman.errors import UsageError
from steersman.run.disk.dataset import check_new
from steersman.run.policy import check_same_spaces


@dataclass(frozen=True)
class Deploy:
    """Let a policy act at a fixed rate on a simulator that does not wait, with sensors as late and noisy as told."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, or a folder of steersman export."""
    env: str
    """The environment that stands in for the robot."""
    hz: float | None = None
    """Turns in a second; none: those that the policy was exported for (steersman export --hz), else 50."""
    seconds: float = 10.0
    """How long."""
    latency: float = 0.0
    """Seconds from a sensor to the policy."""
    noise: float = 0.0
    """Standard deviation of what is added to what is seen, in its units."""
    drop: float = 0.0
    """Share of the observations that are lost."""
    max_rate: float | None = None
    """How fast an action may change, in units a second; none: at once."""
    hold: float = 0.1
    """Seconds that the last action stands for one that cannot be chosen; the loop ends after that."""
    record: Path | None = None
    """A folder to record to, as steersman collect does; it must not exist."""
    seed: int = 0
    """Of the simulator and its sensors."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def run(arguments: list[str]) -> int:
    """-> exit code."""
    chosen = parsed(Deploy, arguments, "steersman deploy")
    if chosen.record is not None:
        check_new(chosen.record)
    sensors = {name: getattr(chosen, name) for name in ("latency", "noise", "drop", "seed")}
    with working(f"loading {chosen.run}, making {chosen.env}"):
        policy = load(chosen.run, backend="numpy")
        hz = _rate(chosen, policy.contract["control_period"])
        plant = Plant(chosen.env, hz=hz, **sensors)
    try:
        trained = spec_of(policy)
        assert trained is not None
        check_same_spaces(trained, plant.spec)
        recording = None if chosen.record is None else Recording(plant.spec, {"run": str(chosen.run), **sensors})
        loop = ControlLoop(
            policy,
            plant.read,
            plant.write,
            hz=hz,
            max_rate=chosen.max_rate,
            hold=chosen.hold,
            recording=recording,
        )
        before = signal.signal(signal.SIGTERM, lambda *_: loop.stop("terminated"))
        try:
            if not chosen.json:
                print(f"{chosen.env} at {hz:g} Hz for {chosen.seconds:g} s; Ctrl-C ends it", file=sys.stderr)
            report = loop.run(chosen.seconds)
        finally:
            signal.signal(signal.SIGTERM, before)
    finally:
        plant.close()
    told = {**report.summary(), "delay_turns": plant.delay, "returns": plant.returns}
    if plant.spec.num_costs:
        told["costs"] = plant.costs
    lost = None
    if recording is not None and chosen.record is not None:
        try:
            told["recorded"] = len(recording.save(chosen.record)) if len(recording) else 0
        except UsageError as error:  # what the loop did is told all the same
            lost = error
    if chosen.json:
        print_json(told)
    else:
        _say(chosen, report, told, plant, hz)
    if lost is not None:
        raise lost
    return 0


def _say(chosen: Deploy, report: Report, told: dict[str, Any], plant: Plant, hz: float) -> None:
    """What the loop did, for a reader."""
    turns = f"{report.turns:,} turn{'s' * (report.turns != 1)}"
    print(f"{turns} at {hz:g} Hz, {report.ended}; {report.missed:,} deadlines missed")
    late, took = told["late_ms"], told["turn_ms"]
    print(f"  a turn began late by {late['p50']} ms (median), {late['p99']} (99 %), {late['max']} (most)")
    print(f"  a turn took {took['p50']} ms (median), {took['p99']} (99 %), {took['max']} (most)")
    print("  late      " + ", ".join(f"{name}: {count}" for name, count in report.histogram.items() if count))
    print(f"  no observation at {report.stale} turns, actions limited at {report.limited}")
    if report.stale and report.ended not in ("done", "interrupted", "terminated"):
        print(f"  An action is held for {chosen.hold:g} s without one: raise --hold, or lower --latency or --drop")
    ended = len(plant.returns)
    means = [f", mean return {number(float(np.mean(plant.returns)))}"] if ended else []
    means += [f", cost {number(x)}" for x in (np.mean(plant.costs, 0).tolist() if ended else [])]
    print(f"  {ended:,} episode{'s' * (ended != 1)} ended{''.join(means)}")
    if "recorded" in told:
        print(f"  {told['recorded']:,} transitions in {chosen.record}" if told["recorded"] else "  nothing to record")


def _rate(chosen: Deploy, period: float | None) -> float:
    """Turns in a second, of which a policy that was exported for others is told. period: what its contract says."""
    meant = 50.0 if period is None else 1.0 / period
    hz = meant if chosen.hz is None else chosen.hz
    if period is not None and abs(hz - meant) > 0.01 * meant:
        print(f"steersman: {chosen.run} was exported for {meant:g} Hz, and is to act at {hz:g} Hz.", file=sys.stderr)
    return hz
