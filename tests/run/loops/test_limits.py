"""What is refused before it begins."""

import gymnasium
import numpy as np
import pytest

import steersman
from steersman import envs
from steersman.agents import algorithm
from steersman.errors import UsageError
from steersman.run.loops import devices, limits
from steersman.run.loops.limits import check_copies, check_warm_up
from steersman.run.settings import fitted


@pytest.mark.parametrize(
    ("steps", "first", "starts", "words"),
    [
        (1000, 5000, 5000, r"= 5,000.*steps = 1,000. Set learning_starts to 100 \(--learning-starts 100\)"),
        (1000, 1000, 1000, "learning_starts = 1,000"),
        (999, 1000, 998, "learning_starts = 998"),  # in whole rows they are all
        (5, 8, 5, "learning_starts = 5"),
        (1024, 1024, None, "steps = 1,024 ends in the warm-up: .*unroll_length 128 x num_envs 8 = 1,024"),
    ],
)
def test_a_budget_goes_beyond_the_warm_up(steps, first, starts, words):
    with pytest.raises(UsageError, match=words):
        check_warm_up(steps, first, 128, 8, starts)


@pytest.mark.parametrize(
    ("steps", "first", "starts"),
    [(1001, 1000, 1000), (1025, 1024, None), (1, 8, None), (8, 8, None), (5, 8, 0), (50, 0, 0)],
)
def test_a_warm_up_that_is_shorter_is_none_of_its_business(steps, first, starts):
    check_warm_up(steps, first, 128, 8, starts)


@pytest.mark.parametrize(
    ("given", "asked", "wanted"),
    [
        ({"steps": 1000}, (), 100),  # the default, lowered
        ({"steps": 1e3, "learning_starts": 800}, (), 100),  # a preset's
        ({"steps": 1000, "learning_starts": 800}, ("learning_starts",), 800),
        ({"steps": 50_000}, (), None),  # the default as it is
        ({}, (), None),
        ({"steps": 3}, (), 0),
        ({"steps": 1000, "from_data": "there"}, (), None),  # nothing is played at random
    ],
)
def test_only_a_warm_up_that_nobody_asked_for_is_lowered(given, asked, wanted):
    assert fitted(algorithm("td3"), given, asked).get("learning_starts") == wanted
    assert fitted(algorithm("ppo"), given, asked) == given


@pytest.mark.parametrize(
    ("name", "asked", "scaled"),
    [
        ("sac", {"cost_limit": 25.0}, True),
        ("sac", {"cost_limit": (0.0,), "scale_rewards": False}, False),  # as the user says
        ("sac", {"cost_limit": ()}, False),
        ("sac", {}, False),
        ("cpo", {"cost_limit": (25.0,)}, False),  # it has no multipliers
    ],
)
def test_a_limit_brings_scaled_rewards_where_a_preset_has_them_off(name, asked, scaled):
    assert fitted(algorithm(name), {"scale_rewards": False, **asked}, asked)["scale_rewards"] == scaled


def test_a_training_and_a_comparison_lower_it():
    from steersman.run.compare.entries import read_entries, resolve
    from steersman.run.plan import planned

    assert planned("sac", "Pendulum-v1", {"steps": 2000}).config.learning_starts == 200
    assert planned("sac", "Pendulum-v1", {"steps": 2000, "learning_starts": 500}).config.learning_starts == 500
    entries = resolve(read_entries(["sac", "td3:learning_starts=500"]), "Pendulum-v1", {}, steps=2000, preset=True)
    assert [entry.config.learning_starts for entry in entries] == [200, 500]
    with pytest.raises(UsageError, match="learning_starts = 2,000"):
        steersman.train("sac", "Pendulum-v1", steps=2000, learning_starts=2000)


class Heavy(gymnasium.Env):
    """A megabyte each."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    open = 0

    def __init__(self):
        self.held = np.ones(1 << 17)
        type(self).open += 1

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def close(self):
        type(self).open -= 1


def test_copies_that_memory_does_not_hold_are_refused_by_a_few(monkeypatch):
    monkeypatch.setattr(devices, "memory_limit", lambda: 10**9)
    made = []

    def make(n):
        made.append(n)
        return envs.make(Heavy, n)

    check_copies(make, 800)
    with pytest.raises(UsageError, match=r"num_envs = 1,200 copies of Heavy hold, .* takes 1\.[2-9] GB; there are"):
        check_copies(make, 1200)
    assert max(made) == limits.TRIED
    assert Heavy.open == 0
    with pytest.raises(UsageError, match="num_envs = 1,200"):
        steersman.train("ppo", Heavy, num_envs=1200, steps=10**6)
    assert Heavy.open == 0


@pytest.mark.parametrize("place", ["CartPole-v1", "gymnasium/CartPole-v1"])
def test_absurd_numbers_of_environments(place):
    with pytest.raises(UsageError, match=r"num_envs.* there are .* of memory"):
        steersman.train("ppo", place, num_envs=10**8, steps=10**9)
