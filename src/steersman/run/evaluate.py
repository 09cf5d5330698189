"""How good a policy is: whole episodes in environments of its own, and what they say of the mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from steersman import envs, spaces
from steersman.errors import UsageError
from steersman.run.disk import run_folder
from steersman.run.loops.devices import use_all_cores
from steersman.run.loops.packing import Bundle, Packing
from steersman.run.policy import check_same_spaces, load_seeds
from steersman.run.settings import environment_of
from steersman.theory import statistics
from steersman.types import Agent, Algorithm, Array, DeviceEnvs, EnvSpec, HostEnvs, Key, PyTree, TimeStep
from steersman.unroll import begin

LIMIT = 27_000  # steps of an evaluation episode in a task without a time limit
HOST_MEMBERS = 10  # host environments side by side in an evaluation


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
    mean_cost: tuple[float, ...] = ()  # of each cost; the same order everywhere
    cost_ci95: tuple[tuple[float, float], ...] = ()  # of those means, bootstrap
    costs: tuple[tuple[float, ...], ...] = ()  # of each episode

    def summary(self) -> dict[str, Any]:
        """All but the single episodes, as JSON values; of costs only where there are any."""
        left_out = {"returns", "lengths", "costs"} | (set() if self.mean_cost else {"mean_cost", "cost_ci95"})
        return {k: _listed(v) for k, v in asdict(self).items() if k not in left_out}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``summary``, without the single episodes."""
        lists = {k: _tupled(v) for k, v in summary.items() if isinstance(v, list)}
        return cls(**{**summary, **lists, "returns": (), "lengths": ()})


def summarise(
    returns: np.ndarray, lengths: np.ndarray, unfinished: int = 0, costs: np.ndarray | None = None
) -> Evaluation:
    """The statistics of some episodes' returns [N], lengths [N] and costs [N, C]."""
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
    )


def pooled(evaluations: list[Evaluation]) -> Evaluation:
    """Several seeds' evaluations as one: all episodes, but the intervals are over the seeds' means."""
    whole = summarise(
        np.concatenate([e.returns for e in evaluations]),
        np.concatenate([e.lengths for e in evaluations]),
        sum(e.unfinished for e in evaluations),
        np.concatenate([e.costs for e in evaluations]),
    )
    means = np.asarray([e.mean for e in evaluations])
    return replace(
        whole,
        ci95=_pair(statistics.bootstrap_interval(means, np.mean, 0.95)),
        chebyshev95=_pair(statistics.chebyshev_interval(means, 0.95)),
        cost_ci95=_intervals(np.asarray([e.mean_cost for e in evaluations])),
    )


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


Played = tuple[Array, ...]  # returns [B], lengths [B], costs [B, C], and which are unfinished [B]


def first_episodes(
    agent: Agent, envs: DeviceEnvs, *, explore: bool = False, limit: int | None = None
) -> Callable[[PyTree, Key], Played]:
    """(agent state, key) -> the first episode of each member, so short ones are not over-sampled; to be compiled.

    limit: steps after which an episode is cut; by default the environment's own.
    """
    limit = limit or envs.spec.max_episode_steps or LIMIT

    def play(state: PyTree, key: Key):
        reset_key, key = jax.random.split(key)
        acting = begin(agent, envs, reset_key)
        zeros = jnp.zeros((envs.num_envs,), jnp.float32)
        counts = jnp.zeros((envs.num_envs,), jnp.int32)
        costs = jnp.zeros((envs.num_envs, envs.spec.num_costs), jnp.float32)

        def going(loop):
            t, _, finished, *_ = loop
            return (t < limit) & ~finished.all()

        def step(loop):
            t, now, finished, *counted = loop
            action, carry, _ = agent.act(
                state, now.carry, now.obs, now.first, jax.random.fold_in(key, t), explore=explore
            )
            env_state, seen = envs.step(now.envs, action)
            ended = seen.terminated | seen.truncated
            counted = _first_episodes(finished, counted, seen, jnp)
            return t + 1, type(now)(env_state, seen.obs, ended, carry), finished | seen.over, *counted

        start = (jnp.zeros((), jnp.int32), acting, jnp.zeros((envs.num_envs,), bool), zeros, counts, costs)
        _, _, finished, *counted = jax.lax.while_loop(going, step, start)
        return *counted, ~finished

    return play


def device_evaluator(
    agent: Agent, envs: DeviceEnvs, episodes: int | None = None, *, explore: bool = False
) -> Evaluator:
    """Evaluate on compiled environments, by ``first_episodes``.

    episodes: how many; rounds of the members until there are so many. By default one of each member.
    """
    wanted = episodes or envs.num_envs
    program = jax.jit(first_episodes(agent, envs, explore=explore))

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        keys = jax.random.split(jax.random.key(seed), -(-wanted // envs.num_envs))
        played = jax.device_get([program(state, key) for key in keys])
        return _summary_of(played, wanted)

    return evaluate


def host_episodes(
    agent: Agent,
    envs: HostEnvs,
    *,
    explore: bool = False,
    limit: int | None = None,
    programs: dict[str, Any] | None = None,
) -> Callable[[PyTree, int], Played]:
    """(agent state, seed) -> the first episode of each member after a reset; as ``first_episodes``.

    programs: what is compiled at the first call, and the ``seconds`` it took; shared by those that differ in nothing
    but their seeds.
    """
    limit, num = limit or envs.spec.max_episode_steps or LIMIT, envs.num_envs
    compiled = {} if programs is None else programs
    flag, count = jax.ShapeDtypeStruct((num,), np.bool_), jax.ShapeDtypeStruct((), np.int32)
    seen = Packing((spaces.abstract(envs.spec.observation_space, (num,)), flag, count))
    row = np.zeros(seen.size, np.uint8)
    *views, first_view, t_view = seen.views(row)

    def play(state: PyTree, seed: int) -> Played:
        key = jax.random.key(seed)
        obs, first, carry = envs.reset(seed), np.ones(num, bool), agent.begin(num)
        if "act" not in compiled:
            began = time.perf_counter()
            compiled["act"] = _acting(agent, seen, explore, state, carry)
            compiled["seconds"] = time.perf_counter() - began
        act, action_of, bundle = compiled["act"]
        few, bits = bundle.pack(state), jax.random.key_data(key)
        finished = np.zeros(num, bool)
        counted = [np.zeros(num), np.zeros(num, int), np.zeros((num, envs.spec.num_costs))]
        for t in range(limit):
            for view, leaf in zip(views, jax.tree.leaves(obs), strict=True):
                view[...] = leaf
            first_view[...], t_view[...] = first, t
            acted, carry = act(few, row, carry, bits)
            action = np.asarray(acted)
            step = envs.step(action_of.tree(action_of.views(action)))
            obs, first = step.obs, step.terminated | step.truncated
            counted = _first_episodes(finished, counted, step, np)
            finished |= step.over
            if finished.all():
                break
        return *counted, ~finished

    return play


def _acting(agent: Agent, seen: Packing, explore: bool, state: PyTree, carry: PyTree) -> tuple[Any, Packing, Bundle]:
    """-> (the compiled program of a step, how it packs the action, how it is given the state)

    What is seen comes as one row of bytes, the state as few arrays: each array costs a call about a microsecond.
    """
    bundle = Bundle(state)

    def choose(few: Any, row: jax.Array, carry: PyTree, bits: jax.Array):
        obs, first, t = seen.unpack(row)
        key = jax.random.fold_in(jax.random.wrap_key_data(bits), t)
        return agent.act(bundle.unpack(few), carry, obs, first, key, explore=explore)[:2]

    few, bits = jax.eval_shape(bundle.pack, state), jax.random.key_data(jax.random.key(0))
    given = (few, jax.ShapeDtypeStruct((seen.size,), np.uint8), carry, bits)
    action = Packing(jax.eval_shape(choose, *given)[0])

    def act(*given: Any):
        acted, carry = choose(*given)
        return action.pack(acted), carry

    return jax.jit(act).lower(*given).compile(), action, bundle


def host_evaluator(agent: Agent, envs: HostEnvs, episodes: int, *, explore: bool = False) -> Evaluator:
    """Evaluate on host environments: rounds of the members, each member's first episode after a reset."""
    play = host_episodes(agent, envs, explore=explore)

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        rounds = -(-episodes // envs.num_envs)
        seeds = np.random.SeedSequence(seed).generate_state(rounds)
        return _summary_of([play(state, int(s)) for s in seeds], episodes)

    return evaluate


def _first_episodes(finished: Any, counted: list[Any], seen: TimeStep, xp: Any) -> list[Any]:
    """Returns [B], lengths [B] and costs [B, C] after a step: they go on where the first episode is not finished."""
    returns, lengths, costs = counted
    return [
        xp.where(finished, returns, seen.info["episode_return"]),
        xp.where(finished, lengths, seen.info["episode_length"]),
        xp.where(finished[:, None], costs, seen.info["episode_cost"]),
    ]


def _summary_of(rounds: Sequence[tuple[np.ndarray, ...]], episodes: int) -> Evaluation:
    """The first ``episodes`` of some rounds of (returns [B], lengths [B], costs [B, C], unfinished [B])."""
    returns, lengths, costs, unfinished = (np.concatenate(parts)[:episodes] for parts in zip(*rounds, strict=True))
    return summarise(returns, lengths, int(unfinished.sum()), costs)


def evaluator(
    agent: Agent,
    place: Any,
    episodes: int,
    *,
    explore: bool = False,
    workers: int | None = None,
    fits: Callable[[EnvSpec], None] = lambda spec: None,
) -> Evaluator:
    """An evaluator in environments of its own, made when it is called and closed after it.

    place: a name, a factory or an object; environments that are made already are used as they are and left open.
    fits: called with their spec, to refuse it.
    """
    check_episodes(episodes)
    options = {} if workers is None else {"workers": workers}
    width = fixed_size(place) or min(episodes, HOST_MEMBERS)

    def evaluate(state: PyTree, seed: int) -> Evaluation:
        made = envs.make(place, width, **options)
        try:
            fits(made.spec)
            if not isinstance(made, DeviceEnvs):
                return host_evaluator(agent, made, episodes, explore=explore)(state, seed)
        finally:
            close(place, made)
        whole = made if fixed_size(place) else envs.make(place, episodes, **options)
        assert isinstance(whole, DeviceEnvs)
        return device_evaluator(agent, whole, episodes, explore=explore)(state, seed)

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
) -> Evaluation:
    """Play whole episodes with a run's policy in environments of its own.

    episodes: of each seed's policy. seed_index: one of a run's several seeds; None: all, pooled. best: with the best
    policy of each seed, as ``load`` has it. environment: another one with the same spaces, or the user's own again.
    Raises UsageError where the spaces differ.
    """
    use_all_cores()
    opened = run_folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    run_folder.warn(opened.warning)
    chosen = None if seed_index is None else [seed_index]
    policies = load_seeds(run, chosen, best=best, algorithm=algorithm, network=network)
    fits = partial(check_same_spaces, policies[0].spec)
    play = evaluator(policies[0].agent, place, episodes, explore=explore, fits=fits)
    played = [play(policy.state, seed + index) for index, policy in enumerate(policies, seed_index or 0)]
    return played[0] if len(played) == 1 else pooled(played)
