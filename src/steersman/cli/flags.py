"""The flags of a training, made from its settings: grouped by the classes that give them, each with its docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from steersman.run.settings import RunConfig, known_settings, typed
from steersman.types import Algorithm

ALL = """Every setting of a training; what is not given keeps the default shown, which is the environment's preset where
there is one (--no-preset leaves it aside, --config RUN/config.json takes another run's settings)."""

T = TypeVar("T")


def parse(
    algorithm: Algorithm, output: type[T], base: Mapping[str, Any], flags: Sequence[str], prog: str
) -> tuple[T, dict[str, Any], dict[str, Any]]:
    """-> (what the flags say of ``output``, the settings by name, the defaults that they started from).

    base: settings that take the place of defaults. The values are plain; whether they are in range is for the configs.
    """
    defaults = {name: field.default for name, field in known_settings(algorithm).items()} | typed(algorithm, base)
    panels = [_panel(algorithm.config, *group, defaults) for group in groups(algorithm.config)]
    panels.append(_panel(RunConfig, RunConfig, [f.name for f in dataclasses.fields(RunConfig)], defaults))
    kinds = [output, *panels]
    titles = unique([re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower() for kind in kinds])
    fields: list[Any] = [(t, k, dataclasses.field(default=k())) for t, k in zip(titles, kinds, strict=True)]
    every = dataclasses.make_dataclass("Train", fields, frozen=True, namespace={"__doc__": ALL})
    chosen = tyro.cli(every, args=[*map(whole, flags)], prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    first, *rest = (getattr(chosen, title) for title in titles)
    values = {name: value for part in rest for name, value in vars(part).items()}
    return first, {name: values[name] for name in defaults}, defaults


def unique(names: Sequence[str]) -> list[str]:
    """Names, those that come again numbered.

    >>> unique(["run", "ppo", "run"])
    ['run', 'ppo', 'run_2']
    """
    return [f"{n}_{names[:i].count(n) + 1}" if n in names[:i] else n for i, n in enumerate(names)]


def groups(config: type) -> list[tuple[type, list[str]]]:
    """The dataclasses that a config is composed of, its own first, each with the fields it is the first to name."""
    found: list[tuple[type, list[str]]] = []
    seen: set[str] = set()
    for kind in [k for k in reversed(config.__mro__) if dataclasses.is_dataclass(k)]:
        own = [name for name in inspect.get_annotations(kind) if name not in seen]
        seen.update(own)
        found.append((kind, own))
    return [(kind, own) for kind, own in reversed(found) if own]


def documented(config: type) -> dict[str, str]:
    """What the docstrings under a config's fields say, by name: those of the class itself before those of its bases."""
    found: dict[str, str] = {}
    for kind in config.__mro__:
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        except (OSError, TypeError, SyntaxError):  # a class that has no file
            continue
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found.setdefault(name, " ".join(said.split()))
    return found


def _panel(config: type, kind: type, names: list[str], defaults: Mapping[str, Any]) -> type:
    """A dataclass of some settings of a config, for the parser of flags: named and described as ``kind`` is."""
    hints, said = get_type_hints(config), documented(config)
    help_of = lambda name: tyro.conf.arg(help=said.get(name, ""))
    fields: list[Any] = [
        (name, Annotated[hints[name], help_of(name)], dataclasses.field(default=defaults[name])) for name in names
    ]
    title = kind.__name__.removesuffix("Config") or kind.__module__.rpartition(".")[2]
    return dataclasses.make_dataclass(title, fields, frozen=True, namespace={"__doc__": inspect.getdoc(kind) or ""})


def whole(argument: str) -> str:
    """A count as people write it, in digits: ``1e6`` and ``--steps=2.5e5`` too."""
    found = re.fullmatch(r"(--[\w-]+=)?(\d+(?:\.\d+)?[eE]\+?\d)", argument)
    if not found or not float(found[2]).is_integer():
        return argument
    return (found[1] or "") + str(int(float(found[2])))
