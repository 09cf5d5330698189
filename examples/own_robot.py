"""A robot of your own, from its MJCF: an arm brings a load to a target, and does not know how heavy it is.

Run it:  python examples/own_robot.py
or:      cd examples && steersman train ppo own_robot:arm --policy-sees state --cost-limit 5 --out runs/arm
"""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import steersman

MJCF = Path(__file__).with_name("own_robot.xml")


class Arm(gymnasium.Env):
    """state: cos and sin of the joints, their speeds (rad/s), the way from load to target (m). Actions in N m."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    any_number = lambda size: spaces.Box(-np.inf, np.inf, (size,), np.float32)
    observation_space = spaces.Dict({"state": any_number(8), "privileged_state": any_number(1)})

    def __init__(self, mjcf=MJCF, heaviest=2.0, render_mode=None):
        try:
            self.model = mujoco.MjModel.from_xml_path(str(mjcf))
        except ValueError as error:  # MuJoCo says the line
            raise ValueError(f"{mjcf}: {error}") from None
        self.data, self.heaviest, self.render_mode = mujoco.MjData(self.model), heaviest, render_mode
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self.action_space = spaces.Box(low, high)
        self.load, self.target, self.renderer = self.model.body("load"), self.model.site("target"), None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.load.mass = self.np_random.uniform(0.1, self.heaviest)
        self.data.qpos = self.np_random.uniform(-1.5, 1.5, 2)
        angle, reach = self.np_random.uniform([-1.5, 0.25], [1.5, 0.43])
        self.target.pos[:2] = reach * np.cos(angle), reach * np.sin(angle)
        mujoco.mj_forward(self.model, self.data)
        return self.observation(), {}

    def step(self, action):
        self.data.ctrl = action
        mujoco.mj_step(self.model, self.data, nstep=4)  # 50 actions in a second
        obs, fast = self.observation(), np.abs(self.data.qvel).max() > 6.0
        distance = float(np.linalg.norm(obs["state"][-2:]))
        return obs, -distance, False, False, {"cost": float(fast), "is_success": distance < 0.05}

    def observation(self):
        way = (self.target.pos - self.data.body("load").xpos)[:2]
        state = np.concatenate([np.cos(self.data.qpos), np.sin(self.data.qpos), self.data.qvel, way])
        return {"state": state.astype(np.float32), "privileged_state": self.load.mass.astype(np.float32)}

    def render(self):
        self.renderer = self.renderer or mujoco.Renderer(self.model, 480, 480)
        self.renderer.update_scene(self.data, "above")
        return self.renderer.render()


def arm(**options):
    return TimeLimit(Arm(**options), max_episode_steps=150)


def main(steps=300_000, **settings):
    settings = {"policy_sees": "state", "cost_limit": 5.0, "num_envs": 16} | settings
    result = steersman.train("ppo", arm, steps=steps, **settings)
    print(result.evaluation)
    print(result.policy({"state": np.zeros(8)}), "N m: the policy asks for what a robot can know")
    return result


if __name__ == "__main__":
    main()
