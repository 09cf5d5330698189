"""How good a policy is: whole episodes in environments of its own, and what they say of the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from steersman import envs
from steersman.errors import UsageError
from steersman.run.disk import files, run_folder
from steersman.run.loops.devices import use_all_cores
from steersman.run.policies.limits import NO_COSTS, Limits, Verdict, limits_of, verdicts
from steersman.run.policies.playing import first_episodes, host_episodes
from steersman.run.policy import check_same_spaces, load_seeds
from steersman.run.settings import environment_of
from steersman.theory import statistics
from steersman.types import Agent, Algorithm, DeviceEnvs, EnvSpec, HostEnvs, PyTree

HOST_MEMBERS = 10  # host environments side by side in an evaluation


class Logged(NamedTuple):
    """A number of ``info`` over some episodes: its mean, a rate where it is the success of each."""

    mean: float
    ci95: tuple[float, float]  # of one seed's rate Wilson's, else bootstrap
    values: tuple[float, ...]  # of each episode; NaN where it was not said


@dataclass(frozen=True)
class Evaluation:
    """Returns and costs of whole episodes (undiscounted, in the environment's units) and their summary."""

    episodes: int
    mean: float
    median: float
    iqm: float
    ci95: tuple[float, float]  # of the mean, bootstrap
    chebyshev95: tuple[float, float]  # of the mean, without assumptions on the shape of the distribution
    std: float
    min: float
    max: float
    mean_length: float
    unfinished: int  # episodes cut after LIMIT steps, counted with what they had
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    mean_cost: tuple[float, ...] = ()  # of each cost; the same order everywhere; discounted where its limit is
    cost_ci95: tuple[tuple[float, float], ...] = ()  # of those means, bootstrap
    costs: tuple[tuple[float, ...], ...] = ()  # of each episode
    cost_names: tuple[str, ...] = ()
    limits: tuple[Verdict, ...] = ()  # of each limited cost: whether its limit holds, and how surely
    # Of what the environment's info says at an episode's end: "success", the rate, and what was asked for by its name.
    logged: Mapping[str, Logged] = field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = self.ci95
        cut = f", {self.unfinished} cut unfinished" if self.unfinished else ""
        return f"Evaluation(mean {self.mean:.6g}, 95% interval {low:.6g} to {high:.6g}, {self.episodes} episodes{cut})"

    def summary(self) -> dict[str, Any]:
        """All but the single episodes, as JSON values; of costs and of what is logged only where there is any."""
        left_out = {"returns", "lengths", "costs"}
        left_out |= set() if self.mean_cost else {"mean_cost", "cost_ci95", "cost_names"}
        left_out |= {name for name in ("logged", "limits") if not getattr(self, name)}
        shown = {name: {"mean": x.mean, "ci95": list(x.ci95)} for name, x in self.logged.items()}
        content = {**asdict(self), "logged": shown, "limits": [verdict.to_json() for verdict in self.limits]}
        return {k: _listed(v) for k, v in content.items() if k not in left_out}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``summary``, without the single episodes."""
        lists = {k: _tupled(v) for k, v in summary.items() if isinstance(v, list)}
        logged = {name: Logged(x["mean"], tuple(x["ci95"]), ()) for name, x in summary.get("logged", {}).items()}
        limits = tuple(map(Verdict.from_json, summary.get("limits", ())))
        return cls(**{**summary, **lists, "logged": logged, "limits": limits, "returns": (), "lengths": ()})


def summarise(
    returns: np.ndarray,
    lengths: np.ndarray,
    unfinished: int = 0,
    costs: np.ndarray | None = None,
    logged: Mapping[str, np.ndarray] | None = None,
    limits: Limits = NO_COSTS,
) -> Evaluation:
    """The statistics of some episodes' returns [N], lengths [N], costs [N, C] and logged numbers [N] by name."""
    returns = np.asarray(returns, np.float64)
    costs = np.zeros((len(returns), 0)) if costs is None else np.asarray(costs, np.float64)
    return Evaluation(
        episodes=len(returns),
        mean=float(returns.mean()),
        median=float(np.median(returns)),
        iqm=float(statistics.iqm(returns)),
        ci95=_pair(statistics.bootstrap_interval(returns, np.mean, 0.95)),
        chebyshev95=_pair(statistics.chebyshev_interval(returns, 0.95)),
        std=float(returns.std()),
        min=float(returns.min()),
        max=float(returns.max()),
        mean_length=float(np.mean(lengths)),
        unfinished=unfinished,
        returns=tuple(map(float, returns)),
        lengths=tuple(map(int, lengths)),
        mean_cost=tuple(map(float, costs.mean(0))),
        cost_ci95=_intervals(costs),
        costs=tuple(map(tuple, costs.tolist())),
        cost_names=limits.names,
        limits=verdicts(limits, [costs]),
        logged=dict(_logged(logged or {})),
    )


def _logged(numbers: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Logged]]:
    """Of what was said of any episode. One of which nothing is said was no success."""
    for name, values in numbers.items():
        values = np.asarray(values, np.float64)
        there = values[np.isfinite(values)]
        if not there.size:
            continue
        if name == "success":
            rate = float((there != 0).sum() / len(values))
            yield name, Logged(rate, statistics.wilson_interval(rate, len(values)), tuple(values.tolist()))
        else:
            interval = _pair(statistics.bootstrap_interval(there, np.mean, 0.95))
            yield name, Logged(float(there.mean()), interval, tuple(values.tolist()))


def pooled(evaluations: list[Evaluation]) -> Evaluation:
    """Several seeds' evaluations as one: all episodes, but the intervals are over the seeds' means."""
    costs = [np.asarray(e.costs) for e in evaluations]
    limits = Limits(evaluations[0].cost_names, tuple(verdict.limit for verdict in evaluations[0].limits))
    whole = summarise(
        np.concatenate([e.returns for e in evaluations]),
        np.concatenate([e.lengths for e in evaluations]),
        sum(e.unfinished for e in evaluations),
        np.concatenate(costs),
        {name: np.concatenate([_values(e, name) for e in evaluations]) for e in evaluations for name in e.logged},
    )
    over_seeds = {
        name: x._replace(ci95=_pair(statistics.bootstrap_interval(_means(evaluations, name), np.mean, 0.95)))
        for name, x in whole.logged.items()
    }
    means = np.asarray([e.mean for e in evaluations])
    return replace(
        whole,
        ci95=_pair(statistics.bootstrap_interval(means, np.mean, 0.95)),
        chebyshev95=_pair(statistics.chebyshev_interval(means, 0.95)),
        cost_ci95=_intervals(np.asarray([e.mean_cost for e in evaluations])),
        cost_names=limits.names,
        limits=verdicts(limits, costs),
        logged=over_seeds,
    )


def _values(evaluation: Evaluation, name: str) -> tuple[float, ...]:
    found = evaluation.logged.get(name)
    return (np.nan,) * evaluation.episodes if found is None else found.values


def _means(evaluations: Sequence[Evaluation], name: str) -> np.ndarray:
    """Of each seed that has one; a seed that never says "success" had none."""
    found = [e.logged[name].mean if name in e.logged else 0.0 if name == "success" else np.nan for e in evaluations]
    return np.asarray([mean for mean in found if np.isfinite(mean)])


def _intervals(costs: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Of the mean of each column of [N, C]."""
    return tuple(_pair(statistics.bootstrap_interval(column, np.mean, 0.95)) for column in costs.T)


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def _pair(interval: Any) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


Evaluator = Callable[[PyTree, int], Evaluation]  # (agent state, seed) -> Evaluation


def device_evaluator(
    agent: Agent,
    envs: DeviceEnvs,
    episodes: int | None = None,
    *,
    explore: bool = False,
    log_info: Sequence[str] = (),
    limits: Limits | None = None,
) -> Evaluator:
    """Evaluate on compiled environments, by ``first_episodes``.

    episodes: how many; rounds of the members until there are so many. By default one of each member. log_info: as in
    ``RunConfig``. limits: on their costs; none: there are none.
    """
    wanted, limits = episodes or envs.num_envs, limits or Limits(envs.spec.cost_names)
    options: Any = {"explore": explore, "log_info": log_info, "discount": limits.discount}
    program = jax.jit(first_episodes(agent, envs, **options))

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        keys = jax.random.split(jax.random.key(seed), -(-wanted // envs.num_envs))
        played = jax.device_get([program(state, key) for key in keys])
        return _summary_of(played, wanted, limits)

    return evaluate


def host_evaluator(
    agent: Agent,
    envs: HostEnvs,
    episodes: int,
    *,
    explore: bool = False,
    log_info: Sequence[str] = (),
    limits: Limits | None = None,
    programs: dict[str, Any] | None = None,
) -> Evaluator:
    """Evaluate on host environments: rounds of the members, each member's first episode after a reset.

    programs: as in ``host_episodes``.
    """
    limits = limits or Limits(envs.spec.cost_names)
    options: Any = {"explore": explore, "log_info": log_info, "discount": limits.discount, "programs": programs}
    play = host_episodes(agent, envs, **options)

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        rounds = -(-episodes // envs.num_envs)
        seeds = np.random.SeedSequence(seed).generate_state(rounds)
        return _summary_of([play(state, int(s)) for s in seeds], episodes, limits)

    return evaluate


def _summary_of(rounds: Sequence[tuple[Any, ...]], episodes: int, limits: Limits) -> Evaluation:
    """The first ``episodes`` of some rounds of (returns [B], lengths [B], costs [B, C], logged [B], unfinished [B])."""
    join = lambda *parts: np.concatenate(parts)[:episodes]
    returns, lengths, costs, said, unfinished = jax.tree.map(join, *rounds)
    return summarise(returns, lengths, int(unfinished.sum()), costs, said, limits)


def evaluator(
    agent: Agent,
    place: Any,
    episodes: int,
    *,
    explore: bool = False,
    workers: int | None = None,
    log_info: Sequence[str] = (),
    costs: Sequence[str] = (),
    limits: Callable[[tuple[str, ...]], Limits] = Limits,
    fits: Callable[[EnvSpec], None] = lambda spec: None,
) -> Evaluator:
    """An evaluator in environments of its own, made when it is called and closed after it. It compiles once.

    place: a name, a factory or an object; environments that are made already are used as they are and left open.
    costs: as in ``RunConfig``; limits: on costs of such names. fits: called with the spec, to refuse it.
    """
    check_episodes(episodes)
    width = fixed_size(place) or min(episodes, HOST_MEMBERS)
    options: dict[str, Any] = {"log_info": log_info, "costs": costs}
    options |= {} if workers is None else {"workers": min(workers, width)}
    of_play: Any = {"explore": explore, "log_info": log_info}
    programs: dict[str, Any] = {}
    compiled: list[Evaluator] = []

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        if compiled:
            return compiled[0](state, seed)
        made = envs.make(place, width, **options)
        try:
            fits(made.spec)
            if not isinstance(made, DeviceEnvs):
                here: Any = {"limits": limits(made.spec.cost_names), "programs": programs, **of_play}
                return host_evaluator(agent, made, episodes, **here)(state, seed)
        finally:
            close(place, made)
        whole = made if fixed_size(place) else envs.make(place, episodes, **options)
        assert isinstance(whole, DeviceEnvs)
        compiled.append(device_evaluator(agent, whole, episodes, limits=limits(whole.spec.cost_names), **of_play))
        return compiled[0](state, seed)

    return evaluate


def fixed_size(place: Any) -> int | None:
    """How many members environments have that the user has made already; None where we make them."""
    if isinstance(place, DeviceEnvs | HostEnvs | gymnasium.vector.VectorEnv):
        return place.num_envs
    return 1 if isinstance(place, gymnasium.Env) else None


def close(place: Any, made: DeviceEnvs | HostEnvs) -> None:
    """Close host environments that were made from ``place``, unless they are the user's own."""
    if isinstance(made, HostEnvs) and fixed_size(place) is None:
        made.close()


def check_episodes(episodes: int) -> None:
    """Raise UsageError unless the number of episodes is one or more."""
    if episodes < 1:
        raise UsageError(
            f"{episodes} evaluation episodes were asked for; 1 or more are needed. The usual number is 100."
        )


def evaluate_run(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 2_000_000,
    seed_index: int | None = None,
    best: bool = False,
    explore: bool = False,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
    log_info: Sequence[str] | None = None,
) -> Evaluation:
    """Play whole episodes with a run's policy in environments of its own.

    episodes: of each seed's policy. seed_index: one of a run's several seeds; None: all, pooled. best: with the best
    policy of each seed, as ``load`` has it. environment: another one with the same spaces, or the user's own again.
    log_info: entries of info whose values at the end of an episode are reported; None: those that the run logs. Raises
    UsageError where the spaces differ. The run's limits are held against an environment with as many costs as its own.
    """
    use_all_cores()
    opened = run_folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    by = files.holder(run)
    still = f"{run} is still training ({by}): this is the policy of its newest checkpoint." if by else ""
    run_folder.warn(opened.warning, still)
    chosen = None if seed_index is None else [seed_index]
    policies = load_seeds(run, chosen, best=best, algorithm=algorithm, network=network)
    fits = partial(check_same_spaces, policies[0].spec)
    names = tuple(opened.config["run"].get("log_info", ()) if log_info is None else log_info)
    given: Any = {"log_info": names, "costs": opened.config["run"].get("costs", ())}
    given["limits"] = partial(limits_of, opened.config["config"])
    play = evaluator(policies[0].agent, place, episodes, explore=explore, fits=fits, **given)
    played = [play(policy.state, seed + index) for index, policy in enumerate(policies, seed_index or 0)]
    return played[0] if len(played) == 1 else pooled(played)
