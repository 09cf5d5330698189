"""Evaluation while a run trains: how often, of how many episodes, by which programs.

The same episodes each time, in environments of their own, with the most likely action: an evaluation is a function of
the parameters and of a seed, so nothing of it need be saved. When one is due is counted in steps and not by a clock: a
run that is resumed evaluates where the uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman import envs
from steersman.agents.parts.replay.with_replay import ReplayState
from steersman.episodes import Episodes
from steersman.errors import EnvironmentFault, UsageError
from steersman.run.evaluate import fixed_size
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.loop import Loop
from steersman.run.policies.playing import LIMIT, Played, first_episodes, host_episodes
from steersman.run.settings import RunConfig
from steersman.types import Agent, DeviceEnvs, EnvSpec, HostEnvs, PyTree

SEED = 4_000_000  # to which a training's seed is added
TIMES = 16  # evaluations of a run, as long as they are cheap
EPISODES = 5  # of each, at most by default
# What evaluations may cost of what the steps of training do: with what learning takes besides, below 5% of its time.
SHARE = {"compiled": 1 / 6, "host": 1 / 20}
CALL = 3  # what a step on the host costs beside its members', counted in members
LENGTH = 1000  # that of an episode, where nothing is known of it


class Spent(NamedTuple):
    """What evaluations have cost so far, and how long the next may be: part of a checkpoint."""

    steps: float = 0.0  # of the policy, all members side by side; of several seeds their mean
    length: float = 0.0  # the mean of training episodes as of when one was due last; 0 before the first
    episodes: int = 0  # since then
    lengths: int = 0  # their sum

    def plus(self, played: Episodes) -> Spent:
        """After some more training episodes, of all seeds."""
        more = (int(np.sum(played.count)), int(np.sum(played.lengths)))
        return self._replace(episodes=self.episodes + more[0], lengths=self.lengths + more[1])

    def now(self) -> Spent:
        """As of now: the newest mean length."""
        return Spent(self.steps, self.lengths / self.episodes if self.episodes else self.length)


@dataclass(frozen=True)
class Cadence:
    """When to evaluate, in updates, and for how much.

    A step of m members side by side costs 1 where they are compiled, and m + CALL on the host. Evaluations may cost a
    ``share`` of what the steps of training have cost so far; ``share`` is None where the user said how often.
    """

    every: int  # updates
    total: int  # updates of the run
    episodes: int  # side by side
    limit: int  # steps after which an episode is cut
    share: float | None
    of_training: float  # the cost of an update
    of_step: float  # the cost of a step of evaluation

    @property
    def too_dear(self) -> bool:
        """Whether not even one, of the longest episodes, can be paid for."""
        return self.share is not None and self.of_step * self.limit > self.share * self.of_training * self.total

    def due(self, updates: int, spent: Spent) -> bool:
        """Whether to evaluate after so many updates; the last policy goes before those on the way to it."""
        last = updates == self.total
        if not last and updates % self.every:
            return False
        if self.share is None:
            return True
        longest = min(self.limit, 2 * spent.length or self.limit)  # it does not explore: it may well last longer
        cost, allowed = self.of_step * longest, self.share * self.of_training
        after = self.of_step * spent.steps + cost
        return after <= allowed * updates and (last or after + cost <= allowed * self.total)


def cadence(run: RunConfig, made: DeviceEnvs | HostEnvs, *, updates: int, length: int, num_envs: int) -> Cadence:
    """When a run of so many updates evaluates. length: steps of each of ``num_envs`` environments in an update."""
    host, known = not isinstance(made, DeviceEnvs), made.spec.max_episode_steps
    price = lambda members: float(members + CALL) if host else 1.0  # of a step
    share, of_training = SHARE["host" if host else "compiled"], length * price(num_envs)
    allowed = share * of_training * updates
    paid = lambda n: 2 * price(n) * (known or LENGTH) <= allowed  # for two, of the longest
    fits = [n for n in range(EPISODES, 1, -1) if not host or paid(n)]
    episodes = run.evaluate_episodes or next(iter(fits), 1)
    limit = known or LIMIT
    if run.evaluate_every is None:
        if known is None:  # a policy that is stuck may take no more than a quarter of what there is
            limit = int(min(LIMIT, max(LENGTH, allowed / (4 * price(episodes)))))
        row = max(1, updates // 100)  # a row of the log
        every = -(-updates // (TIMES * row)) * row
    else:
        every, share = max(1, round(run.evaluate_every / (length * num_envs))), None
    return Cadence(every, updates, episodes, limit, share, of_training, price(episodes))


class Periodic:
    """The evaluations of a run: the first episode of each of some environments of their own, with every seed."""

    def __init__(
        self,
        agent: Agent,
        made: DeviceEnvs | HostEnvs,
        when: Cadence,
        seeds: Sequence[int],
        programs: Any,
        discount: float = 1.0,  # of costs
    ):
        self.cadence, self.seeds = when, [(SEED + seed) % 2**32 for seed in seeds]
        self.look = None  # what a compiled loop does with each seed's agent and a key
        self._programs: dict[str, Any] = programs.setdefault("evaluation", {})
        if isinstance(made, DeviceEnvs):
            self.look, self.close = first_episodes(agent, made, limit=when.limit, discount=discount), lambda: None
        else:
            play = host_episodes(agent, made, limit=when.limit, programs=self._programs, discount=discount)
            self._play, self.close = play, made.close

    def play(self, loop: Loop, state: Any) -> Played:
        """Returns [S, N], lengths [S, N], costs [S, N, C], what info said [S, N] by name, and which were cut [S, N]."""
        if self.look is not None:
            assert isinstance(loop, CompiledLoop)
            return loop.looks(state, self.seeds)
        agents = loop.agents(without_memory(state))
        played = [self._play(agent, seed) for agent, seed in zip(agents, self.seeds, strict=True)]
        loop.compile_seconds += self._programs.pop("seconds", 0.0)
        return jax.tree.map(lambda *parts: np.stack(parts), *played)


def without_memory(state: PyTree) -> PyTree:
    """The same state without its replay memory, which no policy acts on and which may be gigabytes."""
    is_replay = lambda part: isinstance(part, ReplayState)
    return jax.tree.map(lambda part: part._replace(memory=()) if is_replay(part) else part, state, is_leaf=is_replay)


def environments(place: Any, run: RunConfig, when: Cadence, spec: EnvSpec) -> tuple[DeviceEnvs | HostEnvs | None, str]:
    """Environments to evaluate in, as many as episodes; or None, and a sentence on why there are none.

    Raises UsageError where the user asks for evaluations that cannot be.
    """
    if run.evaluate_every == 0:
        return None, ""
    without = "no evaluation while it trains: "
    if spec.max_episode_steps is not None and when.too_dear:
        return None, (
            f"{without}an episode of {spec.id} may take {when.limit:,} steps, too many beside so short a run "
            "(--evaluate-every STEPS evaluates all the same)"
        )
    why = f"{spec.id} was given ready made, and cannot be made twice" if fixed_size(place) is not None else ""
    try:
        if not why:
            return envs.make(place, when.episodes, costs=run.costs), ""
    except (EnvironmentFault, UsageError) as error:
        why = f"{spec.id} could not be made a second time ({error})"
    if run.evaluate_every is not None:
        raise UsageError(
            f"evaluate_every = {run.evaluate_every} takes environments of its own: {why}. Give a function that makes "
            "one, or evaluate_every=0."
        )
    return None, without + why
