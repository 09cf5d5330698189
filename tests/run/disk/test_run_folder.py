"""The run folder: made whole or not at all, opened with checks, held by one process."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.run.disk import files, run_folder

CONFIG = {
    "algorithm": "ppo",
    "environment": "CartPole-v1",
    "config": {"learning_rate": 3e-4, "target_kl": float("inf")},
    "run": {"seed": 1, "steps": 1000},
    "spec": {"id": "CartPole-v1"},
}


def tree(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_create_then_open_gives_the_config_back(tmp_path):
    made = run_folder.create(tmp_path / "a" / "b", CONFIG)
    assert tree(made.path) == [".lock", "checkpoints", "config.json"]
    opened = run_folder.open_run(str(made.path))
    assert opened == made
    assert opened.warning == ""
    assert {k: opened.config[k] for k in CONFIG} == CONFIG
    assert opened.config["format"] == run_folder.FORMAT
    assert opened.config["versions"] == run_folder.versions()
    assert (made.checkpoints, made.metrics) == (made.path / "checkpoints", made.path / "metrics.jsonl")


def test_an_empty_folder_is_taken_and_so_is_what_a_kill_left(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.77.tmp.json").write_text("{")
    assert run_folder.create(tmp_path, CONFIG).config["algorithm"] == "ppo"


def test_a_run_is_not_overwritten(tmp_path):
    run_folder.create(tmp_path, CONFIG)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"already holds a run.*--resume .*--out"):
        run_folder.create(tmp_path, CONFIG)
    assert tree(tmp_path) == before


def own(run=(), **config):
    return {**CONFIG, **config, "run": {**CONFIG["run"], **dict(run)}}


def test_how_to_go_on_names_what_is_the_users_own(tmp_path):
    config = own({"foreign": "a:B", "network": "nets.py:make"}, environment="arm:make")
    run_folder.create(tmp_path, config)
    again = f"steersman train --resume {tmp_path} --environment arm:make --algorithm a:B --network nets.py:make; "
    with pytest.raises(UsageError, match=f"Go on with it: {again}.* --replace; or give --out"):
        run_folder.create(tmp_path, CONFIG)
    objects = own({"foreign": True, "network": True})
    assert run_folder.to_resume(run_folder.Run(tmp_path, objects)) == f"steersman train --resume {tmp_path}"


def test_a_run_is_removed_and_nothing_else(tmp_path):
    run_folder.remove(tmp_path / "nowhere")
    run = run_folder.create(tmp_path / "run", CONFIG)
    (run.checkpoints / "step_1.safetensors").write_text("")
    (run.path / "tensorboard").mkdir()
    (run.path / "notes.txt").write_text("mine")
    before = tree(run.path)
    with pytest.raises(UsageError, match=r"holds more than a run: notes\.txt"):
        run_folder.remove(run.path)
    with files.lock(run.path), pytest.raises(UsageError, match="more than a run"):
        run_folder.remove(run.path)
    assert tree(run.path) == before
    (run.path / "notes.txt").unlink()
    with files.lock(run.path), pytest.raises(UsageError, match="is in use"):
        run_folder.remove(run.path)
    assert tree(run.path) == [name for name in before if name != "notes.txt"]
    run_folder.remove(run.path)
    assert tree(run.path) == [".lock"]
    assert run_folder.create(run.path, CONFIG).config["algorithm"] == "ppo"
    for content in ("{}", None):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / ("config.json" if content else "thesis.tex")).write_text(content or "mine")
        with pytest.raises(UsageError, match="is not a run"):
            run_folder.remove(tmp_path / "other")
        (tmp_path / "other" / "config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("content", ["notes.txt", "checkpoints/step_1"])
def test_other_files_are_left_alone(tmp_path, content):
    (tmp_path / content).parent.mkdir(exist_ok=True)
    (tmp_path / content).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"not empty .*--out"):
        run_folder.create(tmp_path, CONFIG)
    assert tree(tmp_path) == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="Not a directory"):
            run_folder.create(path, CONFIG)
    assert tree(tmp_path) == ["file"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("what", ["replace", "fsync", "mkdir", "open"])
def test_a_failed_creation_leaves_nothing(tmp_path, monkeypatch, what, there):
    path = tmp_path / "a" / "run"
    if there:
        path.mkdir(parents=True)
    before = tree(tmp_path)
    real = getattr(os, what)

    def fail(target, *args, **kwargs):
        if what in ("mkdir", "open") and str(target).endswith(("a", "/run")):
            return real(target, *args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, what, fail)
        with pytest.raises(UsageError, match="disk is full"):
            run_folder.create(path, CONFIG)
    assert tree(tmp_path) == before


def test_not_writable(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", refuse)
        with pytest.raises(UsageError, match=r"Not permitted: .*Permission denied"):
            run_folder.create(tmp_path / "run", CONFIG)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("change", [{"config": None}, {"algorithm": 3}, {"spec": {"x": object()}}])
def test_a_malformed_config_is_our_mistake_and_leaves_nothing(tmp_path, change):
    with pytest.raises((ValueError, TypeError)):
        run_folder.create(tmp_path / "run", {**CONFIG, **change})
    with pytest.raises(ValueError, match="missing spec"):
        run_folder.create(tmp_path / "run", {k: v for k, v in CONFIG.items() if k != "spec"})
    assert tree(tmp_path) == []


def test_what_is_not_a_run(tmp_path):
    with pytest.raises(UsageError, match="There is no run folder"):
        run_folder.open_run(tmp_path / "none")
    with pytest.raises(UsageError, match="is not a run: it has"):
        run_folder.open_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "truncated or is not JSON"),
        ('{"format": "1.0", "algor', "truncated or is not JSON"),
        ("[" * 100_000, "truncated or is not JSON"),
        ("[]", "a JSON list"),
        ("{}", "missing format, algorithm"),
        ('{"format": "2.1"}', "run format '2.1'; this steersman reads"),
        ('{"format": "2.1", "versions": {"steersman": "9.0"}}', r"made it \(steersman 9.0\)"),
        ('{"format": 1}', "missing algorithm"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=says):
        run_folder.open_run(tmp_path)


def test_every_truncation_of_a_config_is_refused(tmp_path):
    run_folder.create(tmp_path, CONFIG)
    whole = (tmp_path / "config.json").read_bytes()
    for length in range(len(whole) - 2):  # the last newline may go
        (tmp_path / "config.json").write_bytes(whole[:length])
        with pytest.raises(UsageError):
            run_folder.open_run(tmp_path)


def test_other_versions_warn_and_a_newer_steersman_is_refused(tmp_path, monkeypatch):
    now = {**run_folder.versions(), "steersman": "0.2.0"}
    monkeypatch.setattr(run_folder, "versions", lambda devices=False: now)
    run_folder.create(
        tmp_path, {**CONFIG, "versions": {**now, "jax": "0.1", "steersman": "0.1.9", "devices": ["cpu:cpu"]}}
    )
    warning = run_folder.open_run(tmp_path).warning
    assert f"jax 0.1 (now {now['jax']})" in warning
    assert "steersman 0.1.9 (now 0.2.0)" in warning
    assert "numpy" not in warning
    now["steersman"] = "0.1.8"
    with pytest.raises(UsageError, match=r"made by steersman 0.1.9; this is 0.1.8.*git pull"):
        run_folder.open_run(tmp_path)


def test_versions_name_what_matters():
    found = run_folder.versions(devices=True)
    assert {
        "python",
        "steersman",
        "jax",
        "jaxlib",
        "numpy",
        "equinox",
        "optax",
        "gymnasium",
        "platform",
    } <= found.keys()
    assert found["numpy"] == np.__version__
    assert found["devices"][0].startswith("cpu")
    assert "devices" not in run_folder.versions()


def test_update_keeps_the_versions(tmp_path):
    run = run_folder.create(tmp_path, {**CONFIG, "versions": {"jax": "0.1"}})
    updated = run_folder.update(run, {"run": {"seed": 1, "steps": 5}})
    assert run_folder.open_run(tmp_path).config == updated.config == {**run.config, "run": {"seed": 1, "steps": 5}}


def test_summary_is_plain_json(tmp_path):
    run = run_folder.create(tmp_path, CONFIG)
    assert run_folder.read_summary(run) is None
    run_folder.write_summary(
        run, {"steps": np.int64(5), "evaluation": {"mean": np.float32(0.1), "ci95": (np.nan, 1.0)}}
    )
    assert run_folder.read_summary(run.path) == {"steps": 5, "evaluation": {"mean": 0.1, "ci95": [None, 1.0]}}
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    with pytest.raises(TypeError):
        run_folder.write_summary(run, {"steps": object()})
    assert run_folder.read_summary(run) is not None


def test_a_failed_json_write_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {"a": 1})

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", fail)
        with pytest.raises(UsageError, match="disk is full"):
            files.write_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert tree(tmp_path) == ["x.json"]


def test_json_of_any_encoding_is_read_or_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"name": "M\xc3\xbcller"}')  # saved by an editor on Windows
    assert files.read_json(path) == {"name": "Müller"}
    for content in ('{"a": 1}'.encode("utf-16"), b'{"name": "M\xfcller"}', b"\x89PNG\x00"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"config.json is truncated or is not JSON"):
            files.read_json(path)


def test_a_name_is_made_of_what_runs_and_never_taken(tmp_path):
    first = run_folder.default_path("ppo", "gymnasium/CartPole-v1", 3, root=tmp_path)
    assert first.name.startswith("ppo-gymnasium-CartPole-v1-3-2")
    assert run_folder.default_path("ppo", "my.module:make", 3, root=tmp_path).name.startswith("ppo-my.module-make-3-")
    assert tree(tmp_path) == []
    # the clock may tick between two calls: take every name of the next few seconds
    for _ in range(3):
        path = run_folder.default_path("ppo", "X-v0", 0, root=tmp_path)
        assert not path.exists()
        path.mkdir()
    assert len(tree(tmp_path)) == 3


HOLD = """
import os, sys
from steersman.run.disk.files import lock
with lock(sys.argv[1]):
    if sys.argv[2] == "alone":
        print(os.getpid(), 0, flush=True)
    elif os.fork() == 0:  # the worker says so itself: by now it has let go of what it inherited
        print(os.getppid(), os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("mode", ["alone", "fork"])
def test_one_process_holds_a_run_and_its_death_frees_it(tmp_path, mode):
    """Also when a worker that it forked lives on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), mode], text=True, **pipes) as holder:
        try:
            pid, worker = map(int, holder.stdout.readline().split())
            with pytest.raises(UsageError, match=f"in use by process {pid} on"), files.lock(tmp_path):
                pass
        finally:
            holder.kill()
            os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        if mode == "fork":
            os.kill(worker, 0)  # it lives
        with files.lock(tmp_path):
            pass


def test_the_lock_is_exclusive_within_a_process_and_ends_with_its_block(tmp_path):
    with files.lock(tmp_path), pytest.raises(UsageError, match=f"process {os.getpid()}"), files.lock(tmp_path):
        pass
    with files.lock(tmp_path):
        pass


def test_two_processes_creating_one_run_give_one_run(tmp_path):
    outcomes = []

    def attempt():
        try:
            outcomes.append(run_folder.create(tmp_path / "run", CONFIG))
        except UsageError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    runs = [o for o in outcomes if isinstance(o, run_folder.Run)]
    assert len(runs) == 1
    assert len(outcomes) == 6
    assert run_folder.open_run(tmp_path / "run") == runs[0]


def test_one_that_comes_too_late_leaves_the_holders_folder_alone(tmp_path, monkeypatch):
    """Both saw no folder; the other one is between its lock and its first file when this one gives up."""
    run = tmp_path / "run"
    seen = Path.exists

    def exists(path, *args, **kwargs):
        if path == run / ".lock":
            return False
        return seen(path, *args, **kwargs)

    run.mkdir()
    monkeypatch.setattr(Path, "exists", exists)
    with files.lock(run):
        with pytest.raises(UsageError, match="in use"):
            run_folder.create(run, CONFIG)
        assert (run / ".lock").is_file()


def test_a_lock_that_was_taken_away_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Its holder failed and removed it between our opening and our locking it."""
    flock = files.fcntl.flock

    def removing(handle, how):
        (tmp_path / ".lock").unlink()
        flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", removing)
    with pytest.raises(UsageError), files.lock(tmp_path):
        pass


def test_it_is_light():
    """Opening a run and plotting it should not wait for JAX."""
    code = "import sys; import steersman.run.disk.run_folder, steersman.run.disk.logs, steersman.run.show.plots; "
    code += "print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_plain_values():
    value = {
        "a": np.float32(0.1),
        "b": [np.nan, 1, True, None],
        "c": np.array([1.5, -np.inf]),
        "d": np.int32(3),
        4: "x",
    }
    assert files.plain(value) == {"a": 0.1, "b": [None, 1, True, None], "c": [1.5, None], "d": 3, "4": "x"}
    assert json.dumps(files.plain(np.float64(1 / 3))) == "0.3333333333333333"
    assert files.plain(np.bool_(True)) is True
