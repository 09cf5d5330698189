"""Costs from comparisons: what is parsed, and the same numbers here, in workers and of vector environments."""

import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal

from steersman.envs.host.costs import Comparison, InfoCosts, parsed
from steersman.envs.host.gymnasium import make
from steersman.errors import EnvironmentFault, UsageError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import a test module
COSTS = ["speed > 1.5", "edge = abs(x[1]) >= 2", "n < 1"]


class Walk(gymnasium.Env):
    """Episodes of three steps; of step t the speed is t in the info, x is (0, -t), n is t - 1; ``cost`` is t / 2."""

    observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (2,)), "n": spaces.Discrete(9)})
    action_space = spaces.Discrete(2)
    info = {"own": 0}  # noqa: RUF012  # one dict for all steps, as some environments have it

    def __init__(self, own=True, lacks=-1, speed=float):
        self.own, self.lacks, self.speed = own, lacks, speed

    def see(self):
        return {"x": np.array([0, -self.t], np.float32), "n": max(self.t - 1, 0)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {"speed": 99.0, "cost": 99.0}

    def step(self, action):
        self.t += 1
        self.info |= {"cost": self.t / 2} if self.own else {}
        self.info.pop("speed", None)
        self.info |= {} if self.t == self.lacks else {"speed": self.speed(self.t)}
        return self.see(), 1.0, self.t == 3, False, self.info


class Bare(Walk):
    """Without costs of its own."""

    info = {}  # noqa: RUF012

    def __init__(self, **kwargs):
        super().__init__(own=False, **kwargs)


def costs_of(envs, steps=4):
    envs.reset(0)
    seen = [envs.step(np.zeros(envs.num_envs, np.int32)) for _ in range(steps)]
    envs.close()
    return np.array([s.costs for s in seen]), np.array([s.info["episode_cost"] for s in seen])


def test_what_is_parsed():
    assert parsed("x_velocity>3.2096") == (Comparison("x_velocity > 3.2096", "x_velocity", None, False, ">", 3.2096),)
    assert parsed([" far = abs( obs[ 12 ] ) <= -1e-2 "]) == (Comparison("far", "obs", 12, True, "<=", -0.01),)
    assert [one.name for one in parsed(["abs(a.b[3])<4", "a/b-c >= 1"])] == ["abs(a.b[3]) < 4", "a/b-c >= 1"]
    none = [
        "",
        "x",
        "x > y",
        "x == 3",
        "x >> 3",
        "x > nan",
        "x > 1e999",
        "abs(x > 3",
        "x) > 3",
        "x[-1] > 3",
        "x[a] > 3",
    ]
    for text in [*none, "f(x) > 3", "__import__('os').system('ls') > 1", "x > 1 or y > 2", "1 < x", "= x > 3"]:
        with pytest.raises(UsageError, match="is no comparison"):
            parsed([text])
    with pytest.raises(UsageError, match="Two costs are named 'x > 1'"):
        parsed(["x > 1", "x>1"])


def test_after_the_own_costs_to_the_last_step_by_hand():
    envs = make(Walk, 2, costs=COSTS)
    assert envs.spec.cost_names == ("cost", "speed > 1.5", "edge", "n < 1")
    costs, sums = costs_of(envs)
    by_hand = [[0.5, 0, 0, 1], [1, 1, 1, 0], [1.5, 1, 1, 0], [0.5, 0, 0, 1]]  # the third step is an episode's last
    assert_array_equal(costs, [[row] * 2 for row in by_hand])
    assert_array_equal(sums[:, 0], [by_hand[0], [1.5, 1, 1, 1], [3, 2, 2, 1], by_hand[3]])


@pytest.mark.parametrize("kind", ["workers", "vector", "bare", "bare vector"])
def test_the_same_wherever_it_is_stepped(kind):
    plain = Bare if kind.startswith("bare") else Walk
    here = costs_of(make(plain, 2, costs=COSTS))
    if kind == "bare":
        assert_array_equal(here[0], costs_of(make(Walk, 2, costs=COSTS))[0][..., 1:])
        return
    vector = lambda: SyncVectorEnv([plain] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    other = make(plain, 2, costs=COSTS, workers=1) if kind == "workers" else make(vector(), 2, costs=COSTS)
    assert other.spec.cost_names == make(plain, 1, costs=COSTS).spec.cost_names
    for one, two in zip(here, costs_of(other), strict=True):
        assert_array_equal(one, two)


def test_what_is_not_there():
    with pytest.raises(UsageError, match=r"gave no 'speeed'. .* step holds cost, own, speed; .*n, x.*mean"):
        make(Walk, 1, costs=["speeed > 1"])
    with pytest.raises(UsageError, match=r"gave no 'obs'.*of the observation there is n, x"):
        make(SyncVectorEnv([Bare], autoreset_mode=AutoresetMode.SAME_STEP), 1, costs=["obs[0] > 1"])
    with pytest.raises(UsageError, match=r"gave no 'speed'.*holds nothing"):
        costs_of(make(lambda: Bare(lacks=2), 1, costs=["speed > 1"]))
    for text, says in {
        "x > 1": "give one of its entries, as in x",
        "x[2] > 1": r"\(2,\)",
        "n[0] > 1": "out: n",
    }.items():
        with pytest.raises(UsageError, match=says):
            make(Walk, 1, costs=[text])
    with pytest.raises(UsageError, match="is 'fast'; it has to be a number"):
        make(lambda: Bare(speed=lambda t: "fast"), 1, costs=["speed > 1"])
    with pytest.raises(UsageError, match="has two costs of the name 'cost'"):
        make(Walk, 1, costs=["cost = speed > 1"])


def test_a_number_that_is_nan_is_no_free_step():
    envs = make(lambda: Bare(speed=lambda t: np.nan if t == 2 else 0.0), 1, costs=["speed > 1"])
    with pytest.raises(EnvironmentFault, match="NaN as its cost 'speed > 1', at step 2 of its episode"):
        costs_of(envs)


def test_costs_of_a_function_keep_the_time_limit_and_pass_on_faults():
    env = InfoCosts(
        gymnasium.make("CartPole-v1", max_episode_steps=4), lambda obs, action, info: [action, 2], ["a", "b"]
    )
    envs = make(env, 1, costs=["obs[0] > -9"])
    assert (envs.spec.cost_names, envs.spec.max_episode_steps) == (("a", "b", "obs[0] > -9"), 4)
    envs.reset(0)
    seen = [envs.step(np.array([i % 2], np.int32)) for i in range(4)]
    assert [s.costs[0].tolist() for s in seen] == [[0, 2, 1], [1, 2, 1]] * 2
    assert [bool(s.truncated[0]) for s in seen] == [False, False, False, True]
    broken = make(InfoCosts(Walk(), lambda obs, action, info: [1.0] * info["speed"].__int__(), ["a"]), 1)
    with pytest.raises(EnvironmentFault, match="cost = .* at step 2 .* had 2 costs"):
        costs_of(broken)
