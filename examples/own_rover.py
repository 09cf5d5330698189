"""An environment of your own with all that one may have: a Dict, a cost, a success, a time limit, pictures.

Run it:  python examples/own_rover.py
or:      cd examples && steersman train ppo own_rover:rover --steps 50000 --out runs/rover
         steersman record runs/rover --environment own_rover:rover
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import steersman

CRATER, RADIUS = np.array([0.0, 0.0]), 0.4


class Rover(gymnasium.Env):
    """Drive to the target (m), round the crater; push in newtons. The friction is for the critic alone."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Dict(
        {
            "motion": spaces.Box(-np.inf, np.inf, (4,), np.float32),  # position and velocity
            "target": spaces.Box(-1, 1, (2,), np.float32),
            "friction": spaces.Box(0, 1, (1,), np.float32),  # known in simulation only
        }
    )
    action_space = spaces.Box(-5.0, 5.0, (2,), np.float32)

    def __init__(self, render_mode=None):  # a film asks for render_mode="rgb_array"
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.velocity = self.np_random.uniform([-1, -1], [-0.6, 1]), np.zeros(2)
        self.target, self.friction = self.np_random.uniform([0.6, -1], [1, 1]), self.np_random.uniform(0.2, 0.8)
        return self.observation(), {}

    def step(self, force):
        self.velocity += 0.1 * (force - 4 * self.friction * self.velocity)
        self.position = np.clip(self.position + 0.1 * self.velocity, -1.5, 1.5)
        distance = float(np.linalg.norm(self.position - self.target))
        there, inside = distance < 0.15, np.linalg.norm(self.position - CRATER) < RADIUS
        # cost: kept apart from the reward, in every info. is_success: of the episode, read at its end.
        info = {"cost": float(inside), "is_success": bool(there)}
        return self.observation(), 10.0 * there - distance, bool(there), False, info

    def observation(self):
        motion = np.concatenate([self.position, self.velocity]).astype(np.float32)
        return {"motion": motion, "target": np.float32(self.target), "friction": np.float32([self.friction])}

    def render(self):
        y, x = np.mgrid[1.5:-1.5:96j, -1.5:1.5:96j]
        near = lambda point, radius: np.hypot(x - point[0], y - point[1]) < radius
        picture = np.full((96, 96, 3), 235, np.uint8)
        picture[near(CRATER, RADIUS)] = 120, 110, 100
        picture[near(self.target, 0.15)] = 40, 160, 80
        picture[near(self.position, 0.1)] = 200, 60, 40
        return picture


def rover(render_mode: str | None = None) -> gymnasium.Env:
    """The factory: it takes ``render_mode`` and passes it on. The clock is ``TimeLimit``'s, a truncation."""
    return TimeLimit(Rover(render_mode), max_episode_steps=100)


def main(steps: int = 50_000, **settings) -> float:
    result = steersman.train("ppo", rover, steps=steps, **settings)
    print(f"mean return {result.evaluation.mean:.1f}, cost {result.evaluation.mean_cost}")
    return result.evaluation.mean


if __name__ == "__main__":
    main()
