"""A run's parts, made from its plan: everything that can fail on a wrong one fails here, before time is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax

from steersman import envs
from steersman.agents.parts.config import ReplayConfig
from steersman.agents.parts.warm_start import begun_from
from steersman.errors import UsageError, to_install
from steersman.memory import nbytes, uniform
from steersman.run import plugins
from steersman.run.disk import run_folder
from steersman.run.disk.checkpoint import parameters_sha256
from steersman.run.disk.dataset import Dataset, check_fits, read_dataset
from steersman.run.disk.spec_json import spec_to_json, transitions_like
from steersman.run.evaluate import Evaluator, close, evaluator, fixed_size
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.data_loop import data_loop
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.devices import check_memory, cores, in_units, shards_for
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.host_seeds import HostSeeds
from steersman.run.loops.limits import MANY, check_copies, check_warm_up
from steersman.run.loops.loop import Loop
from steersman.run.plan import Plan
from steersman.run.policies import periodic, warm_start
from steersman.run.policies.limits import Limits, limits_of
from steersman.run.policies.periodic import Periodic
from steersman.run.policies.playing import logged_by
from steersman.run.policies.warm_start import Start
from steersman.run.policy import state_bytes, state_like
from steersman.run.settings import RunConfig, values_of
from steersman.types import Agent, Algorithm, DeviceEnvs, EnvSpec, HostEnvs, Rollout


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
        return _seeds(self.run)

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
        return _updates(self.run.steps, self.loop.first_steps, self.loop.steps_per_update)

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

    def evaluator(self, episodes: int, explore: bool = False) -> Evaluator:
        """An evaluator in environments of its own."""
        run = self.run
        given: Any = {"workers": run.workers if run.workers is not None else self.workers or None}
        given |= {"log_info": run.log_info, "costs": run.costs}
        given["limits"] = partial(limits_of, values_of(self.config))
        return evaluator(self.agent, self.environment, episodes, explore=explore, **given)


def prepare(plan: Plan, *, begun: bool = False) -> Setup:
    """Make a run's parts; raises UsageError for a setting that is wrong, alone or with the others.

    begun: a checkpoint holds the state, with what replay has of recorded data; such data is not needed any more.
    """
    entry, environment, run, config = plan.algorithm, plan.environment, plan.run, plan.config
    check_data(entry, environment, run)
    offline = entry.data == "only"  # the environment is for its spaces, and to evaluate in
    if offline:
        run = dataclasses.replace(run, num_envs=1)  # the columns of its data
    entry.check(config, run.num_envs)
    for wanted, package, extra in ((run.tensorboard, "tensorboardX", "tensorboard"), (run.wandb, "wandb", "wandb")):
        if wanted and not find_spec(package):
            raise UsageError(f"{package} is not installed. Install it with: {to_install(extra)}")
    with ExitStack() as undo:
        made = _make(environment, (fixed_size(environment) or 1) if offline else run.num_envs, run)
        undo.callback(close, environment, made)
        spec, data = made.spec, None
        if run.from_data is not None and (offline or not begun):
            data = read_dataset(run.from_data)
            check_fits(data, spec)
        agent = plugins.make_agent(entry, _counted(run, config), spec, run.budget, plan.network)
        start = None if begun else _start(plan, run, config, spec, agent)
        agent = agent if start is None else begun_from(agent, start.leaves)
        assessing, notes = _periodic(plan, run, config, made, agent)
        if assessing is not None:
            undo.callback(assessing.close)
        loop = _loop(plan, run, config, made, agent, data, assessing)
        # Once the loop is made: it has settings of its own for JAX, which hold only before the devices are up.
        if run.devices is not None and run.devices > len(jax.devices()):
            run_folder.warn(f"devices = {run.devices}, but JAX has {len(jax.devices())}: no more can be used.")
        size = state_bytes(agent, spec, entry.first_length(config, run.num_envs), run.num_envs)
        copies = 2 if isinstance(loop, HostLoop) and run.seeds > 1 else 1  # a checkpoint holds theirs once more
        check_memory(copies * size * run.seeds, f"The state of {run.seeds} training(s) of {entry.name} on {spec.id}")
        if not offline:
            _check_rollouts(run, config, spec, loop, begun)
        workers = run.workers or 0
        if isinstance(loop, HostLoop):
            also = [_make(environment, run.num_envs, run) for _ in range(run.seeds - 1)]
            for other in also:
                undo.callback(close, environment, other)
            workers = _shared_out(plan, run, [loop.envs, *also])
            if also:
                loop = HostSeeds([loop, *(loop.with_seed(run.seed + 1 + i, other) for i, other in enumerate(also))])
        every = run.checkpoint_every or _checkpoint_every(run, None if isinstance(loop, CompiledLoop) else spec)
        run = dataclasses.replace(run, checkpoint_every=every)
        updates = max(1, round(every / loop.steps_per_update))
        digest = None if data is None else parameters_sha256(data.transitions)
        by_clock = isinstance(loop, CompiledLoop) and plan.run.checkpoint_every is None
        if plan.resumed is not None:
            by_clock = plan.resumed.config.get("cadence", {}).get("checkpoints_by_clock", False)
        free = undo.pop_all().close
        notes = (*limits_of(values_of(config), spec.cost_names).notes, *notes)
        notes = notes if start is None else (start.note(), *notes)
        parts = (spec, agent, loop, updates, by_clock, size, digest, workers, assessing, start, notes)
        return Setup(entry, environment, run, config, *parts, free)


def _check_rollouts(run: RunConfig, config: Any, spec: EnvSpec, loop: Loop, begun: bool) -> None:
    """Raise UsageError where a rollout does not fit into memory, or the first one takes the whole budget."""
    length, num_envs = config.unroll_length, run.num_envs
    what = f"A rollout of unroll_length {length:,} x num_envs {num_envs:,} on {spec.id}"
    check_memory(nbytes(transitions_like(spec, (length, num_envs))), what, "Lower num_envs or unroll_length.")
    counted = _counted(run, config)
    starts = counted.learning_starts if isinstance(counted, ReplayConfig) else None
    if not begun:
        check_warm_up(run.steps, loop.first_steps, length, num_envs, starts)


def _shared_out(plan: Plan, run: RunConfig, each: list[HostEnvs]) -> int:
    """Let workers step the environments of every seed: as many as asked for, or as are the fastest here."""
    if run.workers is not None or plan.environment is each[0]:
        return run.workers or 0
    if "workers" not in plan.chosen:
        plan.chosen["workers"] = each[0].best_workers(run.steps // run.num_envs, cores() - run.overlap)
    for made in each if plan.chosen["workers"] else []:
        made.share_out(plan.chosen["workers"])
    return plan.chosen["workers"]


def _updates(steps: int, first_steps: int, steps_per_update: int) -> int:
    """Updates that meet a budget of steps."""
    return max(1, -(-(steps - first_steps) // steps_per_update))


def _start(plan: Plan, run: RunConfig, config: Any, spec: EnvSpec, agent: Agent) -> Start | None:
    """What the run begins with, where that is another's: out of its folder, or, resumed, out of its own."""
    if plan.init is not None:
        like = state_like(agent, spec, 1, run.num_envs)
        return warm_start.read(plan.init, plan.algorithm, config, spec, like, plan.network)
    if plan.resumed is not None and "init" in plan.resumed.config:
        return warm_start.again(plan.resumed.path, plan.resumed.config["init"])
    return None


def _periodic(
    plan: Plan, run: RunConfig, config: Any, made: DeviceEnvs | HostEnvs, agent: Agent
) -> tuple[Periodic | None, tuple[str, ...]]:
    """-> (the evaluations while the run trains, if there are any; what to say of them)"""
    entry = plan.algorithm
    offline = entry.data == "only"
    length = 1 if offline else config.unroll_length
    first = 0 if run.from_data is not None else entry.first_length(config, run.num_envs) * run.num_envs
    updates = _updates(run.steps, first, length * run.num_envs)
    when = periodic.cadence(run, made, updates=updates, length=length, num_envs=run.num_envs)
    own, note = periodic.environments(plan.environment, run, when, made.spec)
    discount = limits_of(values_of(config), made.spec.cost_names).discount
    assessing = None if own is None else Periodic(agent, own, when, _seeds(run), plan.programs, discount)
    return assessing, (note,) if note else ()


def _loop(
    plan: Plan,
    run: RunConfig,
    config: Any,
    made: DeviceEnvs | HostEnvs,
    agent: Agent,
    data: Dataset | None,
    assessing: Periodic | None,
) -> Loop:
    """The loop that drives the agent: over data, over host environments or over compiled ones."""
    entry, environment = plan.algorithm, plan.environment
    look = None if assessing is None else assessing.look
    if entry.data == "only":
        assert data is not None
        close(environment, made)  # its spaces were all that was wanted
        return _data_loop(agent, data, run, look)
    first = _first_rollout(run, config, made.spec, data)
    lengths = {"unroll_length": config.unroll_length, "first_length": entry.first_length(config, run.num_envs)}
    if not isinstance(made, DeviceEnvs):
        if run.seeds > 1 and fixed_size(environment) is not None:
            raise UsageError(
                f"seeds = {run.seeds}: each seed trains in environments of its own, and {made.spec.id} was given as an "
                "environment that is made already. Give a function that makes one, or its name."
            )
        sort: Any = {"seed": run.seed, "overlap": run.overlap, "programs": plan.programs, "log": run.log_info}
        return HostLoop(agent, made, **lengths, **sort, data=first)
    if run.overlap:
        raise UsageError(
            f"overlap is for host environments, whose simulators can step while the learner computes; "
            f"{made.spec.id} is compiled into one program with it. Leave overlap out."
        )
    if run.log_info:
        logged_by(made, run.log_info)
    shards = 1
    if entry.shardable and run.seeds == 1 and fixed_size(environment) is None:
        shards = shards_for(run.num_envs, lambda n: entry.check(config, n), run.devices)
    return device_loop(
        agent,
        lambda n: made if n == run.num_envs else _make(environment, n, run),
        num_envs=run.num_envs,
        **lengths,
        seeds=_seeds(run),
        shards=shards,
        devices=run.devices,
        data=first,
        log=run.log_info,
        look=look,
    )


def _data_loop(agent: Agent, data: Dataset, run: RunConfig, look: Any) -> Loop:
    """The loop over data alone, which it holds as a memory to draw from: each observation once."""
    if run.overlap:
        raise UsageError("overlap is for host environments; learning from data alone steps none. Leave overlap out.")
    rollout, memory = data.rollout(1), uniform(data.room, 1)
    size = nbytes(jax.eval_shape(memory.init, rollout)) * min(run.seeds, run.devices or run.seeds, len(jax.devices()))
    check_memory(size, f"What {run.from_data} holds, on every device", "Take less data, or fewer devices.")
    held = jax.jit(memory.init)(rollout)
    return data_loop(agent, held, first=rollout, seeds=_seeds(run), devices=run.devices, look=look)


def _counted_as(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"


def _seeds(run: RunConfig) -> list[int]:
    return list(range(run.seed, run.seed + run.seeds))


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


def check_same_data(saved: Mapping[str, Any], setup: Setup) -> None:
    """Raise UsageError where a run's data is not what its ``config.json`` says it began with."""
    then, now = saved.get("data_sha256"), setup.data_sha256
    if then is not None and now is not None and then != now:
        raise UsageError(
            f"The run learns from {setup.run.from_data}, which holds other transitions than when it began (SHA-256 "
            f"{now[:12]}, not {then[:12]}). Put those back, or start a new run."
        )


def _counted(run: RunConfig, config: Any) -> Any:
    """The settings that the agent is made with: recorded data takes the place of random steps, so it counts from 0."""
    if run.from_data is None or not isinstance(config, ReplayConfig):
        return config
    return dataclasses.replace(config, learning_starts=0)


def _first_rollout(run: RunConfig, config: Any, spec: EnvSpec, data: Dataset | None) -> Rollout | None:
    """Recorded data as the first rollout, numpy; its shapes alone where a checkpoint has what came of it."""
    if run.from_data is None:
        return None
    if data is None:
        return transitions_like(spec, (1, run.num_envs))
    if config.replay_capacity < data.room:
        raise UsageError(
            f"replay_capacity = {config.replay_capacity:,} does not hold the {len(data):,} transitions of "
            f"{run.from_data} and the ends of their episodes. Set it to {data.room:,} or more."
        )
    return data.rollout(run.num_envs)


def _make(environment: Any, num_envs: int, run: RunConfig) -> Any:
    if num_envs > MANY and fixed_size(environment) is None:
        one = envs.make(environment, 1)
        close(environment, one)
        if not isinstance(one, DeviceEnvs):
            check_copies(lambda n: envs.make(environment, n), num_envs)
    workers = {} if run.workers is None else {"workers": run.workers}
    return envs.make(environment, num_envs, log_info=run.log_info, costs=run.costs, **workers)


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
