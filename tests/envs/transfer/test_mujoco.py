"""MuJoCo's simulator with other parameters in every episode, and with pushes."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from steersman import envs
from steersman.envs.transfer.mujoco import ChangingSimulator
from steersman.envs.transfer.settings import read
from steersman.errors import UsageError


def changed(id="Hopper-v5", **settings):
    return ChangingSimulator(gymnasium.make(id), read(**settings))


@pytest.fixture(scope="module")
def hopper():
    with gymnasium.make("Hopper-v5") as env:
        yield env.unwrapped.model


def test_parameters_are_scaled_at_reset(hopper):
    names = ("mass", "friction", "damping", "gain", "armature", "gravity")
    env = changed(randomize=dict.fromkeys(names, (0.5, 2)), see_physics=True)
    model = env.unwrapped.model
    for _ in range(2):  # of how they were, not of how they are
        obs, _ = env.reset()
        mass, friction, damping, gain, armature, gravity = obs["physics"]
        np.testing.assert_allclose(model.body_mass, mass * hopper.body_mass, rtol=1e-6)
        np.testing.assert_allclose(model.body_inertia, mass * hopper.body_inertia, rtol=1e-6)
        np.testing.assert_allclose(model.geom_friction, hopper.geom_friction * [friction, 1, 1], rtol=1e-6)
        np.testing.assert_allclose(model.dof_damping, damping * hopper.dof_damping, rtol=1e-6)
        np.testing.assert_allclose(model.actuator_gainprm[:, 0], gain * hopper.actuator_gainprm[:, 0], rtol=1e-6)
        np.testing.assert_allclose(model.dof_armature, armature * hopper.dof_armature, rtol=1e-6)
        np.testing.assert_allclose(model.opt.gravity, gravity * hopper.opt.gravity, rtol=1e-6)
        np.testing.assert_allclose(model.body_subtreemass, mass * hopper.body_subtreemass, rtol=1e-6)  # what follows
    assert env.observation_space.contains(obs)
    env.close()


def test_a_factor_of_its_own_for_each_part(hopper):
    names = ["mass/each", "mass/foot", "damping/each", "gain/each", "friction/floor", "mass"]
    env = changed(randomize=dict.fromkeys(names, (0.5, 2)), see_physics=True)
    model = env.unwrapped.model
    for _ in range(2):
        obs, _ = env.reset()
        mass, foot, damping, gain, floor, all = np.split(
            obs["physics"], [4, 5, 8, 11, 12]
        )  # the world and three joints have none
        of_body = np.array([1, *mass[:3], mass[3] * foot[0]]) * all
        np.testing.assert_allclose(model.body_mass, of_body * hopper.body_mass, rtol=1e-6)
        np.testing.assert_allclose(model.body_inertia, of_body[:, None] * hopper.body_inertia, rtol=1e-6)
        np.testing.assert_allclose(model.dof_damping, [0, 0, 0, *damping] * hopper.dof_damping, rtol=1e-6)
        np.testing.assert_allclose(model.actuator_gainprm[:, 0], hopper.actuator_gainprm[:, 0] * gain, rtol=1e-6)
        ground = np.array([floor[0], *np.ones(model.ngeom - 1)])
        np.testing.assert_allclose(model.geom_friction[:, 0], hopper.geom_friction[:, 0] * ground, rtol=1e-6)
        assert len(set(mass.tolist())) == 4
    assert env.observation_space.contains(obs)
    env.close()


class BallAndHinge(gymnasium.Env):
    """A joint of three degrees of freedom beside one of one, without names."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self):
        joint = "<body>{}<geom size='.1'/></body>"
        joints = [joint.format(f"<joint type='{kind}' damping='2'/>") for kind in ("ball", "hinge")]
        mujoco = pytest.importorskip("mujoco")
        self.model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{''.join(joints)}</worldbody></mujoco>")

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


def test_a_joint_has_one_factor_for_all_its_degrees_of_freedom():
    env = ChangingSimulator(BallAndHinge(), read(randomize="damping/each:0.5:2+mass/each:0.5:2", see_physics=True))
    ball, hinge, *masses = env.reset(seed=1)[0]["physics"]
    np.testing.assert_allclose(env.unwrapped.model.dof_damping, 2 * np.array([ball, ball, ball, hinge]), rtol=1e-6)
    assert ball != hinge
    assert len(masses) == 2


def test_a_seed_decides_what_each_part_is_in_every_episode():
    env = changed(randomize={"mass/each": (0.5, 2)}, see_physics=True)
    told = []
    for _ in range(2):  # as at a checkpoint: from the seed on, the same episodes again
        told.append([env.reset(seed=5)[0]["physics"], env.reset()[0]["physics"]])
    np.testing.assert_array_equal(told[0], told[1])
    assert not np.array_equal(*told[0])
    env.close()


def test_a_seed_decides_and_the_environment_draws_the_same():
    env = changed(randomize={"mass": (0.5, 2)}, see_physics=True)
    one, two = env.reset(seed=5)[0], env.reset(seed=5)[0]
    assert one["physics"] == two["physics"] != env.reset()[0]["physics"]
    with gymnasium.make("Hopper-v5") as plain:
        np.testing.assert_array_equal(plain.reset(seed=5)[0], one["observation"])
    env.close()


class Watched(gymnasium.Wrapper):
    """Notes the velocities with which each step begins and ends."""

    def __init__(self, env):
        super().__init__(env)
        self.began, self.ended = [], []

    def step(self, action):
        self.began.append(self.unwrapped.data.qvel.copy())
        given = self.env.step(action)
        self.ended.append(self.unwrapped.data.qvel.copy())
        return given


def test_pushes_move_the_root_alone():
    watched = Watched(gymnasium.make("Hopper-v5"))
    env = ChangingSimulator(watched, read(push=0.5, push_every=2))
    env.reset(seed=0)
    for _ in range(200):
        env.step(np.zeros(3, np.float32))
    pushes = np.array(watched.began[1:]) - np.array(watched.ended[:-1])
    assert not pushes[:, 1:].any()  # rootx alone: rootz is upright, rooty turns
    hit = pushes[:, 0] != 0
    assert hit.mean() == pytest.approx(0.5, abs=0.12)
    assert 0.4 < np.abs(pushes).max() <= 0.5
    env.close()


@pytest.mark.parametrize(("id", "root"), [("Ant-v5", [0, 1]), ("InvertedPendulum-v5", [0]), ("Swimmer-v5", [0, 1])])
def test_the_root(id, root):
    env = changed(id, push=1)
    assert env._root == root
    env.close()


def test_by_name():
    made = envs.make("InvertedPendulum-v5,randomize=gain:0.5:2,see_physics=true,push=0.1,observation_noise=0.01", 2)
    obs = made.reset(0)
    assert obs["physics"].shape == (2, 1)
    assert obs["physics"][0] != obs["physics"][1]
    assert made.step(np.zeros((2, 1), np.float32)).obs["physics"].tolist() == obs["physics"].tolist()
    made.close()
    made = envs.make(lambda: gymnasium.make("InvertedPendulum-v5"), 1, randomize={"gain": (0.5, 2)})
    assert made.reset(0).shape == (1, 4)
    made.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Hopper-v5,randomize=mas:0.5:2", "MuJoCo has no parameter 'mas'. Did you mean mass.* It has mass, friction"),
        (
            "Hopper-v5,randomize=mass/tors:0.5:2",
            "Hopper-v5 has no body called 'tors'. Did you mean torso.* mass/each draws",
        ),
        ("Hopper-v5,randomize=damping/rootx:0.5:2", "the joint rootx of Hopper-v5 has no damping"),
        ("Hopper-v5,randomize=gravity/each:0.5:2", "gravity is of the whole model"),
        ("Pendulum-v1,randomize=mass/each:0.5:2", "no parameter 'mass/each'. Did you mean mass"),
        ("Swimmer-v5,randomize=damping:0.5:2", "Swimmer-v5 has no damping: it is 0 all over"),
        ("Reacher-v5,push=1", "the root of Reacher-v5 cannot move about"),
        ("gymnasium/CartPole-v1,push=1", "CartPole-v1 has no simulator that randomize and push can change"),
        (
            "envpool/CartPole-v1,push=1",
            "those of Atari, of EnvPool and of environments that are made already",
        ),
        ("atari/Pong,randomize=mass:1:2", "those of Atari"),
    ],
)
def test_what_is_refused(name, says):
    with pytest.raises(UsageError, match=says):
        envs.make(name, 1)


def test_one_that_is_made_already():
    with gymnasium.make("InvertedPendulum-v5") as env, pytest.raises(UsageError, match="made already"):
        envs.make(env, 1, push=1)


def test_workers_stay_light():
    code = "import sys, steersman.envs.transfer.mujoco; print('jax' in sys.modules, 'mujoco' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "False False"
