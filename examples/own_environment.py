"""An environment of your own, written for Gymnasium: hold a boat on its course in a gusty wind.

Run it:  python examples/own_environment.py
or:      cd examples && steersman train ppo own_environment:boat --steps 60000
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import steersman


class Boat(gymnasium.Env):
    """Observe the offset from the course (m) and the heading (rad); turn the rudder (degrees)."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-30.0, 30.0, (1,), np.float32)  # your own units: the agent sees [-1, 1]

    def __init__(self, wind: float = 0.5):
        self.wind = wind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.offset, self.heading = self.np_random.uniform(-1.0, 1.0, 2)
        return self.observation(), {}

    def step(self, action):
        self.heading += 0.1 * np.deg2rad(action[0])
        self.offset += 0.1 * (4.0 * np.sin(self.heading) + self.wind * self.np_random.normal())
        off_course = abs(self.offset) > 10.0
        reward = 1.0 - abs(self.offset) / 10.0
        # terminated: the task itself is over. A clock that runs out is a truncation, which TimeLimit adds.
        return self.observation(), reward, off_course, False, {}

    def observation(self):
        return np.array([self.offset, self.heading], np.float32)


def boat(wind: float = 0.5) -> gymnasium.Env:
    """What steersman asks for: a function that makes one environment. It is called once for each copy."""
    return TimeLimit(Boat(wind), max_episode_steps=200)


def main(steps: int = 60_000, **settings) -> float:
    result = steersman.train("ppo", boat, steps=steps, **settings)
    print(f"mean return {result.evaluation.mean:.1f} of at most 200")
    rudder = result.policy(np.array([2.0, 0.0], np.float32))  # 2 m off course, heading straight on
    print(f"2 m off course the policy turns the rudder to {rudder[0]:.0f} degrees")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
