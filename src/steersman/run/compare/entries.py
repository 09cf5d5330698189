"""What is compared: entries ``[LABEL=]ALGORITHM[:SETTING=VALUE,...]``, read, filled in and checked."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steersman import agents
from steersman.errors import UsageError
from steersman.run.settings import preset_for, split

SHARED = ("seed", "seeds", "evaluation_episodes")  # a comparison of runs that differ in these would be none
FORM = "An entry is [LABEL=]ALGORITHM[:SETTING=VALUE,...], as in ppo, ppo:clip=0.1 or wide=ppo:hidden_sizes=256,256."


@dataclass(frozen=True)
class Entry:
    """One of those compared. ``given``: the user's settings; ``settings``: all, the run's and the algorithm's."""

    label: str
    algorithm: str
    given: dict[str, Any]
    network: Any = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

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
        agents.algorithm(entry.algorithm)
        if not entry.folder:
            raise UsageError(f"{entry.label!r} cannot name a folder; a label needs letters or digits.")
        if entry.folder in seen:
            other = seen[entry.folder]
            same = other == entry.label
            what = f"Two entries are called {other!r}" if same else f"{other!r} and {entry.label!r} are too alike"
            raise UsageError(f"{what}. Give each a label of its own: a={entry.algorithm} b={entry.algorithm}:gamma=0.9")
        seen[entry.folder] = entry.label
    return found


def _from_text(text: str) -> Entry:
    head, _, tail = text.partition(":")
    label, labelled, name = head.rpartition("=")
    if "," in name:
        raise UsageError(f"{text!r}: entries are separated by spaces: {' '.join(text.split(','))}")
    if not name or (labelled and not label):
        raise UsageError(f"{text!r} names no algorithm. {FORM}")
    given = settings_in(tail.split(",") if tail else [], text)
    shown = ", ".join(f"{k}={_written(v)}" for k, v in given.items())
    return Entry(label or (f"{name} {shown}" if shown else name), name, given)


def _from_python(label: str, content: Any) -> Entry:
    if isinstance(content, str):
        return dataclasses.replace(_from_text(content), label=label)
    if not isinstance(content, Mapping) or not isinstance(content.get("algorithm"), str):
        raise UsageError(f"{label} = {content!r}; it must be an entry's text or {{'algorithm': 'ppo', 'clip': 0.1}}.")
    given = dict(content)
    return Entry(label, given.pop("algorithm"), network=given.pop("network", None), given=given)


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
    """A number, a tuple of them, True, False or None where the text is one; else the text."""
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
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
    known = [preset_for(e.algorithm, environment) if preset and isinstance(environment, str) else {} for e in entries]
    if steps is None:
        steps = max(split(agents.algorithm(e.algorithm), k)[0].steps for e, k in zip(entries, known, strict=True))
    found = []
    for entry, base in zip(entries, known, strict=True):
        for name in SHARED:
            if name in entry.given:
                flag = name.replace("_", "-")
                raise UsageError(f"{entry.label}: {name} is the same for all entries; give it once, as --{flag}.")
        try:
            parts = split(agents.algorithm(entry.algorithm), base | {"steps": steps} | dict(shared) | entry.given)
        except UsageError as error:
            raise UsageError(f"{entry.label}: {error}") from None
        settings = {f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)}
        found.append(dataclasses.replace(entry, settings=settings))
    return found


def to_json(entry: Entry) -> dict[str, Any]:
    """What ``comparison.json`` says of an entry."""
    listed = lambda settings: {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    content = {"algorithm": entry.algorithm, "folder": entry.folder, "given": listed(entry.given)}
    return content | ({"network": True} if entry.network is not None else {}) | {"settings": listed(entry.settings)}


def from_json(label: str, content: Mapping[str, Any]) -> Entry:
    """The inverse of ``to_json``, but for a network."""
    return Entry(label, content["algorithm"], dict(content["given"]), settings=dict(content["settings"]))


def check_same(label: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError where an entry of a comparison is asked for with other settings than it was made with."""
    old, new = before["settings"], now["settings"]
    differing = {
        "algorithm": (before["algorithm"], now["algorithm"]),
        "network": (before.get("network", False), now.get("network", False)),
        **{name: (old.get(name), new.get(name)) for name in [*new, *(n for n in old if n not in new)]},
    }
    changed = [f"{name} was {a!r}, now {b!r}" for name, (a, b) in differing.items() if a != b]
    if changed:
        raise UsageError(
            f"{label} was compared with other settings: {'; '.join(changed[:3])}{'; ...' if len(changed) > 3 else ''}. "
            "Leave them as they were, give the entry another label, or give --out another folder."
        )
