"""A run's policy at work for the record: its transitions, written to a folder that training can start from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steersman import envs
from steersman.errors import UsageError
from steersman.run.disk import compile_cache, dataset, run_folder
from steersman.run.disk.dataset import Dataset
from steersman.run.disk.files import plain
from steersman.run.evaluate import close, fixed_size
from steersman.run.loops.devices import use_all_cores
from steersman.run.loops.host_rollout import unroll_host
from steersman.run.policy import Policy, check_same_spaces, load
from steersman.run.settings import environment_of
from steersman.types import Algorithm, DeviceEnvs, HostEnvs, Rollout
from steersman.unroll import Acting, begin, unroll

PIECE = 1000  # steps of each environment between two reads from the device


def collect(
    run: str | Path,
    out: str | Path,
    *,
    steps: int,
    explore: bool = False,
    num_envs: int = 10,
    seed: int = 3_000_000,
    seed_index: int = 0,
    best: bool = False,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
) -> Dataset:
    """Record ``steps`` transitions of a run's policy into the folder ``out``; ``read_dataset`` reads it.

    explore: act as in training, instead of the most likely action. num_envs: environments side by side, each recorded
    as one stretch of steps / num_envs; the episode that a stretch stops in is truncated there. seed_index: which of a
    run's several seeds. best: its best policy, as ``load`` has it. environment: another one with the same spaces, or
    the user's own again. Raises UsageError for a folder that exists, and as ``load`` does.
    """
    use_all_cores()
    compile_cache.enable()
    for name, value in (("steps", steps), ("num_envs", num_envs)):
        if value < 1:
            raise UsageError(f"{name} = {value}; it must be 1 or more.")
    with dataset.creating(out) as temporary:
        opened = run_folder.open_run(run)
        place = environment_of(opened.config, environment, run)
        run_folder.warn(opened.warning)
        policy = load(run, best=best, seed_index=seed_index, algorithm=algorithm, network=network)
        costs = opened.config["run"].get("costs", ())
        made = envs.make(place, fixed_size(place) or min(num_envs, steps), costs=costs)
        try:
            check_same_spaces(policy.spec, made.spec)
            rollout = play(policy, made, -(-steps // made.num_envs), seed, explore)
        finally:
            close(place, made)
        size = rollout.reward.size
        series = jax.tree.map(lambda x: np.swapaxes(x, 0, 1).reshape(size, *x.shape[2:])[:steps], rollout)
        returns = whole_returns(series)
        origin = {
            "run": str(run),
            "algorithm": opened.config["algorithm"],
            "seed_index": seed_index,
            **({"best": True} if best else {}),
            "explore": explore,
            "seed": seed,
            "versions": run_folder.versions(),
            "whole_episodes": len(returns),
            "mean_return": plain(returns.mean()) if len(returns) else None,
        }
        stops = np.zeros(steps, bool)
        stops[len(rollout.reward) - 1 :: len(rollout.reward)] = stops[-1] = True
        truncated = series.truncated | (stops & ~series.terminated)
        data = Dataset(series._replace(truncated=truncated), made.spec, str(out), origin)
        dataset.write(temporary, data)
    return data


def play(policy: Policy, made: DeviceEnvs | HostEnvs, length: int, seed: int, explore: bool) -> Rollout:
    """The policy's rollout [length, B, ...] in environments that are new, numpy."""
    agent, piece = policy.agent, min(length, PIECE)
    reset_key, key = jax.random.split(jax.random.key(seed))

    def act(state: Any, *seen: Any) -> Any:
        action, carry, _ = agent.act(state, *seen, explore=explore)
        return action, carry, {}

    if isinstance(made, DeviceEnvs):
        acting = jax.jit(partial(begin, agent, made))(reset_key)
        play = jax.jit(lambda state, acting, key: unroll(partial(act, state), made, acting, key, piece)[:2])
    else:
        acting = Acting((), made.reset(seed), np.ones(made.num_envs, bool), agent.begin(made.num_envs))
        play = unroll_host(act, made, piece)
    played = []
    for i in range(-(-length // piece)):
        acting, rollout = play(policy.state, acting, jax.random.fold_in(key, i))
        rollout = rollout._replace(carry=())  # a dataset is of transitions, whoever acted
        played.append(jax.tree.map(np.array, rollout))  # copies: the rows of a host rollout are written again
    return jax.tree.map(lambda *x: np.concatenate(x)[:length], *played)


def whole_returns(series: Rollout) -> np.ndarray:
    """Sums of rewards of the episodes in transitions [N] that reach their end: none of those that are cut short.

    Each starts with ``first`` and runs up to an end; one that another begins after without an end was cut.
    """
    starts = np.flatnonzero(series.first)
    sums = np.add.reduceat(series.reward.astype(np.float64), starts)
    last = np.append(starts[1:], len(series.reward)) - 1
    return sums[(series.terminated | series.truncated)[last]]
