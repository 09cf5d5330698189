"""Flags and what is written after them; those of a training are made from its settings, grouped by the classes that
give them, each with its docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from steersman.envs.host.costs import EXAMPLE
from steersman.errors import UsageError
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
    first, values = composed(output, (algorithm.config, RunConfig), defaults, flags, prog, 0)
    return first, {name: values[name] for name in defaults}, defaults


def composed(
    output: type[T],
    configs: tuple[type, type],
    defaults: Mapping[str, Any],
    flags: Sequence[str],
    prog: str,
    words: int,
    about: str = ALL,
) -> tuple[T, dict[str, Any]]:
    """-> (what the flags say of ``output``, the values of settings by name).

    configs: a method's, grouped in the help by the classes that it is composed of, and the run's. words: how many
    belong to no flag.
    """
    config, run = configs
    panels = [_panel(config, *group, defaults) for group in groups(config)]
    panels.append(_panel(run, run, [f.name for f in dataclasses.fields(run)], defaults))
    kinds = [output, *panels]
    titles = unique([re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower() for kind in kinds])
    own: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(output)  # pyright: ignore[reportArgumentType]
    needs = [f for f in own if f.default is f.default_factory is dataclasses.MISSING]
    fields: list[Any] = [
        (t, k) if needs and k is output else (t, k, dataclasses.field(default=k()))
        for t, k in zip(titles, kinds, strict=True)
    ]
    every = dataclasses.make_dataclass("Train", fields, frozen=True, namespace={"__doc__": about})
    hints = get_type_hints(output) | get_type_hints(run) | get_type_hints(config)
    chosen = tyro.cli(every, args=plain(flags, hints, words, prog), prog=prog, config=(tyro.conf.OmitArgPrefixes,))
    first, *rest = (getattr(chosen, title) for title in titles)
    return first, {name: value for part in rest for name, value in vars(part).items()}


def parsed(kind: type[T], arguments: Sequence[str], prog: str) -> T:
    """What a command was given, as its dataclass; raises UsageError for a value that is none of its flag's, and for a
    seed that no generator takes."""
    extras = [get_args(hint) for hint in get_type_hints(kind, include_extras=True).values()]
    places = [args[0] for args in extras if tyro.conf.Positional in args[1:]]
    words = None if any(get_origin(place) is tuple for place in places) else len(places)
    chosen = tyro.cli(kind, args=plain(arguments, get_type_hints(kind), words, prog), prog=prog)
    seed = vars(chosen).get("seed")  # None where it is the run's own
    if seed is not None and not 0 <= seed < 2**32:
        raise UsageError(f"--seed {seed}: it must be a whole number from 0 to {2**32 - 1}.")
    return chosen


def repeated(arguments: Sequence[str]) -> list[str]:
    """Arguments with the value of every ``--cost`` gathered under ``--costs``, the setting.

    >>> repeated(["--cost", "x > 1", "--seed", "3", "--cost=y < 2"])
    ['--seed', '3', '--costs', 'x > 1', 'y < 2']
    """
    found, costs, rest = [], [], list(arguments)
    while rest:
        flag, equals, value = (argument := rest.pop(0)).partition("=")
        if flag != "--cost":
            found.append(argument)
            continue
        if not equals and (not rest or rest[0].startswith("--")):
            raise UsageError(f"--cost is given without a comparison; it takes one, as in {EXAMPLE}.")
        costs.append(value if equals else rest.pop(0))
    return [*found, *(["--costs", *costs] if costs else [])]


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
    help_of = lambda name: tyro.conf.arg(help=said.get(name, ""), aliases=["--cost"] if name == "costs" else [])
    fields: list[Any] = [
        (name, Annotated[hints[name], help_of(name)], dataclasses.field(default=defaults[name])) for name in names
    ]
    title = kind.__name__.removesuffix("Config") or kind.__module__.rpartition(".")[2]
    return dataclasses.make_dataclass(title, fields, frozen=True, namespace={"__doc__": inspect.getdoc(kind) or ""})


def plain(arguments: Sequence[str], hints: Mapping[str, Any], words: int | None = None, prog: str = "") -> list[str]:
    """Arguments with the values of flags as the parser reads them: ``1e6`` in digits, ``64,64`` one after another.

    hints: what each flag's value is, by its name with underscores. words: how many may belong to no flag; none: any.
    Raises UsageError for a value that is none, and for a word too many.

    >>> plain(["--steps", "1e3", "--hidden-sizes=64,64"], {"steps": int, "hidden_sizes": tuple[int, ...]})
    ['--steps', '1000', '--hidden-sizes', '64', '64']
    """
    found, rest, before = [], list(arguments), ""
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        kind, many, optional = _kind(hints.get(name))
        switch = next((n for n in (name, name.removeprefix("no_")) if hints.get(n) is bool), None)
        if equals and switch:
            raise UsageError(f"{argument}: {_switches(switch)}.")
        if kind is None:
            found.append(argument)
            if argument.startswith("-"):
                words = words if switch or not name else None  # the parser knows what that flag takes, if there is one
            elif words == 0:
                raise UsageError(f"{argument!r} is one word too many{before}. See {prog} --help.")
            else:
                words = words and words - 1
            before = f": {_switches(switch)}" if switch else ""
            continue
        before = f": {flag} takes one value"
        values = [value] if equals else []
        while not equals and rest and not re.match(r"-(-|[A-Za-z])", rest[0]) and (many or not values):
            values.append(rest.pop(0))
        if many and kind in (int, float):
            values = [part for text in values for part in re.split(r"[,\s]+", text.strip("()[] ")) if part]
        if not values and not many:
            raise UsageError(f"{flag} is given without a value; it must be {_RIGHT[kind]}.")
        found += [flag, *(_value(flag, text, kind, many, optional) for text in values)]
    return found


def _switches(name: str) -> str:
    flag = name.replace("_", "-")
    return f"--{flag} takes no value; it switches on, --no-{flag} off"


_RIGHT = {
    int: "a whole number, as in 1000000 or 1e6",
    float: "a number, as in 0.001 or 1e-3",
    str: "a text",
    Path: "a file or a folder",
}


_MANY = {int: "whole numbers, as in 64 64 or 64,64", float: "numbers, as in 25 0.5 or 25,0.5"}


def _kind(hint: Any) -> tuple[Any, bool, bool]:
    """-> (the type of a flag's values, None where the parser alone knows it; whether there are several; or none)"""
    options = get_args(hint) if type(None) in get_args(hint) else (hint,)
    kinds = [option for option in options if option is not type(None)]
    many = len(kinds) == 1 and get_origin(kinds[0]) is tuple
    kind = get_args(kinds[0])[0] if many else kinds[0]
    return (kind if len(kinds) == 1 and kind in _RIGHT else None), many, len(options) > 1


def _value(flag: str, text: str, kind: Any, many: bool, optional: bool) -> str:
    if optional and text.lower() == "none":
        return "None"
    if kind in (int, float):
        with suppress(ValueError):
            number = float(text)
            if kind is float:
                return text
            if number.is_integer():
                return str(int(text) if text.lstrip("+-").replace("_", "").isdigit() else int(number))
    elif text.strip():
        return text
    given = f"{flag} {text}" if text.strip() else f"{flag} is given an empty text"
    right = _MANY[kind] if many and kind in _MANY else _RIGHT[kind]
    raise UsageError(f"{given}: it must be {right}{', or none' if optional else ''}.")
