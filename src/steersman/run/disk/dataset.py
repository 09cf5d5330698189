"""Recorded transitions: a folder of them written and read, or a Minari dataset read.

A folder holds ``dataset.json`` (what was recorded, where, by whom) and parts of it, safetensors files with the arrays
``obs``, ``action``, ``reward``, ``terminated``, ``truncated``, ``next_obs``, ``first``, ``costs``, each ``[n, ...]``;
the entries of a Dict space are ``obs/NAME``. Transitions are in the order in which they happened, episode after
episode, and the last one of each is terminated or truncated: a recording that stops midway truncates there.
Observations and actions are as agents see them: float32, bounded actions in [-1, 1] (the spec keeps the environment's
own bounds).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces as gym_spaces

from steersman import spaces
from steersman.errors import UsageError, to_install
from steersman.run.disk import tensors
from steersman.run.disk.files import explained, read_json, write_json
from steersman.run.disk.spec_json import spec_from_json, spec_to_json, transitions_like
from steersman.types import EnvSpec, PyTree, Rollout

HEADER = "dataset.json"
FORMAT, VERSION = "steersman-transitions", 1
PART_BYTES = 2**27


@dataclass(frozen=True)
class Dataset:
    """Transitions [N, ...] in the order they happened, numpy; episodes one after another, each with its end marked."""

    transitions: Rollout  # [N, ...]
    spec: EnvSpec  # of the environment they were recorded in
    source: str  # the folder, or the Minari id
    origin: Mapping[str, Any] = field(default_factory=dict)  # of a folder: how it was recorded

    def __len__(self) -> int:
        return len(self.transitions.reward)

    def first(self, count: int) -> Dataset:
        """The first transitions; the last of them ends an episode."""
        return replace(self, transitions=cut(jax.tree.map(lambda x: x[:count], self.transitions)))

    @property
    def ends(self) -> np.ndarray:
        """bool [N]: the last transition of an episode."""
        return np.asarray(self.transitions.terminated | self.transitions.truncated)

    @property
    def room(self) -> int:
        """The ``replay_capacity`` that holds all of it for certain: one for each transition and each episode's end."""
        return len(self) + int(self.ends.sum())

    def rollout(self, num_envs: int) -> Rollout:
        """The data as a rollout [T, B, ...] of B environments, T = N // B: column b is the b-th stretch of T.

        Where a column stops within an episode, the episode is truncated. The N mod B newest transitions are left out.
        Raises UsageError for fewer transitions than environments.
        """
        length = len(self) // num_envs
        if not length:
            raise UsageError(f"{self.source} holds {len(self)} transitions, too few for num_envs = {num_envs}.")
        column = lambda x: np.swapaxes(x[: length * num_envs].reshape(num_envs, length, *x.shape[1:]), 0, 1)
        rollout: Rollout = jax.tree.map(column, self.transitions)
        return cut(rollout)


def cut(rollout: Rollout) -> Rollout:
    """The rollout [T, B, ...], numpy, as a whole: its first row opens an episode and its last row ends one."""
    first, truncated = np.array(rollout.first), np.array(rollout.truncated)
    first[0] = True
    truncated[-1] |= ~np.asarray(rollout.terminated[-1])
    return rollout._replace(first=first, truncated=truncated)


def check_fits(data: Dataset, spec: EnvSpec) -> None:
    """Raise UsageError unless the data's spaces are the environment's."""
    told = {
        "observation_space": (data.spec.observation_space, spec.observation_space),
        "action_space": (data.spec.native_action_space, spec.native_action_space),
    }
    for what, (theirs, ours) in told.items():
        if spaces.space_to_json(theirs) != spaces.space_to_json(ours):
            raise UsageError(
                f"The transitions of {data.source} were recorded in {data.spec.id}, whose {what} is {theirs}; "
                f"{spec.id} has {ours}. Give data recorded in an environment with the same spaces."
            )
    if data.spec.num_costs != spec.num_costs:
        raise UsageError(
            f"The transitions of {data.source} have {data.spec.num_costs} costs each; {spec.id} has {spec.num_costs}."
        )


# --- folders ---


def check_new(path: Path) -> None:
    """Raise UsageError for a folder, or a file, that is there."""
    if path.exists():
        raise UsageError(f"{path} exists already. Give a new folder, or remove it first.")


@contextmanager
def creating(out: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``out`` when the block ends well: the folder is whole or absent."""
    path = Path(out)
    check_new(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained("writing", path):
            temporary.mkdir(parents=True)
        yield temporary
        with explained("writing", path):
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(folder: Path, data: Dataset) -> None:
    """Write the files of a dataset into an empty folder; its origin is JSON values."""
    arrays = _named(data.transitions)
    row = sum(x.nbytes for x in arrays.values()) // max(1, len(data))
    step = max(1, PART_BYTES // max(1, row))
    parts = []
    for begin in range(0, len(data), step):
        name = f"part-{len(parts):05d}.safetensors"
        piece = {k: x[begin : begin + step] for k, x in arrays.items()}
        tensors.write(folder / name, piece, {"format": FORMAT})
        parts.append({"file": name, "transitions": len(piece["reward"])})
    header = {
        "format": FORMAT,
        "version": VERSION,
        "transitions": len(data),
        "episodes": int(data.ends.sum()),
        "origin": dict(data.origin),
        "spec": spec_to_json(data.spec),
        "parts": parts,
    }
    write_json(folder / HEADER, header)


def read_dataset(source: str | Path) -> Dataset:
    """The transitions of a folder that ``steersman collect`` wrote, or of a Minari dataset on this machine, by its id.

    Raises UsageError where it is neither, or is damaged.

    >>> read_dataset("data/pendulum")  # doctest: +SKIP
    >>> read_dataset("mujoco/hopper/expert-v0")  # doctest: +SKIP
    """
    path = Path(source)
    if path.exists():
        return _read_folder(path)
    if find_spec("minari") is None:
        raise UsageError(
            f"There is no folder {source}. A Minari dataset, by its id, needs: {to_install('minari')}. Record "
            "transitions of your own with: steersman collect RUN --out FOLDER"
        )
    return _read_minari(str(source))


def _read_folder(path: Path) -> Dataset:
    if not (path / HEADER).is_file():
        raise UsageError(
            f"{path} is not a folder of recorded transitions: it has no {HEADER}. Record some: steersman collect RUN "
            "--out FOLDER"
        )
    header = read_json(path / HEADER)
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise _damaged(path / HEADER, f"its format is not {FORMAT}, version {VERSION}")
    try:
        spec = spec_from_json(header["spec"])
        parts = [(str(p["file"]), int(p["transitions"])) for p in header["parts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path / HEADER, f"{error!r}") from None
    read = [_read_part(path / Path(name).name, spec, count) for name, count in parts]
    if not read:
        raise _damaged(path / HEADER, "it names no parts")
    transitions = jax.tree.map(lambda *x: np.concatenate(x), *read)
    return Dataset(_sound(transitions, spec, str(path)), spec, str(path), header.get("origin") or {})


def _read_part(path: Path, spec: EnvSpec, count: int) -> Rollout:
    like = transitions_like(spec, (count,))
    try:
        with tensors.opened(path) as file:
            arrays = file.read()
    except tensors.DamagedFile as error:
        raise _damaged(path, error.what) from None
    wanted = {name: (x.dtype, x.shape) for name, x in _named(like).items()}
    found = {name: (x.dtype, x.shape) for name, x in arrays.items()}
    if wanted != found:
        wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        raise _damaged(path, f"{', '.join(wrong[:4])}: not what the spec in {HEADER} says")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves by tree path, ``obs/NAME``; their order is the tree's."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in named}


def _damaged(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}, of recorded transitions, cannot be used: {what}. Record them anew: steersman collect")


def _sound(transitions: Rollout, spec: EnvSpec, source: str) -> Rollout:
    """The transitions, their last one an end; raises UsageError for a number that an environment cannot give."""
    if not len(transitions.reward):
        raise UsageError(f"{source} holds no transitions.")
    for name, x in _named(transitions).items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise UsageError(f"{source}: {name} holds NaN or infinity. Leave those episodes out.")
    for name in ("obs", "next_obs"):
        if not spaces.counts_fit(spec.observation_space, getattr(transitions, name)):
            raise UsageError(f"{source}: {name} is not within {spec.observation_space}.")
    if not spaces.counts_fit(spec.action_space, transitions.action):
        raise UsageError(f"{source}: an action is not one of {spec.native_action_space}.")
    add = lambda x: x[:, None]
    return jax.tree.map(lambda x: x[:, 0], cut(jax.tree.map(add, transitions)))


# --- Minari ---


def _read_minari(name: str) -> Dataset:
    import minari  # pyright: ignore[reportMissingImports]

    try:
        found = minari.load_dataset(name)
    except (FileNotFoundError, ValueError, KeyError, OSError) as error:
        raise UsageError(
            f"There is no folder {name}, and Minari has no dataset {name!r} on this machine ({error}). See: minari "
            f"list local; minari download {name}"
        ) from None
    native, actions = found.observation_space, found.action_space
    spec = EnvSpec(
        name,
        spaces.inside_space(native),
        spaces.canonical_action_space(actions),
        actions,
        native_observation_space=native,
    )
    # Of no steps at all, it would have nothing to put together.
    episodes = [_episode(e, native, actions) for e in found.iterate_episodes() if len(e.rewards)]
    if not episodes:
        raise UsageError(f"The Minari dataset {name} holds no transitions.")
    transitions = jax.tree.map(lambda *x: np.concatenate(x), *episodes)
    return Dataset(_sound(transitions, spec, name), spec, name)


def _episode(episode: Any, native: gym_spaces.Space, actions: gym_spaces.Space) -> Rollout:
    obs = spaces.to_inside(native, episode.observations)  # [n + 1, ...]: one more than there are steps
    reward = np.asarray(episode.rewards, np.float32)
    first = np.zeros(len(reward), bool)
    first[0] = True
    terminated = np.asarray(episode.terminations, bool)
    truncated = np.array(episode.truncations, bool) & ~terminated
    truncated[-1] |= ~terminated[-1]
    return Rollout(
        obs=jax.tree.map(lambda x: x[:-1], obs),
        action=spaces.from_native(actions, episode.actions),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        next_obs=jax.tree.map(lambda x: x[1:], obs),
        first=first,
        costs=np.zeros((len(reward), 0), np.float32),
        extras={},
    )
