"""The best policy of each seed: which it is, and what of it is on the disk at any time."""

import jax.numpy as jnp
import numpy as np
import pytest

from steersman.run.disk import checkpoint
from steersman.run.disk.run_folder import RunWarning
from steersman.run.policies.best import Best, cut, prune


def agents(*numbers):
    return [{"w": jnp.full(2, float(n))} for n in numbers]


def steps_in(folder):
    return [steps for steps, _ in checkpoint.saved(folder)]


def test_the_highest_mean_return_of_equals_the_later():
    best = Best(1)
    assert best.summary() is None
    for steps, mean in ((10, 3.0), (20, 2.0), (30, 3.0), (40, np.nan)):
        best.keep(agents(steps), np.array([mean]), np.zeros(1), steps)
    assert best.summary() == {"steps": 30, "return": 3.0}
    assert best.states[0]["w"].tolist() == [30.0, 30.0]


def test_each_seed_has_its_own():
    best = Best(2)
    best.keep(agents(1, 2), np.array([5.0, 5.0]), np.zeros(2), 10)
    assert best.better(np.array([4.0, 6.0]), np.zeros(2)).tolist() == [False, True]
    best.keep(agents(3, 4), np.array([4.0, 6.0]), np.zeros(2), 20)
    assert best.summary() == {"steps": [10, 20], "return": [5.0, 6.0]}
    assert [state["w"][0] for state in best.states] == [1.0, 4.0]


def test_what_is_kept_is_a_copy():
    best, agent = Best(1), {"w": jnp.zeros(2)}
    best.keep([agent], np.array([1.0]), np.zeros(1), 10)
    agent["w"].delete()  # as the loop does, that writes over its own
    assert best.on_device()[0]["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seeds", [1, 2])
def test_read_back_as_it_was_written(tmp_path, seeds):
    best = Best(seeds)
    best.write(tmp_path)
    assert steps_in(tmp_path) == []
    best.keep(agents(*range(seeds)), np.arange(seeds) + 0.1, np.zeros(seeds), 10)
    best.write(tmp_path)
    best.write(tmp_path)
    again = Best(seeds)
    rows = (seeds,) if seeds > 1 else ()
    again.read(tmp_path, {"agent": {"w": jnp.zeros((*rows, 2))}})
    assert again.summary() == best.summary()
    assert [state["w"].tolist() for state in again.states] == [state["w"].tolist() for state in best.states]


def test_a_damaged_one_is_said_and_left(tmp_path):
    best = Best(1)
    best.keep(agents(1), np.ones(1), np.zeros(1), 10)
    best.write(tmp_path)
    path = checkpoint.step_path(tmp_path, 10)
    path.write_bytes(path.read_bytes()[:-4])
    again = Best(1)
    with pytest.warns(RunWarning, match="best policy so far is lost"):
        again.read(tmp_path, {"agent": {"w": jnp.zeros(2)}})
    assert again.summary() is None


def test_what_a_run_that_goes_on_may_need_stays(tmp_path):
    for steps in (10, 20, 30, 40):
        best = Best(1)
        best.keep(agents(steps), np.array([1.0]), np.zeros(1), steps)
        best.write(tmp_path)
    prune(tmp_path, [25, 45])
    assert steps_in(tmp_path) == [20, 40]
    cut(tmp_path, 25)  # it goes on from there
    assert steps_in(tmp_path) == [20]
    cut(tmp_path, -1)  # it begins anew
    assert steps_in(tmp_path) == []
