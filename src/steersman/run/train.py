"""Training, from a plan to a result: compiled chunks inside a plain Python loop that tells what happens, and saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError
from steersman.run import plugins
from steersman.run.callbacks import Costless, Curve, Unending, loggers
from steersman.run.disk import checkpoint, compile_cache, run_folder
from steersman.run.disk.files import lock
from steersman.run.disk.spec_json import spec_from_json
from steersman.run.evaluate import Evaluation, Evaluator, pooled
from steersman.run.events import (
    FINISHED,
    AlreadyDone,
    Callback,
    Compiled,
    Compiling,
    Done,
    Evaluated,
    Evaluating,
    Stopping,
    Trained,
)
from steersman.run.loops.devices import use_all_cores
from steersman.run.parts.recorded import check_same_data
from steersman.run.parts.setup import Setup, config_json
from steersman.run.plan import Plan, planned
from steersman.run.policies.best import Best, cut
from steersman.run.policies.limits import outcome
from steersman.run.policies.warm_start import InitFrom
from steersman.run.policy import Policy, agent_states, check_same_spaces, saved_agent
from steersman.run.prepare import prepare
from steersman.run.progress import check_finite, history_of, restore, updates_done
from steersman.run.session import Session, tell_all
from steersman.run.settings import environment_of, reopened, split
from steersman.run.signals import stop_on_signals
from steersman.types import Algorithm

CHUNK_SECONDS = 0.3  # of compiled work between two looks at signals and the listeners
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
    bests: list[Policy] = field(repr=False)  # of each seed, the best of the evaluations on the way; [] without any
    _evaluator: Callable[[int, bool], Evaluator] = field(repr=False)

    def __repr__(self) -> str:
        what = f"{self.summary['algorithm']} on {self.summary['environment']}"
        played = "not evaluated" if self.evaluation is None else f"evaluation {self.evaluation!r}"
        rows = f"history of {len(self.history)} rows"
        where = "no run folder" if self.run is None else f"run folder {self.run}"
        steps = f"{self.summary['status']} at {self.summary['steps']:,} steps"
        return f"Result({what}, {steps}: {played}, {rows}, {where})"

    @property
    def best(self) -> Policy | None:
        """The first seed's policy with the highest mean return in an evaluation on the way; None without any."""
        return self.bests[0] if self.bests else None

    def evaluate(
        self, episodes: int = 100, *, seed: int = EVALUATION_SEED, explore: bool = False, best: bool = False
    ) -> Evaluation:
        """Play whole episodes with the first seed's policy, or its best, in environments of its own."""
        policy = self.best if best else self.policy
        if policy is None:
            raise UsageError("This run was not evaluated on the way, so it has no best policy. Give evaluate_every.")
        return self._evaluator(episodes, explore)(policy.state, seed)


def train(
    algorithm: str | Algorithm = "ppo",
    environment: Any = "CartPole-v1",
    *,
    out: str | Path | None = None,
    replace: bool = False,
    preset: bool = True,
    network: Any = None,
    init_from: str | Path | None = None,
    init_best: bool = False,
    init_optimiser: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Result:
    """Train an agent.

    algorithm: a name (``steersman list``), ``"package.module:ALGORITHM"``, or an ``Algorithm``. environment: a name,
    ``"package.module:factory"``, a function that makes a Gymnasium environment or a ``steersman.types.Env``, or such an
    environment itself. settings: fields of ``RunConfig`` (steps, seed, seeds, num_envs ...) and of the algorithm's
    config, by name; what is not given comes from the environment's preset, then from the defaults. network: a factory
    ``(key, spec) -> module``, or its name, in place of the algorithm's own networks. out: the run folder; without one
    nothing is written. replace: put the run in the place of the one that ``out`` holds, whose files are removed once
    the settings of the new one have been found right. init_from: the folder of another run by the same algorithm. This
    one begins with its parameters and normalisers, and keeps its settings where no others are given; all else begins
    anew. init_best: with its best policy; init_optimiser: with the optimiser's moments too. callbacks: each is called
    with every event of
    ``steersman.run.events``, and can log, save or stop.

    Ctrl-C and SIGTERM end the training early, with what there is: ``result.interrupted``.

    Raises:
        UsageError: a setting, name or folder is wrong; nothing has been trained or written then. Or a callback raised:
            the run is saved. EnvironmentFault: the environment broke its contract. TrainingFault: a loss became NaN.
            What was saved stays.

    >>> result = train("ppo", "CartPole-v1", steps=100_000, learning_rate=1e-3)  # doctest: +SKIP
    >>> result.evaluation.mean  # doctest: +SKIP
    500.0
    """
    use_all_cores()
    if init_from is None and (init_best or init_optimiser):
        raise UsageError("init_best and init_optimiser say what to take from a run; name it: init_from=RUN.")
    init = None if init_from is None else InitFrom(Path(init_from), init_best, init_optimiser)
    given: Any = {"preset": preset, "network": network, "out": out, "replace": replace, "init": init}
    return run(planned(algorithm, environment, settings, callbacks=callbacks, **given))


def resume(
    out: str | Path,
    *,
    steps: int | None = None,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Go on with a run where its newest whole checkpoint is; it ends bit for bit where it would have without the stop.

    steps: a new budget. environment, algorithm, network: needed where the run was trained on or by what is the user's
    own, an object or a ``package.module:name``, which a run folder alone never causes to be imported. A run that is
    done already, or that a callback has stopped early, is left as it is without more steps. Raises as ``train`` does,
    and UsageError for a folder that is not a run or is in use, and for fewer steps than it has trained for.
    """
    use_all_cores()
    opened = run_folder.open_run(out)
    return run(resumption(opened, environment, algorithm, network, steps=steps, callbacks=callbacks))


def resumption(
    opened: run_folder.Run,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
    *,
    steps: int | None = None,
    **rest: Any,
) -> Plan:
    """The plan of a run that goes on, from its folder and what has to be given again. rest: of the plan."""
    entry = plugins.algorithm_of(opened.config, algorithm, opened.path)
    place = environment_of(opened.config, environment, opened.path)
    network = plugins.network_of(opened.config, network, opened.path)
    settings = reopened(entry, opened.config) | ({} if steps is None else {"steps": steps})
    more = steps is not None
    return Plan(entry, place, *split(entry, settings), network, resumed=opened, more=more, **rest)


def run(plan: Plan) -> Result:
    """Carry out a plan: the one way into training. Raises as ``train`` does."""
    compile_cache.enable()
    with ExitStack() as stack:
        if plan.resumed is not None:
            return _go_on(plan, plan.resumed, stack)
        setup = prepare(plan)
        stack.callback(setup.close)
        folder = None
        if plan.out is not None:
            if plan.replace:
                run_folder.remove(plan.out)
            folder = run_folder.create(plan.out, config_json(setup, plan.origins))
            stack.enter_context(lock(folder.path))
            if setup.start is not None:
                setup.start.save(folder.path)
        return _run(plan, setup, folder)


def _go_on(plan: Plan, folder: run_folder.Run, stack: ExitStack) -> Result:
    run_folder.warn(folder.warning)
    stack.enter_context(lock(folder.path))
    newest = checkpoint.latest(folder.checkpoints, checkpoint.read)
    run_folder.warn(newest.note)
    setup = prepare(plan, begun=newest.path is not None)
    stack.callback(setup.close)
    check_same_spaces(spec_from_json(folder.config["spec"]), setup.spec)
    check_same_data(folder.config, setup)
    done = updates_done(newest)
    if plan.more and done > setup.updates:
        raise UsageError(
            f"steps = {setup.run.steps:,}: {folder.path} has trained for {setup.steps(done):,} already, and a budget "
            f"counts from the beginning. Give a larger one, or none to go on to {folder.config['run']['steps']:,}."
        )
    enough = done >= setup.updates
    summary = run_folder.read_summary(folder) or {}
    early = summary.get("status") == "stopped early" and not plan.more
    if early or (enough and summary.get("status") in FINISHED):
        tell_all(plan.callbacks, AlreadyDone(summary))
        return _finished(setup, folder, newest.content, summary)
    if plan.more:
        folder = run_folder.update(folder, {"run": {**folder.config["run"], "steps": setup.run.steps}})
    return _run(plan, setup, folder, newest)


def _finished(setup: Setup, folder: run_folder.Run, saved: checkpoint.Saved, summary: dict[str, Any]) -> Result:
    """The result of a run that has nothing left to do."""
    like, best = saved_agent(setup.agent, setup.spec, setup.run), Best(setup.run.seeds)
    best.read(folder.best, like)
    states = agent_states(saved, like, setup.run.seeds)
    policies = [setup.policy(states(index)) for index in range(setup.run.seeds)]
    bests = [setup.policy(state) for state in best.on_device()]
    played = Evaluation.from_summary(summary["evaluation"]) if summary.get("evaluation") else None
    return Result(
        policies[0], history_of(folder), summary, played, folder.path, False, policies, bests, setup.evaluator
    )


def _run(plan: Plan, setup: Setup, folder: run_folder.Run | None, newest: checkpoint.Latest | None = None) -> Result:
    began = time.perf_counter()
    with stop_on_signals() as signals, ExitStack() as stack:
        session = Session(plan, setup, folder, signals)
        stack.enter_context(session.interrupted())
        described = setup.describe() + _going_on(setup, newest)
        session.tell(Compiling(session, described, setup.steps(setup.updates), setup.notes))
        if folder is not None and newest is not None:
            session.state, session.progress = restore(setup, folder, newest, began)
            cut(folder.best, session.steps if session.progress.updates else -1)
            session.best.read(folder.best, saved_agent(setup.agent, setup.spec, setup.run))
            (folder.path / "summary.json").unlink(missing_ok=True)
        else:
            session.state = setup.loop.start()
        if folder is not None:
            session.listeners = [*loggers(stack, folder, setup.run), Curve(folder)]
        if setup.algorithm.data != "only":
            session.listeners.append(Unending(setup.run.num_envs, setup.spec.max_episode_steps or 0))
            session.listeners.append(Costless(setup.limits))
        session.tell(Compiled(session, session.steps, session.progress.compile + setup.loop.compile_seconds))
        _train(session)
        policies = [setup.policy(s) for s in setup.loop.agents(session.state)]
        interrupted = signals.requested and not session.over
        played: list[Evaluation] = []
        if setup.run.evaluation_episodes and not interrupted:
            signals.at_once = True  # all is saved
            interrupted = signals.requested
            try:
                session.tell(Evaluating(session, setup.run.evaluation_episodes))
                evaluate = setup.evaluator(setup.run.evaluation_episodes)
                for policy, seed in zip(policies if not interrupted else [], setup.seeds, strict=False):
                    played.append(evaluate(policy.state, EVALUATION_SEED + seed))
            except KeyboardInterrupt:
                interrupted, played = True, []
        evaluation = pooled(played) if len(played) > 1 else (played or [None])[0]
        summary = _summary(session, interrupted) | {
            "evaluation": evaluation.summary() if evaluation else None,
            "evaluations": [e.summary() for e in played] if len(played) > 1 else [],
        }
        if setup.limits.most:
            said = evaluation.limits if evaluation else ()
            summary["limits"] = outcome(setup.limits, said, session.progress.row.newest, session.progress.history)
        if folder is not None:
            run_folder.write_summary(folder, summary)
        if evaluation:
            session.tell(Evaluated(session, evaluation))
        history = session.progress.history
        session.tell(Done(session, summary, history))
    bests = [setup.policy(state) for state in session.best.on_device()]
    ended = (session.folder, interrupted, policies, bests, setup.evaluator)
    return Result(policies[0], history, summary, evaluation, *ended)


def _going_on(setup: Setup, newest: checkpoint.Latest | None) -> str:
    """Where a run that was stopped goes on."""
    if newest is None:
        return ""
    return f", going on from step {setup.steps(updates_done(newest)):,}" if newest.path else ", anew: nothing was saved"


def _train(session: Session) -> None:
    setup, progress = session.setup, session.progress
    loop, total = setup.loop, setup.updates
    chunk = 1
    while not (session.over or session.ending):
        # Cut the work where something is due: what is logged and saved does not depend on the machine's speed.
        at = progress.updates
        log_at, save_at, change_at = session.cadence.due(at)
        test_at = (at // setup.evaluate_updates + 1) * setup.evaluate_updates
        n = min(chunk, min(log_at, save_at, change_at, test_at, total) - at)
        at_boundary = at + n in (save_at, total)
        tick, compiled = time.perf_counter(), loop.compile_seconds
        session.state, totals = loop.advance(session.state, n, cut=at_boundary)
        seconds = time.perf_counter() - tick - (loop.compile_seconds - compiled)
        progress.training += seconds
        progress.updates += n
        progress.row.add(totals)
        progress.spent = progress.spent.plus(totals.episodes)
        rolling = {name: float(np.mean(values)) for name, values in progress.row.rolling().items()}
        costs = tuple(rolling.get(f"cost{suffix}_100", np.nan) for suffix in setup.limits.suffixes)
        paid = costs, setup.limits.most
        chunk = max(1, min(2 * chunk, int(n * CHUNK_SECONDS / max(seconds, 1e-6))))
        check_finite(totals, session.steps, session.run, session.state)
        session.measured(n, seconds)
        assessed = session.evaluate() if progress.updates in (test_at, total) else None
        row = session.row() if assessed or progress.updates in (log_at, total) else None
        speed = n * loop.steps_per_update * setup.run.seeds / max(seconds, 1e-9)
        session.tell(Trained(session, session.steps, setup.steps(total), speed, rolling["return_100"], row, *paid))
        if assessed is not None:
            session.tell(assessed)
        if at_boundary:
            if not session.over:
                session.state = loop.boundary(session.state, session.steps)
            session.write()
    if session.ending and not session.over:
        session.tell(Stopping(session, session.ending))
        # Off schedule only where that changes nothing: a checkpoint of host environments would cut their episodes, in a
        # run that goes on.
        if setup.compiled or not session.signals.requested:
            session.write()


def _summary(session: Session, interrupted: bool) -> dict[str, Any]:
    setup, progress = session.setup, session.progress
    early = session.stopped is not None and not session.over and not interrupted
    return {
        "algorithm": session.algorithm,
        "environment": session.environment,
        "status": "interrupted" if interrupted else "stopped early" if early else "done",
        **({"stopped": session.stopped} if early else {}),
        "steps": session.steps,
        "seeds": setup.seeds,
        **({"workers": setup.workers} if setup.workers else {}),
        "wall_seconds": progress.seconds(),
        "compile_seconds": progress.compile + setup.loop.compile_seconds,
        "training_seconds": progress.training,
        "evaluating_seconds": progress.evaluating,
        "best": session.best.summary(),
        "steps_per_second": session.steps * setup.run.seeds / max(progress.training, 1e-9),
    }
