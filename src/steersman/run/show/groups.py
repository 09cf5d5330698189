"""Which runs are drawn as one line: those of equal settings, each seed once; and what their line is called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steersman.errors import UsageError
from steersman.run.disk.run_folder import compared, read_config, warn
from steersman.run.settings import reopened, saved_settings, split, values_of

Runs = Sequence[str | Path] | Mapping[str, Sequence[str | Path]]
# Settings that change nothing of what is learned, but which seeds there are, where they run and what is told of them.
ASIDE = {"seed", "seeds", "workers", "devices", "tensorboard", "wandb", "log_info", "keep_checkpoints"}
ASIDE |= {"evaluation_episodes", "evaluate_every", "evaluate_episodes"}
_SHOWN = 3  # differences in a name


class Drawn(NamedTuple):
    """One run of a group: those of its seeds, by their place in it, that no other run of the group has."""

    path: Path
    seeds: list[int]


class _Found(NamedTuple):
    path: Path
    label: str  # of a comparison; else empty
    algorithm: str
    environment: str
    settings: dict[str, Any]  # without those aside
    seeds: range

    @property
    def key(self) -> str:
        return json.dumps([self.label, self.algorithm, self.environment, self.settings], sort_keys=True)


def grouped(runs: Runs) -> tuple[dict[str, list[Drawn]], str]:
    """-> label -> the runs of a group, and a title: what all groups share.

    A mapping label -> runs is taken as it is. Settings and seed that come twice are counted once, from the longest log,
    and a warning says so. Raises UsageError for folders that are no runs.
    """
    if isinstance(runs, Mapping):
        return {label: _once([one for path in some for one in _found(Path(path))]) for label, some in runs.items()}, ""
    groups: dict[str, list[_Found]] = {}
    for one in (one for path in runs for one in _found(Path(path))):
        groups.setdefault(one.key, []).append(one)
    labels, title = _labels([some[0] for some in groups.values()])
    return dict(zip(labels, map(_once, groups.values()), strict=True)), title


def _found(path: Path) -> Iterator[_Found]:
    """The run of a folder; of a comparison's, its runs."""
    labelled = [(label, run) for label, group in compared(path).items() for run in group]
    if not labelled and not (path / "config.json").is_file():
        raise UsageError(
            f"{path} is not a run: it has no config.json. Give folders that steersman train or compare wrote."
        )
    for label, run in labelled or [("", path)]:
        config = read_config(run / "config.json")
        first, number = config["run"].get("seed", 0), config["run"].get("seeds", 1)
        settings = {name: value for name, value in _settings(config).items() if name not in ASIDE}
        seeds = range(first, first + number)
        yield _Found(run, label, config["algorithm"], config["environment"], settings, seeds)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a run: those that came up after it are at their defaults, where its algorithm is at hand."""
    from steersman.agents import ALGORITHMS  # and JAX, for which looking at one run does not wait

    saved = saved_settings(config)
    agent = "language" not in config["spec"]
    entry = ALGORITHMS.get(config["algorithm"]) if agent else None  # a run folder alone imports nothing of the user's
    try:
        full = values_of(*split(entry, reopened(entry, config))) if entry else saved
    except UsageError:
        return saved
    own = {name: value for name, value in config["run"].items() if name in ("network", "object", "foreign")}
    return json.loads(json.dumps({**full, **own}))


def _once(group: Sequence[_Found]) -> list[Drawn]:
    """Each seed of some settings from one run alone."""
    places: dict[tuple[str, int], list[int]] = {}
    for i, one in enumerate(group):
        for seed in one.seeds:
            places.setdefault((one.key, seed), []).append(i)
    twice = {seed: some for (_, seed), some in places.items() if len(some) > 1}
    for seed, some in list(twice.items())[:1]:
        paths = ", ".join(str(group[i].path) for i in some)
        more = f", as do {len(twice) - 1} more" if len(twice) > 1 else ""
        warn(f"Seed {seed} of the same settings comes {len(some)} times ({paths}){more}: it is counted once.")
    chosen = {key: max(some, key=lambda i: _length(group[i].path)) for key, some in places.items()}
    drawn = [
        Drawn(one.path, [k for k, seed in enumerate(one.seeds) if chosen[one.key, seed] == i])
        for i, one in enumerate(group)
    ]
    return [one for one in drawn if one.seeds]


def _length(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.stat().st_size if log.is_file() else 0


def _labels(groups: Sequence[_Found]) -> tuple[list[str], str]:
    """-> a name of each group, by what sets it apart, and what all share."""
    kind = lambda one: one.label or one.algorithm
    kinds, places = {kind(one) for one in groups}, {one.environment for one in groups}
    names = []
    for one in groups:
        parts = [kind(one)] if len(kinds) > 1 or len(places) == 1 else []
        parts += [one.environment] if len(places) > 1 else []
        alike = [o for o in groups if (kind(o), o.environment) == (kind(one), one.environment)]
        names.append(", ".join([*parts, *_differences(one, alike)]))
    names = [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]
    title = "".join(places) if len(places) == 1 else "".join(kinds) if len(kinds) == 1 else ""
    return names, title


def _differences(one: _Found, alike: Sequence[_Found]) -> list[str]:
    """The settings in which groups of one algorithm and environment differ, with the values of one of them."""
    names = dict.fromkeys(name for other in alike for name in other.settings)
    differ = [name for name in names if any(o.settings.get(name) != one.settings.get(name) for o in alike)]
    if len(differ) > 1:
        differ = [name for name in differ if name != "checkpoint_every"]  # as a rule it follows from another
    shown = [f"{name} {_text(one.settings.get(name))}" for name in differ[:_SHOWN]]
    return [*shown, *(["..."] if len(differ) > _SHOWN else [])]


def _text(value: Any) -> str:
    """A setting's value as a flag would have it.

    >>> _text([64, 64]), _text(True), _text(None), _text(3e-4)
    ('64 64', 'on', 'none', '0.0003')
    """
    match value:
        case list() | tuple():
            return " ".join(map(_text, value)) or "none"
        case bool():
            return "on" if value else "off"
        case None:
            return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
