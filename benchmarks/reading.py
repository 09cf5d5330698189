"""How much one has to read to understand an algorithm: the definitions that its factory names, and those they name.

    python benchmarks/reading.py              the agents of this tree
    python benchmarks/reading.py ppo dqn      some

Counted are the lines, docstrings too, of every top-level definition of steersman's own that is reached by name from
the factory: whole functions, whole classes, assignments. Third-party code does not count. ``own`` leaves out what is
generic: networks, distributions, spaces, errors, checks, and the types themselves.
"""

from __future__ import annotations

import argparse
import ast
import json
from functools import cache
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
GENERIC = (
    "nets",
    "spaces",
    "errors",
    "types",
    "theory/distributions",
    "theory/statistics",
    "config",
    "agents/parts/checks",
)


@cache
def module(name: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str | None]]]:
    """-> (top-level definitions by name, imports by local name: (module, name in it or None))"""
    path = SRC / (name.replace(".", "/") + ".py")
    path = path if path.is_file() else SRC / name.replace(".", "/") / "__init__.py"
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str | None]] = {}
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef(name=n) | ast.ClassDef(name=n):
                defined[n] = node
            case ast.Assign(targets=[ast.Name(id=n)]) | ast.AnnAssign(target=ast.Name(id=n)):
                defined[n] = node
            case ast.ImportFrom(module=str(source)) if source.startswith("steersman"):
                for alias in node.names:
                    whole = f"{source}.{alias.name}"
                    inside = is_module(whole)
                    imported[alias.asname or alias.name] = (whole, None) if inside else (source, alias.name)
    return defined, imported


def is_module(name: str) -> bool:
    path = SRC / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def reached(start: tuple[str, str]) -> set[tuple[str, str]]:
    """(module, definition) of all that is named from ``start``."""
    found: set[tuple[str, str]] = set()
    waiting = [start]
    while waiting:
        where, name = waiting.pop()
        if (where, name) in found:
            continue
        defined, imported = module(where)
        if name not in defined:
            if name in imported:  # passed on by a package
                source, other = imported[name]
                waiting.append((source, other or name))
            continue
        found.add((where, name))
        for node in ast.walk(defined[name]):
            if isinstance(node, ast.Name):
                if node.id in defined:
                    waiting.append((where, node.id))
                elif node.id in imported and imported[node.id][1] is not None:
                    source, other = imported[node.id]
                    waiting.append((source, str(other)))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                source, other = imported.get(node.value.id, ("", ""))
                if other is None:
                    waiting.append((source, node.attr))
    return found


def lines(where: str, name: str) -> int:
    node = module(where)[0][name]
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return int(node.end_lineno or first) - first + 1


def count(algorithm: str) -> dict[str, int]:
    place = next((SRC / "steersman/agents").rglob(f"{algorithm}.py")).relative_to(SRC).with_suffix("")
    found = reached((".".join(place.parts), algorithm))
    own = [pair for pair in found if not pair[0].replace(".", "/").removeprefix("steersman/").startswith(GENERIC)]
    return {
        "files": len({where for where, _ in found}),
        "lines": sum(lines(*pair) for pair in found),
        "own files": len({where for where, _ in own}),
        "own": sum(lines(*pair) for pair in own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", default=["ppo", "a2c", "trpo", "dqn", "sac"])
    args = parser.parse_args()
    print(json.dumps({name: count(name) for name in args.algorithms}, indent=1))


if __name__ == "__main__":
    main()
