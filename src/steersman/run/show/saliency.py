"""Saliency maps of a run's policy: what its value and its choice of action hang on, laid over what it sees.

Smoothed over noisy copies of the frame (Smilkov et al. 2017, arXiv:1706.03825), for a raw gradient is speckle. Drawn as
Wang et al. (2016, arXiv:1511.06581), figure 2: the frame in the green and blue channels, the map in the red one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import spaces

from steersman.agents.parts.wrappers import ObservationNormState, normalized
from steersman.errors import UsageError
from steersman.nets.memory import remembering
from steersman.nets.saliency import HasStreams, Streams, smooth_saliency
from steersman.run.disk import run_folder
from steersman.run.disk.files import replacing
from steersman.run.policy import Policy, load
from steersman.run.settings import environment_of
from steersman.run.show import video
from steersman.run.show.frames import captioned, channels_first, checked_film, enlarged, picture_of, write_video
from steersman.types import Algorithm, PyTree

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_GAP = 6  # pixels between pictures
_CAPTIONS = {
    "value": "value: |dV/ds|, red where the return it expects hangs on the picture (cyan)",
    "advantage": "advantage: |dA/ds|, red where its choice of action does",
}


class Shot(NamedTuple):
    """One moment: what was seen, ``[H, W]`` in [0, 1], and the two maps over it, ``[H, W]``, the largest entry 1."""

    frame: np.ndarray
    value: np.ndarray
    advantage: np.ndarray


@dataclass(frozen=True)
class Saliency:
    """What ``saliency_run`` made."""

    picture: Path
    film: Path
    steps: int
    returns: list[float]


def saliency_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    film: str | Path | None = None,
    shots: int = 6,
    episodes: int = 1,
    steps: int = 500,
    samples: int = 32,
    noise: float = 0.15,
    seed: int = 2_000_000,
    seed_index: int = 0,
    best: bool = False,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
) -> Saliency:
    """Play with a run's policy and draw the saliency of its two streams: a strip (.png) and a film (.mp4, .gif).

    out, film: RUN/saliency.png and RUN/saliency.mp4 by default. shots: moments in the strip, evenly spread. steps: at
    most so many, over all episodes. best: as ``load`` has it. samples, noise: of ``nets.saliency.smooth_saliency``, the
    copies of each frame and their noise as a part of its range; 1 and 0 give the raw gradient. Each map is scaled to
    its own strongest pixels: it says where, not how much.

    Raises UsageError where the observations are no images, the network says no streams, or as ``load`` and ``record``.
    """
    opened = run_folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    run_folder.warn(opened.warning)
    picture = Path(out) if out is not None else opened.path / "saliency.png"
    if picture.suffix.lower() != ".png":
        raise UsageError(
            f"{picture} has the suffix {picture.suffix!r}; the strip is a .png, the film is named by film."
        )
    if shots < 1 or steps < 1 or episodes < 1:
        raise UsageError(f"shots = {shots}, steps = {steps}, episodes = {episodes}; each must be 1 or more.")
    if samples < 1 or noise < 0:
        raise UsageError(f"samples = {samples}, noise = {noise:g}; they must be at least 1 and 0.")
    policy = load(run, best=best, seed_index=seed_index, algorithm=algorithm, network=network)
    look = lens(policy, samples=samples, noise=noise)
    env = video.renderable(place)
    returns: list[float] = []
    try:
        film = checked_film(film if film is not None else opened.path / "saliency.mp4")  # last: it makes a folder
        moments = video.play(
            env,
            policy,
            episodes=episodes,
            steps=steps,
            seed=seed,
            begin=policy.reset,
            end=lambda episode_return, length: returns.append(episode_return),
            mask=video.names_mask(policy.spec.observation_space) and not video.names_mask(env.observation_space),
        )
        seen = [look(now.obs) for now in moments]
    finally:
        if env is not place:
            env.close()
    write_strip([seen[i] for i in np.linspace(0, len(seen) - 1, min(shots, len(seen))).round().astype(int)], picture)
    write_video((side_by_side(shot) for shot in seen), film, video.render_fps(env))
    return Saliency(picture, film, len(seen) - 1, returns)


def lens(policy: Policy, *, samples: int = 32, noise: float = 0.15) -> Any:
    """The function that turns one observation into a ``Shot``; raises UsageError where there is nothing to draw.

    The noise is the same for all observations, so that a film does not flicker.
    """
    space, agent_state = policy.spec.observation_space, policy.state
    name, shape = image_in(space, policy.spec.id)
    streams_of(agent_state)  # what is wrong is said before anything is played
    key = jax.random.key(0)
    smooth = partial(smooth_saliency, key=key, samples=samples, noise=noise)
    maps = jax.jit(lambda state, obs, carry, first: smooth(streams_of(state, carry, first), obs))

    def look(obs: PyTree) -> Shot:
        if missing := [part for part in policy.spec.unseen if part not in obs]:
            raise UsageError(
                f"Saliency maps are of the value too, which sees {', '.join(missing)}; the environment does not give "
                "it. Name the one of the training: --environment."
            )
        value, advantage = jax.device_get(maps(agent_state, obs, *policy.before(1)))
        pick = lambda tree: np.asarray(tree if name is None else tree[name])
        return Shot(grey(picture_of(pick(obs)), shape), flat(pick(value)), flat(pick(advantage)))

    return look


def streams_of(state: PyTree, carry: PyTree = (), first: Any = None) -> Streams:
    """The streams of the network in an agent's state, normalisation of observations included.

    carry, first: what a network with memory remembers before the observation, [1, ...], as ``Policy.before`` gives it.

    The first network that says its streams (``nets.saliency.HasStreams``): what learns comes before copies of it.
    """
    has = lambda x: isinstance(x, HasStreams)
    networks = [x for x in jax.tree.leaves(state, is_leaf=has) if has(x)]
    if not networks:
        raise UsageError(
            "This run's network does not say its streams. Give yours a method streams(obs) -> (value, a scalar; "
            "advantage, [A]); the library's own networks of ppo, pqn and dqn have it."
        )
    network = networks[0]

    def streams(obs: PyTree) -> tuple[jax.Array, jax.Array]:
        _, seen = remembering.step(network, carry, jax.tree.map(lambda x: x[None], obs), first)
        return network.streams(jax.tree.map(lambda x: x[0], seen))

    wrapped = lambda x: isinstance(x, ObservationNormState)
    for wrapper in filter(wrapped, jax.tree.leaves(state, is_leaf=wrapped)):
        return lambda obs: streams(normalized(wrapper.moments, obs))
    return streams


def image_in(space: spaces.Space, id: str) -> tuple[str | None, tuple[int, int]]:
    """-> (the entry of a Dict that is an image, or None, its height and width)."""
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]
    for name, part in parts:
        shape = part.shape or ()
        if isinstance(part, spaces.Box) and len(shape) in (2, 3):
            first = 1 if len(shape) == 3 and channels_first(shape) else 0
            return name, (shape[first], shape[first + 1])
    raise UsageError(f"Saliency maps are laid over images; {id} observes {' '.join(str(space).split())}.")


def grey(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (enlarged by a whole factor) as ``[H, W]`` in [0, 1]."""
    factor = picture.shape[0] // shape[0]
    return picture[::factor, ::factor].astype(np.float32) @ _GREY / 255


def flat(jacobian: np.ndarray) -> np.ndarray:
    """The largest entry over the channels (and stacked frames) of each pixel, in [0, 1].

    1 is the 99th percentile of the pixels, and all above it: one pixel that sticks out would leave the others dark.
    """
    if jacobian.ndim == 3:
        jacobian = jacobian.max(0 if channels_first(jacobian.shape) else -1)
    top = float(np.percentile(jacobian, 99)) or float(jacobian.max())
    return np.minimum(jacobian / max(top, 1e-12), 1)


def overlay(frame: np.ndarray, where: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]``: the map in red, the frame in green and blue; enlarged."""
    return enlarged((np.stack([where, frame, frame], -1) * 255).round().astype(np.uint8))


def side_by_side(shot: Shot) -> np.ndarray:
    """The two maps beside each other, captioned."""
    left, right = (
        captioned(overlay(shot.frame, where), text)
        for where, text in ((shot.value, "value: |dV/ds|"), (shot.advantage, "advantage: |dA/ds|"))
    )
    gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], 1)


def write_strip(shots: Sequence[Shot], path: Path) -> Path:
    """A row of value maps above a row of advantage maps, one column a moment, as .png; -> the path."""
    from PIL import Image

    rows = []
    for name in ("value", "advantage"):
        pictures = [overlay(shot.frame, getattr(shot, name)) for shot in shots]
        gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
        spaced = [x for picture in pictures for x in (picture, gap)][:-1]
        rows.append(captioned(np.concatenate(spaced, 1), _CAPTIONS[name]))
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="png")
    return path
