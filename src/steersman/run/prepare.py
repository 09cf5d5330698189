"""A run's parts, made from its plan: everything that can fail on a wrong one fails here, before time is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np

from steersman import envs
from steersman.errors import UsageError
from steersman.run import plugins
from steersman.run.disk.dataset import check_fits, read_dataset
from steersman.run.disk.spec_json import spec_to_json, transitions_like
from steersman.run.evaluate import Evaluator, close, evaluator, fixed_size
from steersman.run.loops.device_loop import DeviceLoop
from steersman.run.loops.devices import check_memory, in_units, shards_for
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.loop import Loop
from steersman.run.plan import Plan
from steersman.run.policy import state_bytes
from steersman.run.settings import RunConfig
from steersman.types import Agent, Algorithm, DeviceEnvs, EnvSpec, Rollout
from steersman.vector import still


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
    state_bytes: int  # of the agent of one seed, its replay memory included
    close: Callable[[], None]

    @property
    def seeds(self) -> list[int]:
        return list(range(self.run.seed, self.run.seed + self.run.seeds))

    @property
    def compiled(self) -> bool:
        return isinstance(self.loop, DeviceLoop)

    @property
    def updates(self) -> int:
        """Updates that meet the budget of steps: the last one may go over it by less than one rollout."""
        return max(1, -(-(self.run.steps - self.loop.first_steps) // self.loop.steps_per_update))

    @property
    def log_updates(self) -> int:
        """Updates between two rows of the log."""
        return max(1, self.updates // 100)

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
        where = "host"
        if isinstance(self.loop, DeviceLoop):
            size = self.loop.mesh.size
            where = f"compiled, on {size} device{'s' if size > 1 else ''}"
        seeds = f" x {self.run.seeds} seeds" if self.run.seeds > 1 else ""
        steps = self.steps(self.updates)
        rounded = f" ({self.run.steps:,} rounded up to whole rollouts)" if steps != self.run.steps else ""
        members = f"{self.run.num_envs} environment{'s' if self.run.num_envs > 1 else ''}"
        size = self.state_bytes * self.run.seeds
        memory = f", {in_units(size)} of state" if size >= 10**8 else ""
        return f"{self.algorithm.name} on {self.spec.id} ({where}): {members}{seeds}, {steps:,} steps{rounded}{memory}"

    def evaluator(self, episodes: int, explore: bool = False) -> Evaluator:
        """An evaluator in environments of its own."""
        return evaluator(self.agent, self.environment, episodes, explore=explore, workers=self.run.workers)


def prepare(plan: Plan, *, begun: bool = False) -> Setup:
    """Make a run's parts; raises UsageError for a setting that is wrong, alone or with the others.

    begun: a checkpoint holds the state, with what replay has of recorded data; the data itself is not needed any more.
    """
    entry, environment, run, config = plan.algorithm, plan.environment, plan.run, plan.config
    check_data(entry, environment, run)
    offline = entry.data == "only"
    if offline:
        run = dataclasses.replace(run, num_envs=fixed_size(environment) or 1)
    entry.check(config, run.num_envs)
    for wanted, package, extra in ((run.tensorboard, "tensorboardX", "tensorboard"), (run.wandb, "wandb", "wandb")):
        if wanted and not find_spec(package):
            raise UsageError(f"{package} is not installed. Install it with: pip install 'steersman[{extra}]'")
    first_length = entry.first_length(config, run.num_envs)
    with ExitStack() as undo:
        made = _make(environment, run.num_envs, run)
        undo.callback(close, environment, made)
        data = None
        if run.from_data is not None:
            data, capacity = _first_rollout(run, config, made.spec, offline, begun)
            config = dataclasses.replace(config, replay_capacity=capacity)
            first_length = len(data.reward)
        if offline:
            close(environment, made)
            made = still(made.spec, run.num_envs)
        agent = plugins.make_agent(entry, config, made.spec, run.budget, plan.network)
        if isinstance(made, DeviceEnvs):
            if run.overlap:
                raise UsageError(
                    f"overlap is for host environments, whose simulators can step while the learner computes; "
                    f"{made.spec.id} is compiled into one program with it. Leave overlap out."
                )
            shards = 1
            if entry.shardable and run.seeds == 1 and fixed_size(environment) is None:
                shards = shards_for(run.num_envs, lambda n: entry.check(config, n), run.devices)
            loop: Loop = DeviceLoop(
                agent,
                lambda n: made if n == run.num_envs else _make(environment, n, run),
                num_envs=run.num_envs,
                unroll_length=config.unroll_length,
                first_length=first_length,
                seeds=list(range(run.seed, run.seed + run.seeds)),
                shards=shards,
                devices=run.devices,
                data=data,
            )
        elif run.seeds > 1:
            raise UsageError(
                f"seeds = {run.seeds}: several seeds train side by side on compiled environments; {made.spec.id} runs "
                "on the host. Start one run per seed (--seed 0, --seed 1, ...) and draw them together: steersman plot."
            )
        else:
            loop = HostLoop(
                agent,
                made,
                unroll_length=config.unroll_length,
                first_length=first_length,
                seed=run.seed,
                overlap=run.overlap,
                data=data,
                programs=plan.programs,
            )
        # Once the loop is made: it has settings of its own for JAX, which hold only before the devices are up.
        size = state_bytes(agent, made.spec, first_length, run.num_envs)
        check_memory(size * run.seeds, f"The state of {run.seeds} training(s) of {entry.name} on {made.spec.id}")
        every = run.checkpoint_every or _checkpoint_every(run, None if isinstance(made, DeviceEnvs) else made.spec)
        run = dataclasses.replace(run, checkpoint_every=every)
        updates = max(1, round(every / loop.steps_per_update))
        free = undo.pop_all().close
        return Setup(entry, environment, run, config, made.spec, agent, loop, updates, size, free)


def _checkpoint_every(run: RunConfig, host: EnvSpec | None) -> int:
    """Steps between checkpoints: a twentieth of the run; on host environments, whose episodes a checkpoint cuts, more.

    There ten of the longest episodes fit in between (of 1000 steps where they have no limit), but a crash costs at most
    a quarter of the run. Games as long as the interval would never end, and only the short ones would be logged.
    """
    twentieth = max(1, run.steps // 20)
    if host is None:
        return twentieth
    episodes = 10 * (host.max_episode_steps or 1000) * run.num_envs
    return max(twentieth, min(episodes, run.steps // 4))


def check_data(entry: Algorithm, environment: Any, run: RunConfig) -> None:
    """Raise UsageError where an algorithm cannot learn from recorded data, or from anything else."""
    if run.from_data is None and entry.data == "only":
        place = environment if isinstance(environment, str) else "ENVIRONMENT"
        raise UsageError(
            f"{entry.name} learns from recorded transitions alone. Name them, a folder or a Minari id: steersman train "
            f"{entry.name} {place} --from-data FOLDER. Record some with: steersman collect RUN --out FOLDER"
        )
    if run.from_data is not None and entry.data == "none":
        raise UsageError(
            f"{entry.name} learns from what it has just done itself, not from recorded transitions. Leave from_data = "
            f"{run.from_data!r} out, or train an agent with replay (sac, td3, dqn ...) or an offline one (bc, iql)."
        )


def _first_rollout(run: RunConfig, config: Any, spec: EnvSpec, offline: bool, begun: bool) -> tuple[Rollout, int]:
    """-> (the recorded data as the first rollout, numpy; the replay_capacity of the run)"""
    if begun:  # only its shapes matter, and of those only the number of environments
        like = transitions_like(spec, (1, run.num_envs))
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like), config.replay_capacity
    assert run.from_data is not None
    data = read_dataset(run.from_data)
    check_fits(data, spec)
    rollout = data.rollout(run.num_envs)
    if offline:
        return rollout, data.room
    if config.replay_capacity < data.room:
        raise UsageError(
            f"replay_capacity = {config.replay_capacity:,} does not hold the {len(data):,} transitions of "
            f"{run.from_data} and the ends of their episodes. Set it to {data.room:,} or more."
        )
    return rollout, config.replay_capacity


def _make(environment: Any, num_envs: int, run: RunConfig) -> Any:
    return envs.make(environment, num_envs, **({} if run.workers is None else {"workers": run.workers}))


def config_json(setup: Setup, origins: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of a run. origins: how the user's own algorithm and network were named."""
    named = isinstance(setup.environment, str)
    extras = ({} if named else {"object": True}) | dict(origins)
    return {
        "algorithm": setup.algorithm.name,
        "environment": setup.environment if named else setup.spec.id,
        "config": dataclasses.asdict(setup.config),
        "run": dataclasses.asdict(setup.run) | extras,
        "spec": spec_to_json(setup.spec),
    }
