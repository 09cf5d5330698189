"""What is compared: entries ``[LABEL=]ALGORITHM[:SETTING=VALUE,...]``, read, filled in and checked.

ALGORITHM may be the user's own, ``package.module:NAME``; its settings follow after another colon.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersman import agents
from steersman.errors import UsageError
from steersman.run import plugins
from steersman.run.settings import RunConfig, fitted, preset_for, split, values_of
from steersman.types import Algorithm

SHARED = ("seed", "seeds", "evaluation_episodes")  # a comparison of runs that differ in these would be none
FORM = "An entry is [LABEL=]ALGORITHM[:SETTING=VALUE,...], as in ppo, ppo:clip=0.1 or wide=ppo:hidden_sizes=256,256."


@dataclass(frozen=True)
class Entry:
    """One of those compared. ``given``: the user's settings; ``run`` and ``config``: all of them, once resolved."""

    label: str
    algorithm: Algorithm
    given: dict[str, Any]
    network: Any = None
    origins: dict[str, Any] = dataclasses.field(default_factory=dict)  # ``plugins.origins``
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    config: Any = None

    @property
    def settings(self) -> dict[str, Any]:
        return values_of(self.run, self.config)

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.+]+", "-", self.label).strip("-.")


def read_entries(entries: Sequence[str] | Mapping[str, Any] | str) -> list[Entry]:
    """Entries as on the command line, or a mapping label -> text or {"algorithm": name, setting: value, ...}.

    Raises UsageError for a malformed one, an unknown algorithm, and two of the same label or folder.
    """
    if isinstance(entries, Mapping):
        found = [_from_python(str(label), content) for label, content in entries.items()]
    else:
        found = [_from_text(text) for text in ([entries] if isinstance(entries, str) else entries)]
    seen: dict[str, str] = {}
    for entry in found:
        if not entry.folder:
            raise UsageError(f"{entry.label!r} cannot name a folder; a label needs letters or digits.")
        if entry.folder in seen:
            other = seen[entry.folder]
            same = other == entry.label
            what = f"Two entries are called {other!r}" if same else f"{other!r} and {entry.label!r} are too alike"
            name = entry.algorithm.name
            raise UsageError(f"{what}. Give each a label of its own: a={name} b={name}:gamma=0.9")
        seen[entry.folder] = entry.label
    return found


def _from_text(text: str) -> Entry:
    head, _, tail = text.partition(":")
    label, labelled, name = head.rpartition("=")
    if "," in name:
        raise UsageError(f"{text!r}: entries are separated by spaces: {' '.join(text.split(','))}")
    if not name or (labelled and not label):
        raise UsageError(f"{text!r} names no algorithm. {FORM}")
    inside, _, rest = tail.partition(":")
    if name not in agents.ALGORITHMS and inside and not set("=,") & set(inside):  # package.module:NAME
        name, tail = f"{name}:{inside}", rest
    return _entry(label, name, settings_in(tail.split(",") if tail else [], text))


def _entry(label: str, named: str | Algorithm, given: dict[str, Any]) -> Entry:
    """An entry; its label says what differs, where none is given."""
    algorithm, network = plugins.algorithm(named), given.pop("network", None)
    shown = ", ".join(f"{k}={_written(v)}" for k, v in given.items())
    origins = plugins.origins(algorithm, named, network)
    label = label or (f"{algorithm.name} {shown}" if shown else algorithm.name)
    return Entry(label, algorithm, given, plugins.network(network), origins)


def _from_python(label: str, content: Any) -> Entry:
    if isinstance(content, str):
        return dataclasses.replace(_from_text(content), label=label)
    content = {"algorithm": content} if isinstance(content, Algorithm) else content
    if not isinstance(content, Mapping) or not isinstance(content.get("algorithm"), str | Algorithm):
        raise UsageError(f"{label} = {content!r}; it must be an entry's text or {{'algorithm': 'ppo', 'clip': 0.1}}.")
    given = dict(content)
    return _entry(label, given.pop("algorithm"), given)


def settings_in(parts: Iterable[str], where: str) -> dict[str, Any]:
    """``name=value`` texts as settings. A part without a name belongs to the value before it: hidden_sizes=64,64."""
    found: dict[str, str] = {}
    name = ""
    for part in parts:
        before, is_setting, value = part.partition("=")
        if not is_setting and not name:
            raise UsageError(f"{where!r}: {part!r} is not SETTING=VALUE. {FORM}")
        if is_setting:
            name = before.strip().lstrip("-").replace("-", "_")
        found[name] = value.strip() if is_setting else f"{found[name]},{part.strip()}"
    return {name: _value(text) for name, text in found.items()}


def _value(text: str) -> Any:
    """A number, a tuple of them, True or False where the text is one; else the text. What none means its field says."""
    if text.lower() == "none":
        return "none"
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return text


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def resolve(
    entries: Sequence[Entry], environment: Any, shared: Mapping[str, Any], *, steps: int | None, preset: bool
) -> list[Entry]:
    """The entries with all their settings: defaults, under the preset, under ``shared``, under the entry's own.

    Without ``steps`` all get the largest budget among their presets, but for an entry that names its own. Raises
    UsageError for a setting that does not exist, is out of range, or must not differ between entries.
    """
    known = [preset_for(e.algorithm, environment) if preset else {} for e in entries]
    if steps is None:
        steps = max((k.get("steps", RunConfig.steps) for k in known), default=None)
    found = []
    for entry, base in zip(entries, known, strict=True):
        for name in SHARED:
            if name in entry.given:
                flag = name.replace("_", "-")
                raise UsageError(f"{entry.label}: {name} is the same for all entries; give it once, as --{flag}.")
        try:
            asked = dict(shared) | entry.given
            settings = fitted(entry.algorithm, base | {"steps": steps} | asked, asked)
            run, config = split(entry.algorithm, settings)
        except UsageError as error:
            raise UsageError(f"{entry.label}: {error}") from None
        found.append(dataclasses.replace(entry, run=run, config=config))
    return found


def listed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def to_json(entry: Entry) -> dict[str, Any]:
    """What ``comparison.json`` says of an entry."""
    content = {"algorithm": entry.algorithm.name, "folder": entry.folder, "given": listed(entry.given)}
    return content | entry.origins | {"settings": listed(entry.settings)}


def from_json(label: str, content: Mapping[str, Any]) -> Entry:
    """The inverse of ``to_json``; UsageError for an entry with an algorithm or a network of the user's own."""
    for what, named in (("foreign", "an algorithm"), ("network", "a network")):
        if content.get(what):
            again = f", {label}={content['foreign']}" if isinstance(content.get("foreign"), str) else ""
            raise UsageError(
                f"{label} was compared with {named} of your own, and a folder does not decide what is imported; give "
                f"the entry again{again}, with that {named.split()[1]}."
            )
    algorithm = agents.algorithm(content["algorithm"])
    run, config = split(algorithm, content["settings"])
    return Entry(label, algorithm, dict(content["given"]), run=run, config=config)


def check_same(label: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError where an entry of a comparison is asked for with other settings than it was made with."""
    old, new = before["settings"], now["settings"]
    differing = {
        "algorithm": (before["algorithm"], now["algorithm"]),
        "network": (bool(before.get("network")), bool(now.get("network"))),
        **{name: (old.get(name), new.get(name)) for name in [*new, *(n for n in old if n not in new)]},
    }
    changed = [f"{name} was {a!r}, now {b!r}" for name, (a, b) in differing.items() if a != b]
    if changed:
        raise UsageError(
            f"{label} was compared with other settings: {'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''}. "
            "Leave them as they were, give the entry another label, or give --out another folder."
        )
