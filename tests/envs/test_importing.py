"""A user's own things by module or by file: found, importable elsewhere, and what is said where a name is wrong."""

import sys
import textwrap

import pytest

from steersman import envs
from steersman.envs.importing import load_object, offer
from steersman.errors import UsageError

ARM = """
import gymnasium
import {helper}

def make(size=1):
    return gymnasium.make("CartPole-v1")

def longer(path, name="arm"):
    return make()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory: files, a folder of files, and a package whose modules import each other."""

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))

    write("own_arm.py", ARM.format(helper="json"))
    write("deep/own_leg.py", ARM.format(helper="own_beside"))
    write("deep/own_beside.py", "")
    write("deep/json.py", "def make(): pass")
    write("deep/own-dash.py", "")
    write("own_pack/__init__.py", "")
    write("own_pack/inner.py", "from . import __name__ as name\n\ndef make():\n    return name\n")
    write("deep/own_wrong.py", "def make(:\n")
    write("deep/own_needy.py", "import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_files_are_named_by_their_path(place):
    for name in ("own_arm.py:make", "./own_arm.py:make", f"{place}/own_arm.py:make", "deep/../own_arm.py:make"):
        assert load_object(name, "the environment").__module__ == "own_arm"
    assert load_object("deep/own_leg.py:make", "the network").__module__ == "own_leg"  # with what is beside it
    assert load_object("own_pack/inner.py:make", "the algorithm")() == "own_pack"  # with what is in its package


def test_an_environment_of_a_file_keeps_its_name_and_is_made_in_workers(place):
    made = envs.make("./deep/own_leg.py:make,size=2", 2, workers=2)
    try:
        assert made.spec.id == "./deep/own_leg.py:make,size=2"
        assert made.reset(0).shape == (2, 4)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./own_arn.py:make", r"There is no file ./own_arn.py for the environment .*Did you mean own_arm.py"),
        ("nowhere/own_arm.py:make", "There is no file nowhere/own_arm.py"),
        ("./own_arm:make", r"Did you mean ./own_arm.py:make\?"),
        ("./notes.txt:make", r"by a path, which is written path/file.py:name. ./notes.txt is no Python file"),
        ("./own_arm.py:mak", r"The file ./own_arm.py has no 'mak'.* Did you mean make"),
        ("deep/json.py:make", r"its name, json, is that of another module \(.*\)\. Rename the file"),
        ("deep/own-dash.py:make", r"letters, digits and _\. Rename it, as in own_dash.py"),
        ("deep/own_wrong.py:make", r"invalid syntax \(.*own_wrong.py, line 1\)"),
        ("deep/own_needy.py:make", "No module named 'a_package_that_is_not_there'. deep/own_needy.py imports it"),
        ("own_arn:make", "No module named 'own_arn'. Did you mean own_arm"),
        ("own_arm.make", r"Unknown environment 'own_arm.make'. Did you mean own_arm:make\?"),
        ("own_arm.mak", "Did you mean own_arm:make"),
        ("own_arm", "That is a module; name what is in it: own_arm:make or own_arm:longer"),
        ("./own_arm.py", "That is a file; name what is in it: ./own_arm.py:make"),
        ("own_pack.inner.make", r"Did you mean own_pack.inner:make\?"),
        ("own_arm:longer", r"missing a required argument: 'path'.* give them as own_arm:longer,path=..."),
        (
            "own_arm:make,sise=2",
            "unexpected keyword argument 'sise'. It takes size; give them as own_arm:make,size=...",
        ),
    ],
)
def test_what_is_wrong_with_a_name(place, name, says):
    with pytest.raises(UsageError, match=says):
        envs.make(name, 2)


def test_python_s_own_modules_are_not_offered(place):
    assert [offer(name) for name in ("string.Template", "random", "sys", "", "a b", "CartPole-v1")] == [""] * 6
    with pytest.raises(UsageError, match=r"needs_two cannot be made.* lambda: .*needs_two\(a=\.\.\., b=\.\.\.\)"):
        envs.make(needs_two, 2)


def needs_two(a, b):
    pass
