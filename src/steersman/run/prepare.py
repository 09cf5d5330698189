"""A run's parts, made from its plan: everything that can fail on a wrong one fails here, before time is spent."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import jax

from steersman import envs
from steersman.agents.parts.warm_start import begun_from
from steersman.errors import UsageError, to_install
from steersman.memory import nbytes
from steersman.run import plugins
from steersman.run.disk import run_folder
from steersman.run.disk.checkpoint import parameters_sha256
from steersman.run.disk.dataset import Dataset, check_fits, read_dataset
from steersman.run.disk.spec_json import transitions_like
from steersman.run.evaluate import close, fixed_size
from steersman.run.loops.compiled import CompiledLoop
from steersman.run.loops.device_loop import device_loop
from steersman.run.loops.devices import check_memory, cores, shards_for
from steersman.run.loops.host_loop import HostLoop
from steersman.run.loops.host_seeds import HostSeeds
from steersman.run.loops.limits import MANY, check_copies, check_warm_up
from steersman.run.loops.loop import Loop
from steersman.run.parts.recorded import check_data, first_rollout, loop_over, without_random_steps
from steersman.run.parts.setup import Setup, seeds_of, updates_for
from steersman.run.plan import Plan
from steersman.run.policies import periodic, warm_start
from steersman.run.policies.limits import limits_of
from steersman.run.policies.periodic import Periodic
from steersman.run.policies.playing import logged_by
from steersman.run.policies.warm_start import Start
from steersman.run.policy import state_bytes, state_like
from steersman.run.settings import RunConfig, values_of
from steersman.types import Agent, DeviceEnvs, EnvSpec, HostEnvs


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
        agent = plugins.make_agent(entry, without_random_steps(run, config), spec, run.budget, plan.network)
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
    starts = vars(without_random_steps(run, config)).get("learning_starts")  # of all that learn from what they keep
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
    updates = updates_for(run.steps, first, length * run.num_envs)
    when = periodic.cadence(run, made, updates=updates, length=length, num_envs=run.num_envs)
    own, note = periodic.environments(plan.environment, run, when, made.spec)
    discount = limits_of(values_of(config), made.spec.cost_names).discount
    assessing = None if own is None else Periodic(agent, own, when, seeds_of(run), plan.programs, discount)
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
        return loop_over(agent, data, run, look)
    first = first_rollout(run, config, made.spec, data)
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
        seeds=seeds_of(run),
        shards=shards,
        devices=run.devices,
        data=first,
        log=run.log_info,
        look=look,
    )


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


def _make(environment: Any, num_envs: int, run: RunConfig) -> Any:
    if num_envs > MANY and fixed_size(environment) is None:
        one = envs.make(environment, 1)
        close(environment, one)
        if not isinstance(one, DeviceEnvs):
            check_copies(lambda n: envs.make(environment, n), num_envs)
    workers = {} if run.workers is None else {"workers": run.workers}
    return envs.make(environment, num_envs, log_info=run.log_info, costs=run.costs, **workers)
