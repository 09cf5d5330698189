"""The loop on a clock of the test's own: when turns begin, what stands in for what is missing, what is written down."""

import errno
import itertools
import os

import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.deploy.control_loop import ControlLoop
from steersman.deploy.plant import Plant
from steersman.deploy.reading import Reading
from steersman.deploy.recording import Recording
from steersman.errors import UsageError
from steersman.run.disk import tensors
from steersman.run.disk.dataset import read_dataset
from steersman.run.disk.run_folder import RunWarning
from steersman.types import EnvSpec


class Bench:
    """A clock that goes on as sleep and the policy say, a sensor that gives a list, and what was written when."""

    def __init__(self, observations=None, takes=0.001):
        self.now, self.written, self.given = 0.0, [], iter(observations or itertools.repeat(np.ones(2)))
        self.takes = takes if isinstance(takes, list) else None
        self.take = 0.001 if self.takes else takes

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def read(self):
        return next(self.given)

    def write(self, action):
        self.written.append((round(self.now, 6), np.asarray(action).tolist()))

    def policy(self, obs):
        self.now += self.takes.pop(0) if self.takes else self.take
        return 2.0 * np.asarray(obs)

    def loop(self, **settings):
        return ControlLoop(self.policy, self.read, self.write, clock=self.clock, sleep=self.sleep, **settings)


def test_turns_begin_on_a_grid():
    bench = Bench()
    report = bench.loop(hz=50).run(turns=4)
    assert [t for t, _ in bench.written] == [0.001, 0.021, 0.041, 0.061]
    assert (report.turns, report.missed, report.ended) == (4, 0, "done")
    assert report.late == pytest.approx([0.0] * 4)
    assert report.histogram["<= 0.1 ms"] == 4
    assert bench.loop(hz=50).run(seconds=0.1).turns == 5
    assert bench.loop(hz=50).run(seconds=5).turns == 250  # sums of 0.02 are no whole numbers


def test_a_missed_deadline_is_counted_and_no_burst_follows():
    bench = Bench(takes=[0.001, 0.055, 0.001, 0.001])
    report = bench.loop(hz=50).run(turns=4)
    # The second turn begins at 20 ms and ends at 75: due were 40 and 60, and the turn of 60 begins at once.
    assert [t for t, _ in bench.written] == pytest.approx([0.001, 0.075, 0.076, 0.081])
    assert report.missed == 2
    assert report.late == pytest.approx([0.0, 0.0, 0.015, 0.0])
    assert report.histogram["<= 20 ms"] == 1
    assert report.summary()["turn_ms"]["max"] == pytest.approx(55.0)


def test_a_rate_that_cannot_be_met():
    with pytest.raises(UsageError, match=r"hz = 100 cannot be met: .* a turn takes 15 ms. Set hz below 66.7"):
        Bench(takes=0.015).loop(hz=100).run(seconds=5)
    with pytest.raises(UsageError, match="hz = 0; it must be finite and above 0"):
        Bench().loop(hz=0)
    with pytest.raises(UsageError, match="hz = 20,000 cannot be met: .* Set hz below 10,000"):
        Bench(takes=0.0001).loop(hz=20000).run(seconds=5)
    for seconds in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="seconds = .* finite and above 0"):
            Bench().loop(hz=50).run(seconds=seconds)
    for hz in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="hz = .* finite and above 0"):
            Plant("nothing is made of it", hz=hz)


NAN = np.array([1.0, np.nan])


def test_the_last_action_is_held_then_the_safe_one_is_written():
    bench = Bench([np.ones(2), None, NAN, None, np.zeros(2)])
    report = bench.loop(hz=50, hold=0.045, safe=[9.0, 9.0]).run(turns=5)
    assert [a for _, a in bench.written] == [[2, 2], [2, 2], [2, 2], [9, 9], [0, 0], [9, 9]]  # the last: the end
    assert report.stale == 3


def test_without_a_safe_action_the_loop_ends():
    bench = Bench([np.ones(2), *[None] * 9])
    report = bench.loop(hz=50, hold=0.045).run(turns=9)
    assert report.ended == "no observation of use for 0.06 s"
    assert [a for _, a in bench.written] == [[2, 2]] * 3


def test_nothing_is_written_before_something_was_seen():
    bench = Bench([None] * 20 + [np.ones(2)])
    assert bench.loop(hz=50).run(turns=21).ended == "done"
    assert [a for _, a in bench.written] == [[2, 2]]


def test_limits_on_the_action_and_on_its_rate():
    bench = Bench([np.zeros(2), np.array([5.0, 0.1]), np.array([5.0, 0.1])])
    report = bench.loop(hz=10, low=-1.0, high=[3.0, 8.0], max_rate=20.0).run(turns=3)
    assert [a for _, a in bench.written] == [[0, 0], [2.0, 0.2], [3.0, 0.2]]
    assert report.limited == 2


def test_it_ends_cleanly():
    bench = Bench()
    loop = bench.loop(hz=50, safe=[0.0, 0.0])
    step = bench.write

    def write(action):
        step(action)
        if len(bench.written) == 3:
            raise KeyboardInterrupt

    loop.write = write
    report = loop.run()
    assert (report.ended, report.turns) == ("interrupted", 2)
    assert bench.written[-1][1] == [0, 0]
    loop.write = lambda action: loop.stop("emergency")
    assert loop.run().ended == "emergency"


def test_limits_are_for_numbers(policy_for):
    policy = policy_for("ppo", spaces.Box(-1, 1, (2,)), spaces.Discrete(2))
    loop = lambda policy, **settings: ControlLoop(policy, lambda: None, print, **settings)
    with pytest.raises(UsageError, match="max_rate is for numbers; the actions are Discrete"):
        loop(policy, max_rate=1.0)
    arm = policy_for("ppo", spaces.Box(-1, 1, (2,)), spaces.Box(-4, 4, (2,)))
    for wrong, says in (
        ({"max_rate": "fast"}, "max_rate = 'fast'; it is a number, or one for each entry of Box"),
        ({"low": [1, 2, 3]}, "low = .* one for each entry"),
        ({"hz": "fifty"}, "hz = 'fifty'; it is a number"),
        ({"low": 1, "high": -1}, "low = 1 and high = -1; low is the lesser"),
        ({"safe": [0.0, 0.0, 0.0]}, r"safe = .* an action of shape \(2,\)"),
    ):
        with pytest.raises(UsageError, match=says):
            loop(arm, **wrong)
    loop(arm, low=-1, high=[1, 2], max_rate=[1, 2], safe=np.zeros(2))


SPEC = EnvSpec("Arm", spaces.Box(-5, 5, (2,)), spaces.Box(-1, 1, (2,)), spaces.Box(-4, 4, (2,)), cost_names=("cost",))


def test_a_recording_is_read_as_transitions(tmp_path):
    ones = lambda x, **said: Reading(np.full(2, x), **said)
    end = ones(0.5, reward=3.0, terminated=True, final_obs=np.full(2, 0.9))
    bench = Bench(
        [
            ones(0.1),
            ones(0.2, reward=1.0, costs=[0.5]),
            ones(0.3, reward=2.0),
            end,
            ones(0.6),
            None,
            ones(0.7),
            ones(0.8),
        ]
    )
    recording = Recording(SPEC)
    bench.loop(hz=50, recording=recording).run(turns=8)
    recording.save(tmp_path / "data")
    rows = read_dataset(tmp_path / "data").transitions
    np.testing.assert_allclose(rows.obs[:, 0], [0.1, 0.2, 0.3, 0.5, 0.7])
    np.testing.assert_allclose(rows.next_obs[:, 0], [0.2, 0.3, 0.9, 0.6, 0.8])
    np.testing.assert_allclose(rows.action[:, 0], np.array([0.2, 0.4, 0.6, 1.0, 1.4]) / 4)
    assert rows.reward.tolist() == [1, 2, 3, 0, 0]
    assert rows.costs.tolist() == [[0.5], [0], [0], [0], [0]]
    assert rows.terminated.tolist() == [False, False, True, False, False]
    assert rows.truncated.tolist() == [False, False, False, True, True]  # the gap, and the end of the recording
    assert rows.first.tolist() == [True, False, False, True, True]
    with pytest.raises(UsageError, match="Nothing was recorded"):
        Recording(SPEC).save(tmp_path / "none")


@pytest.mark.parametrize("fits", [9, 0])
def test_a_full_disk_keeps_what_fits(tmp_path, monkeypatch, fits):
    """Of twenty transitions the disk takes nine at most: five are kept, the first half of the first half."""
    recording = Recording(SPEC)
    Bench(list(np.linspace(0, 1, 42).reshape(21, 2))).loop(recording=recording).run(turns=21)
    chunks = tensors._chunks

    def fills_up(array):
        if len(array) > fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return chunks(array)

    monkeypatch.setattr(tensors, "_chunks", fills_up)
    if not fits:
        with pytest.raises(UsageError, match="The disk is full"):
            recording.save(tmp_path / "data")
        assert not list(tmp_path.iterdir())
        return
    with pytest.warns(RunWarning, match="data holds the first 5 of 20 transitions"):
        recording.save(tmp_path / "data")
    kept = read_dataset(tmp_path / "data").transitions
    monkeypatch.undo()
    whole = recording.save(tmp_path / "elsewhere").transitions
    np.testing.assert_array_equal(kept.obs, whole.obs[:5])
    assert kept.truncated.tolist() == [False] * 4 + [True]


def test_a_plant_is_late_noisy_and_loses_something():
    made = envs.make("Pendulum-v1", 1)  # compiled once
    plant = Plant(made, hz=50, latency=0.03, seed=1)
    assert plant.delay == 2
    seen = []
    for _ in range(5):
        seen.append(plant.read())
        plant.write(np.zeros(1, np.float32))
    assert [x is None for x in seen] == [False, True, True, False, False]
    plain = Plant(made, hz=50, seed=1)
    one = plain.read()
    plain.write(np.zeros(1, np.float32))
    np.testing.assert_array_equal(one.obs, seen[0].obs)
    np.testing.assert_array_equal(plain.read().obs, seen[3].obs)
    assert plain.read() is None
    noisy, lossy = (Plant(made, hz=50, seed=1, **{k: 0.5}) for k in ("noise", "drop"))
    assert 0 < np.abs(noisy.read().obs - one.obs).max() < 2.5
    lost = []
    lossy.read()
    for _ in range(60):
        lossy.write(np.zeros(1, np.float32))
        lost.append(lossy.read() is None)
    assert 0.3 < np.mean(lost) < 0.7
    with pytest.raises(UsageError, match="drop = 1.0; it must be 0 or more, and below 1"):
        Plant(made, hz=50, drop=1.0)
