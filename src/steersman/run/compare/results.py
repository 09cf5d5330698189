"""What a comparison gives back: how each entry did, and what its seeds say of which is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steersman.run.compare.entries import Entry
from steersman.run.disk.files import plain
from steersman.run.disk.logs import columns
from steersman.run.policies.limits import Limits, limits_of
from steersman.run.settings import values_of
from steersman.run.show.plots import with_rolling
from steersman.theory import comparison as theory
from steersman.theory.comparison import Estimate
from steersman.theory.statistics import iqm

WINDOW = 100  # episodes whose mean decides whether the threshold is reached; a tenth of all where there are few


@dataclass(frozen=True)
class Outcome:
    """How one entry did. Arrays ``[S]`` are in the order of the seeds; intervals are 95% and over the seeds."""

    label: str
    algorithm: str
    settings: dict[str, Any]
    steps: int  # of each seed
    scores: np.ndarray  # [S] mean return of each seed's final evaluation
    mean: Estimate
    iqm: Estimate
    over_training: Estimate  # the learning curve's mean height: sample efficiency in one number
    threshold_steps: np.ndarray  # [S] steps to the threshold, inf where it was not reached; [0] without a threshold
    median_steps: Estimate | None  # of threshold_steps; inf where half of the seeds do not reach it
    wall_seconds: float  # of all seeds together
    compile_seconds: float
    training_seconds: float
    steps_per_second: float
    series: list[tuple[np.ndarray, np.ndarray]]  # per seed: steps, mean return of the last 100 training episodes
    runs: list[Path]
    mean_cost: list[Estimate]  # of each cost, as ``mean``
    costs: np.ndarray  # [S, C] mean costs of each seed's final evaluation
    limits: Limits
    measure: str = "return"  # what the scores are of; else of a training on texts, whose steps are updates

    @property
    def within(self) -> np.ndarray:
        """Which seeds [S] hold every limit in the mean; all where there are none."""
        return self.limits.excess(self.costs) == 0

    @property
    def feasible(self) -> bool:
        """Whether every limit is held in the mean over the seeds."""
        return bool(self.limits.excess(self.costs.mean(0, keepdims=True))[0] == 0)

    @property
    def reached(self) -> int:
        """How many seeds reach the threshold."""
        return int(np.isfinite(self.threshold_steps).sum())

    def summary(self) -> dict[str, Any]:
        """As JSON values; what was not reached is null."""
        found = {name: _estimate(getattr(self, name)) for name in ("mean", "iqm", "over_training")}
        timed = ("steps_per_second", "training_seconds", "compile_seconds", "wall_seconds")
        content = {"steps": self.steps, "scores": self.scores, **found, **{n: getattr(self, n) for n in timed}}
        if self.median_steps is not None:
            reached = {"seeds": self.threshold_steps, "reached": self.reached, **_estimate(self.median_steps, "median")}
            content["steps_to_threshold"] = reached
        if self.mean_cost:
            content["mean_cost"] = [_estimate(cost) for cost in self.mean_cost]
            content["costs"] = self.costs
        if self.limits.most:
            held = {
                "cost_limit": list(self.limits.most),
                "feasible": self.feasible,
                "seeds_feasible": self.within.mean(),
            }
            content |= held
        return plain(content)


class Compared(NamedTuple):
    """The event of an entry that is done."""

    entry: str  # its label
    outcome: Outcome


class Failed(NamedTuple):
    """The event of an entry that could not go on."""

    entry: str  # its label
    error: str


def _estimate(estimate: Estimate, name: str = "value") -> dict[str, Any]:
    return {name: estimate.value, "ci95": [estimate.low, estimate.high]}


@dataclass(frozen=True)
class Comparison:
    """What a comparison gives back. ``steersman.compare`` makes it; ``steersman.plot`` draws it."""

    environment: str
    compiled: bool
    seeds: list[int]
    evaluation_episodes: int  # of each seed
    threshold: float | None
    outcomes: dict[str, Outcome]  # label -> of the entries that are done
    improvement: dict[tuple[str, str], Estimate]  # (x, y) -> P(a seed of x ends better than one of y)
    failures: dict[str, str]  # label -> why its training could not go on
    unfinished: list[str]  # labels
    path: Path | None

    @property
    def interrupted(self) -> bool:
        return bool(self.unfinished)

    @property
    def of_texts(self) -> str:
        """What a comparison of trainings on texts measures; empty where returns are."""
        measure = next((o.measure for o in self.outcomes.values()), "return")
        return "" if measure == "return" else measure

    @property
    def scored(self) -> str:
        """What a score is, for people."""
        return self.of_texts or f"mean return of {self.evaluation_episodes} episodes"

    @property
    def limited(self) -> bool:
        """Whether any cost has a limit."""
        return any(outcome.limits.most for outcome in self.outcomes.values())

    @property
    def ranking(self) -> list[str]:
        """The labels, the best first: those that hold their limits on costs before the others, then by mean return."""
        return sorted(self.outcomes, key=lambda x: (not self.outcomes[x].feasible, -self.outcomes[x].mean.value))

    @property
    def ranked(self) -> list[tuple[str, str, Estimate]]:
        """Each pair once, the likely better one first, the clearest pair first."""
        pairs = [(x, y, e) for (x, y), e in self.improvement.items()]
        order = {label: i for i, label in enumerate(self.outcomes)}
        once = [p for p in pairs if p[2].value > 0.5 or (p[2].value == 0.5 and order[p[0]] < order[p[1]])]
        return sorted(once, key=lambda pair: -pair[2].value)

    def summary(self) -> dict[str, Any]:
        """The results as JSON values."""
        return {
            "status": "interrupted" if self.unfinished else "failed" if self.failures else "done",
            "environment": self.environment,
            "compiled": self.compiled,
            "seeds": self.seeds,
            "evaluation_episodes": self.evaluation_episodes,
            "threshold": self.threshold,
            "results": {label: outcome.summary() for label, outcome in self.outcomes.items()},
            "ranking": self.ranking,
            "improvement": [
                plain({"better": x, "than": y, "probability": e.value, "ci95": [e.low, e.high]})
                for x, y, e in self.ranked
            ],
            "failures": self.failures,
            "unfinished": self.unfinished,
        }


def outcome_of(
    entry: Entry, done: list[tuple[dict[str, Any], list[dict[str, Any]]]], threshold: float | None, places: list[Path]
) -> Outcome:
    total = lambda name: float(sum(summary[name] for summary, _ in done))
    rows, series, solved = [], [], []
    for _, history in done:
        table = columns(history)
        steps = table["steps"]
        rolling = with_rolling(table)
        series += [
            (steps[there], values[there])
            for values in np.atleast_2d(rolling["return_100"].T)
            for there in [np.isfinite(values)]
        ]
        for returns, episodes in zip(*(np.atleast_2d(table[k].T) for k in ("episode_return", "episodes")), strict=True):
            there = np.isfinite(returns)
            rows.append((steps[there], returns[there]))
            window = min(WINDOW, max(1, int(episodes.sum() / 10)))
            if threshold is not None:
                solved.append(theory.steps_to_threshold(steps, returns, episodes, threshold, window))
    evaluations = [e for summary, _ in done for e in summary["evaluations"] or [summary["evaluation"]]]
    scores = np.array([e["mean"] for e in evaluations])
    costs = np.array([e.get("mean_cost", []) for e in evaluations], float)
    names = tuple(evaluations[0].get("cost_names", ()))
    heights = [height(x, y) for x, y in rows if len(x)]
    each = done[0][0]["steps"]
    return Outcome(
        entry.label,
        entry.algorithm.name,
        entry.settings,
        each,
        scores,
        theory.stratified_bootstrap(scores),
        theory.stratified_bootstrap(scores, iqm),
        theory.stratified_bootstrap(heights) if len(heights) == len(scores) else Estimate(np.nan, np.nan, np.nan),
        np.asarray(solved),
        theory.censored_median(solved) if solved else None,
        total("wall_seconds"),
        total("compile_seconds"),
        total("training_seconds"),
        each * len(scores) / max(total("training_seconds"), 1e-9),
        series,
        places,
        [theory.stratified_bootstrap(column) for column in costs.T],
        costs,
        limits_of(values_of(entry.config), names),
    )


def limited(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """The outcomes, those without limits of their own judged by the others': of each cost by the loosest."""
    most = [outcome.limits.most for outcome in outcomes.values() if outcome.limits.most]
    alike = len({len(limits) for limits in most}) == 1
    loosest = tuple(map(max, zip(*most, strict=True))) if alike else ()
    judged = lambda outcome: not outcome.limits.most and len(outcome.limits.names) == len(loosest)
    return {
        label: replace(outcome, limits=outcome.limits._replace(most=loosest)) if judged(outcome) else outcome
        for label, outcome in outcomes.items()
    }


def height(x: np.ndarray, y: np.ndarray) -> float:
    """The mean height of a curve, by trapezoids."""
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])


def improvement_of(outcomes: Mapping[str, Outcome]) -> dict[tuple[str, str], Estimate]:
    """Of each pair of entries. A seed that holds its limits on costs is better than one that does not."""
    found = {}
    if not outcomes:
        return found
    every = np.concatenate([outcome.scores for outcome in outcomes.values()])
    below = 1.0 + np.ptp(every)  # all returns of one kind of seeds are then under all of the other
    scores = {label: outcome.scores - below * ~outcome.within for label, outcome in outcomes.items()}
    for x, y in combinations(outcomes, 2):
        found[x, y] = p = theory.improvement(scores[x], scores[y])
        found[y, x] = Estimate(1 - p.value, 1 - p.high, 1 - p.low)
    return found
