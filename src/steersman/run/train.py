"""Training, from a name to a result: compiled chunks inside a plain Python loop that logs, saves and evaluates."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steersman import agents, envs
from steersman.errors import TrainingFault, UsageError
from steersman.run import checkpoint, folder, logs
from steersman.run.devices import shards_for, use_all_cores
from steersman.run.evaluate import Evaluation, Evaluator, device_evaluator, host_evaluator, pooled
from steersman.run.files import lock
from steersman.run.loops import DeviceLoop, HostLoop, Loop, LoopState, Totals
from steersman.run.policy import Policy, spec_to_json
from steersman.run.settings import RunConfig, preset_for, split
from steersman.run.signals import Stop, stop_on_signals
from steersman.types import Agent, Algorithm, DeviceEnvs, EnvSpec, PyTree

Report = Callable[[str, dict[str, Any]], None]  # (what happens now, numbers) -> shown to the user
CHUNK_SECONDS = 0.3  # of compiled work between two looks at signals and the progress bar


@dataclass
class Result:
    """What a training gives back."""

    policy: Policy  # of the first seed; ``policies`` has all
    history: list[dict[str, Any]]  # one row per log step
    summary: dict[str, Any]
    evaluation: Evaluation | None
    run: Path | None  # the run folder
    interrupted: bool
    policies: list[Policy] = field(repr=False)
    _evaluator: Callable[[int, bool], Evaluator] = field(repr=False)

    def evaluate(self, episodes: int = 100, *, seed: int = 1_000_000, explore: bool = False) -> Evaluation:
        """Play whole episodes with the first seed's policy."""
        return self._evaluator(episodes, explore)(self.policy.state, seed)


@dataclass(frozen=True)
class Setup:
    """A run's parts, made from its settings."""

    algorithm: Algorithm
    environment: Any  # a name, or the user's object
    run: RunConfig
    config: Any
    spec: EnvSpec
    agent: Agent
    loop: Loop
    checkpoint_updates: int

    @property
    def seeds(self) -> list[int]:
        return list(range(self.run.seed, self.run.seed + self.run.seeds))

    @property
    def updates(self) -> int:
        """Updates that meet the budget of steps: the last one may go over it by less than one rollout."""
        return max(1, -(-(self.run.steps - self.loop.first_steps) // self.loop.steps_per_update))

    def steps(self, updates: int) -> int:
        """Environment steps of one seed after some updates."""
        return self.loop.first_steps + updates * self.loop.steps_per_update

    def describe(self) -> str:
        """One line: what is trained, where, on what."""
        seeds = f", {self.run.seeds} seeds" if self.run.seeds > 1 else ""
        device = isinstance(self.loop, DeviceLoop)
        where = f"compiled, on {self.loop.mesh.size} device(s)" if device else "host"
        return (
            f"{self.algorithm.name} on {self.spec.id} ({where}): {self.run.num_envs} environments{seeds}, "
            f"{self.steps(self.updates):,} steps"
        )

    def evaluator(self, episodes: int, explore: bool = False) -> Evaluator:
        """An evaluator in environments of its own."""
        if isinstance(self.loop, DeviceLoop):
            return device_evaluator(self.agent, _make(self.environment, episodes, self.run), explore=explore)
        own = _make(self.environment, min(episodes, 10), self.run)
        return host_evaluator(self.agent, own, episodes, explore=explore)


def train(
    algorithm: str = "ppo",
    environment: Any = "CartPole-v1",
    *,
    out: str | Path | None = None,
    preset: bool = True,
    network: Any = None,
    report: Report | None = None,
    **settings: Any,
) -> Result:
    """Train an agent.

    environment: a name (``steersman list``), ``"package.module:factory"``, a Gymnasium environment or a function that
    makes one, or a ``steersman.types.Env``. settings: fields of ``RunConfig`` (steps, seed, seeds, num_envs ...) and of
    the algorithm's config, by name; what is not given comes from the environment's preset, then from the defaults.
    network: a factory ``(key, spec) -> module`` in place of the algorithm's own networks. out: the run folder; without
    one nothing is written. report: called with what happens, for a progress display.

    Raises:
        UsageError: a setting, name or folder is wrong; nothing has been trained or written then.
        EnvironmentFault: the environment broke its contract. TrainingFault: a loss became NaN. What was saved stays.

    >>> result = train("ppo", "CartPole-v1", steps=100_000, learning_rate=1e-3)  # doctest: +SKIP
    >>> result.evaluation.mean  # doctest: +SKIP
    500.0
    """
    use_all_cores()
    entry = agents.algorithm(algorithm)
    given = {**(preset_for(algorithm, str(environment)) if preset else {}), **settings}
    run_config, config = split(entry, given)
    with ExitStack() as stack:
        setup = _setup(entry, environment, run_config, config, network)
        stack.callback(setup.loop.close)
        run = None
        if out is not None:
            run = folder.create(out, _config_json(setup, network))
            stack.enter_context(lock(run.path))
        return _run(setup, run, report or (lambda phase, numbers: None))


def resume(
    out: str | Path,
    *,
    steps: int | None = None,
    environment: Any = None,
    network: Any = None,
    report: Report | None = None,
) -> Result:
    """Go on with a run where its newest whole checkpoint is; it ends bit for bit where it would have without the stop.

    steps: a new budget. environment, network: needed where the run was trained on objects of the user's own, and for
    ``package.module:factory`` names, which a run folder alone never causes to be imported.
    """
    use_all_cores()
    run = folder.open_run(out)
    entry = agents.algorithm(run.config["algorithm"])
    named = run.config["environment"]
    if environment is None and (":" in named or run.config["run"].get("object")):
        raise UsageError(
            f"{out} was trained on an environment of your own, {named}. Name it again to go on: "
            f"steersman train --resume {out} --environment {named}"
        )
    if run.config["run"].get("network") and network is None:
        raise UsageError(f"{out} was trained with a network of your own; give it: resume({str(out)!r}, network=...).")
    saved = {k: v for k, v in run.config["run"].items() if k not in ("network", "object")}
    run_config, config = split(entry, {**saved, **run.config["config"]})
    if steps is not None:
        run_config = dataclasses.replace(run_config, steps=steps)
    with ExitStack() as stack:
        stack.enter_context(lock(run.path))
        setup = _setup(entry, named if environment is None else environment, run_config, config, network)
        stack.callback(setup.loop.close)
        if steps is not None:
            run = folder.update(run, _config_json(setup, network))
        return _run(setup, run, report or (lambda phase, numbers: None), resumed=True)


def _make(environment: Any, num_envs: int, run: RunConfig) -> Any:
    return envs.make(environment, num_envs, **({} if run.workers is None else {"workers": run.workers}))


def _setup(entry: Algorithm, environment: Any, run: RunConfig, config: Any, network: Any) -> Setup:
    """Make everything that can fail on a wrong setting, before any folder is made or time is spent."""
    made = _make(environment, run.num_envs, run)
    spec = made.spec
    scheduled = config if config.schedule_steps else dataclasses.replace(config, schedule_steps=run.steps)
    agent = entry.factory(scheduled, spec, network=network)
    entry.check(config, run.num_envs)
    first_length = entry.first_length(config)
    if isinstance(made, DeviceEnvs):
        shards = 1
        if run.seeds == 1 and not isinstance(environment, DeviceEnvs):
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
        )
    else:
        if run.seeds > 1:
            made.close()
            raise UsageError(
                f"seeds = {run.seeds}: several seeds train side by side on compiled environments; {spec.id} runs on the "
                "host. Start one run per seed: steersman train ... --seed 0, --seed 1, ... and plot them together."
            )
        loop = HostLoop(agent, made, unroll_length=config.unroll_length, first_length=first_length, seed=run.seed)
    every = run.checkpoint_every or max(1, run.steps // 20)
    run = dataclasses.replace(run, checkpoint_every=every)
    return Setup(entry, environment, run, config, spec, agent, loop, max(1, round(every / loop.steps_per_update)))


def _config_json(setup: Setup, network: Any) -> dict[str, Any]:
    named = isinstance(setup.environment, str)
    extras = ({} if named else {"object": True}) | ({} if network is None else {"network": True})
    return {
        "algorithm": setup.algorithm.name,
        "environment": setup.environment if named else setup.spec.id,
        "config": dataclasses.asdict(setup.config),
        "run": dataclasses.asdict(setup.run) | extras,
        "spec": spec_to_json(setup.spec),
    }


def _run(setup: Setup, run: folder.Run | None, report: Report, *, resumed: bool = False) -> Result:
    began = time.perf_counter()
    loop = setup.loop
    report("compiling", {"spec": setup.spec, "run": run.path if run else None, "setup": setup})
    state = loop.start()
    updates, spent, history = 0, _Spent(), []
    if resumed and run is not None:
        state, updates, spent, history = _restore(setup, run, state)
    with ExitStack() as stack:
        sinks = _sinks(stack, setup, run)
        stop = stack.enter_context(stop_on_signals())
        state, updates = _train(setup, run, report, state, updates, spent, history, sinks, stop, began)
    interrupted = updates < setup.updates
    policies = [Policy(setup.agent, s, setup.spec) for s in _agent_states(setup, state)]
    evaluation, per_seed = None, []
    if not interrupted and setup.run.evaluation_episodes:
        report("evaluating", {"episodes": setup.run.evaluation_episodes})
        evaluate = setup.evaluator(setup.run.evaluation_episodes)
        per_seed = [evaluate(p.state, 1_000_000 + s) for p, s in zip(policies, setup.seeds, strict=True)]
        evaluation = per_seed[0] if len(per_seed) == 1 else pooled(per_seed)
    summary = {
        "algorithm": setup.algorithm.name,
        "environment": setup.spec.id,
        "status": "interrupted" if interrupted else "done",
        "steps": setup.steps(updates),
        "seeds": setup.seeds,
        "wall_seconds": spent.wall + time.perf_counter() - began,
        "compile_seconds": spent.compile + loop.compile_seconds,
        "training_seconds": spent.training,
        "steps_per_second": setup.steps(updates) * setup.run.seeds / max(spent.training, 1e-9),
        "evaluation": evaluation.summary() if evaluation else None,
        "evaluations": [e.summary() for e in per_seed] if len(per_seed) > 1 else [],
    }
    if run is not None:
        folder.write_summary(run, summary)
        if any(np.isfinite(np.atleast_1d(row.get("episode_return", np.nan))).any() for row in history):
            from steersman.run import plots

            plots.learning_curve([run.path], run.curve)
    report("done", summary)
    return Result(
        policies[0], history, summary, evaluation, run.path if run else None, interrupted, policies, setup.evaluator
    )


@dataclass
class _Spent:
    """Seconds of the sittings before this one, and of this one's training."""

    wall: float = 0.0
    compile: float = 0.0
    training: float = 0.0


def _train(
    setup: Setup,
    run: folder.Run | None,
    report: Report,
    state: LoopState,
    updates: int,
    spent: _Spent,
    history: list[dict[str, Any]],
    sinks: list[Any],
    stop: Stop,
    began: float,
) -> tuple[LoopState, int]:
    loop, total = setup.loop, setup.updates
    log_every = max(1, total // 200)
    chunk, row = 1, _Row(setup.run.seeds)
    while updates < total and not stop.requested:
        # Cut the work where something is due, so that what is logged and saved does not depend on the machine's speed.
        log_at = (updates // log_every + 1) * log_every
        save_at = (updates // setup.checkpoint_updates + 1) * setup.checkpoint_updates
        n = min(chunk, log_at - updates, save_at - updates, total - updates)
        at_boundary = updates + n == save_at or updates + n == total
        tick, compiled = time.perf_counter(), loop.compile_seconds
        state, totals = loop.advance(state, n, cut=at_boundary)
        seconds = time.perf_counter() - tick - (loop.compile_seconds - compiled)
        spent.training += seconds
        updates += n
        row.add(totals)
        chunk = max(1, min(2 * chunk, int(n * CHUNK_SECONDS / max(seconds, 1e-6))))
        steps = setup.steps(updates)
        _check_finite(totals, steps, run)
        if updates == log_at or updates == total:
            logged = {"seconds": spent.wall + time.perf_counter() - began, **row.means()}
            history.append({"steps": steps, **logged})
            for sink in sinks:
                sink.write(steps, logged)
            row = _Row(setup.run.seeds)
        if at_boundary:
            if updates < total:
                state = loop.boundary(state, steps)
            if run is not None:
                _save(setup, run, state, updates, spent, began)
        report(
            "training",
            {
                "steps": steps,
                "total": setup.steps(total),
                "steps_per_second": n * loop.steps_per_update * setup.run.seeds / max(seconds, 1e-9),
                "episode_return": history[-1]["episode_return"] if history else np.nan,
            },
        )
    if stop.requested and updates < total and run is not None and isinstance(loop, DeviceLoop):
        _save(setup, run, state, updates, spent, began)
    return state, updates


class _Row:
    """Collects the totals of some chunks into one logged row: means per episode, and per update."""

    def __init__(self, seeds: int):
        self.seeds, self.totals, self.updates = seeds, None, 0

    def add(self, totals: Totals) -> None:
        new = (totals.episodes, totals.metrics)
        self.totals = new if self.totals is None else jax.tree.map(np.add, self.totals, new)
        self.updates += totals.updates

    def means(self) -> dict[str, Any]:
        assert self.totals is not None
        episodes, metrics = self.totals
        count = np.asarray(episodes.count, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {
                "episode_return": np.where(count > 0, episodes.returns / count, np.nan),
                "episode_length": np.where(count > 0, episodes.lengths / count, np.nan),
                "episodes": count,
            }
        means |= {name: np.asarray(value, np.float64) / self.updates for name, value in metrics.items()}
        return {k: float(v[0]) if self.seeds == 1 else v for k, v in means.items()}


def _check_finite(totals: Totals, steps: int, run: folder.Run | None) -> None:
    for name, value in totals.metrics.items():
        if not np.isfinite(value).all():
            kept = checkpoint.latest(run.checkpoints)[0] if run is not None else None
            where = f" The last good checkpoint is {kept}." if kept else ""
            raise TrainingFault(
                f"Training stopped near step {steps:,}: {name} is {float(np.asarray(value).reshape(-1)[0])}.{where} Usual causes: a "
                "learning rate that is too high, rewards of a huge scale (try --scale-rewards), an environment that "
                "returns NaN."
            )


def _save(setup: Setup, run: folder.Run, state: LoopState, updates: int, spent: _Spent, began: float) -> None:
    header = {
        "steps": setup.steps(updates),
        "updates": updates,
        "rows": setup.loop.rows if isinstance(setup.loop, DeviceLoop) and setup.loop.many else 0,
        "wall_seconds": spent.wall + time.perf_counter() - began,
        "compile_seconds": spent.compile + setup.loop.compile_seconds,
        "training_seconds": spent.training,
    }
    # A host environment's state cannot be saved: its part is empty, and both runs reset it here.
    kept = state if isinstance(setup.loop, DeviceLoop) else state._replace(acting=())
    checkpoint.save(checkpoint.step_path(run.checkpoints, setup.steps(updates)), kept, header)
    checkpoint.prune(run.checkpoints, setup.run.keep_checkpoints)


def _restore(
    setup: Setup, run: folder.Run, state: LoopState
) -> tuple[LoopState, int, _Spent, list[dict[str, Any]]]:
    """The state of the newest whole checkpoint, and the log cut back to it. Without one the run starts over."""
    path, _ = checkpoint.latest(run.checkpoints)
    steps = 0
    updates, spent = 0, _Spent()
    if path is not None:
        host = not isinstance(setup.loop, DeviceLoop)
        loaded, header = checkpoint.load(path, state._replace(acting=()) if host else state)
        updates, steps = int(header["updates"]), int(header["steps"])
        spent = _Spent(header["wall_seconds"], header["compile_seconds"], header["training_seconds"])
        state = setup.loop.boundary(loaded, steps) if host else loaded
        checkpoint.set_aside(run.checkpoints, steps)
    logs.truncate_to(run.metrics, steps)
    history = logs.read_metrics(run.metrics) if run.metrics.exists() else []
    return state, updates, spent, history


def _agent_states(setup: Setup, state: LoopState) -> list[PyTree]:
    """Each seed's agent state, on one device."""
    whole = jax.tree.map(lambda x: jax.device_put(x, jax.devices()[0]), state.agent)
    if setup.run.seeds == 1:
        return [whole]
    return [jax.tree.map(lambda x, i=i: x[i], whole) for i in range(setup.run.seeds)]


def _sinks(stack: ExitStack, setup: Setup, run: folder.Run | None) -> list[Any]:
    if run is None:
        return []
    made = [logs.JsonLines(run.metrics)]
    if setup.run.tensorboard:
        made.append(logs.TensorBoard(run.path / "tensorboard"))
    if setup.run.wandb:
        made.append(logs.WandB(run.path, setup.run.wandb, config={**run.config["run"], **run.config["config"]}))
    for sink in made:
        stack.callback(sink.close)
    return made
