"""A run's policy at work again: evaluated, or filmed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from steersman.run import folder, video
from steersman.run.devices import use_all_cores
from steersman.run.evaluate import Evaluation, evaluator, pooled
from steersman.run.policy import check_same_spaces, load
from steersman.run.settings import environment_of


def evaluate_run(
    run: str | Path,
    *,
    episodes: int = 100,
    seed: int = 2_000_000,
    seed_index: int | None = None,
    explore: bool = False,
    environment: Any = None,
    network: Any = None,
) -> Evaluation:
    """Play whole episodes with a run's policy in environments of its own.

    episodes: of each seed's policy. seed_index: one of a run's several seeds; None: all, pooled. environment: another
    one with the same spaces, or the user's own again. Raises UsageError where the spaces differ.
    """
    use_all_cores()
    opened = folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    folder.warn(opened.warning)
    count = int(opened.config["run"].get("seeds", 1))
    chosen = range(count) if seed_index is None else [seed_index]
    played = []
    for index in chosen:
        policy = load(run, seed_index=index, network=network)
        fits = partial(check_same_spaces, policy.spec)
        play = evaluator(policy.agent, place, episodes, explore=explore, fits=fits)
        played.append(play(policy.state, seed + index))
    return played[0] if len(played) == 1 else pooled(played)


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
    """Film a run's policy; -> (the film, the return of each episode that was filmed).

    out: .mp4 or .gif; RUN/video.mp4 by default. steps: at most so many, over all episodes. Raises UsageError as
    ``load`` and ``video.record`` do.
    """
    opened = folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    folder.warn(opened.warning)
    policy = load(run, seed_index=seed_index, network=network)
    path = Path(out) if out is not None else opened.path / "video.mp4"
    return path, video.record(place, policy, path, episodes=episodes, steps=steps, seed=seed)
