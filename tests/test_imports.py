"""The import rule, read off the import statements: which part may know of which, and where the outside world is met."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

import steersman

SRC = Path(__file__).parents[1] / "src" / "steersman"
GROUND = {"config", "episodes", "errors", "types", "spaces", "spaces_json", "shards", "unroll", "vector"}
THEORY = GROUND | {"theory"}
PARTS = THEORY | {"tabular", "nets", "memory", "planning", "language"}
AGENTS = PARTS | {"models", "agents"}
RUN = AGENTS | {"envs", "run", "run/disk", "run/loops", "run/show"}
LAYERS = {  # part -> parts it may import, itself included; a part is a folder or, inside run/, a room
    **dict.fromkeys(GROUND, GROUND),
    "theory": THEORY,
    "tabular": THEORY | {"tabular"},
    "nets": THEORY | {"nets"},
    "memory": THEORY | {"memory"},
    "planning": THEORY | {"planning"},
    "language": THEORY | {"nets", "language"},
    "models": PARTS | {"models"},
    "agents": AGENTS,
    "envs": GROUND | {"envs", "tabular"},  # finite problems are environments
    "run/disk": THEORY | {"memory", "run/disk"},
    "run/loops": PARTS | {"envs", "run/loops"},
    "run": RUN,
    "run/show": RUN,
    "run/compare": RUN | {"run/compare"},
    "deploy": RUN | {"run/compare", "deploy"},
    "cli": RUN | {"run/compare", "deploy", "cli", "__init__"},
    "__init__": RUN | {"run/compare", "deploy"},
    "__main__": {"cli"},
}
ROOMS = ("run/disk", "run/loops", "run/show", "run/compare")
PURE = {*AGENTS}  # no files, clocks, terminals

SIMULATORS = {
    "gymnax",
    "envpool",
    "brax",
    "mujoco",
    "mujoco_playground",
    "pgx",
    "ale_py",
    "Box2D",
    "pygame",
    "minatar",
    "popgym",
}
SERIALISERS = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
OUTSIDE = {"datetime", "io", "logging", "multiprocessing", "os", "pathlib", "rich", "shutil", "signal", "socket"}
OUTSIDE |= {"subprocess", "sys", "tempfile", "threading", "time", "tyro", "imageio", "tensorboardX", "wandb"}

# The doors through which a finite problem comes in, a Gymnasium toy-text table and a .POMDP file; the count of cores
# that sweeps over large tables share.
EXCEPTIONS = {
    ("tabular/problems/builders.py", "gymnasium"),
    ("tabular/problems/cassandra.py", "pathlib"),
    ("tabular/planning/sweeps.py", "os"),
}


class Import(NamedTuple):
    file: Path
    line: int
    module: str  # absolute
    deferred: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING`

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def layer(self) -> str:
        """Of the imported module, if it is ours: types, theory, ..., run/disk, __init__."""
        return part_of([*self.module.split("."), "__init__"][1:])

    def __str__(self) -> str:
        return f"{self.file.relative_to(SRC)}:{self.line} imports {self.module}"


def imports_of(file: Path, source: str | None = None) -> list[Import]:
    package = ["steersman", *file.relative_to(SRC).parent.parts]
    found = []

    def visit(node: ast.AST, deferred: bool, typing_only: bool) -> None:
        deferred |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only = True
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            modules = [resolve(base, alias.name) for alias in node.names]
        found.extend(Import(file, node.lineno, module, deferred, typing_only) for module in modules)  # type: ignore
        for child in ast.iter_child_nodes(node):
            visit(child, deferred, typing_only)

    visit(ast.parse(file.read_text() if source is None else source), False, False)
    return found


def resolve(base: str, name: str) -> str:
    """What ``from base import name`` reaches: a module of ours, or the home of one of the package's lazy names."""
    if base == "steersman" and name in steersman._HOME:
        return f"steersman.{steersman._HOME[name]}"
    path = SRC.parent / base.replace(".", "/")
    below = (path / name).is_dir() or (path / f"{name}.py").is_file()
    return f"{base}.{name}" if below or base.partition(".")[0] != "steersman" else base


def part_of(names: Sequence[str]) -> str:
    """The part that a module ``a.b.c`` belongs to: ``a``, or ``a/b`` where that is a room of its own."""
    room = "/".join(names[:2])
    return room if room in ROOMS else names[0]


def layer_of(file: Path) -> str:
    return part_of([part.removesuffix(".py") for part in file.relative_to(SRC).parts])


def faults(found: list[Import]) -> list[str]:
    """What breaks the rule, one line each."""
    broken = []
    for one in found:
        layer = layer_of(one.file)
        if (one.file.relative_to(SRC).as_posix(), one.top) in EXCEPTIONS:
            continue
        if one.top == "steersman" and one.layer not in LAYERS[layer]:
            broken.append(f"{one}: {layer} may import {', '.join(sorted(LAYERS[layer]))}")
        if one.top in SIMULATORS and not (layer == "envs" and (one.deferred or one.typing_only)):
            broken.append(f"{one}: a simulator is imported in envs/ only, by the function that needs it")
        if one.top in SERIALISERS and layer != "envs":
            broken.append(f"{one}: what is read back must not be able to run code")
        if one.top in OUTSIDE and layer in PURE:
            broken.append(f"{one}: only run/ and cli/ touch files, clocks and terminals")
        if one.top == "gymnasium" and layer in PURE and not one.module.startswith("gymnasium.spaces"):
            broken.append(f"{one}: of gymnasium only its spaces")
    return broken


FILES = sorted(SRC.rglob("*.py"))


def test_every_part_has_a_place():
    assert {layer_of(file) for file in FILES} <= set(LAYERS)


def test_imports_run_one_way():
    assert not [fault for file in FILES for fault in faults(imports_of(file))]


def module_of(file: Path) -> str:
    names = ["steersman", *file.relative_to(SRC).with_suffix("").parts]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def test_no_two_modules_import_each_other():
    """Not even through others, at whatever time: each strongly connected component is one module."""
    ours = {module_of(file) for file in FILES}
    edges = {
        module_of(file): {
            i.module for i in imports_of(file) if i.module in ours and not i.typing_only and i.module != module_of(file)
        }
        for file in FILES
        if file.name != "__init__.py"  # what is listed there is imported on first use
    }
    seen, order = set(), []

    def visit(name, graph, found):
        stack = [(name, iter(graph.get(name, ())))]
        seen.add(name)
        while stack:
            node, rest = stack[-1]
            following = next((n for n in rest if n not in seen), None)
            if following is None:
                found.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(graph.get(following, ()))))

    for name in edges:
        if name not in seen:
            visit(name, edges, order)
    backwards = {name: {a for a, to in edges.items() if name in to} for name in ours}
    seen.clear()
    groups = []
    for name in reversed(order):
        if name not in seen:
            groups.append([])
            visit(name, backwards, groups[-1])
    assert not [group for group in groups if len(group) > 1]


def test_an_algorithm_is_one_file():
    """A family imports ``parts`` and its own ``common``; another algorithm only where it is that one with a part
    exchanged, or inside a model; another family's ``common`` offline and inside a model alone."""
    exchanged = {("td3", "ddpg"), ("tqc", "sac"), ("crossq", "sac"), ("cpo", "trpo"), ("pets", "mpc")}
    exchanged |= {("mbpo", "sac"), ("dyna", "dqn")}
    elsewhere = {("offline", "common"), *(("model_based", name) for name in ("common", "sac", "dqn"))}
    shared = ("common", "costs", "q_outputs", "targets", "imagination", "on_policy", "on_policy_config")
    broken = []
    for file in (SRC / "agents").glob("*/**/*.py"):
        family = file.relative_to(SRC / "agents").parts[0]
        for one in imports_of(file):
            place = one.module.split(".")
            if place[:2] != ["steersman", "agents"] or len(place) < 4 or place[2] == "parts":
                continue
            if (
                family == "parts"
                or (place[2] != family and (family, place[3]) not in elsewhere)
                or (place[3] not in shared and (file.stem, place[3]) not in exchanged)
            ):
                broken.append(str(one))
    assert not broken


def test_folders_can_be_taken_in():
    folders = {file.parent for file in FILES}
    crowded = {d.name: n for d in folders if (n := len([*d.glob("*.py")]) - 1) > 13}
    assert not crowded


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("theory/x.py", "from steersman.agents.policy_gradient.ppo import ppo"),
        ("agents/x.py", "from steersman import envs"),
        ("agents/x.py", "from steersman import train"),
        ("agents/x.py", "from ..run.loops import host_loop"),
        ("agents/x.py", "def f():\n    import steersman.run.loops.host_rollout"),
        ("agents/x.py", "import time"),
        ("envs/x.py", "from steersman.theory import trees"),
        ("envs/x.py", "import gymnax"),
        ("tabular/x.py", "from steersman.envs import wrappers"),
        ("run/x.py", "def f():\n    from mujoco import mjx"),
        ("run/x.py", "import pickle"),
        ("run/disk/x.py", "from steersman.run.policy import load"),
        ("run/loops/x.py", "from steersman.run.disk import files"),
        ("run/x.py", "from steersman.run.compare.compare import compare"),
        ("agents/x.py", "from steersman.envs.probe import PROBES"),
        ("run/x.py", "from steersman.cli import main"),
        ("tabular/x.py", "from steersman.nets.layers.mlp import MLP"),
        ("nets/x.py", "import gymnasium"),
        ("types.py", "from steersman.theory import trees"),
    ],
)
def test_a_breach_is_found(file, source):
    assert len(faults(imports_of(SRC / file, source))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("agents/x.py", "from steersman.theory import returns\nfrom gymnasium import spaces"),
        ("agents/x.py", "from steersman.unroll import unroll\nfrom steersman.vector import vectorize"),
        ("models/x.py", "from steersman import shards\nfrom steersman.nets.layers.mlp import MLP"),
        ("envs/x.py", "def f():\n    import gymnax"),
        ("cli/x.py", "from steersman import __version__, agents, train"),
        ("run/x.py", "import time\nfrom steersman import agents, envs, spaces"),
    ],
)
def test_what_is_right_passes(file, source):
    assert not faults(imports_of(SRC / file, source))


HEAVY = ["jax", "numpy", "scipy", "equinox", "optax", "gymnasium", "matplotlib", "tyro", "rich"]


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after ``code``."""
    script = f"import sys\n{code}\nprint()\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light():
    assert loaded_by("import steersman, steersman.errors, steersman.envs, steersman.run") == set()


def test_the_list_of_algorithms_is_light():
    code = (
        "from steersman.agents import ALGORITHMS; assert 'ppo' in ALGORITHMS and len([*ALGORITHMS]) == len(ALGORITHMS)"
    )
    assert loaded_by(code) == set()


def test_help_is_light():
    assert loaded_by("from steersman.cli.main import run; run(['--help']); run(['--version']); run(['trian'])") == set()


def test_a_worker_of_host_environments_is_light():
    assert "jax" not in loaded_by("import steersman.envs.host.members")
