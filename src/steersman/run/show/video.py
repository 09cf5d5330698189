"""Films: a policy at work in an environment's own renderer, written as mp4 (H.264) or gif.

Compiled twins are filmed through the Gymnasium originals they were tested against; compiled games on a grid are drawn
from what the agent sees (``stage``).
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steersman.errors import EnvironmentFault, UsageError, nearest, raised_at, to_install
from steersman.run.disk import run_folder
from steersman.run.policy import load
from steersman.run.settings import environment_of
from steersman.run.show.frames import captioned, checked_film, rgb
from steersman.run.show.frames import write_video as write_video

if TYPE_CHECKING:
    import gymnasium

    from steersman.run.policy import Policy
    from steersman.types import Algorithm

_EXTRAS = {
    "classic_control": "classic",
    "box2d": "box2d",
    "mujoco": "mujoco",
    "toy_text": "toy-text",
    "tabular": "toy-text",
}


def record(
    place: Any, policy: Policy, path: str | Path, *, episodes: int = 1, steps: int = 1000, seed: int = 0
) -> list[float]:
    """Film a trained policy; -> the return of every episode filmed, the last perhaps cut short by ``steps``.

    place: the name of an environment, a Gymnasium environment made with ``render_mode="rgb_array"``, or a function (or
    ``"package.module:factory"``) that makes one.

    Raises:
        UsageError: the environment cannot be rendered or its renderer is not installed, an unknown suffix, a full disk.
    """
    env = renderable(place)
    returns: list[float] = []
    try:
        path = checked_film(path)  # last, for it makes a folder
        frames = host_frames(
            env,
            policy,
            episodes=episodes,
            steps=steps,
            seed=seed,
            begin=policy.reset,
            end=lambda episode_return, length: returns.append(episode_return),
            mask=names_mask(policy.spec.observation_space) and not names_mask(env.observation_space),
        )
        write_video(frames, path, render_fps(env))
    finally:
        if env is not place:
            env.close()
    return returns


def host_frames(
    env: gymnasium.Env,
    policy: Callable[[Any], Any],
    *,
    episodes: int = 1,
    steps: int = 10_000,
    seed: int = 0,
    caption: str | None = None,
    begin: Callable[[], None] = lambda: None,
    end: Callable[[float, int], None] = lambda episode_return, length: None,
    mask: bool = False,
) -> Iterator[np.ndarray]:
    """Play episodes and yield what the renderer shows, uint8 [H, W, 3]: after each reset and after each step.

    policy: one observation -> one action, in the environment's own units. Ends after ``episodes`` or ``steps``,
    whichever is first; episode i is reset with ``seed + i``. caption: a line below the picture that starts with this
    text and goes on with episode, step and return. begin: called before each episode; end: after each, with its return
    and length. mask: put the info's ``action_mask`` into the observation, as the training loop does.
    """
    for now in play(env, policy, episodes=episodes, steps=steps, seed=seed, begin=begin, end=end, mask=mask):
        yield _frame(env, caption, now.episode, now.length, now.total)


class Moment(NamedTuple):
    """Where a played episode stands: after its reset, or after a step."""

    obs: Any
    episode: int
    length: int
    total: float  # the return so far


def play(
    env: gymnasium.Env,
    policy: Callable[[Any], Any],
    *,
    episodes: int = 1,
    steps: int = 10_000,
    seed: int = 0,
    begin: Callable[[], None] = lambda: None,
    end: Callable[[float, int], None] = lambda episode_return, length: None,
    mask: bool = False,
) -> Iterator[Moment]:
    """Play episodes, moment by moment; the arguments are those of ``host_frames``."""
    from steersman.envs.host.contract import with_mask

    left = steps
    for episode in range(episodes):
        if left <= 0:
            return
        obs, info = env.reset(seed=seed + episode)
        obs = with_mask(obs, info) if mask else obs
        begin()
        total, length, over = 0.0, 0, False
        yield Moment(obs, episode, length, total)
        while not over and left > 0:
            obs, reward, terminated, truncated, info = env.step(_single(policy(obs)))
            obs = with_mask(obs, info) if mask else obs
            total, length, left = total + float(reward), length + 1, left - 1
            over = bool(terminated or truncated)
            yield Moment(obs, episode, length, total)
        end(total, length)


def renderable(place: Any) -> gymnasium.Env:
    """The Gymnasium environment to film, made with ``render_mode="rgb_array"``; UsageError as ``record``."""
    import gymnasium

    label = place if isinstance(place, str) else getattr(place, "__qualname__", type(place).__name__)
    entry = gymnasium.registry.get(label.removeprefix("gymnasium/"))
    _without_display()
    with needs_renderer(label, str(entry and entry.entry_point)):
        made = _make(place) if isinstance(place, str) else place
        deaf = False
        if callable(made) and not isinstance(made, gymnasium.Env):
            deaf, made = not _takes_mode(made), _call(made, label)
        if not isinstance(made, gymnasium.Env):
            raise UsageError(
                f"{label} is not a Gymnasium environment, and a film needs its renderer. Give one with the same spaces "
                "that has one: --environment."
            )
        if made.render_mode != "rgb_array":
            modes = made.metadata.get("render_modes", [])
            what = "make it with" if "rgb_array" in modes else f"it has the render modes {modes}; a film needs"
            hint = (
                " Let the function that makes it take that and pass it on: def make(render_mode=None)." if deaf else ""
            )
            raise UsageError(
                f"{label} was made with render_mode={made.render_mode!r}; {what} render_mode='rgb_array'.{hint}"
            )
    return made


def _make(name: str) -> Any:
    """A Gymnasium environment, or the factory that a name stands for."""
    import gymnasium

    from steersman.envs import families
    from steersman.envs.host import gymnasium_ids
    from steersman.envs.importing import load_object
    from steersman.envs.partial.host import MaskObservation
    from steersman.envs.partial.velocities import NO_VELOCITY
    from steersman.envs.safe.names import original as without_costs
    from steersman.envs.transfer import settings as transfer

    whole, (name, arguments) = name, families.split_name(name)
    family, _, rest = name.partition("/")
    ours = family in families.FAMILIES and family not in ("gymnasium", "probe")
    if ours and rest not in gymnasium.registry:
        from steersman.run.show.as_gymnasium import stage

        made = stage(whole)
        if made is not None:
            return made
    if set(arguments) & set(transfer.NAMES):
        from steersman.run.show.as_gymnasium import host_stage

        if (rest if family == "gymnasium" else name) in gymnasium.registry:
            return host_stage(f"gymnasium/{whole.removeprefix('gymnasium/')}")
        raise UsageError(
            f"{whole} cannot be filmed as it is. Film it without its settings for transfer: --environment."
        )
    if (task := without_costs(name)) is not None:
        name, arguments = task, {key: value for key, value in arguments.items() if key != "limit"}
    if name in NO_VELOCITY:  # drawn as the original, seen as it was trained on
        original, velocities = NO_VELOCITY[name]
        return MaskObservation(_original(original, arguments), velocities)
    here = rest if family == "gymnasium" and rest else name
    module, _, inside = here.partition(":")
    if module and inside.replace(".", "_").isidentifier():
        found = load_object(here, "the environment")
        return partial(found, **arguments) if arguments else found
    known = here in gymnasium.registry
    if not known and not inside:
        original = f" Film it in Gymnasium's: --environment {rest}." if rest in gymnasium.registry else ""
        offer = "" if family in families.FAMILIES else f" {nearest(here, gymnasium.registry)}"
        raise UsageError(f"{name} is not one of Gymnasium's environments, whose renderers films need.{original}{offer}")
    with gymnasium_ids.quiet_mujoco(gymnasium.registry.get(here)):
        return _original(here, arguments)


def _original(id: str, arguments: dict[str, Any]) -> gymnasium.Env:
    """Gymnasium's environment; that of a twin with the parameters of the twin."""
    import gymnasium

    from steersman.envs import classic

    physical = set(classic.parameters(id) if id in classic.TWINS else ()) & set(arguments)
    own = {name: value for name, value in arguments.items() if name not in physical}
    made = gymnasium.make(id, render_mode="rgb_array", disable_env_checker=True, **own)
    if physical:
        classic.set_parameters(made, id, **{name: arguments[name] for name in physical})
    return made


def _call(factory: Callable[..., Any], label: str) -> Any:
    from gymnasium.error import Error

    try:
        return factory(render_mode="rgb_array") if _takes_mode(factory) else factory()
    except (UsageError, EnvironmentFault, Error, ModuleNotFoundError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}{raised_at(error)}"
        raise EnvironmentFault(f"{label} could not be made: {said}") from error


def _takes_mode(factory: Callable[..., Any]) -> bool:
    try:
        taken = inspect.signature(factory).parameters.values()
    except ValueError:
        return False
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in taken)


@contextmanager
def needs_renderer(label: str, module: str) -> Iterator[None]:
    """Turn what a missing renderer or display raises into a UsageError. module: where the environment is defined."""
    from gymnasium.error import DependencyNotInstalled, Error

    try:
        yield
    except UsageError:
        raise
    except (DependencyNotInstalled, ModuleNotFoundError) as error:
        extra = next((extra for part, extra in _EXTRAS.items() if f"gymnasium.envs.{part}" in module), None)
        todo = f". Install it with: {to_install(extra)}" if extra else f": {error} Install what its package asks for."
        raise UsageError(f"What {label} needs to draw is not installed{todo}") from error
    except Error as error:
        raise UsageError(f"{label} cannot be filmed: {error}") from error
    except Exception as error:
        if "mujoco" not in module:
            raise
        raise UsageError(
            f"{label} cannot draw here: {error}. Choose another way for MuJoCo to draw, MUJOCO_GL=egl, osmesa or glfw "
            "(which needs a display)."
        ) from error


def _without_display() -> None:
    """Where there is no display, let renderers draw into memory, unless the user has said how."""
    if sys.platform.startswith("linux") and not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def _frame(env: gymnasium.Env, caption: str | None, episode: int, length: int, total: float) -> np.ndarray:
    label = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    with needs_renderer(label, type(env.unwrapped).__module__):
        picture = env.render()
    if picture is None or isinstance(picture, list | str):
        raise UsageError(f"{label} gave no picture. Make it with render_mode='rgb_array'.")
    if caption is None:
        return rgb(picture)
    return captioned(rgb(picture), f"{caption}  episode {episode + 1}  step {length}  return {total:.1f}")


def render_fps(env: gymnasium.Env, default: int = 30) -> float:
    """Frames per second at which the environment's own time passes as it should."""
    return float(env.metadata.get("render_fps") or default)


def _single(action: Any) -> Any:
    return action.item() if isinstance(action, np.ndarray) and action.ndim == 0 else action


def names_mask(space: Any) -> bool:
    """Whether observations carry an action mask."""
    from gymnasium.spaces import Dict

    return isinstance(space, Dict) and "action_mask" in space.spaces


def record_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    episodes: int = 1,
    steps: int = 1000,
    seed: int = 2_000_000,
    seed_index: int = 0,
    best: bool = False,
    environment: Any = None,
    algorithm: str | Algorithm | None = None,
    network: Any = None,
) -> tuple[Path, list[float]]:
    """Film a run's policy; -> (the film, the return of each episode that was filmed).

    out: .mp4 or .gif; RUN/video.mp4 by default. steps: at most so many, over all episodes. best: the best policy of
    the evaluations on the way. Raises UsageError as ``load`` and ``video.record`` do.
    """
    opened = run_folder.open_run(run)
    place = environment_of(opened.config, environment, run)
    run_folder.warn(opened.warning)
    policy = load(run, best=best, seed_index=seed_index, algorithm=algorithm, network=network)
    path = Path(out) if out is not None else opened.path / "video.mp4"
    return path, record(place, policy, path, episodes=episodes, steps=steps, seed=seed)
