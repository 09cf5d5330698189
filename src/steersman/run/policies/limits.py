"""Limits on costs: which ones a run has, whether a policy holds them, and how surely.

A limit is of the mean cost of an episode. It *holds* where the whole 95% interval of that mean lies at or under it, it
*is exceeded* where the whole interval lies above it, and else, or where one number is all there is, it is *not
certain*. The interval is a bootstrap: of the episodes of one seed, or of the mean costs of several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from steersman.episodes import NEWEST, Newest, cost_suffixes
from steersman.theory.statistics import bootstrap_interval

HOLDS, EXCEEDED, UNCERTAIN = "holds", "is exceeded", "not certain"


class Limits(NamedTuple):
    """The costs of an environment, and their limits as an agent's settings have them."""

    names: tuple[str, ...] = ()  # [C]
    most: tuple[float, ...] = ()  # [C]; () where nothing is limited
    discount: float = 1.0  # of the costs that an episode's is the sum of, where that is what is limited
    cap: float = math.inf  # of the multipliers
    scaled: bool = True  # whether rewards are, as the gains of multipliers take for granted

    @property
    def suffixes(self) -> list[str]:
        return cost_suffixes(self.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known before a training: costs without a limit, multipliers of rewards of any size."""
        if self.most and not self.scaled:
            return ("Rewards are not scaled, and a limit's gains are for rewards that are: --scale-rewards.",)
        if self.most or not self.names:
            return ()
        them = "it is" if len(self.names) == 1 else "they are"
        return (f"There is no limit on {', '.join(self.names)}: {them} counted, and not learned from (--cost-limit).",)

    def excess(self, costs: np.ndarray) -> np.ndarray:
        """How far mean costs [S, C] are over the limits at most, relative to them: [S], 0 where all are held."""
        most = np.asarray(self.most)
        return ((costs - most) / np.where(most > 0, most, 1.0)).max(1).clip(0.0) if self.most else np.zeros(len(costs))


NO_COSTS = Limits()


def limits_of(settings: Mapping[str, Any], names: tuple[str, ...]) -> Limits:
    """The limits among an agent's settings, by name; none on an environment with another number of costs.

    names: of its costs.
    """
    most = tuple(map(float, settings.get("cost_limit", ())))
    if not most or len(most) != len(names):
        return Limits(names)
    discounted = settings.get("cost_criterion") == "discounted"
    cap = settings.get("multiplier_cap")
    scaled = cap is None or bool(settings.get("scale_rewards", True))
    discount = float(settings["cost_gamma"]) if discounted else 1.0
    return Limits(names, most, discount, math.inf if cap is None else cap, scaled)


class Verdict(NamedTuple):
    """Whether some episodes hold the limit of one cost."""

    cost: str
    limit: float
    said: str  # holds, is exceeded, not certain
    mean: float
    ci95: tuple[float, float]  # of the mean, bootstrap: over seeds, where there are several
    over: float  # share of the episodes that cost more than the limit
    seeds: float | None  # share of the seeds whose mean cost is at or under it; None of one seed

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "ci95": list(self.ci95)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Verdict:
        return cls(**{**content, "ci95": tuple(content["ci95"])})


def verdicts(limits: Limits, costs: Sequence[np.ndarray]) -> tuple[Verdict, ...]:
    """What the costs [N, C] of each seed's episodes say of the limits; nothing where there are none, or no episodes."""
    if not limits.most or not all(map(len, costs)):
        return ()
    return tuple(_verdicts(limits, costs))


def _verdicts(limits: Limits, costs: Sequence[np.ndarray]) -> Iterator[Verdict]:
    for i, (name, limit) in enumerate(zip(limits.names, limits.most, strict=True)):
        columns = [np.asarray(of_seed, np.float64)[:, i] for of_seed in costs]
        means, every = np.asarray([column.mean() for column in columns]), np.concatenate(columns)
        sample = means if len(means) > 1 else every
        low, high = map(float, bootstrap_interval(sample, np.mean, 0.95))
        said = HOLDS if high <= limit else EXCEEDED if low > limit else UNCERTAIN
        within = float((means <= limit).mean()) if len(means) > 1 else None
        over = float((every > limit).mean())
        yield Verdict(
            name, limit, said if len(sample) > 1 else UNCERTAIN, float(every.mean()), (low, high), over, within
        )


def outcome(
    limits: Limits, evaluation: Sequence[Verdict], newest: Newest | None, history: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What is to be said of each limit at the end of a run, as JSON values.

    evaluation: of the final one; training: of the last hundred episodes of each seed, which explore (not where the
    costs of the limit are discounted: training counts them as they are). least: of a limit that no row and no
    evaluation has met, the least mean cost in any, and at how many steps. multiplier: in the last row, over the seeds;
    at_cap: whether it is as large as it may be.
    """
    trained: tuple[Verdict, ...] = ()
    if newest is not None and "cost" in newest.numbers and limits.discount == 1.0:
        trained = verdicts(
            limits, [of[there] for of, there in zip(newest.numbers["cost"], newest.when >= 0, strict=True)]
        )
    found = []
    for i, limit in enumerate(limits.most):
        name = limits.names[i]
        entry: dict[str, Any] = {"cost": name, "limit": limit}
        entry |= {
            where: said[i].to_json() for where, said in (("evaluation", evaluation), ("training", trained)) if said
        }
        suffix = limits.suffixes[i]
        seen = [f"evaluation_cost{suffix}"] + ([f"cost{suffix}_{NEWEST}"] if limits.discount == 1.0 else [])
        costs = [(np.mean(row[key]), row["steps"]) for row in history for key in seen if key in row]
        costs += [(verdict.mean, history[-1]["steps"]) for verdict in evaluation[i : i + 1] if history]
        least = min((pair for pair in costs if np.isfinite(pair[0])), default=None)
        if least is not None and least[0] > limit:
            entry["least"] = {"cost": float(least[0]), "steps": least[1]}
        if history and (multiplier := history[-1].get(f"multiplier{suffix}")) is not None:
            entry["multiplier"] = float(np.mean(multiplier))
            entry["at_cap"] = bool(np.mean(multiplier) >= 0.999 * limits.cap)
        found.append(entry)
    return found
