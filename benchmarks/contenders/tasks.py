"""Environments that nobody's presets know: plain Gymnasium, for both libraries of ``benchmarks/defaults.py``.

Different in what learning has to cope with: actions in their own units, observations in dictionaries or of very
different sizes, rewards of thousands or seldom, actions of several parts, short episodes and long.
"""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

_CART = """
<mujoco><option timestep="0.01"/><default><joint damping="0.05"/></default><worldbody>
  <body name="cart" pos="0 0 0"><joint name="slide" type="slide" axis="1 0 0" range="-2 2" limited="true"/>
    <geom type="box" size="0.1 0.05 0.05" mass="1"/>
    <body name="pole"><joint name="hinge" type="hinge" axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 0 0 0.5" size="0.02" mass="0.2"/></body></body>
</worldbody><actuator><motor joint="slide" gear="1" ctrlrange="-20 20"/></actuator></mujoco>
"""


class CartTarget(gymnasium.Env):
    """Carry an upright pole to a target: a dictionary is observed, the action is a force in newtons."""

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(_CART)
        self.data = mujoco.MjData(self.model)
        box = lambda n: spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.observation_space = spaces.Dict({"body": box(4), "target": box(1)})
        self.action_space = spaces.Box(-20.0, 20.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-0.05, 0.05, 2)
        self.target = self.np_random.uniform(-1.0, 1.0)
        mujoco.mj_forward(self.model, self.data)
        return self.observation(), {}

    def step(self, action):
        self.data.ctrl[:] = np.clip(action, -20.0, 20.0)
        mujoco.mj_step(self.model, self.data, 2)
        off = abs(self.data.qpos[0] - self.target)
        fallen = bool(abs(self.data.qpos[1]) > 0.6)
        return self.observation(), float(np.exp(-2.0 * off) - 0.001 * abs(action[0])), fallen, False, {}

    def observation(self):
        body = np.concatenate([self.data.qpos, self.data.qvel]).astype(np.float32)
        return {"body": body, "target": np.array([self.target], np.float32)}


class Kiln(gymnasium.Env):
    """Hold a kiln at its temperature: kelvins and pascals are observed, fuel and draught are set, rewards are money."""

    observation_space = spaces.Box(0.0, np.inf, (4,), np.float32)
    action_space = spaces.Box(np.array([0.0, 10.0], np.float32), np.array([50.0, 90.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.heat, self.pressure = self.np_random.uniform(300.0, 600.0), 101_325.0
        self.goal = self.np_random.uniform(700.0, 1200.0)
        self.lag = 0.0
        return self.observation(), {}

    def step(self, action):
        fuel, draught = np.clip(action, self.action_space.low, self.action_space.high)
        self.lag += 0.2 * (fuel - self.lag)  # fuel takes time to burn
        burn = self.lag * min(1.0, draught / (self.lag + 10.0))
        self.heat += 1.2 * burn - 0.004 * (self.heat - 290.0) * (1.0 + draught / 30.0) + self.np_random.normal()
        self.pressure = 101_325.0 + 40.0 * (burn - draught) + 20.0 * self.np_random.normal()
        cost = 30.0 * fuel + 5.0 * abs(self.heat - self.goal)
        return self.observation(), 1000.0 - cost, False, False, {}

    def observation(self):
        return np.array([self.heat, self.goal, self.pressure, self.lag], np.float32)


class Sorter(gymnasium.Env):
    """Put ten coloured parts into three bins, one part and one bin a step: several whole numbers are chosen at once."""

    observation_space = spaces.Dict({"parts": spaces.MultiDiscrete([4] * 10), "waiting": spaces.MultiBinary(10)})
    action_space = spaces.MultiDiscrete([10, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.colours = self.np_random.integers(0, 3, 10)
        self.waiting = np.ones(10, np.int8)
        return self.observation(), {}

    def step(self, action):
        part, place = int(action[0]), int(action[1])
        right = bool(self.waiting[part]) and self.colours[part] == place
        self.waiting[part] = self.waiting[part] and not right
        done = not self.waiting.any()
        return self.observation(), (1.0 if right else -0.1) + 5.0 * done, done, False, {}

    def observation(self):
        parts = np.where(self.waiting == 1, self.colours, 3).astype(np.int64)
        return {"parts": parts, "waiting": self.waiting.copy()}


def cart_target() -> gymnasium.Env:
    return TimeLimit(CartTarget(), max_episode_steps=300)


def kiln() -> gymnasium.Env:
    return TimeLimit(Kiln(), max_episode_steps=200)


def sorter() -> gymnasium.Env:
    return TimeLimit(Sorter(), max_episode_steps=60)


class Tanks(gymnasium.Env):
    """Keep three tanks in a row at their levels by opening and closing valves: one of seven switches a step."""

    observation_space = spaces.Box(-np.inf, np.inf, (9,), np.float32)
    action_space = spaces.Discrete(7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.uniform(100.0, 900.0, 3)  # litres
        self.goal = self.np_random.uniform(300.0, 700.0, 3)
        self.valve = np.zeros(3)
        return self.observation(), {}

    def step(self, action):
        if action:  # 0 leaves all as it is; odd ones open a valve a little, even ones close it
            i = (int(action) - 1) // 2
            self.valve[i] = np.clip(self.valve[i] + (0.25 if action % 2 else -0.25), 0.0, 1.0)
        through = self.valve * np.array([60.0, *(0.1 * self.level[:2])])  # into each tank: from the main, from above
        leaving = np.array([*through[1:], 0.05 * self.level[2]])
        self.level = np.clip(self.level + through - leaving + self.np_random.normal(0.0, 2.0, 3), 0.0, 1000.0)
        overflow = bool((self.level >= 1000.0).any())
        return (
            self.observation(),
            -float(np.abs(self.level - self.goal).mean()) / 100.0 - 50.0 * overflow,
            overflow,
            False,
            {},
        )

    def observation(self):
        return np.concatenate([self.level, self.goal, self.valve]).astype(np.float32)


def tanks() -> gymnasium.Env:
    return TimeLimit(Tanks(), max_episode_steps=200)
