"""A checkpoint is read and hashed once, by the read that loads it; a policy is loaded without the replay memory."""

import shutil
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

import steersman
from steersman.cli import info
from steersman.run.disk import checkpoint, tensors
from steersman.run.disk.run_folder import RunWarning
from steersman.run.disk.tensors import DamagedFile
from steersman.run.evaluate import evaluate_run

DQN = {
    "normalize_observations": False,
    "scale_rewards": False,
    "num_envs": 2,
    "unroll_length": 8,
    "learning_starts": 32,
    "replay_capacity": 4000,
    "hidden_sizes": (8,),
    "batch_size": 8,
    "evaluation_episodes": 2,
    "schedule_steps": 1000,  # the same programs for all budgets
    "preset": False,
}


@pytest.fixture(scope="module")
def remembering(tmp_path_factory):
    """A finished run whose checkpoints are replay memory above all."""
    out = tmp_path_factory.mktemp("remembering") / "run"
    steersman.train("dqn", "CartPole-v1", out=out, steps=320, checkpoint_every=96, **DQN)
    return out


class Counting:
    """A file that counts the bytes read from it."""

    def __init__(self, file, count):
        self.file, self.count, self.seek = file, count, file.seek

    def readinto(self, chunk):
        self.count(len(chunk))
        return self.file.readinto(chunk)


@pytest.fixture
def read(monkeypatch):
    """Bytes of arrays read so far, by the name of the file."""
    read, opened = Counter(), checkpoint.opened

    @contextmanager
    def counting(path):
        with opened(path) as file:
            yield file._replace(file=Counting(file.file, lambda n: read.update({file.path.name: n})))

    monkeypatch.setattr(checkpoint, "opened", counting)
    return read


@pytest.fixture
def hashed(monkeypatch):
    """Bytes that went into any SHA-256 so far, of a file or a state."""

    class Library:
        bytes = 0

        @classmethod
        def sha256(cls, first=b""):
            return Running(first)

    class Running:
        def __init__(self, first):
            self.sha = hashlib.sha256()
            self.update(first)

        def update(self, data):
            Library.bytes += memoryview(data).nbytes
            self.sha.update(data)

        def hexdigest(self):
            return self.sha.hexdigest()

    hashlib = tensors.hashlib
    for module in (tensors, checkpoint):
        monkeypatch.setattr(module, "hashlib", Library)
    return Library


def size(path, under=""):
    """Bytes of the arrays of a checkpoint."""
    with tensors.opened(path) as file:
        return sum(e.end - e.begin for name, e in file.entries.items() if name.startswith(under))


def copied(run, tmp_path):
    """A copy of a run, and its checkpoints, newest first."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", [path for _, path in checkpoint.saved(tmp_path / "run" / "checkpoints")][::-1]


def spoil(path, name):
    """Flip one bit of a saved array."""
    with tensors.opened(path) as file:
        at = 8 + len(file.raw) + file.entries[name].begin
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_resume_reads_once(remembering, tmp_path, read):
    run, (newest, *_) = copied(remembering, tmp_path)
    whole = size(newest)
    steersman.resume(run)  # done already
    assert read == {newest.name: whole}
    read.clear()
    steersman.resume(run, steps=352)
    assert read == {newest.name: whole}


def test_resume_reads_what_is_damaged_no_more_than_once_either(remembering, tmp_path, read):
    run, (newest, older, *_) = copied(remembering, tmp_path)
    spoil(newest, "agent/memory/frames")
    with pytest.warns(RunWarning, match=f"Going on from {older.name}.*{newest.name} is damaged"):
        done = steersman.resume(run)
    assert read == {newest.name: size(older), older.name: size(older)}
    assert done.summary["steps"] == 320


def test_info_reads_and_hashes_once(remembering, tmp_path, read, hashed):
    run, (newest, *_) = copied(remembering, tmp_path)
    sha256 = checkpoint.stored_sha256(newest, under="agent")
    whole = size(newest)
    read.clear()
    hashed.bytes = 0
    found = info.describe(run)
    assert found["parameters_sha256"] == sha256
    assert read == {newest.name: whole}
    assert whole < hashed.bytes < 1.2 * whole  # and its header


def test_a_policy_is_loaded_without_the_memory(remembering, tmp_path, read):
    run, (newest, *_) = copied(remembering, tmp_path)
    learner = size(newest, "agent/learner/")
    assert learner < size(newest) / 10
    policy = steersman.load(run)
    assert read == {newest.name: learner}
    assert policy.state.memory == ()
    read.clear()
    evaluated = evaluate_run(run, episodes=2)
    assert read == {newest.name: learner}
    spoil(newest, "agent/memory/frames")
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 4))
    np.testing.assert_array_equal(steersman.load(run)(obs), policy(obs))
    assert evaluate_run(run, episodes=2) == evaluated
    with pytest.raises(DamagedFile, match="checksum"):
        checkpoint.check(newest)


def test_a_policy_is_not_loaded_from_damaged_parameters(remembering, tmp_path):
    run, (newest, older, *_) = copied(remembering, tmp_path)
    with tensors.opened(newest) as file:
        name = next(name for name in file.entries if name.startswith("agent/learner/params"))
    spoil(newest, name)
    with pytest.warns(RunWarning, match=f"Going on from {older.name}"):
        steersman.load(run)


def test_all_seeds_policies_take_one_read(two_seeds, read):
    newest = checkpoint.saved(two_seeds.run / "checkpoints")[-1][1]
    evaluate_run(two_seeds.run, episodes=1)
    assert read == {newest.name: size(newest, "agent/")}
