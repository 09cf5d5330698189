"""Compiled programs on disk: found again, to the bit, and never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from steersman.cli.main import run as cli
from steersman.run.disk import compile_cache

NAME = "jit_f-" + "0123456789abcdef" * 4 + "-cache"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """JAX as a user has it who has set up nothing; afterwards as it was."""
    names = ["jax_compilation_cache_dir", *compile_cache._SETTINGS]
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setattr(compile_cache, "_ours", None)
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def compiles(number):
    """A program that no other test compiles."""
    return jax.jit(lambda x: x * number + 0.5).lower(jax.ShapeDtypeStruct((), "float32")).compile()


def entries(place):
    return sorted(path for path in place.iterdir() if path.name.endswith("-cache"))


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for value in ("", "1", " on "):
        monkeypatch.setenv("STEERSMAN_CACHE", value)
        assert compile_cache.folder() == tmp_path / ".cache" / "steersman" / "xla"
    for value in ("0", "OFF", "no", "false"):
        monkeypatch.setenv("STEERSMAN_CACHE", value)
        assert compile_cache.folder() is None
    monkeypatch.setenv("STEERSMAN_CACHE", "~/programs")
    assert compile_cache.folder() == tmp_path / "programs"
    monkeypatch.delenv("STEERSMAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compile_cache.folder() == tmp_path / "xdg" / "steersman" / "xla"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert compile_cache.folder() == tmp_path / "Library" / "Caches" / "steersman" / "xla"


def test_on_elsewhere_and_off_again(monkeypatch, tmp_path):
    for name in ("a", "b"):
        monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / name))
        assert compile_cache.enable() == compile_cache.enable() == tmp_path / name
        compiles(2.0)
        assert len(entries(tmp_path / name)) == 1
        assert (tmp_path / name).stat().st_mode & 0o077 == 0  # what is in it is run
    assert compile_cache.size(tmp_path / "a") == entries(tmp_path / "a")[0].stat().st_size > 0
    monkeypatch.setenv("STEERSMAN_CACHE", "0")
    assert compile_cache.enable() is None
    compiles(3.0)
    assert jax.config.jax_compilation_cache_dir is None
    assert len(entries(tmp_path / "b")) == 1


def test_a_cache_of_the_users_is_left_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 100.0)
    assert compile_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 100.0
    assert not (tmp_path / "ours").exists()
    assert cli(["info"]) == 0
    assert f"kept in {tmp_path}/theirs: 0.0 MB. That is the folder given to JAX" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/steersman", "unreadable"])
def test_where_there_can_be_none(monkeypatch, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    if place == "unreadable":
        refuse = lambda self: (_ for _ in ()).throw(PermissionError())
        monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path / place))
    assert compile_cache.enable() is None
    assert compiles(4.0) is not None
    assert (tmp_path / "file").read_text() == "mine"


def test_the_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path))
    made = [tmp_path / NAME.replace("jit_f", f"jit_f{i}") for i in range(5)]
    for age, path in enumerate(made):
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))  # the first is the newest
    os.utime(made[4], (2e9, 1e9))  # written long ago, but used today
    mine = tmp_path / "notes-cache"
    mine.write_bytes(bytes(10_000))
    compile_cache.enable(limit=300)
    assert entries(tmp_path) == sorted([made[0], made[1], made[4], mine])
    assert compile_cache.size(tmp_path) == 300


def test_info_says_where_and_how_large(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("STEERSMAN_CACHE", str(tmp_path))
    (tmp_path / NAME).write_bytes(bytes(1_500_000))
    assert cli(["info"]) == 0
    said = capsys.readouterr().out
    assert f"kept in {tmp_path}: 1.5 MB of at most 1,000 MB. To empty it remove the folder" in said
    monkeypatch.setenv("STEERSMAN_CACHE", "0")
    assert cli(["info"]) == 0
    assert "are not kept: STEERSMAN_CACHE is 0" in capsys.readouterr().out


# Processes of their own, that may complain of nothing

TRAIN = """
import sys, time
import steersman
from steersman.run.disk import checkpoint
result = steersman.train(
    "ppo", "CartPole-v1", steps=64, num_envs=4, unroll_length=8, num_minibatches=2, num_epochs=1, hidden_sizes=(8,),
    evaluation_episodes=0, evaluate_every=0, preset=False,
)
print(checkpoint.parameters_sha256(result.policy.state), result.summary["compile_seconds"], result.history[-1]["loss"])
"""


FEW = """
import jax, numpy as np
from steersman.run.disk import compile_cache
on = compile_cache.enable() is not None
print(on, 0, *[jax.jit(lambda x: x * by + 0.5)(np.arange(3.0)) for by in (1, 2, 3)])
"""
FOUND = ("True", "[0.5 1.5 2.5] [0.5 2.5 4.5] [0.5 3.5 6.5]")


def started(place, script=TRAIN):
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**ours, "STEERSMAN_CACHE": str(place)}
    return subprocess.Popen([sys.executable, "-W", "error", "-c", script], text=True, env=environment, **pipes)


def ended(process):
    """-> (what was learned, seconds of compiling) of a training that complained of nothing."""
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    sha256, seconds, loss = out.strip().split(maxsplit=2)
    return (sha256, loss), float(seconds)


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """Two trainings at once that fill a cache: -> (what they learned, the fewer seconds, its folder)."""
    place = tmp_path_factory.mktemp("cache") / "xla"
    (first, a), (second, b) = map(ended, [started(place), started(place)])
    assert first == second
    return first, min(a, b), place


def test_warm_is_cold_to_the_bit_and_faster(cold):
    learned, seconds, place = cold
    before = {path: path.read_bytes() for path in entries(place)}
    warm, less = ended(started(place))
    assert warm == learned
    assert less < 0.7 * seconds
    assert {path: path.read_bytes() for path in entries(place)} == before  # all was found


def test_damaged_entries(tmp_path):
    """Each is compiled anew, and nothing is said of it."""
    for name in ("whole", "damaged"):
        (tmp_path / name).mkdir()
    assert ended(started(tmp_path / "whole", FEW))[0] == FOUND

    def flipped(content):
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]

    cut, empty = lambda content: content[: len(content) // 2], lambda content: b""
    few = entries(tmp_path / "whole")
    assert len(few) == 3
    for path, damage in zip(few, (flipped, cut, empty), strict=True):
        (tmp_path / "damaged" / path.name).write_bytes(damage(path.read_bytes()))
    assert ended(started(tmp_path / "damaged", FEW))[0] == FOUND


@pytest.mark.parametrize("disk", ["read-only", "full"])
def test_a_disk_that_takes_no_more(tmp_path, disk):
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, timeout=10).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs privileges")
    try:
        if disk == "full":
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "ballast").write_bytes(bytes(200_000))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True, timeout=10)
        assert ended(started(tmp_path, FEW))[0] == FOUND
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)
