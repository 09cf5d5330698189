"""Workers: the same bits as in this process, and no death without a name."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_array_equal

from steersman.envs.host import workers as workers_module
from steersman.envs.host.gymnasium import make
from steersman.errors import EnvironmentFault, UsageError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import a test module


class Everything(gymnasium.Env):
    """Dict observations with an image, a mask in the info, noise of its own, episodes of random length."""

    observation_space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (6, 5, 1), np.uint8),
            "x": spaces.Box(-9, 9, (2,)),
            "n": spaces.Discrete(9, start=1),
        }
    )
    action_space = spaces.Discrete(3)

    def look(self):
        x = self.np_random.normal(size=2).clip(-9, 9)
        image = self.np_random.integers(0, 256, (6, 5, 1), np.uint8)
        mask = np.array([1, *self.np_random.integers(0, 2, 2)], np.int8)
        return {"image": image, "x": x, "n": self.np_random.integers(1, 10)}, {"action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look()

    def step(self, action):
        obs, info = self.look()
        end = self.np_random.random(2) < 0.1
        return obs, float(action) + self.np_random.random(), bool(end[0]), bool(end[1]), info


class Costly(Everything):
    """With two costs at every step; the info of a reset has others."""

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return obs, info | {"cost": [99.0, 99.0]}

    def step(self, action):
        *given, info = super().step(action)
        return *given, info | {"cost": self.np_random.random(2)}


class Faulty(gymnasium.Env):
    """Does what it is told at its third step."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, what, *args):
        self.what, self.args, self.t = what, args, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if action == 1 and self.t >= 3:
            self.what(*self.args)
        return np.full(1, self.t, np.float32), 1.0, False, False, {}


def is_gone(pid):
    """Ended, and waited for: no zombie is left either."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def pids(envs):
    return [worker.process.pid for worker in envs._members._workers]


def trace(envs, steps, actions):
    tree = [envs.reset(11)]
    for t in range(steps):
        tree.append(envs.step(actions[t])._asdict())
    return tree


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for x, y in zip(one, other, strict=True):
            assert_same(x, y)
    else:
        assert one.dtype == other.dtype
        assert_array_equal(one, other)


@pytest.mark.parametrize(("workers", "place", "costs"), [(2, Costly, 2), (5, Everything, 0)])
def test_same_bits_for_any_number_of_workers(workers, place, costs):
    actions = np.random.default_rng(0).integers(0, 3, (60, 5)).astype(np.int32)
    here, there = make(place, 5), make(place, 5, workers=workers)
    assert here.spec.num_costs == costs
    assert here.spec == there.spec
    assert here.spec.observation_space["action_mask"].shape == (3,)
    whole = trace(here, 60, actions)
    assert sum(int((s["terminated"] | s["truncated"]).sum()) for s in whole[1:]) > 20
    assert_same(whole, trace(there, 60, actions))
    assert_same(whole, trace(there, 60, actions))  # and again after another reset
    there.close()


class Shared(gymnasium.Env):
    """All copies in one process observe into the same buffer."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Discrete(3)
    buffer = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.see(), {}

    def see(self):
        self.buffer[:] = self.np_random.random(2)
        return self.buffer

    def step(self, action):
        return self.see(), 0.0, self.np_random.random() < 0.3, False, {}


def test_a_buffer_of_all_members_gives_the_same_bits_too():
    actions = np.zeros((8, 3), np.int32)
    here, there = make(Shared, 3), make(Shared, 3, workers=2)
    whole = trace(here, 8, actions)
    assert len(np.unique(whole[0], axis=0)) == 3
    assert_same(whole, trace(there, 8, actions))
    there.close()


@pytest.mark.parametrize("module", ["select.poll", "os.name"])
def test_a_system_without_what_workers_need(monkeypatch, module):
    if module == "os.name":
        monkeypatch.setattr(workers_module.os, "name", "nt")
    else:
        monkeypatch.delattr(workers_module.select, "poll")
    with pytest.raises(UsageError, match=r"workers need a POSIX system .*; this Python on .*Leave workers out"):
        make(Everything, 2, workers=1)
    monkeypatch.undo()


def test_same_bits_on_mujoco():
    pytest.importorskip("mujoco")
    actions = np.random.default_rng(0).uniform(-2, 2, (30, 3, 6)).astype(np.float32)
    here, there = (make("HalfCheetah-v5", 3, workers=w, max_episode_steps=20) for w in (0, 2))
    assert_same(trace(here, 30, actions), trace(there, 30, actions))
    there.close()


def test_returned_arrays_are_the_callers_and_an_environment_may_keep_its_action():
    class Keeper(Faulty):
        action_space = spaces.Box(-1, 1, (1,))

        def step(self, action):
            self.t += 1
            self.kept = action if self.t == 1 else self.kept
            return self.kept.copy(), 0.0, False, False, {}

    envs = make(lambda: Keeper(None), 2, workers=1)
    envs.reset(0)
    first = envs.step(np.full((2, 1), 0.25, np.float32))
    second = envs.step(np.full((2, 1), 0.75, np.float32))
    assert first.obs.tolist() == second.obs.tolist() == [[0.25], [0.25]]
    first.obs[:] = 7
    assert second.obs.tolist() == [[0.25], [0.25]]
    envs.close()


def test_a_worker_imports_no_jax():
    def look():
        import sys

        return int(any(name.split(".")[0] in ("jax", "jaxlib", "equinox") for name in sys.modules))

    class Looking(Faulty):
        def reset(self, *, seed=None, options=None):
            return np.full(1, look(), np.float32), {}

    envs = make(lambda: Looking(None), 1, workers=1)
    assert envs.reset(0).item() == 0
    envs.close()


# --- deaths ---

GO, STOP = np.ones(4, np.int32), np.zeros(4, np.int32)


def third_step(envs, action):
    envs.reset(0)
    envs.step(np.zeros_like(action))
    envs.step(np.zeros_like(action))
    envs.step(action)


def only(member):
    action = STOP.copy()
    action[member] = 1
    return action


def crash():
    raise ValueError("the wheel came off")


def test_with_a_worker_for_each_member_no_death_reaches_this_process():
    envs = make(lambda: Faulty(os._exit, 3), 2, workers=2)
    with pytest.raises(EnvironmentFault, match="The worker of member 0 .* ended with exit code 3 while member 0"):
        third_step(envs, only(0)[:2])
    envs.close()


def test_a_fault_in_this_process_leaves_the_workers_in_step():
    envs = make(lambda: Faulty(crash), 4, workers=2)
    with pytest.raises(EnvironmentFault, match=r"Faulty \(member 0\) raised ValueError"):
        third_step(envs, only(0))
    assert envs.reset(0).tolist() == [[0]] * 4
    assert envs.step(STOP).obs.tolist() == [[1]] * 4
    envs.close()


def test_a_wait_that_is_too_long_for_watching():
    class Slow(Faulty):
        def step(self, action):
            time.sleep(0.002 * int(action))
            return super().step(0)

    envs = make(lambda: Slow(None), 3, workers=2)
    envs.reset(0)
    for t in range(1, 40):  # whoever is last, and whoever has slept since the step before
        time.sleep(0.001 * (t % 3 == 0))
        assert envs.step(only(t % 4)[:3]).obs.tolist() == [[t]] * 3
    envs.close()


def test_an_exception_comes_with_its_traceback_and_the_others_go_on():
    envs = make(lambda: Faulty(crash), 4, workers=2)
    with pytest.raises(EnvironmentFault) as caught:
        third_step(envs, only(3))
    said = str(caught.value)
    assert said.startswith("Faulty (member 3) raised ValueError in step at step 3 of its episode: the wheel came off")
    assert "The traceback in the worker:" in said
    assert "in crash" in said
    assert envs.reset(0).shape == (4, 1)  # nothing is out of step after a fault
    assert envs.step(STOP).obs.tolist() == [[1]] * 4
    envs.close()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            (os._exit, 3),
            r"The worker of members 1 to 2 \(process \d+\) ended with exit code 3 while member 2 was being",
        ),
        ((lambda: os.kill(os.getpid(), signal.SIGKILL),), "was killed by SIGKILL .* while member 2"),
    ],
)
def test_a_worker_that_dies_in_a_step_is_named_at_once(what, words):
    envs = make(lambda: Faulty(*what), 4, workers=2)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=words):
        third_step(envs, only(2))
    assert time.monotonic() - began < 5
    with pytest.raises(EnvironmentFault, match="worker of members 1 to 2"):
        envs.reset(0)
    processes = pids(envs)
    envs.close()
    assert all(map(is_gone, processes))


def test_a_worker_that_is_killed_between_steps():
    envs = make(lambda: Faulty(crash), 2, workers=2)
    victim = pids(envs)[1]
    envs.reset(0)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match=r"The worker of member 1 .* was killed by SIGKILL"):
        third_step(envs, STOP[:2])
    envs.close()


def test_a_child_of_the_simulator_cannot_hold_the_line():
    def leave_one_behind():
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        os._exit(1)

    envs = make(lambda: Faulty(leave_one_behind), 1, workers=1)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="exit code 1"):
        third_step(envs, GO[:1])
    assert time.monotonic() - began < 8
    envs.close()


def test_faults_while_the_environments_are_made():
    def absent():
        raise FileNotFoundError("arena.xml")

    with pytest.raises(
        EnvironmentFault, match=r"member 0 could not be made: FileNotFoundError: arena.xml\n\nThe trace"
    ):
        make(absent, 2, workers=2)
    with pytest.raises(UsageError, match="The factory gave int"):
        make(lambda: 3, 1, workers=1)
    with pytest.raises(UsageError, match="does not take these arguments"):
        make("CartPole-v1", 1, workers=1, no_such_argument=1)
    with pytest.raises(EnvironmentFault, match="exit code 4 while its environments were being made"):
        make(lambda: os._exit(4), 1, workers=1)


@pytest.mark.parametrize(("cost", "words"), [({}, "gave no cost"), ({"cost": np.inf}, "returned Inf as its cost")])
def test_faulty_costs(cost, words):
    class Paying(Faulty):
        def step(self, action):
            *given, _ = super().step(0)
            return *given, cost if action == 1 and self.t >= 3 else {"cost": 0.5}

    for workers in (1, 2):
        envs = make(lambda: Paying(None), 2, workers=workers)
        with pytest.raises(EnvironmentFault, match=rf"Paying \(member 1\) {words}.* at step 3 of its episode"):
            third_step(envs, only(1)[:2])
        envs.close()


def test_numbers_that_are_not_finite_and_shapes():
    class Bad(Faulty):
        def step(self, action):
            obs, *rest = super().step(action)
            wrong = {0: obs, 1: np.full(1, np.nan, np.float32), 2: np.zeros(2, np.float32)}
            return wrong[self.args[0] if self.t == 2 else 0], *rest

    for kind, words in ((1, "member 0. returned NaN as its observation.0., at step 2"), (2, r"shape \(2,\) from step")):
        envs = make(lambda kind=kind: Bad(None, kind), 1, workers=1)
        with pytest.raises(EnvironmentFault, match=words):
            third_step(envs, GO[:1])
        envs.close()


# --- the end ---


def test_close_ends_the_processes_and_can_be_called_twice():
    envs = make("CartPole-v1", 2, workers=2)
    processes = pids(envs)
    opened = len(os.listdir("/dev/fd"))
    envs.close()
    assert all(map(is_gone, processes))
    assert len(os.listdir("/dev/fd")) <= opened - 3  # two sockets and the mapping's file
    envs.close()
    with pytest.raises(UsageError, match="closed"):
        envs.step(STOP[:2])


def test_forgotten_environments_are_closed():
    envs = make("CartPole-v1", 1, workers=1)
    (process,) = pids(envs)
    del envs
    gc.collect()
    assert is_gone(process)


def wait_for(path):
    until = time.monotonic() + 30
    while not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.fixture
def interruptible():
    """Python's own answer to SIGINT; a shell's background job starts without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_leaves_everything_in_step(tmp_path, interruptible):
    go = tmp_path / "go"
    envs = make(lambda: Faulty(wait_for, str(go)), 2, workers=2)  # no step ends before the interrupt
    envs.reset(0)
    envs.step(STOP[:2])
    envs.step(STOP[:2])
    ring = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    ring.start()
    with pytest.raises(KeyboardInterrupt):
        envs.step(GO[:2])
    ring.join()
    go.touch()
    assert envs.step(STOP[:2]).obs.tolist() == [[4], [4]]  # the third step was taken; its answer is passed over
    assert envs.reset(0).tolist() == [[0], [0]]
    assert envs.step(STOP[:2]).obs.tolist() == [[1], [1]]
    envs.close()


def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import os, signal\n"
        "from steersman.envs.host.gymnasium import make\n"
        "envs = make('CartPole-v1', 2, workers=2)\n"
        "print(*[w.process.pid for w in envs._members._workers], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    processes = [int(pid) for pid in done.stdout.split()]
    assert len(processes) == 2
    until = time.monotonic() + 10
    while not all(map(is_gone, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(map(is_gone, processes))
    assert done.stderr == ""


def test_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import gymnasium\n"
        "print('ran')\n"
        "class Own(gymnasium.Wrapper):\n"
        "    pass\n"
        "from steersman.envs.host.gymnasium import make\n"
        "envs = make(lambda: Own(gymnasium.make('CartPole-v1')), 2, workers=2)\n"
        "print(envs.reset(0).shape)\n"
        "envs.close()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ran\n(2, 4)\n", "")


def test_render_is_of_member_0():
    envs = make("CartPole-v1", 2, workers=2, render_mode="rgb_array")
    here = make("CartPole-v1", 2, render_mode="rgb_array")
    for e in (envs, here):
        e.reset(0)
    assert_array_equal(envs.render(), here.render())
    envs.close()
    here.close()
