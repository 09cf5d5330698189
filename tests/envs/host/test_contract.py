"""What members may not do at any step, and what they may: counts, rewards, buffers, actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from steersman.envs.host import gymnasium as host
from steersman.envs.host.contract import leaves_of
from steersman.envs.host.members import Block, Members
from steersman.errors import EnvironmentFault, UsageError
from steersman.spaces import inside_space


class Walk(gymnasium.Env):
    """Observes a function of its step; episodes of five steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, observe, reward=lambda t: 1.0):
        self.observation_space, self.observe, self.reward, self.t = space, observe, reward, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(0), {}

    def step(self, action):
        self.t += 1
        return self.observe(self.t), self.reward(self.t), self.t >= 5, False, {}


def walk(space, observe, steps, num_envs=2, **kwargs):
    envs = host.make(lambda: Walk(space, observe, **kwargs), num_envs)
    envs.reset(0)
    for _ in range(steps):
        seen = envs.step(np.zeros(num_envs, np.int32))
    return seen


@pytest.mark.parametrize(
    ("space", "observe", "came", "says"),
    [
        (spaces.Discrete(3), lambda t: t, "observation 3", "3 from 0"),
        (spaces.Discrete(3), lambda t: 2 - t, "observation -1", "3 from 0"),
        (spaces.Discrete(3, start=5), lambda t: 5 + t, "observation 8", "3 from 5"),
        (spaces.MultiDiscrete([3, 9]), lambda t: np.array([t, 0]), r"observation \[3, 0\]", r"\[3, 9\] from 0"),
        (spaces.Dict(n=spaces.Discrete(3)), lambda t: {"n": t}, r"observation\['n'\] 3", "3 from 0"),
        (spaces.Tuple([spaces.Discrete(3)]), lambda t: (t,), r"observation\[0\] 3", "3 from 0"),
    ],
)
def test_a_count_out_of_its_range_at_any_step(space, observe, came, says):
    walk(space, observe, 2)
    with pytest.raises(EnvironmentFault, match=rf"\(member 0\) .* {came}, at step 3 of its .* counts {says}"):
        walk(space, observe, 3)


def test_a_count_out_of_its_range_at_the_end_of_an_episode_and_in_the_reset_after():
    with pytest.raises(EnvironmentFault, match="observation 7, at step 5"):
        walk(spaces.Discrete(3), lambda t: 7 if t == 5 else t % 3, 5)
    resets = iter([0, 0, 0, 9, 9])  # one to look at the environment, then the members' own
    with pytest.raises(EnvironmentFault, match="observation 9, at step 5"):
        walk(spaces.Discrete(3), lambda t: t % 3 if t else next(resets), 5)


@pytest.mark.parametrize("space", [spaces.Discrete(9), spaces.MultiDiscrete([9, 9])], ids=str)
@pytest.mark.parametrize("at", [3, 5])
def test_a_float_in_place_of_a_count_is_refused_later_too(space, at):
    shape = space.shape
    observe = lambda t: np.full(shape, t + (0.5 if t == at else 0), float if t == at else int)[()]
    with pytest.raises(EnvironmentFault, match="dtype float64 from step; its observation_space says int64"):
        walk(space, observe, at)


def test_small_integers_are_counts_and_rewards():
    """Eight of them add up to more than they hold."""
    box = spaces.Discrete(200)
    seen = walk(box, lambda t: np.uint8(190 + t), 3, 8, reward=lambda t: np.int8(100))
    assert seen.obs.tolist() == [193] * 8
    assert seen.info["episode_return"].tolist() == [300] * 8


def test_wider_integers_for_bytes_are_refused_later_too():
    observe = lambda t: np.full((2, 2), 300 if t == 3 else 3, np.uint16 if t == 3 else np.uint8)
    with pytest.raises(EnvironmentFault, match="dtype uint16 from step; its observation_space says uint8"):
        walk(spaces.Box(0, 255, (2, 2), np.uint8), observe, 3)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_reward_of_none_is_called_that(num_envs):
    box = spaces.Box(-1, 1, (1,))
    with pytest.raises(EnvironmentFault, match="a reward that is a NoneType: None"):
        walk(box, lambda t: np.zeros(1), 3, num_envs, reward=lambda t: None if t == 3 else 1.0)


def test_entries_that_the_space_has_not_are_named():
    with pytest.raises(EnvironmentFault, match=r"with \['m'\] from reset; its observation_space has no such entry"):
        walk(spaces.Dict(n=spaces.Discrete(3)), lambda t: {"n": 0, "m": 1}, 1)


class Own(Walk):
    """Observes a random number in one buffer that it never replaces; every step or every second one."""

    def __init__(self, buffer, space, wrap):
        super().__init__(space, lambda t: wrap(self.fill()))
        self.buffer = buffer

    def fill(self):
        self.buffer[:] = self.np_random.random(2)
        return self.buffer


BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)
FORMS = {
    "itself": (BOX, lambda x: x),
    "a view": (BOX, lambda x: x[::-1][::-1]),
    "in a dict": (spaces.Dict(a=BOX, b=BOX), lambda x: {"a": x, "b": np.zeros(2)}),
}


def played(environments, space, seeds):
    """The observations and last observations of seven steps, as a process with these members gives them."""
    members, leaves = Members([lambda e=e: e for e in environments]), leaves_of(space, inside_space(space))
    block = Block.allocate(leaves, len(environments), 0, 0)
    members.attach(leaves, leaves_of(spaces.Discrete(2), spaces.Discrete(2)), False, block, ())
    members.reset(seeds)
    seen = [[x.copy() for x in block.obs]]
    for _ in range(7):
        members.step([np.zeros(len(environments), np.int64)])
        seen.append([x.copy() for x in (*block.obs, *block.final)])
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_a_buffer_that_members_share_is_copied_member_by_member(form):
    space, wrap = FORMS[form]
    buffer, seeds = np.zeros(2, np.float32), [1, 2, 3]
    together = played([Own(buffer, space, wrap) for _ in seeds], space, seeds)
    apart = [played([Own(np.zeros(2, np.float32), space, wrap)], space, [seed]) for seed in seeds]
    for t, now in enumerate(together):
        for k, x in enumerate(now):
            np.testing.assert_array_equal(x, np.concatenate([one[t][k] for one in apart]))


def test_the_agents_actions_are_looked_at_at_every_step():
    """The first ones are a random policy's."""
    space = spaces.Dict(arm=spaces.Box(-1, 1, (2, 3)), grip=spaces.Discrete(2))
    for actions, good, bad in (
        (spaces.Box(-1, 1, (2, 3)), np.zeros((2, 2, 3), np.float32), np.zeros((2, 6), np.float32)),
        (spaces.Box(-1, 1, (3, 1)), np.zeros((2, 3, 1), np.float32), np.zeros((2, 3), np.float32)),
        (spaces.Box(-1, 1, ()), np.zeros(2, np.float32), np.zeros((2, 1), np.float32)),
        (spaces.Discrete(2), np.zeros(2, np.int32), np.zeros(2, np.float32)),
        (
            space,
            {"arm": np.zeros((2, 2, 3), np.float32), "grip": np.zeros(2, np.int32)},
            {"arm": np.zeros((2, 6), np.float32), "grip": np.zeros(2, np.int32)},
        ),
    ):
        make = lambda actions=actions: type("Taken", (Walk,), {"action_space": actions})(BOX, lambda t: np.zeros(2))
        envs = host.make(make, 2)
        envs.reset(0)
        envs.step(good)
        envs.step(good)
        with pytest.raises(UsageError, match="takes actions.* of shape"):
            envs.step(bad)
        envs.step(good)
