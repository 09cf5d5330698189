"""Training, from a name to a result: compiled chunks inside a plain Python loop that logs, saves and evaluates."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steersman import agents
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, compile_cache, logs, run_folder
from steersman.run.disk.files import lock
from steersman.run.disk.spec_json import spec_from_json
from steersman.run.evaluate import Evaluation, Evaluator, fixed_size, pooled
from steersman.run.loops.devices import use_all_cores
from steersman.run.policy import Policy, agent_states, check_same_spaces, saved_agent
from steersman.run.prepare import Setup, check_same_data, config_json, prepare
from steersman.run.progress import Progress, Row, check_finite, history_of, restore, save, updates_done
from steersman.run.settings import environment_of, preset_for, reopened, saved_settings, split
from steersman.run.signals import Stop, stop_on_signals

Report = Callable[[str, dict[str, Any]], None]  # (what happens now, numbers) -> shown to the user
CHUNK_SECONDS = 0.3  # of compiled work between two looks at signals and the progress bar
EVALUATION_SEED = 1_000_000


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

    def evaluate(self, episodes: int = 100, *, seed: int = EVALUATION_SEED, explore: bool = False) -> Evaluation:
        """Play whole episodes with the first seed's policy, in environments of its own."""
        return self._evaluator(episodes, explore)(self.policy.state, seed)


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

    environment: a name (``steersman list``), ``"package.module:factory"``, a function that makes a Gymnasium
    environment or a ``steersman.types.Env``, or such an environment itself. settings: fields of ``RunConfig`` (steps,
    seed, seeds, num_envs ...) and of the algorithm's config, by name; what is not given comes from the environment's
    preset, then from the defaults. network: a factory ``(key, spec) -> module`` in place of the algorithm's own
    networks. out: the run folder; without one nothing is written. report: called with what happens, for a progress
    display.

    Ctrl-C and SIGTERM end the training early, with what there is: ``result.interrupted``.

    Raises:
        UsageError: a setting, name or folder is wrong; nothing has been trained or written then.
        EnvironmentFault: the environment broke its contract. TrainingFault: a loss became NaN. What was saved stays.

    >>> result = train("ppo", "CartPole-v1", steps=100_000, learning_rate=1e-3)  # doctest: +SKIP
    >>> result.evaluation.mean  # doctest: +SKIP
    500.0
    """
    use_all_cores()
    compile_cache.enable()
    entry = agents.algorithm(algorithm)
    given = dict(preset_for(algorithm, environment)) if preset and isinstance(environment, str) else {}
    size = fixed_size(environment)
    given |= ({} if size is None else {"num_envs": size}) | settings
    run_config, config = split(entry, given)
    with ExitStack() as stack:
        setup = prepare(entry, environment, run_config, config, network)
        stack.callback(setup.close)
        run = None
        if out is not None:
            run = run_folder.create(out, config_json(setup, network))
            stack.enter_context(lock(run.path))
        return _run(setup, run, report or _silent)


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
    ``package.module:factory`` names, which a run folder alone never causes to be imported. A run that is done already
    is left as it is. Raises as ``train`` does, and UsageError for a folder that is not a run or is in use.
    """
    use_all_cores()
    compile_cache.enable()
    run = run_folder.open_run(out)
    entry = agents.algorithm(run.config["algorithm"])
    place = environment_of(run.config, environment, out)
    if run.config["run"].get("network") and network is None:
        raise UsageError(f"{out} was trained with a network of your own; give it: resume({str(out)!r}, network=...).")
    settings = reopened(entry, run.config) | ({} if steps is None else {"steps": steps})
    run_folder.warn(run.warning)
    with ExitStack() as stack:
        stack.enter_context(lock(run.path))
        newest = checkpoint.latest(run.checkpoints, checkpoint.read)
        run_folder.warn(newest.note)
        setup = prepare(entry, place, *split(entry, settings), network, begun=newest.path is not None)
        stack.callback(setup.close)
        check_same_spaces(spec_from_json(run.config["spec"]), setup.spec)
        check_same_data(run.config, setup)
        enough = updates_done(newest) >= setup.updates
        summary = run_folder.read_summary(run)
        if enough and summary is not None and summary.get("status") == "done":
            (report or _silent)("done already", summary)
            return _finished(setup, run, newest.content, summary)
        if steps is not None and not enough:
            run = run_folder.update(run, {"run": {**run.config["run"], "steps": setup.run.steps}})
        return _run(setup, run, report or _silent, newest)


def _silent(phase: str, numbers: dict[str, Any]) -> None:
    pass


def _finished(setup: Setup, run: run_folder.Run, saved: checkpoint.Saved, summary: dict[str, Any]) -> Result:
    """The result of a run that has nothing left to do."""
    states = agent_states(saved, saved_agent(setup.agent, setup.spec, setup.run), setup.run.seeds)
    policies = [Policy(setup.agent, states(index), setup.spec) for index in range(setup.run.seeds)]
    played = Evaluation.from_summary(summary["evaluation"]) if summary.get("evaluation") else None
    return Result(policies[0], history_of(run), summary, played, run.path, False, policies, setup.evaluator)


def _run(setup: Setup, run: run_folder.Run | None, report: Report, newest: checkpoint.Latest | None = None) -> Result:
    began = time.perf_counter()
    with stop_on_signals() as stop:
        report("compiling", {"spec": setup.spec, "run": run.path if run else None, "setup": setup})
        if run is not None and newest is not None:
            state, progress = restore(setup, run, newest, began)
            (run.path / "summary.json").unlink(missing_ok=True)
        else:
            state, progress = setup.loop.start(), Progress(Row(setup.run.seeds), [], began=began)
        state = _train(setup, run, report, state, progress, stop)
        policies = [Policy(setup.agent, s, setup.spec) for s in setup.loop.agents(state)]
        interrupted = progress.updates < setup.updates
        played: list[Evaluation] = []
        if setup.run.evaluation_episodes and not interrupted:
            stop.at_once = True  # all is saved
            interrupted = stop.requested
            try:
                report("evaluating", {"episodes": setup.run.evaluation_episodes})
                evaluate = setup.evaluator(setup.run.evaluation_episodes)
                for policy, seed in zip(policies if not interrupted else [], setup.seeds, strict=False):
                    played.append(evaluate(policy.state, EVALUATION_SEED + seed))
            except KeyboardInterrupt:
                interrupted, played = True, []
    evaluation = pooled(played) if len(played) > 1 else (played or [None])[0]
    summary = _summary(setup, progress, interrupted) | {
        "evaluation": evaluation.summary() if evaluation else None,
        "evaluations": [e.summary() for e in played] if len(played) > 1 else [],
    }
    if run is not None:
        run_folder.write_summary(run, summary)
        if any(np.isfinite(row.get("episode_return", np.nan)).any() for row in progress.history):
            from steersman.run.show import plots

            plots.learning_curve([run.path], run.curve)
    report("done", summary)
    path = run.path if run else None
    return Result(policies[0], progress.history, summary, evaluation, path, interrupted, policies, setup.evaluator)


def _train(setup: Setup, run: run_folder.Run | None, report: Report, state: Any, progress: Progress, stop: Stop) -> Any:
    loop, total, every = setup.loop, setup.updates, setup.log_updates
    chunk = 1
    with ExitStack() as stack:
        sinks = _sinks(stack, setup, run)
        while progress.updates < total and not stop.requested:
            # Cut the work where something is due: what is logged and saved does not depend on the machine's speed.
            at = progress.updates
            log_at = (at // every + 1) * every
            save_at = (at // setup.checkpoint_updates + 1) * setup.checkpoint_updates
            n = min(chunk, log_at - at, save_at - at, total - at)
            at_boundary = at + n in (save_at, total)
            tick, compiled = time.perf_counter(), loop.compile_seconds
            state, totals = loop.advance(state, n, cut=at_boundary)
            seconds = time.perf_counter() - tick - (loop.compile_seconds - compiled)
            progress.training += seconds
            progress.updates += n
            progress.row.add(totals)
            chunk = max(1, min(2 * chunk, int(n * CHUNK_SECONDS / max(seconds, 1e-6))))
            steps = setup.steps(progress.updates)
            check_finite(totals, steps, run)
            if progress.updates in (log_at, total):
                logged = {"seconds": progress.seconds(), **progress.row.means()}
                progress.history.append({"steps": steps, **logged})
                for sink in sinks:
                    sink.write(steps, logged)
                progress.row = Row(setup.run.seeds)
            if at_boundary:
                if progress.updates < total:
                    state = loop.boundary(state, steps)
                if run is not None:
                    save(setup, run, state, progress)
            report(
                "training",
                {
                    "steps": steps,
                    "total": setup.steps(total),
                    "steps_per_second": n * loop.steps_per_update * setup.run.seeds / max(seconds, 1e-9),
                    "episode_return": _last_return(progress.history),
                },
            )
        if stop.requested:
            report("stopping", {})
        # Off schedule only where that changes nothing: a checkpoint of host environments would cut their episodes.
        if progress.updates < total and run is not None and setup.compiled:
            save(setup, run, state, progress)
    return state


def _last_return(history: list[dict[str, Any]]) -> float:
    """The newest mean return of finished episodes, over all seeds; NaN before the first."""
    for row in reversed(history):
        found = np.asarray(row["episode_return"])
        if np.isfinite(found).any():
            return float(np.nanmean(found))
    return float("nan")


def _summary(setup: Setup, progress: Progress, interrupted: bool) -> dict[str, Any]:
    steps = setup.steps(progress.updates)
    return {
        "algorithm": setup.algorithm.name,
        "environment": setup.spec.id,
        "status": "interrupted" if interrupted else "done",
        "steps": steps,
        "seeds": setup.seeds,
        "wall_seconds": progress.seconds(),
        "compile_seconds": progress.compile + setup.loop.compile_seconds,
        "training_seconds": progress.training,
        "steps_per_second": steps * setup.run.seeds / max(progress.training, 1e-9),
    }


def _sinks(stack: ExitStack, setup: Setup, run: run_folder.Run | None) -> list[logs.Sink]:
    if run is None:
        return []
    made: list[logs.Sink] = []

    def add(sink: logs.Sink) -> None:
        stack.callback(sink.close)
        made.append(sink)

    add(logs.JsonLines(run.metrics))
    if setup.run.tensorboard:
        add(logs.TensorBoard(run.path / "tensorboard"))
    if setup.run.wandb:
        add(logs.WandB(run.path, setup.run.wandb, config=saved_settings(run.config)))
    return made
