"""What the documents say is true: names exist, commands and flags exist, code compiles, links lead somewhere."""

import ast
import importlib
import io
import os
import re
import shlex
import subprocess
import tomllib
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from steersman.agents import ALGORITHMS
from steersman.agents.language import METHODS
from steersman.cli.align.command import VERBS
from steersman.cli.main import COMMANDS, run
from steersman.run.settings import presets

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "steersman"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(steersman(?:\.\w+)+)")
REFERENCE = re.compile(r"^::: (steersman(?:\.\w+)+)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(#[^)]*)?\)")


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


def names_in(text: str) -> list[str]:
    return [*NAME.findall(FENCE.sub("", text)), *REFERENCE.findall(text)]


@cache
def resolve(name: str) -> object:
    """The object of a dotted name: the longest module, then attributes; fields of a NamedTuple or dataclass count."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[cut:]:
            fields = getattr(found, "__dataclass_fields__", {})
            found = fields[part] if part in fields else getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_name_exists(page):
    missing = []
    for name in names_in(page.read_text()):
        try:
            resolve(name)
        except (ModuleNotFoundError, AttributeError):
            missing.append(name)
    assert missing == []


def test_a_name_that_does_not_exist_is_found():
    with pytest.raises(AttributeError):
        resolve("steersman.theory.returns.no_such_return")
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve("steersman.tabulr.planning")
    assert names_in("`steersman.theory.returns.gae(...)` and\n```\n`steersman.x.y`\n```\n") == [
        "steersman.theory.returns.gae"
    ]


def test_the_lecture_has_a_name_or_says_not_yet():
    text = (ROOT / "docs" / "lecture.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| concept")]
    concepts = rows[: next(i for i, row in enumerate(rows) if row.startswith("| the notes"))]
    assert len(concepts) > 40
    unsaid = [row for row in concepts if not (NAME.search(row) or "not yet" in row or "motive" in row)]
    assert unsaid == []
    assert len(names_in(text)) > 60


# Commands


def commands_in(text: str) -> list[list[str]]:
    """The words of every ``steersman ...`` in a shell block or in a code span, without the program's name."""
    found = []
    for line in "\n".join(blocks(text, "bash", "sh")).splitlines():
        for part in re.split(r"&&|\|\|?|;", line.partition(" #")[0]):
            words = shlex.split(part)
            if words and words[0].rpartition("/")[2] == "steersman":
                found.append(words[1:])
    for span in re.findall(r"`(steersman [^`]+)`", FENCE.sub("", text)):
        found.append(shlex.split(span.replace("[", "").replace("]", "").replace("...", ""))[1:])
    return found


@cache
def flags_of(command: str) -> set[str]:
    """The flags that a command's own help names."""
    asked = [[command, "--help"]]
    if command == "train":
        asked += [["train", "--resume", "DIR", "--help"]]
        asked += [["train", name, "CartPole-v1", "--help"] for name in ALGORITHMS]
    if command == "tabular":
        asked += [["tabular", verb, "--help"] for verb in ("solve", "learn", "draw")]
    if command == "align":
        asked += [["align", "--resume", "DIR", "--help"]]
        asked += [["align", verb, "--help"] for verb in (*METHODS, *VERBS)]
    with redirect_stdout(io.StringIO()) as out:
        assert [run(arguments) for arguments in asked] == [0] * len(asked)
    return set(re.findall(r"--[a-z][a-z-]*", out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_and_flag_exists(page):
    for words in commands_in(page.read_text()):
        if not words[0].isupper() and words != ["--help"]:
            assert words[0] in COMMANDS, words
            flags = [word.partition("=")[0] for word in words if word.startswith("--")]
            assert set(flags) <= flags_of(words[0]), words


def test_flags_named_alone_exist():
    known = set().union(*(flags_of(command) for command in COMMANDS))
    for page in PAGES:
        if page.name not in ("CONTRIBUTING.md", "CHANGELOG.md"):
            text = FENCE.sub("", page.read_text())
            flags = [flag for span in re.findall(r"`(--[^`]+)`", text) for flag in re.findall(r"--[a-z][a-z-]*", span)]
            assert set(flags) <= known, page


def test_a_wrong_command_is_found():
    assert commands_in("```bash\nls && .venv/bin/steersman trian ppo --stpes 3 # x\n```") == [
        ["trian", "ppo", "--stpes", "3"]
    ]
    assert "--stpes" not in flags_of("train")
    assert "--episodes" in flags_of("evaluate")


def test_all_commands_are_documented():
    text = (ROOT / "docs" / "cli.md").read_text()
    assert {words[0] for words in commands_in(text)} >= set(COMMANDS)
    assert all(f"`{command}`" in README for command in COMMANDS)


def test_what_is_there_is_in_the_readme():
    assert all(f"`{name}`" in README for name in ALGORITHMS)
    assert all(name in README for name in METHODS)
    extras = set(PROJECT["optional-dependencies"]) - {"test", "lint", "docs"}
    assert all(f"`{extra}`" in README for extra in extras)
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert all(name in changes for algorithm in ALGORITHMS for name in presets(algorithm))


# README's two commands


def fresh_machine_lines() -> list[str]:
    return [line for line in README.splitlines() if line.startswith("python3 -m venv ")]


def test_the_two_commands():
    first, test = fresh_machine_lines()
    assert first == (
        "python3 -m venv .venv && .venv/bin/pip install -e . && "
        ".venv/bin/steersman train ppo CartPole-v1 --out runs/cartpole"
    )
    install = re.search(r"pip install -e '\.\[(\w+)\]'", test)
    assert install is not None
    assert install[1] in PROJECT["optional-dependencies"]
    assert test.endswith("/bin/pytest")


def test_ci_runs_the_readmes_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"grep -m 1 '([^']+)' README\.md", script)
    found = subprocess.run(["grep", "-m", "1", pattern, ROOT / "README.md"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == fresh_machine_lines()[1]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# Code, links, files


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_compile_and_their_imports_exist(page):
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("steersman"):
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "steersman":
                resolve(f"steersman.{node.attr}")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text())
    targets = [target for target, _ in LINK.findall(text) if target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_included_examples_exist(page):
    for line in page.read_text().splitlines():
        if "--8" in line:  # a formatter of code that takes this line for Python breaks it
            assert (ROOT / re.fullmatch(r'--8<-- "([^"]+)"', line)[1]).is_file()


def test_the_tree_is_that_of_the_folders():
    (tree, *_) = blocks((ROOT / "docs" / "architecture.md").read_text(), "text")
    above, folders, files = [SRC], set(), set()
    for line in tree.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.findall(r"\w+/|\w+\.py", line):
            place = above[depth - 1] / name
            assert place.exists(), line
            (folders if place.is_dir() else files).add(place)
            above = [*above[:depth], place]
    parts = {path.parent for path in SRC.rglob("*.*") if path.suffix in (".py", ".toml")} - {SRC}
    assert folders == parts
    assert files == set(SRC.glob("*.py")) - {SRC / "__init__.py"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_named_exist(page):
    """Paths from the root, and from the package; what has capitals (FAMILY/NAME.py) stands for any."""
    spans = re.findall(r"`([a-z_.][a-z0-9_./-]*/[a-z0-9_.-]+\.(?:py|toml|md|yml))`", FENCE.sub("", page.read_text()))
    assert [span for span in spans if not ((ROOT / span).exists() or (SRC / span).exists())] == []


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert set(listed) == pages
