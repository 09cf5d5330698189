"""What a run is made of, how much of it there is, and how it is told: in one line to people, in ``config.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from steersman.run.disk.spec_json import spec_to_json
from steersman.run.evaluate import Evaluator, evaluator
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.devices import in_units
from steersman.run.loops.loop import Loop
from steersman.run.policies.limits import Limits, limits_of
from steersman.run.policies.periodic import Periodic
from steersman.run.policies.warm_start import Start
from steersman.run.policy import Policy, policy_of
from steersman.run.settings import RunConfig, values_of
from steersman.types import Agent, Algorithm, EnvSpec, PyTree


@dataclass(frozen=True)
class Setup:
    """A run's parts. ``close`` frees the environments that were made for it."""

    algorithm: Algorithm
    environment: Any  # a name, or the user's object
    run: RunConfig
    config: Any
    spec: EnvSpec
    agent: Agent
    loop: Loop
    checkpoint_updates: int
    checkpoints_by_clock: bool  # where the run did not say how often
    state_bytes: int  # of the agent of one seed, its replay memory included
    data_sha256: str | None  # of the recorded transitions that were read
    workers: int  # processes that step host environments with this one, as given or as chosen here
    periodic: Periodic | None  # the evaluations while it trains
    start: Start | None  # what it begins with, taken from another run
    notes: tuple[str, ...]  # for people to read
    close: Callable[[], None]

    @property
    def seeds(self) -> list[int]:
        return seeds_of(self.run)

    @property
    def limits(self) -> Limits:
        """On the environment's costs."""
        return limits_of(values_of(self.config), self.spec.cost_names)

    @property
    def compiled(self) -> bool:
        return isinstance(self.loop, CompiledLoop)

    @property
    def updates(self) -> int:
        """Updates that meet the budget of steps: the last one may go over it by less than one rollout."""
        return updates_for(self.run.steps, self.loop.first_steps, self.loop.steps_per_update)

    @property
    def log_updates(self) -> int:
        """Updates between two rows of the log."""
        return max(1, self.updates // 100)

    @property
    def evaluate_updates(self) -> int:
        """Updates between two evaluations on the way."""
        return self.updates if self.periodic is None else self.periodic.cadence.every

    def steps(self, updates: int) -> int:
        """Environment steps of one seed after some updates."""
        return self.loop.first_steps + updates * self.loop.steps_per_update

    def describe(self) -> str:
        """One line: what is trained, where, on what, for how long."""
        if self.algorithm.data == "only":
            seeds = f" x {self.run.seeds} seeds" if self.run.seeds > 1 else ""
            steps = self.steps(self.updates)
            return (
                f"{self.algorithm.name} from {self.run.from_data}, for {self.spec.id}: {steps:,} gradient steps{seeds}"
            )
        where = f"host, {_counted_as(self.workers, 'worker')}" if self.workers else "host"
        if isinstance(self.loop, CompiledLoop):
            where = f"compiled, on {_counted_as(self.loop.mesh.size, 'device')}"
        seeds = f" x {self.run.seeds} seeds" if self.run.seeds > 1 else ""
        steps, members = self.steps(self.updates), _counted_as(self.run.num_envs, "environment")
        size = self.state_bytes * self.run.seeds
        memory = f", {in_units(size)} of state" if size >= 10**8 else ""
        what = f"{self.algorithm.name} on {self.spec.id} ({where}): {members}{seeds}"
        return f"{what}, {steps:,} steps{self._why_so_many(steps)}{memory}"

    def _why_so_many(self, steps: int) -> str:
        """What of the steps is warm-up, and what they were rounded up to."""
        first, asked, said = self.loop.first_steps, self.run.steps, []
        if steps != asked:
            said.append(f"{asked:,} rounded up to whole rollouts" if asked > first else f"{asked:,} asked for")
        if first > self.run.num_envs or asked <= first:
            said.append(f"{first:,} of them warm-up")
        return f" ({'; '.join(said)})" if said else ""

    def policy(self, state: PyTree) -> Policy:
        """What one of the agents has learned."""
        return policy_of(self.agent, self.config, state, self.spec)

    def evaluator(self, episodes: int, explore: bool = False) -> Evaluator:
        """An evaluator in environments of its own."""
        run = self.run
        given: Any = {"workers": run.workers if run.workers is not None else self.workers or None}
        given |= {"log_info": run.log_info, "costs": run.costs}
        given["limits"] = partial(limits_of, values_of(self.config))
        return evaluator(self.agent, self.environment, episodes, explore=explore, **given)


def updates_for(steps: int, first_steps: int, steps_per_update: int) -> int:
    """Updates that meet a budget of steps."""
    return max(1, -(-(steps - first_steps) // steps_per_update))


def seeds_of(run: RunConfig) -> list[int]:
    return list(range(run.seed, run.seed + run.seeds))


def _counted_as(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def config_json(setup: Setup, origins: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of a run. origins: how the user's own algorithm and network were named."""
    named = isinstance(setup.environment, str)
    extras = ({} if named else {"object": True}) | dict(origins)
    data = {} if setup.data_sha256 is None else {"data_sha256": setup.data_sha256}
    return {
        "algorithm": setup.algorithm.name,
        "environment": setup.environment if named else setup.spec.id,
        "config": dataclasses.asdict(setup.config),
        "run": dataclasses.asdict(setup.run) | extras,
        "spec": spec_to_json(setup.spec),
        "cadence": {"checkpoints_by_clock": setup.checkpoints_by_clock, "changes": []},
        **({} if setup.start is None else {"init": setup.start.origin}),
        **data,
    }
