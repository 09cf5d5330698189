"""A user's own things by name, ``package.module:name`` or ``path/file.py:name``: an environment, an algorithm, a
network."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import reprlib
import sys
import sysconfig
from collections.abc import Callable
from functools import reduce
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from steersman.errors import EnvironmentFault, UsageError, nearest, raised_at


def load_object(path: str, what: str) -> Any:
    """The object at ``package.module:name``, or at ``path/file.py:name``.

    Modules of the working directory are found, as with ``python -m``; so are those beside a file, as with ``python
    file.py``. Either way the module is one that other processes can import.

    what: "the environment", for messages. Raises UsageError where the module cannot be imported or has no such name.
    """
    where, _, name = path.partition(":")
    _find_in(Path.cwd())
    if is_file(where):
        module = _of_file(where, path, what)
    elif "/" in where:
        near = f"Did you mean {where}.py:{name}?" if Path(f"{where}.py").is_file() else f"{where} is no Python file."
        raise UsageError(f"{path} names {what} by a path, which is written path/file.py:name. {near}")
    else:
        module = _imported(where, where, path, what)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        names = [n for n in vars(module) if not n.startswith("_")]
        kind = "file" if is_file(where) else "module"
        raise UsageError(f"The {kind} {where} has no {name!r}, asked for in {path}. {nearest(name, names)}") from None


def is_file(where: str) -> bool:
    """Whether what stands before the colon is the path of a Python file.

    >>> is_file("envs/arm.py"), is_file("envs.arm")
    (True, False)
    """
    return where.endswith(".py")


def offer(name: str) -> str:
    """A sentence that says how a name without a colon is written, where it is one of a module or a file of the user's.

    ``arm.make``, ``arm``, ``arm/make`` and ``arm.py`` are ``arm:make``, if there is a module ``arm``; nothing is
    imported. Empty where there is none.
    """
    stem = name.removesuffix(".py") if is_file(name) else name
    parts = stem.replace("/", ".").strip(".").split(".")
    if not all(part.isidentifier() for part in parts):
        return ""
    for module, wanted in ((parts, ""), (parts[:-1], parts[-1])):
        source = _source(module)
        if source is None or (wanted and is_file(name)):
            continue
        written, names = name if is_file(name) else ".".join(module), _defined(source)
        if wanted:
            near = nearest(f"{written}:{wanted}", [f"{written}:{n}" for n in names])
            return f"Did you mean {written}:{wanted}?" if wanted in names else near
        some = " or ".join(f"{written}:{n}" for n in names[:3])
        return f"That is a {'file' if is_file(name) else 'module'}; name what is in it: {some}." if names else ""
    return ""


def _of_file(where: str, path: str, what: str) -> Any:
    """The module of a file, imported under the name it has beside its folder, or beside that of its package."""
    file = Path(where).expanduser().resolve()
    if not file.is_file():
        others = [str(Path(where).parent / p.name) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UsageError(f"There is no file {where} for {what} {path}. {nearest(where, others)}".rstrip())
    root, names = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    if not all(n.isidentifier() for n in names):
        raise UsageError(
            f"{where} cannot be imported for {what} {path}: a module's name is made of letters, digits and _. Rename "
            f"it, as in {file.stem.replace('-', '_')}.py."
        )
    _find_in(root)
    module = _imported(".".join(names), where, path, what)
    found = getattr(module, "__file__", None)
    if found is None or Path(found).resolve() != file:
        raise UsageError(
            f"{where} cannot be imported for {what} {path}: its name, {names[-1]}, is that of another module "
            f"({found or 'built in'}). Rename the file."
        )
    return module


def _imported(module: str, where: str, path: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except SyntaxError as error:
        at = f" ({error.filename}, line {error.lineno})" if error.filename else ""
        raise UsageError(f"Cannot import {where!r} for {what} {path}: {error.msg}{at}.") from error
    except ModuleNotFoundError as error:
        its_own = error.name is not None and (module == error.name or module.startswith(f"{error.name}."))
        hint = (
            "It is to be package.module:name, of a module that Python finds (installed, or in the working directory), "
            "or path/file.py:name."
            if its_own
            else f"{where} imports it: install it, or mend that import."
        )
        near = nearest(module, [p.stem for p in Path.cwd().glob("*.py")]) if its_own else ""
        raise UsageError(
            f"Cannot import {where!r} for {what} {path}: {error}. {near} {hint}".replace("  ", " ")
        ) from error
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(
            f"Cannot import {where!r} for {what} {path}: {error}{raised_at(error)}. It is to be package.module:name, "
            "of a module that Python finds (installed, or in the working directory), or path/file.py:name."
        ) from error
    except Exception as error:  # what the module's own code raises
        raise UsageError(
            f"Cannot import {where!r} for {what} {path}: {type(error).__name__}: {error}{raised_at(error)}"
        ) from error


def _find_in(folder: Path) -> None:
    """Let modules of a folder be imported, here and by the workers, who are given this list."""
    if str(folder) not in sys.path and not (folder == Path.cwd() and "" in sys.path):
        sys.path.insert(0, str(folder))


def _source(module: list[str]) -> Path | None:
    """The file of a module of the user's, found without importing any."""
    top = PathFinder.find_spec(module[0], [os.getcwd(), *sys.path]) if module else None
    if top is None or top.origin is None:
        return None
    place = Path(top.origin)
    if place.is_relative_to(sysconfig.get_path("stdlib")):  # Python's own, and what is installed
        return None
    for part in module[1:]:
        if place.name != "__init__.py":
            return None
        inside = (place.parent / f"{part}.py", place.parent / part / "__init__.py")
        place = next((p for p in inside if p.is_file()), Path())
    return place if place.suffix == ".py" else None


def _defined(source: Path) -> list[str]:
    """The functions and classes that a file defines, by name, those it keeps to itself left out."""
    try:
        body = ast.parse(source.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return []
    names = [part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def made_of(thing: Any, kwargs: dict[str, Any], label: str) -> Any:
    """The environment that ``thing`` is, or gives when called (or gives a function that gives, when called)."""
    import gymnasium

    from steersman.types import DeviceEnvs, EnvSpec, HostEnvs

    for _ in range(3):
        known = isinstance(thing, gymnasium.Env | gymnasium.vector.VectorEnv | DeviceEnvs | HostEnvs)
        if known or isinstance(getattr(thing, "spec", None), EnvSpec):  # a steersman Env is what has our EnvSpec
            if kwargs:
                raise UsageError(f"{label} is already made; it takes no arguments, got {', '.join(kwargs)}.")
            return thing
        if not callable(thing):
            break
        thing, kwargs = call(thing, kwargs, label), {}
    raise UsageError(
        f"{label} gives {type(thing).__name__}. It is to be, or to return, a gymnasium.Env or a steersman Env "
        "(spec, reset, step; see steersman.types.Env)."
    )


def call(factory: Callable[..., Any], kwargs: dict[str, Any], label: str) -> Any:
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise UsageError(
            f"{label} cannot be made with the arguments {kwargs}: {error}. {_takes(factory, label)}"
        ) from None
    except ValueError:  # some callables of extensions have no signature to look at
        pass
    try:
        return factory(**kwargs)
    except (UsageError, EnvironmentFault):
        raise
    except (Exception, SystemExit) as error:
        raise EnvironmentFault(
            f"{label} could not be made: {type(error).__name__}: {error}{raised_at(error)}"
        ) from error


def _takes(factory: Callable[..., Any], label: str) -> str:
    """How a factory is given its arguments."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = {n: p.default for n, p in inspect.signature(factory).parameters.items() if p.kind not in kinds}
    needed = [name for name, default in names.items() if default is inspect.Parameter.empty]
    if not names:
        return "It takes none."
    given = "".join(f",{name}=..." for name in needed or [*names][:1])
    made = ", ".join(f"{name}=..." for name in needed or [*names][:1])
    here = f"{label}{given}" if ":" in label or "/" in label else f"a function that takes none: lambda: {label}({made})"
    return f"It takes {', '.join(names)}; give them as {here}."


def label_of(thing: Any) -> str:
    if isinstance(thing, str):
        return thing
    return getattr(thing, "__qualname__", None) or reprlib.repr(thing)
