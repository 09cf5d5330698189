"""The number of workers that a batch chooses by a trial: which it is, and that nothing of a trial stays."""

import math
import os
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from steersman.envs.host import members, trial
from steersman.envs.host.gymnasium import make
from steersman.envs.host.workers import Crew

MODULE = '''
import os
import gymnasium
import numpy as np

print("imported")
MAIN = {pid}


class Quiet(gymnasium.Env):
    """A drift; three steps an episode. ``made`` counts, in this process."""

    observation_space, action_space = gymnasium.spaces.Box(-99, 99, (2,)), gymnasium.spaces.Discrete(2)
    made = 0

    def __init__(self, render_mode=None):
        self.render_mode, self.number = render_mode, type(self).made
        type(self).made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {{}}

    def step(self, action):
        print("stepped")
        self.t += 1
        return self.np_random.normal(size=2).astype(np.float32), float(action), self.t == 3, False, {{}}


class Numbered(Quiet):
    """What it gives depends on how many were made before it."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.number, *rest


class AtHome(Quiet):
    """Works in the main process alone."""

    def step(self, action):
        if os.getpid() != MAIN:
            os._exit(3)
        return super().step(action)


class Stubborn(Quiet):
    def __init__(self):
        super().__init__()
        if os.getpid() != MAIN:
            raise RuntimeError("the camera is taken")


class Masked(Quiet):
    """Even or odd actions are allowed, by turns; others end the process."""

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return obs, {{"action_mask": np.array([1, 0], np.int8)}}

    def step(self, action):
        if action != self.t % 2:
            os._exit(4)
        obs, *rest, _ = super().step(0)
        return obs, *rest, {{"action_mask": np.eye(2, dtype=np.int8)[self.t % 2]}}
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A module of the user's own, which other processes find."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_environments.py").write_text(MODULE.format(pid=os.getpid()))
    sys.path.insert(0, str(folder))
    import own_environments  # pyright: ignore[reportMissingImports]

    yield own_environments
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Whatever can be shared out is: no trial is too dear, and no number of workers too slow."""
    monkeypatch.setattr(trial, "PAYS", 0.0)
    monkeypatch.setattr(trial, "PLAYED", 0.0)
    monkeypatch.setattr(trial, "GAIN", math.inf)


def test_the_fastest_number(monkeypatch):
    monkeypatch.setattr(trial, "GAIN", 0.95)
    us = 1e-6
    assert trial.best(100 * us, {2: 100 * us}, 8) == 1
    assert trial.best(100 * us, {2: 190 * us}, 8) == 0  # the second core is busy
    assert trial.best(2 * us, {2: 2 * us}, 8) == 0  # the wire costs more
    assert trial.best(100 * us, {2: 100 * us, 4: 110 * us, 8: 400 * us}, 8) == 3
    assert trial.best(100 * us, {}, 8) == 0
    assert [trial.shares(n) for n in (2, 3, 8)] == [[2], [2, 3], [2, 4, 8]]


def test_what_cannot_pay_is_not_tried(monkeypatch):
    monkeypatch.setattr(trial, "PAYS", 1.0)
    assert trial.may_pay(20e-6, 8, 50_000, 2)
    assert not trial.may_pay(20e-6, 8, 5_000, 2)  # over in half a second
    assert not trial.may_pay(1.0, 1, 10**6, 2)  # one member
    assert not trial.may_pay(1.0, 8, 10**6, 1)  # one core
    envs = make("CartPole-v1", 8)
    monkeypatch.setattr("steersman.envs.host.workers.Crew", None)
    assert envs.best_workers(100, 2) == 0
    envs.close()


def test_who_can_be_sent(own):
    class Local(own.Quiet):
        pass

    local = partial(Local)
    assert trial.can_be_sent([own.Quiet])
    assert trial.can_be_sent([partial(own.Quiet, render_mode=None)])
    for factory in (lambda: own.Quiet(), Local, local, partial(own.Quiet, b" " * trial.LARGEST)):
        assert not trial.can_be_sent([factory])
    code = "from steersman.envs.host import trial\ndef mine(): pass\nprint(trial.can_be_sent([mine]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert pickle.loads(pickle.dumps(own.Quiet)) is own.Quiet


def played(envs, steps=7):
    actions = np.random.default_rng(0).integers(0, 2, (steps, envs.num_envs)).astype(np.int32)
    seen = [envs.reset(5)]
    for action in actions:
        step = envs.step(action)
        seen += [step.obs, step.reward, step.terminated]
    return np.concatenate([np.ravel(x) for x in seen])


def test_those_of_a_trial_become_the_workers_and_nothing_else_differs(own, capfd):
    envs, here = make(own.Quiet, 4), make(own.Quiet, 4)
    made = own.Quiet.made
    assert envs.best_workers(10**6, 2) == 1
    assert own.Quiet.made == made  # not a member more, and none of this process's is stepped
    assert capfd.readouterr().out.count("stepped") == 2  # the look of each batch
    crew = envs._crew
    processes = [worker.process for worker in crew._workers]
    assert len(processes) == 2
    envs.share_out(1)
    assert own.Quiet.made == made
    assert [worker.process for worker in envs._members._workers] == processes[:1]
    assert processes[1].poll() is not None
    np.testing.assert_array_equal(played(envs), played(here))
    envs.close()
    assert processes[0].poll() is not None
    assert "imported" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["Numbered", "AtHome", "Stubborn"])
def test_what_does_otherwise_in_another_process_stays(own, name, monkeypatch):
    crews = []
    remembering = type("Remembering", (Crew,), {"ask": lambda self, *a: crews.append(self) or Crew.ask(self, *a)})
    monkeypatch.setattr("steersman.envs.host.workers.Crew", remembering)
    envs = make(getattr(own, name), 3)
    assert envs.best_workers(10**6, 2) == 0
    assert crews  # it was tried
    assert not crews[0]._workers  # and all were ended
    assert envs._crew is None
    envs.close()


def test_masks_are_kept(own):
    envs = make(own.Masked, 2)
    assert envs.best_workers(10**6, 2) == 1
    envs.close()  # with those of the trial
    assert envs._crew is None or not envs._crew._workers


def test_a_window_stays(own):
    envs = make(partial(own.Quiet, render_mode="human"), 2)
    assert envs.best_workers(10**6, 2) == 0
    envs.close()


def test_an_interrupt_leaves_no_process(own, monkeypatch):
    crews = []

    def interrupted(self, *_):
        crews.append((self, [worker.process for worker in self._workers]))
        raise KeyboardInterrupt

    monkeypatch.setattr(Crew, "ask", interrupted)
    envs = make(own.Quiet, 2)
    with pytest.raises(KeyboardInterrupt):
        envs.best_workers(10**6, 2)
    assert all(process.poll() is not None for process in crews[0][1])
    envs.close()


def test_a_long_start_is_said(monkeypatch):
    monkeypatch.setattr(members, "LONG", 0.0)
    with pytest.warns(members.StartWarning, match=r"Making 3 copies of CartPole-v1 takes about \d+ s"):
        make("CartPole-v1", 3).close()
