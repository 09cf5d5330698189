"""A run's policy at work again: evaluated, or filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steersman import envs, spaces
from steersman.errors import UsageError
from steersman.run import folder, video
from steersman.run.devices import use_all_cores
from steersman.run.evaluate import Evaluation, check_episodes, device_evaluator, host_evaluator
from steersman.run.policy import Policy, load
from steersman.types import DeviceEnvs, EnvSpec


def evaluate_run(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 2_000_000,
    seed_index: int = 0,
    explore: bool = False,
    environment: Any = None,
    network: Any = None,
) -> Evaluation:
    """Play whole episodes with a run's policy in environments of its own.

    environment: another one with the same spaces, or the user's own again. Raises UsageError where the spaces differ.
    """
    check_episodes(episodes)
    use_all_cores()
    place = _environment(run, environment)
    policy = load(run, seed_index=seed_index, network=network)
    made = envs.make(place, episodes if is_compiled(place) else min(episodes, 10))
    _check_same(policy.spec, made.spec)
    if isinstance(made, DeviceEnvs):
        return device_evaluator(policy.agent, made, explore=explore)(policy.state, seed)
    try:
        return host_evaluator(policy.agent, made, episodes, explore=explore)(policy.state, seed)
    finally:
        made.close()


def record_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    episodes: int = 1,
    steps: int = 1000,
    seed: int = 2_000_000,
    seed_index: int = 0,
    environment: Any = None,
    network: Any = None,
) -> tuple[Path, list[float]]:
    """Film a run's policy; -> (the film, the return of each episode that was filmed)."""
    check_episodes(episodes)
    place = _environment(run, environment)
    policy: Policy = load(run, seed_index=seed_index, network=network)
    path = Path(out) if out is not None else Path(run) / "video.mp4"
    return path, video.record(place, policy, path, episodes=episodes, steps=steps, seed=seed)


def is_compiled(place: Any) -> bool:
    """Whether an environment, by name or as an object, is stepped in compiled code."""
    made = envs.make(place, 1)
    if isinstance(made, DeviceEnvs):
        return True
    made.close()
    return False


def _environment(run: str | Path, environment: Any) -> Any:
    opened = folder.open_run(run)
    named = opened.config["environment"]
    if environment is not None:
        return environment
    if ":" in named or opened.config["run"].get("object"):
        raise UsageError(
            f"{run} was trained on an environment of your own, {named}. Name it again: --environment {named}"
        )
    return named


def _check_same(policy: EnvSpec, environment: EnvSpec) -> None:
    for what in ("observation_space", "action_space"):
        ours, theirs = getattr(policy, what), getattr(environment, what)
        if spaces.space_to_json(ours) != spaces.space_to_json(theirs):
            raise UsageError(
                f"The policy was trained on {policy.id}, whose {what} is {ours}; {environment.id} has {theirs}."
            )
