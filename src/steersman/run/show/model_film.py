"""A film of what a model imagines, beside what was: the environment's own renderer, on predicted observations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from steersman.envs.classic import TWINS
from steersman.errors import UsageError
from steersman.models import report
from steersman.models.model import Data, Model
from steersman.run.show import video
from steersman.run.show.frames import captioned, rgb, write_video
from steersman.types import Key, PyTree

STEPS = 150  # at most
_GAP = 6  # pixels between the two pictures

ANGLES = {  # how Gymnasium's originals keep what is observed: observation [D] -> env.unwrapped.state
    "Acrobot-v1": lambda x: [np.arctan2(x[1], x[0]), np.arctan2(x[3], x[2]), x[4], x[5]],
    "Pendulum-v1": lambda x: [np.arctan2(x[1], x[0]), x[2]],
}
MUJOCO = ("HalfCheetah", "Hopper", "InvertedPendulum", "Swimmer", "Walker2d")  # they show their state, but its place


def imagined_film(
    model: Model, state: PyTree, data: Data, environment: str, path: Path, key: Key
) -> tuple[Path | None, str]:
    """Film an episode beside its imagination by one member, open loop; -> (the film, ""), or (None, why not)."""
    name = environment.removeprefix("gymnasium/")
    if name not in TWINS and name.rpartition("-")[0] not in MUJOCO:
        return None, f"{environment} cannot be drawn from its observations"
    counts = np.bincount(np.asarray(data.episode)[np.asarray(data.valid)])
    found = report.windows(data.rows, data, int(min(counts.max(), STEPS)), 1)
    member = jax.tree.map(lambda x: x[:1], model.members(state))
    alone = model._replace(members=lambda members: members)
    dreamt = np.asarray(report.imagined(alone, member, found.start, found.action, key, 1))[0, 0, 0, :, :-1]
    truth = np.concatenate([found.first[:, :-1], found.came[0, :, :-1]])
    try:
        with closing(video.renderable(name)) as env:
            imagined = np.concatenate([found.first[:, :-1], dreamt])
            write_video(_frames(drawer(env, name), truth, imagined), path, video.render_fps(env))
    except UsageError as error:
        return None, str(error)
    return path, ""


def _frames(draw: Callable[[np.ndarray], np.ndarray], truth: np.ndarray, dreamt: np.ndarray) -> Iterator[np.ndarray]:
    for t, (was, imagined) in enumerate(zip(truth, dreamt, strict=True)):
        left, right = captioned(draw(was), f"what was: step {t}"), captioned(draw(imagined), "what is imagined")
        gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
        yield np.concatenate([left, gap, right], axis=1)


def drawer(env: Any, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """observation [D] -> the picture that the Gymnasium environment draws in that state."""
    env.reset(seed=0)
    inside = env.unwrapped
    classic = ANGLES.get(name, lambda x: x)

    def draw(obs: np.ndarray) -> np.ndarray:
        if name in TWINS:
            inside.state = np.asarray(classic(obs), np.float64)
            inside.last_u = None  # the arrow of Pendulum's torque
        else:
            unseen = inside.model.nq + inside.model.nv - len(obs)
            whole = np.append(np.zeros(unseen), obs).astype(np.float64)
            inside.set_state(whole[: inside.model.nq], whole[inside.model.nq :])
        with video.needs_renderer(name, type(inside).__module__):
            return rgb(env.render())

    return draw
