"""Gymnasium environments in this process: ends of episodes, spaces, actions, masks, faults, what make refuses."""

import sys
import types
import warnings
from unittest import mock

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.testing import assert_array_equal

from steersman import envs, errors
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.gymnasium import GymnasiumEnvs, make
from steersman.envs.host.timesteps import flatten, member_seeds, unflatten
from steersman.errors import EnvironmentFault, UsageError

SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}


class Script(gymnasium.Env):
    """Plays what it is told: ``play(t, action)`` gives what step returns; t counts from 1 in an episode."""

    def __init__(self, play, observation_space, action_space=None, start=None):
        self.play, self.observation_space = play, observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.start = start or (lambda: (np.zeros(observation_space.shape, observation_space.dtype), {}))
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.t = 0
        return self.start()

    def step(self, action):
        self.t += 1
        return self.play(self.t, action)


ONE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def scripted(play, space=ONE, num_envs=1, action_space=None, start=None):
    return make(lambda: Script(play, space, action_space, start), num_envs)


def number(t):
    return np.array([t], np.float32)


def discrete(num_envs=1):
    return np.zeros(num_envs, np.int32)


# --- the ends of an episode ---


def counting(terminated_at, truncated_at):
    return scripted(lambda t, _: (number(t), 10.0 + t, t == terminated_at, t == truncated_at, {}))


def test_the_two_ends_by_hand():
    envs = counting(terminated_at=3, truncated_at=None)
    assert envs.reset(0).tolist() == [[0]]
    seen = [envs.step(discrete()) for _ in range(7)]
    assert [s.final_obs.item() for s in seen] == [1, 2, 3, 1, 2, 3, 1]  # the true successor, always
    assert [s.obs.item() for s in seen] == [1, 2, 0, 1, 2, 0, 1]  # what the policy sees next
    assert [s.reward.item() for s in seen] == [11, 12, 13, 11, 12, 13, 11]  # no step is made up
    assert [s.terminated.item() for s in seen] == [False, False, True, False, False, True, False]
    assert not any(s.truncated.item() for s in seen)
    assert [s.info["episode_return"].item() for s in seen] == [11, 23, 36, 11, 23, 36, 11]
    assert [s.info["episode_length"].item() for s in seen] == [1, 2, 3, 1, 2, 3, 1]


def test_truncation_and_both_at_once():
    envs = counting(terminated_at=None, truncated_at=2)
    envs.reset(0)
    flags = [(s.terminated.item(), s.truncated.item()) for s in (envs.step(discrete()) for _ in range(4))]
    assert flags == [(False, False), (False, True)] * 2
    envs = counting(terminated_at=2, truncated_at=2)
    envs.reset(0)
    envs.step(discrete())
    seen = envs.step(discrete())
    assert (seen.terminated.item(), seen.truncated.item()) == (True, True)


def test_what_a_step_is_made_of():
    envs = make("CartPole-v1", 3)
    obs = envs.reset(0)
    seen = envs.step(discrete(3))
    assert (obs.dtype, obs.shape) == (np.float32, (3, 4))
    assert (seen.reward.dtype, seen.reward.shape) == (np.float32, (3,))
    assert seen.terminated.dtype == seen.truncated.dtype == bool
    assert (seen.costs.dtype, seen.costs.shape) == (np.float32, (3, 0))
    assert set(seen.info) == {"episode_return", "episode_length", "episode_cost"}
    assert (seen.info["episode_return"].dtype, seen.info["episode_length"].dtype) == (np.float32, np.int32)
    assert seen.final_obs is seen.obs  # nobody ended: no copy is made


@pytest.mark.parametrize(
    ("id", "kwargs", "steps"),
    [
        ("CartPole-v1", {}, 400),
        ("CartPole-v1", {"max_episode_steps": 7}, 60),
        ("Pendulum-v1", {"max_episode_steps": 40}, 130),
        ("Acrobot-v1", {"max_episode_steps": 30}, 70),
        ("MountainCarContinuous-v0", {"max_episode_steps": 30}, 70),
        ("HalfCheetah-v5", {"max_episode_steps": 20}, 50),
        ("LunarLander-v3", {}, 200),
    ],
)
def test_equals_gymnasiums_own_vector_environment(id, kwargs, steps):
    ours = make(id, 4, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SyncVectorEnv([lambda: gymnasium.make(id, **kwargs)] * 4, **SAME_STEP)
    seeds = member_seeds(5, 4)
    assert_array_equal(ours.reset(5), theirs.reset(seed=seeds)[0].astype(np.float32))
    rng = np.random.default_rng(1)
    ends = 0
    for _ in range(steps):
        if isinstance(ours.spec.action_space, spaces.Discrete):
            action = native = rng.integers(0, ours.spec.action_space.n, 4).astype(np.int32)
        else:
            action = rng.uniform(-1.5, 1.5, (4, *ours.spec.action_space.shape)).astype(np.float32)
            scale = ours.spec.native_action_space.high
            native = np.clip(action, -1, 1) * scale
        seen = ours.step(action)
        obs, reward, terminated, truncated, infos = theirs.step(native)
        assert_array_equal(seen.obs, obs.astype(np.float32))
        assert_array_equal(seen.reward, reward.astype(np.float32))
        assert_array_equal(seen.terminated, terminated)
        assert_array_equal(seen.truncated, truncated)
        for i in range(4):
            true = infos["final_obs"][i] if terminated[i] or truncated[i] else obs[i]
            assert_array_equal(seen.final_obs[i], true.astype(np.float32))
        ends += int((terminated | truncated).sum())
    assert ends >= 4
    ours.close()
    theirs.close()


def test_returned_arrays_are_the_callers():
    envs = make("CartPole-v1", 2)
    obs = envs.reset(0)
    kept = [obs]
    for _ in range(60):
        seen = envs.step(discrete(2))
        kept += [seen.obs, seen.final_obs, seen.reward, seen.terminated, seen.truncated, *seen.info.values()]
    before = [x.copy() for x in kept]
    for _ in range(30):
        envs.step(discrete(2) + np.int32(1))
    for x, y in zip(kept, before, strict=True):
        assert_array_equal(x, y)
    seen = envs.step(discrete(2))
    seen.obs[:] = 0  # writing into them does no harm to what follows
    assert np.all(envs.step(discrete(2)).obs != 0)


def test_a_simulator_that_reuses_its_buffers_is_read_in_time():
    buffer = np.zeros(1, np.float32)

    def play(t, _):
        buffer[0] = t
        return buffer, 0.0, t == 2, False, {}

    def start():
        buffer[0] = -1
        return buffer, {}

    envs = scripted(play, start=start)
    envs.reset(0)
    envs.step(discrete())
    seen = envs.step(discrete())
    assert (seen.final_obs.item(), seen.obs.item()) == (2, -1)


# --- seeds ---


def test_members_have_seeds_of_their_own_and_a_seed_repeats():
    assert len(set(member_seeds(0, 100) + member_seeds(1, 100))) == 200
    assert member_seeds(3, 8)[:3] == member_seeds(3, 3)
    envs = make("CartPole-v1", 4)
    first = envs.reset(7)
    assert len(np.unique(first[:, 0])) == 4
    one = [envs.step(discrete(4)).obs for _ in range(40)]
    assert_array_equal(envs.reset(7), first)
    assert_array_equal(one, [envs.step(discrete(4)).obs for _ in range(40)])
    assert np.any(envs.reset(8) != first)
    with pytest.raises(UsageError, match="whole number"):
        envs.reset(-1)


def test_only_reset_seeds_a_member():
    env = Script(lambda t, _: (number(t), 0.0, t == 2, False, {}), ONE)
    envs = make(env, 1)
    envs.reset(7)
    env.seeds.clear()
    for _ in range(4):
        envs.step(discrete())
    assert env.seeds == [None, None]  # it goes on with its own generator


# --- spaces ---


def test_dict_tuple_image_and_counts():
    space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 5, 3), np.uint8),
            "pair": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.Box(-1, 1, (2,), np.float64)]),
            "grid": spaces.MultiDiscrete([3, 4], start=[1, 0]),
            "bits": spaces.MultiBinary(3),
        }
    )

    def look(t):
        camera = np.full((4, 5, 3), t, np.uint8)
        pair = (np.int64(t - 1), np.array([t / 2, 0.25]))
        return {"camera": camera, "pair": pair, "grid": np.array([t + 1, 3]), "bits": np.array([1, 0, t % 2], np.int8)}

    envs = scripted(lambda t, _: (look(t), 0.0, t == 2, False, {}), space, 2, start=lambda: (look(0), {}))
    envs.reset(0)
    envs.step(discrete(2))
    seen = envs.step(discrete(2))
    for obs, t in ((seen.final_obs, 2), (seen.obs, 0)):
        assert obs["camera"].dtype == np.uint8
        assert obs["camera"].shape == (2, 4, 5, 3)
        assert np.all(obs["camera"] == t)
        assert obs["pair"][0].dtype == np.int32
        assert obs["pair"][0].tolist() == [t, t]  # counted from 0
        assert obs["pair"][1].dtype == np.float32
        assert obs["pair"][1].tolist() == [[t / 2, 0.25]] * 2
        assert obs["grid"].dtype == np.int32
        assert obs["grid"].tolist() == [[t, 3]] * 2
        assert obs["bits"].dtype == np.float32
        assert obs["bits"].tolist() == [[1, 0, t % 2]] * 2
    assert envs.spec.observation_space["camera"].dtype == np.uint8


def test_entries_of_a_dict_in_any_order_keep_their_names():
    """Given by keywords or as pairs a Dict keeps the order it was written in; the arrays of a tree are sorted."""
    box = spaces.Box(-9, 9, (2,), np.float32)
    look = lambda t: {"tip": np.full(2, t, np.float32), "joints": np.full(2, -t, np.float32), "at": np.int64(t)}
    for space in (
        spaces.Dict(tip=box, joints=box, at=spaces.Discrete(9)),
        spaces.Dict([("tip", box), ("at", spaces.Discrete(9)), ("joints", box)]),
    ):
        envs = scripted(lambda t, _: (look(t), 0.0, False, False, {}), space, 2, start=lambda: (look(0), {}))
        envs.reset(0)
        seen = envs.step(discrete(2)).obs
        assert {name: x.tolist() for name, x in seen.items()} == {
            "tip": [[1, 1]] * 2,
            "joints": [[-1, -1]] * 2,
            "at": [1, 1],
        }
        leaves = flatten(space, look(3))
        assert all(x is y for x, y in zip(leaves, jax.tree.leaves(unflatten(space)(leaves)), strict=True))
        assert [leaf.path for leaf in leaves_of(space, envs.spec.observation_space)] == [("at",), ("joints",), ("tip",)]


@pytest.mark.parametrize("id", ["FrozenLake-v1", "CliffWalking-v1", "Blackjack-v1"])
def test_toy_text(id):
    envs = make(id, 3)
    obs = envs.reset(0)
    for _ in range(30):
        seen = envs.step(discrete(3))
        leaves = seen.obs if isinstance(seen.obs, tuple) else (seen.obs,)
        assert all(x.dtype == np.int32 and x.shape == (3,) for x in leaves)
    assert type(seen.obs) is type(obs)


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Sequence(ONE), spaces.Graph(ONE, None)])
def test_spaces_nobody_can_observe(space):
    with pytest.raises(UsageError, match="Cannot observe the space"):
        scripted(None, space, start=lambda: (None, {}))
    with pytest.raises(UsageError, match="Cannot act in the space"):
        scripted(None, action_space=space)


# --- actions ---


def recorder(action_space):
    got = []

    def play(t, action):
        got.append(action)
        return number(t), 0.0, False, False, {}

    envs = scripted(play, num_envs=2, action_space=action_space)
    envs.reset(0)
    got.clear()  # the action it was tried with
    return envs, got


def test_box_actions_are_canonical_inside_and_native_at_the_door():
    envs, got = recorder(spaces.Box(np.array([0, -1], np.float32), np.array([4, 3], np.float32)))
    assert envs.spec.action_space == spaces.Box(-1, 1, (2,))
    envs.step(np.array([[-1, 0.5], [9, -9]], np.float32))
    assert got[0].tolist() == [0, 2]
    assert got[1].tolist() == [4, -1]  # clipped
    assert got[0].dtype == np.float32


def test_discrete_actions_arrive_as_gymnasium_samples_them():
    envs, got = recorder(spaces.Discrete(3, start=5))
    envs.step(np.array([0, 2], np.int32))
    assert [type(a) for a in got] == [np.int64] * 2
    assert got == [5, 7]


def test_other_action_spaces():
    envs, got = recorder(spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]))
    envs.step(np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.int32))
    assert [a.tolist() for a in got] == [[[1, 3], [5, 7]], [[0, 1], [2, 3]]]
    envs, got = recorder(spaces.MultiBinary(2))
    envs.step(np.array([[1, 0], [0, 1]], np.int32))
    assert [a.tolist() for a in got] == [[1, 0], [0, 1]]
    envs, got = recorder(spaces.Dict({"go": spaces.Discrete(2), "how": spaces.Box(0, 2, (1,))}))
    envs.step({"go": np.array([1, 0], np.int32), "how": np.array([[1], [0]], np.float32)})
    assert [(a["go"], a["how"].tolist()) for a in got] == [(1, [2.0]), (0, [1.0])]
    envs, got = recorder(spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]))
    envs.step((np.array([1, 0], np.int32), np.array([[1, 0], [1, 1]], np.int32)))
    assert [(a[0], a[1].tolist()) for a in got] == [(1, [1, 0]), (0, [1, 1])]


def test_the_first_action_is_looked_at():
    envs = make("Pendulum-v1", 2)
    with pytest.raises(UsageError, match=r"Call reset\(seed\) before"):
        envs.step(np.zeros((2, 1), np.float32))
    envs.reset(0)
    with pytest.raises(UsageError, match=r"shape \(2, 1\) and of dtype float32; got \(2,\)"):
        envs.step(np.zeros(2, np.float32))
    with pytest.raises(UsageError, match=r"got .* and int32"):
        envs.step(np.zeros((2, 1), np.int32))
    envs.close()
    envs.close()
    with pytest.raises(UsageError, match="closed"):
        envs.step(np.zeros((2, 1), np.float32))
    with pytest.raises(UsageError, match="closed"):
        envs.reset(0)


# --- masks ---


def test_taxis_mask_is_part_of_the_observation():
    envs = make("Taxi-v4", 3)
    obs = envs.reset(0)
    mask = obs["action_mask"]
    assert envs.spec.observation_space["action_mask"].shape == (6,)
    assert (mask.dtype, mask.shape, obs["observation"].dtype) == (np.float32, (3, 6), np.int32)
    table = gymnasium.make("Taxi-v4").unwrapped
    for _ in range(50):
        state, mask = obs["observation"], obs["action_mask"]
        assert_array_equal(mask, [table.action_mask(s) for s in state])
        obs = envs.step(np.array([np.flatnonzero(m)[0] for m in mask], np.int32)).obs


def test_a_mask_joins_a_dict_and_an_own_one_stays():
    space = spaces.Dict({"x": ONE})

    def give(t):
        return {"x": number(t)}, {"action_mask": np.array([1, t == 0], np.int8)}

    def play(t, _):
        obs, info = give(t)
        return obs, 0.0, t == 2, False, info

    envs = scripted(play, space, start=lambda: give(0))
    assert set(envs.spec.observation_space) == {"x", "action_mask"}
    assert envs.reset(0)["action_mask"].tolist() == [[1, 1]]
    envs.step(discrete())
    seen = envs.step(discrete())
    assert seen.final_obs["action_mask"].tolist() == [[1, 0]]
    assert seen.obs["action_mask"].tolist() == [[1, 1]]
    own = spaces.Dict({"x": ONE, "action_mask": spaces.Box(0, 1, (2,), np.int8)})
    obs = {"x": number(1), "action_mask": np.array([0, 1], np.int8)}
    envs = scripted(None, own, start=lambda: (obs, {"action_mask": np.array([1, 1])}))
    assert envs.reset(0)["action_mask"].tolist() == [[0, 1]]


def test_a_mask_that_goes_missing():
    envs = scripted(
        lambda t, _: (number(t), 0.0, False, False, {"action_mask": np.ones(2, np.int8)} if t < 3 else {}),
        start=lambda: (number(0), {"action_mask": np.ones(2, np.int8)}),
    )
    envs.reset(0)
    envs.step(discrete())
    envs.step(discrete())
    with pytest.raises(EnvironmentFault, match="no 'action_mask'"):
        envs.step(discrete())


# --- costs ---


def costly(costs, num_envs=1, ends=3):
    """``costs(t)`` is the info's cost of step t; none where it is None. The infos of resets say 99."""

    def play(t, _):
        return number(t), 1.0, t == ends, False, {} if costs(t) is None else {"cost": costs(t)}

    return scripted(play, num_envs=num_envs, start=lambda: (number(0), {"cost": 99.0}))


def test_costs_by_hand():
    envs = costly(lambda t: t / 2, num_envs=2)
    assert envs.spec.num_costs == 1
    envs.reset(0)
    seen = [envs.step(discrete(2)) for _ in range(5)]
    assert [s.costs.tolist() for s in seen] == [[[c]] * 2 for c in (0.5, 1.0, 1.5, 0.5, 1.0)]  # the last step's too
    assert [s.info["episode_cost"].tolist() for s in seen] == [[[c]] * 2 for c in (0.5, 1.5, 3.0, 0.5, 1.5)]
    assert (seen[0].costs.dtype, seen[0].info["episode_cost"].dtype) == (np.float32, np.float32)
    assert envs.reset(0).tolist() == [[0], [0]]
    assert envs.step(discrete(2)).info["episode_cost"].tolist() == [[0.5]] * 2


@pytest.mark.parametrize("kind", [np.float64, np.float32, bool, lambda x: [x], lambda x: np.array([x], np.float32)])
def test_one_cost_in_any_form(kind):
    envs = costly(lambda t: kind(t == 2))
    envs.reset(0)
    assert [envs.step(discrete()).costs.tolist() for _ in range(2)] == [[[0.0]], [[1.0]]]


def test_several_costs():
    envs = costly(lambda t: [t, 0.25] if t % 2 else np.array([t, 0.25]))
    assert envs.spec.num_costs == 2
    envs.reset(0)
    seen = [envs.step(discrete()) for _ in range(4)]
    assert [s.info["episode_cost"][0].tolist() for s in seen] == [[1, 0.25], [3, 0.5], [6, 0.75], [1, 0.25]]


def test_costs_are_summed_in_float64():
    envs = costly(lambda t: 1e8 if t == 1 else 1.0, ends=100)
    envs.reset(0)
    assert [envs.step(discrete()).info["episode_cost"].item() for _ in range(9)][-1] == 1e8 + 8


def test_a_cost_of_an_object_of_the_users_own():
    env = Script(lambda t, _: (number(t), 1.0, False, False, {"cost": t}), ONE)
    draws = spaces.Discrete(2, seed=7)
    env.action_space.seed(7)
    envs = make(env, 1)
    assert envs.spec.num_costs == 1
    assert [env.action_space.sample() for _ in range(20)] == [draws.sample() for _ in range(20)]  # its own, untouched
    envs.reset(0)
    assert envs.step(discrete()).costs.item() == 1


def test_costs_of_an_environment_whose_illegal_actions_fail():
    def play(t, action):
        assert action == 1
        return {"x": number(t), "action_mask": mask}, 0.0, False, False, {"cost": 1.0}

    mask = np.array([0, 1], np.int8)
    space = spaces.Dict({"x": ONE, "action_mask": spaces.MultiBinary(2)})
    start = lambda: ({"x": number(0), "action_mask": mask}, {})
    assert scripted(play, space, start=start).spec.num_costs == 1
    start = lambda: (number(0), {"action_mask": mask})
    play = lambda t, action: (number(t), 0.0, False, False, {"cost": 1 / int(action), "action_mask": mask})
    assert scripted(play, start=start).spec.num_costs == 1


FAULTY_COSTS = {
    "missing": (None, "no cost in its info at step 3 of its episode; the step it was tried with had 1 cost"),
    "two": ([1.0, 2.0], r"cost = \[1.0, 2.0\] in its info at step 3 .* had 1 cost\. Costs are a number"),
    "text": ("much", "cost = 'much' in its info at step 3"),
    "a tree": ({"a": 1.0}, "cost = {'a': 1.0} in its info at step 3"),
    "ragged": ([1.0, [2.0]], r"cost = \[1.0, \[2.0\]\] in its info at step 3"),
    "nan": (np.nan, "returned NaN as its cost, at step 3 of its episode"),
    "inf": (-np.inf, "returned -Inf as its cost, at step 3"),
    "too large": (1e39, "returned Inf as its cost, at step 3 .* in float32 too"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("name", FAULTY_COSTS)
def test_faulty_costs_name_member_and_step(name):
    value, words = FAULTY_COSTS[name]
    calls = iter(range(100))
    envs = costly(lambda t: value if t == 3 and next(calls) > 1 else 0.0, num_envs=2, ends=4)
    with pytest.raises(EnvironmentFault, match=rf"Script \(member 1\) .*{words}"):
        run(envs, 9)


def test_costs_that_appear_only_later_and_such_as_are_none():
    envs = costly(lambda t: None if t < 3 else 1.0)
    assert envs.spec.num_costs == 0
    envs.reset(0)
    envs.step(discrete())
    assert envs.step(discrete()).costs.shape == (1, 0)
    with pytest.raises(EnvironmentFault, match=r"\(member 0\) gave cost = 1.0 in its info at step 3 .* had no costs"):
        envs.step(discrete())
    with pytest.raises(
        EnvironmentFault, match=r"\(member 0\) gave cost = 'much' in its info at step 1 of its episode\."
    ):
        costly(lambda t: "much")


def test_an_environment_that_fails_when_it_is_tried_fails_in_earnest():
    said = fault(lambda t, _: {}["wheel"], num_envs=2)
    assert "Script (member 0) raised KeyError in step at step 1 of its episode: 'wheel'" in said


# --- environments that break their contract ---


def fault(play, space=ONE, steps=1, num_envs=1, start=None):
    envs = scripted(play, space, num_envs, start=start)
    with pytest.raises(EnvironmentFault) as caught:
        run(envs, steps)
    return str(caught.value)


def run(envs, steps):
    envs.reset(0)
    for _ in range(steps):
        envs.step(discrete(envs.num_envs))


def test_wrong_shape_at_reset_at_the_first_step_and_later():
    three = spaces.Box(-1, 1, (3,), np.float32)
    said = fault(None, three, start=lambda: (np.zeros(4, np.float32), {}))
    assert "Script (member 0) returned an observation of shape (4,) from reset; its observation_space says (3,)" in said
    said = fault(lambda t, _: (np.zeros((1, 3), np.float32), 0.0, False, False, {}), three)
    assert "shape (1, 3) from step" in said
    for late in (4, 1):  # 1 would broadcast
        shape = {5: late}
        play = lambda t, _, shape=shape: (np.zeros(shape.get(t, 3), np.float32), 0.0, False, False, {})
        assert f"shape ({late},) from step" in fault(play, three, steps=6, num_envs=2)
    play = lambda t, _: (np.zeros(1 if t == 5 else 3, np.float32), 0.0, t == 5, False, {})
    assert "shape (1,) from step" in fault(play, three, steps=6)


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (spaces.Box(0, 255, (2, 2), np.uint8), np.zeros((2, 2), np.float32), "dtype float32 .* says uint8"),
        (ONE, np.array(["a"]), "dtype <U1 .* says float32"),
        (ONE, np.array([1j]), "dtype complex128"),
        (ONE, np.array([None]), "dtype object"),
        (spaces.Discrete(3), 1.5, "dtype float64 .* says int64"),
        (spaces.Discrete(3), 3, r"the observation 3 from reset; its observation_space counts 3 from 0"),
        (spaces.Dict({"x": ONE}), {"y": number(0)}, r"without \['x'\] \(got y\) from reset"),
        (spaces.Dict({"x": ONE}), number(0), r"without \['x'\]"),
        (ONE, {"x": number(0)}, "returned a dict as observation"),
        (spaces.Tuple([ONE, ONE]), (number(0),), r"without \[1\]"),
    ],
)
def test_wrong_dtypes_and_structures(space, obs, words):
    envs = scripted(None, space, start=lambda: (obs, {}))
    with pytest.raises(EnvironmentFault, match=words):
        envs.reset(0)


def test_an_environment_that_leaves_is_named():
    for where, leave in (("step", lambda t, _: sys.exit("no licence")), ("reset", None)):
        start = (lambda: sys.exit("no licence")) if leave is None else None
        with pytest.raises(EnvironmentFault, match=f"raised SystemExit in {where}.*: no licence"):
            run(scripted(leave, start=start), 1)
    with pytest.raises(EnvironmentFault, match="could not be made: SystemExit: no licence"):
        envs.make(lambda: sys.exit("no licence"), 1)


class Bare(gymnasium.Env):
    """Without spaces, and with the signatures that a beginner writes."""

    def reset(self):
        return np.zeros(1, np.float32), {}

    def step(self):
        return np.zeros(1, np.float32), 0.0, False, False, {}


class Spaced(Bare):
    observation_space = ONE
    action_space = "two"


class Stepless(Spaced):
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return super().reset()


class Resetless(Stepless):
    def reset(self):
        return Bare.reset(self)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Bare, r"Bare has no observation_space. Set it in __init__, as in .*spaces.Box\("),
        (Spaced, r"Spaced has a builtins.str as its action_space. .*spaces.Discrete\(2\)"),
        (Resetless, r"raised TypeError in reset.*'seed'.*Declare it as Gymnasium does: def reset\(self, \*, seed=None"),
        (Stepless, r"raised TypeError in step.*Declare it as Gymnasium does: def step\(self, action\)"),
    ],
)
def test_spaces_and_signatures(kind, says):
    with pytest.raises(EnvironmentFault, match=says):
        run(make(kind, 1), 1)


def told(play, space, steps, start=None):
    """The warnings of a few steps, by their text."""
    with warnings.catch_warnings(record=True) as caught, mock.patch.object(errors, "_told", set()):
        warnings.simplefilter("always")
        run(scripted(play, space, 2, start=start), steps)
    assert {w.category for w in caught} <= {errors.EnvironmentWarning}
    return [str(w.message) for w in caught]


def test_observations_outside_their_box_are_told_once():
    space = spaces.Dict({"arm": spaces.Box(-1, np.array([1, np.inf], np.float32)), "free": ONE})
    see = lambda t: {"arm": np.array([1.0, t], np.float32) * (1.0000005 if t < 300 else 2), "free": number(9e9)}
    play = lambda t, _: (see(t), 0.0, False, False, {})
    assert told(play, space, 299, lambda: (see(0), {})) == []  # rounding is none
    [said] = told(play, space, 330, lambda: (see(0), {}))
    assert "(member 0) returned 2 as its observation['arm'][0]; its observation_space says -1 to 1." in said
    low = lambda: ({"arm": np.array([0, -7], np.float32), "free": number(0)}, {})
    [said] = told(play, space, 1, low)
    assert "returned -7 as its observation['arm'][1]; its observation_space says -1 to inf" in said


def test_entries_that_get_lost_are_named():
    see = lambda: {"x": number(0)}
    lost = lambda t, _: (see() if t < 4 else {"y": number(0)}, 0.0, False, False, {})
    assert "without ['x'] (got y) from step" in fault(lost, spaces.Dict({"x": ONE}), 5, 2, lambda: (see(), {}))
    empty = lambda t, _: (see() if t < 4 else {}, 0.0, False, False, {})
    assert "without ['x'] (got no entries)" in fault(empty, spaces.Dict({"x": ONE}), 5, 2, lambda: (see(), {}))


def test_wider_floats_and_whole_numbers_are_cast():
    envs = scripted(lambda t, _: (np.array([t]), t, 0, np.bool_(False), {}), start=lambda: (np.zeros(1), {}))
    assert envs.reset(0).dtype == np.float32
    seen = envs.step(discrete())
    assert (seen.obs.dtype, seen.obs.item(), seen.reward.item()) == (np.float32, 1, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((number(1), 0.0, False, {}), "returned 4 values from step .the old Gym API"),
        ([number(1), 0.0, False, False, {}], "returned a list from step"),
        ((number(1), np.zeros(1), False, False, {}), r"a reward that is an array of shape \(1,\)"),
        ((number(1), "1", False, False, {}), "a reward that is a str"),
        ((number(1), None, False, False, {}), "a reward that is a NoneType"),
        ((number(1), 0.0, None, False, {}), "terminated = None"),
        ((number(1), 0.0, False, 0.5, {}), "truncated = 0.5"),
        ((number(1), 0.0, False, False, None), "NoneType as the info of step"),
    ],
)
def test_wrong_parts_of_a_step(given, words):
    envs = scripted(lambda t, _: given)
    envs.reset(0)
    with pytest.raises(EnvironmentFault, match=words):
        envs.step(discrete())


def test_wrong_parts_of_a_reset():
    with pytest.raises(EnvironmentFault, match=r"returned a ndarray from reset; .* two"):
        scripted(None, start=lambda: number(0)).reset(0)


def test_a_reward_that_is_no_number_later():
    said = fault(lambda t, _: (number(t), np.zeros(2) if t == 4 else 1.0, False, False, {}), steps=5)
    assert "(member 0) returned a reward that is an array of shape (2,)" in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value):
    word = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}[str(value)]
    two = spaces.Box(-1, 1, (2,), np.float32)
    at = iter(range(100))

    def play(t, _):
        bad = next(at) == 6  # after the step it is tried with, the second member's third step
        return np.array([0, value if bad else 0], np.float32), 0.0, False, False, {}

    said = fault(play, two, steps=9, num_envs=2)
    assert f"Script (member 1) returned {word} as its observation[1], at step 3 of its episode" in said
    said = fault(lambda t, _: (number(t), value if t == 4 else 0.0, False, False, {}), steps=9)
    assert f"(member 0) returned {word} as its reward, at step 4 of its episode" in said
    said = fault(lambda t, _: (number(value if t == 2 else t), 0.0, t == 2, False, {}), steps=9)
    assert f"returned {word} as its last observation of an episode[0], at step 2" in said
    said = fault(None, start=lambda: (number(value), {}))
    assert f"returned {word} as its observation[0], at reset" in said
    space = spaces.Dict({"x": ONE})
    said = fault(None, space, start=lambda: ({"x": number(value)}, {}))
    assert "observation['x'][0]" in said


def test_a_policy_that_gave_nan_is_named_too():
    envs = scripted(lambda t, a: (a, 0.0, False, False, {}), action_space=spaces.Box(-1, 1, (1,)))
    envs.reset(0)
    with pytest.raises(EnvironmentFault, match="look at the policy first"):
        envs.step(np.full((1, 1), np.nan, np.float32))


def test_an_exception_names_member_and_step_and_is_chained():
    calls = iter(range(100))

    def play(t, _):
        if next(calls) == 8:  # the first is the one it is tried with
            raise ZeroDivisionError("the robot fell through the floor")
        return number(t), 0.0, t == 3, False, {}

    with pytest.raises(EnvironmentFault) as caught:
        run(scripted(play, num_envs=2), 9)
    line = play.__code__.co_firstlineno + 2
    assert str(caught.value) == (
        "Script (member 1) raised ZeroDivisionError in step at step 1 of its episode: the robot fell through the floor "
        f"({__file__}, line {line})"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exception_in_reset():
    def start():
        raise OSError("no such map")

    with pytest.raises(EnvironmentFault, match=r"Script \(member 0\) raised OSError in reset: no such map"):
        scripted(None, start=start).reset(0)


def test_an_exception_in_the_reset_after_an_end():
    starts = iter(["probe", "first"])
    start = lambda: (next(starts), (number(0), {}))[1]
    said = fault(lambda t, _: (number(t), 0.0, t == 2, False, {}), steps=3, start=start)
    assert said.startswith(f"Script (member 0) raised StopIteration in reset:  ({__file__}, line ")


# --- wrappers ---


class Doubled(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


def test_a_users_wrapper_stays_and_the_time_limit_counts():
    def factory():
        return Doubled(gymnasium.make("CartPole-v1", max_episode_steps=4))

    envs = make(factory, 2)
    assert (envs.spec.max_episode_steps, envs.spec.id) == (4, "CartPole-v1")
    envs.reset(0)
    seen = [envs.step(discrete(2)) for _ in range(8)]
    assert all(np.all(s.reward == 2) for s in seen)
    assert [s.truncated.tolist() for s in seen] == [[(t % 4) == 3] * 2 for t in range(8)]
    wrapped = make(lambda: gymnasium.wrappers.TimeLimit(Script(counting_play, ONE), 4), 1)
    wrapped.reset(0)
    seen = [wrapped.step(discrete()) for _ in range(8)]
    assert [s.truncated.item() for s in seen] == [(t % 4) == 3 for t in range(8)]
    assert wrapped.spec.max_episode_steps == 4


def counting_play(t, action):
    return number(t), 1.0, False, False, {}


# --- make ---


def test_ids_of_the_spec():
    assert make("CartPole-v1", 1).spec.id == "gymnasium/CartPole-v1"  # plain CartPole-v1 is the compiled twin
    envs = make("LunarLander-v3", 1)
    assert (envs.spec.id, envs.spec.max_episode_steps) == ("LunarLander-v3", 1000)
    assert scripted(None).spec.id == "Script"


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("CartPol-v1", "Unknown environment CartPol-v1. Did you mean CartPole-v"),
        ("CartPole", "CartPole names no version; ask for CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v2 is not in Gymnasium .*; ask for LunarLander-v3"),
        ("HalfCheetah-v3", "HalfCheetah-v3 cannot be made: .* Ask for HalfCheetah-v5"),
        ("not a name", "Unknown environment not a name"),
        ("no_such_module:Own-v0", "Cannot import 'no_such_module'"),
    ],
)
def test_unknown_ids(id, words):
    with pytest.raises(UsageError, match=words):
        make(id, 1)


def test_older_versions_are_made_in_silence(recwarn, capfd):
    make("CartPole-v0", 1).close()
    make("HalfCheetah-v4", 1).close()
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def _needs(package):
    raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def _needs_simulator(**kwargs):
    try:
        _needs("Box2D")
    except ModuleNotFoundError as error:
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed") from error


def test_missing_simulators_get_the_pip_line(monkeypatch):
    module = types.ModuleType("gymnasium.envs.box2d.made_up")
    module.Made = _needs_simulator
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = gymnasium.envs.registration.EnvSpec("Made-v0", entry_point=f"{module.__name__}:Made")
    monkeypatch.setitem(gymnasium.registry, "Made-v0", spec)
    line = r"Made-v0 needs Box2D, which is not installed. Install it with: pip install -e '\.\[box2d\]'"
    with pytest.raises(UsageError, match=line):
        make("Made-v0", 1)
    own = gymnasium.envs.registration.EnvSpec("Made-v0", entry_point=lambda **kwargs: _needs("flux"))
    monkeypatch.setitem(gymnasium.registry, "Made-v0", own)
    with pytest.raises(UsageError, match="Install it with: pip install flux"):
        make("Made-v0", 1)
    for module in ("ale_py", "ale_py.env"):  # also where another test has imported it
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"ALE/Pong-v5 needs ale-py.*pip install -e '.\[atari\]'"):
        make("ALE/Pong-v5", 1)


def test_arguments_reach_the_environment_and_unknown_ones_are_refused():
    made = make(lambda **kwargs: gymnasium.make("Pendulum-v1", **kwargs), 1, g=3.0)
    assert made._members.envs[0].unwrapped.g == 3
    assert make("Pendulum-v1", 1, g=3.0)._members.envs[0].unwrapped.g == 3
    with pytest.raises(UsageError, match=r"Pendulum-v1 does not take these arguments: .*gravity"):
        make("Pendulum-v1", 1, gravity=3.0)


def test_objects_and_factories():
    env = gymnasium.make("CartPole-v1")
    assert make(env, 1).reset(0).shape == (1, 4)
    with pytest.raises(UsageError, match="Give a function that makes a new one"):
        make(env, 2)
    with pytest.raises(UsageError, match="workers cannot be given"):
        make(env, 1, workers=1)
    with pytest.raises(UsageError, match="the same CartPole-v1 twice"):
        make(lambda: env, 2)
    with pytest.raises(UsageError, match="The factory gave str"):
        make(lambda: "CartPole-v1", 2)
    with pytest.raises(UsageError, match="neither a Gymnasium id"):
        make(3, 2)
    with pytest.raises(EnvironmentFault, match="member 0 could not be made: KeyError: 'map'"):
        make(lambda: {}["map"], 2)
    sizes = iter([1, 2])
    with pytest.raises(UsageError, match="All members have to have the same spaces"):
        make(lambda: Script(None, spaces.Box(0, 1, (next(sizes),))), 2)


@pytest.mark.parametrize(("num_envs", "workers"), [(0, 0), (True, 0), (2.0, 0), (2, -1), (2, 3), (2, None)])
def test_numbers_that_do_not_fit(num_envs, workers):
    with pytest.raises(UsageError, match=r"num_envs|workers"):
        make("CartPole-v1", num_envs, workers=workers)


def test_render():
    envs = make("CartPole-v1", 2, render_mode="rgb_array")
    with pytest.raises(UsageError, match="reset"):
        envs.render()
    envs.reset(0)
    picture = envs.render()
    assert (picture.dtype, picture.shape) == (np.uint8, (400, 600, 3))
    envs.close()
    envs = scripted(None)
    envs._members.envs[0].render = lambda: None
    envs.reset(0)
    with pytest.raises(UsageError, match="render_mode='rgb_array'"):
        envs.render()


def test_one_environment_that_cannot_be_closed_does_not_keep_the_others_open():
    closed = []
    envs = scripted(None, num_envs=2)
    first, second = envs._members.envs
    first.close = lambda: _needs("anything")
    second.close = lambda: closed.append(2)
    with pytest.warns(UserWarning, match="Closing Script failed"):
        envs.close()
    assert closed == [2]


# --- vector environments of the user's own ---


def test_a_vector_environment_gives_the_same_steps():
    theirs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync", vector_kwargs=SAME_STEP)
    given, ours = make(theirs, 3), make("CartPole-v1", 3)
    assert isinstance(ours, GymnasiumEnvs)
    assert not isinstance(given, GymnasiumEnvs)
    assert given.spec.observation_space == ours.spec.observation_space
    assert_array_equal(given.reset(3), ours.reset(3))
    rng = np.random.default_rng(0)
    for _ in range(80):
        action = rng.integers(0, 2, 3).astype(np.int32)
        one, other = given.step(action), ours.step(action)
        for x, y in zip(one[:6], other[:6], strict=True):
            assert_array_equal(x, y)
        for key in one.info:
            assert_array_equal(one.info[key], other.info[key])
    given.close()


def test_a_vector_environment_of_dicts():
    def factory():
        space = spaces.Dict({"t": spaces.Discrete(5), "x": ONE})
        look = lambda t: {"t": t, "x": number(t)}
        return Script(lambda t, _: (look(t), 1.0, t == 3, False, {}), space, start=lambda: (look(0), {}))

    envs = make(SyncVectorEnv([factory] * 2, **SAME_STEP), 2)
    envs.reset(0)
    for _ in range(3):
        seen = envs.step(discrete(2))
    assert (seen.final_obs["t"].tolist(), seen.final_obs["x"].tolist()) == ([3, 3], [[3], [3]])
    assert (seen.obs["t"].tolist(), seen.obs["x"].tolist()) == ([0, 0], [[0], [0]])


@pytest.mark.parametrize("count", [1, 2])
def test_costs_of_a_vector_environment(count):
    def factory(ends):
        give = lambda t: t / 2 if count == 1 else np.array([t / 2, ends])
        play = lambda t, _: (number(t), 1.0, t == ends, False, {"cost": give(t)})
        return lambda: Script(play, ONE, start=lambda: (number(0), {"cost": give(198)}))

    factories = [factory(1), factory(2), factory(3)]  # the first ends at the step it is tried with
    theirs, ours = make(SyncVectorEnv(factories, **SAME_STEP), 3), GymnasiumEnvs(factories)
    assert theirs.spec.num_costs == ours.spec.num_costs == count
    theirs.reset(0), ours.reset(0)
    for _ in range(7):
        one, other = theirs.step(discrete(3)), ours.step(discrete(3))
        assert one.costs.max() <= 3
        assert_array_equal(one.costs, other.costs)
        assert_array_equal(one.info["episode_cost"], other.info["episode_cost"])
    theirs.close()


def test_faulty_costs_of_a_vector_environment():
    def vector(costs, ends=9):
        def factory(i):
            play = lambda t, _: (number(t), 1.0, t == ends, False, {} if costs(i, t) is None else {"cost": costs(i, t)})
            return lambda: Script(play, ONE)

        envs = make(SyncVectorEnv([factory(0), factory(1)], **SAME_STEP), 2)
        envs.reset(0)
        return envs

    def play(costs, ends=9):
        envs = vector(costs, ends)
        for _ in range(4):
            envs.step(discrete(2))

    with pytest.raises(EnvironmentFault, match=r"\(member 1\) gave no cost in its info at step 3 .* had 1 cost"):
        play(lambda i, t: None if (i, t) == (1, 3) else 0.5)
    with pytest.raises(EnvironmentFault, match=r"member 1\) gave no cost in its info at step 3"):
        play(lambda i, t: None if (i, t) == (1, 3) else 0.5, ends=3)  # in what is told of the end
    with pytest.raises(EnvironmentFault, match=r"member 0\) gave cost = .*1.0.* at step 2 .* had no costs"):
        play(lambda i, t: 1.0 if t == 2 else None)
    with pytest.raises(EnvironmentFault, match=r"member 1\) returned NaN as its cost_1, at step 2"):
        play(lambda i, t: np.array([0.0, np.nan if (i, t) == (1, 2) else 0.0]))
    with pytest.raises(EnvironmentFault, match=r"member 0\) gave cost = 'much' in its info at step 1"):
        play(lambda i, t: "much")


def test_costs_of_a_vector_environment_that_tells_of_all_members_in_one():
    class Native(gymnasium.vector.VectorEnv):
        metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
        num_envs, single_observation_space, single_action_space = 2, ONE, spaces.Discrete(2)
        observation_space, action_space = spaces.Box(-np.inf, np.inf, (2, 1)), spaces.MultiDiscrete([2, 2])

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return np.zeros((2, 1), np.float32), {}

        def step(self, action):
            self.t += 1
            x, never = np.full((2, 1), self.t, np.float32), np.zeros(2, bool)
            end = never | (self.t % 2 == 0)
            return x, np.ones(2), end, never, {"cost": np.array([self.t, -1.0]), "final_obs": x}

    envs = make(Native(), 2)
    envs.reset(0)
    assert [envs.step(discrete(2)).info["episode_cost"].tolist() for _ in range(3)] == [
        [[1], [-1]],
        [[3], [-2]],
        [[3], [-1]],
    ]


def test_vector_environments_that_do_not_fit():
    with pytest.raises(UsageError, match=r"autoreset mode NEXT_STEP; .* vector_kwargs="):
        make(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"), 2)
    theirs = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync", vector_kwargs=SAME_STEP)
    with pytest.raises(UsageError, match="has 2 members; asked for are num_envs=3"):
        make(theirs, 3)
