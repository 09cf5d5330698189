import sys
import textwrap

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs import classic
from steersman.envs import host as host_envs
from steersman.envs.classic.cartpole import CartPole
from steersman.envs.probe import PROBES
from steersman.errors import EnvironmentFault, UsageError
from steersman.types import DeviceEnvs, HostEnvs, TimeStep


class Corridor(gymnasium.Env):
    """A Gymnasium environment of a user's."""

    observation_space = spaces.Box(0.0, 1.0, (1,))
    action_space = spaces.Discrete(2)
    closed = 0

    def __init__(self, length=3):
        self.length, self.at = length, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.ones(1, np.float32), 1.0, self.at >= self.length, False, {}

    def close(self):
        Corridor.closed += 1


class Fake(HostEnvs):
    """Stands for the host adapter: the registry's part is to hand over the right things."""

    def __init__(self, made_of, num_envs, workers=0, **kwargs):
        self.made_of, self.num_envs, self.workers, self.kwargs = made_of, num_envs, workers, kwargs
        self.spec = classic.make("CartPole-v1").spec

    def reset(self, seed):
        raise NotImplementedError

    def step(self, action) -> TimeStep:
        raise NotImplementedError

    def close(self):
        pass


@pytest.fixture
def host(monkeypatch):
    """The Gymnasium and EnvPool adapters replaced by one that records what it is asked for."""
    for package, name in ((host_envs, "gymnasium"), (envs, "envpool")):
        module = type(sys)(f"{package.__name__}.{name}")
        module.make = Fake
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(package, name, module, raising=False)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_robots.py").write_text(
        textwrap.dedent("""
        import gymnasium
        from steersman.envs.classic.cartpole import CartPole
        from steersman.envs import vectorize

        def cart(sutton_barto_reward=False):
            return CartPole(sutton_barto_reward)

        def host():
            return gymnasium.make("CartPole-v1")

        def later():
            return host

        def batch():
            return vectorize(CartPole(), 4)

        def wrong():
            return 3

        def unplugged():
            raise OSError("no robot on this port")

        ready = CartPole()
        """)
    )
    (tmp_path / "my_broken.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "my_careless.py").write_text("import os\n\nos.environ['A_ROBOT_THAT_IS_NOT_THERE']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield
    sys.modules.pop("my_robots", None)


def test_compiled_names():
    made = envs.make("CartPole-v1", 3)
    assert isinstance(made, DeviceEnvs)
    assert (made.spec.id, made.num_envs, made.spec.max_episode_steps) == ("CartPole-v1", 3, 500)
    assert envs.make("Pendulum-v1", 2, g=9.81).spec.id == "Pendulum-v1"
    for name in PROBES:
        assert envs.make(name, 2).spec.id == name
    assert envs.make_env("MountainCar-v0").spec.max_episode_steps == 200


def test_host_names_go_to_their_adapters(host):
    for name, right in {
        "gymnasium/CartPole-v1": "CartPole-v1",
        "HalfCheetah-v5": "HalfCheetah-v5",
        "phys2d/CartPole-v1": "phys2d/CartPole-v1",
        "ALE/Pong-v5": "ALE/Pong-v5",
        "ale_py:ALE/Pong-v5": "ale_py:ALE/Pong-v5",
        "envpool/Ant-v4": "Ant-v4",
    }.items():
        made = envs.make(name, 4, some="argument", log_info=["distance"])
        given = {"some": "argument", "log_info": ["distance"], "costs": ()}
        assert (made.made_of, made.num_envs, made.kwargs) == (right, 4, given)
    assert envs.make("gymnasium/CartPole-v1", 4, workers=2).workers == 2


def test_objects(host):
    assert envs.make(CartPole(), 2).spec.id == "CartPole-v1"
    assert envs.make(CartPole, 2, sutton_barto_reward=True).num_envs == 2
    assert envs.make_env(CartPole()).spec.id == "CartPole-v1"
    batch = envs.make("CartPole-v1", 2)
    assert envs.make(batch, 2) is batch
    corridor = Corridor()
    assert envs.make(corridor, 1).made_of is corridor
    several = gymnasium.vector.SyncVectorEnv([Corridor, Corridor])
    assert envs.make(several, 2).made_of is several
    assert envs.make(lambda: several, 2).made_of is several
    before = Corridor.closed
    made = envs.make(Corridor, 3, workers=1, length=5)
    assert Corridor.closed == before + 1  # the one that was made to see what the class gives
    members = [made.made_of() for _ in range(2)]
    assert all(isinstance(member, Corridor) and member.length == 5 for member in members)
    assert members[0] is not members[1]
    assert made.workers == 1


def test_a_factory_by_name(host, user_module):
    made = envs.make("my_robots:cart", 2, sutton_barto_reward=True)
    assert made.spec.id == "my_robots:cart"
    state, _ = made.reset(jax.random.key(0))
    assert made.step(state, jnp.zeros(2, jnp.int32))[1].reward.tolist() == [0, 0]
    assert envs.make("my_robots:ready", 2).spec.id == "my_robots:ready"
    assert envs.make("my_robots:batch", 4).num_envs == 4
    assert envs.make_env("my_robots:cart").spec.id == "CartPole-v1"
    for name in ("my_robots:host", "my_robots:later"):
        made = envs.make(name, 2)
        assert made.spec.id == name
        with made.made_of() as member:
            assert isinstance(member, gymnasium.Env)


MISTAKES = {
    "CartPole": r"Unknown environment 'CartPole'\. Did you mean CartPole-v1",
    "HalfChetah-v5": "Did you mean HalfCheetah-v5",
    "brax/ant": r"Unknown family 'brax' in brax/ant; families are gymnasium/, gymnax/, atari/, envpool/, probe/",
    "gymnx/CartPole-v1": "Did you mean gymnax/CartPole-v1",
    "probe/onestep": "Did you mean probe/one-step",
    "": "Unknown environment ''",
    "no_such_module:make": "Cannot import 'no_such_module'",
    "my_broken:make": "Cannot import 'my_broken'.*a_package_that_is_not_there",
    "my_careless:make": r"Cannot import 'my_careless'.*KeyError.*A_ROBOT_THAT_IS_NOT_THERE.* \(.*careless.py, line 3\)",
    "my_robots:card": r"has no 'card'.*Did you mean cart",
    "my_robots:wrong": r"my_robots:wrong gives int\. It is to be, or to return, a gymnasium\.Env or a steersman Env",
    "my_robots:batch": "was made with num_envs=4; asked for are 2",
    ":": "Cannot import ''",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_names(name, user_module):
    with pytest.raises(UsageError, match=MISTAKES[name]):
        envs.make(name, 2)


def test_a_factory_that_fails(user_module):
    says = r"^my_robots:unplugged could not be made: OSError: no robot on this port \(.*my_robots.py, line \d+\)$"
    with pytest.raises(EnvironmentFault, match=says):
        envs.make("my_robots:unplugged", 2)


def test_mistakes_in_arguments(user_module):
    for num_envs in (0, -3, 1.5, True):
        with pytest.raises(UsageError, match="num_envs is a whole number of at least 1"):
            envs.make("CartPole-v1", num_envs)
    with pytest.raises(UsageError, match=r"Pendulum-v1 takes g, mass, length, gain, dt; got gg\. Did you mean g\?"):
        envs.make("Pendulum-v1", 2, gg=3)
    with pytest.raises(UsageError, match="probe/one-step cannot be made with the arguments"):
        envs.make("probe/one-step", 2, length=3)
    with pytest.raises(UsageError, match="my_robots:cart cannot be made with the arguments"):
        envs.make("my_robots:cart", 2, length=3)
    with pytest.raises(UsageError, match="already made; it takes no arguments, got length"):
        envs.make(CartPole(), 2, length=3)
    with pytest.raises(UsageError, match="workers=2: CartPole-v1 has no use for worker processes"):
        envs.make("CartPole-v1", 2, workers=2)
    with pytest.raises(UsageError, match="3 gives int"):
        envs.make(3, 2)


def test_make_env_is_for_compiled_ones(user_module):
    for name in ("gymnasium/CartPole-v1", "HalfCheetah-v5", "envpool/Ant-v4", "my_robots:host"):
        with pytest.raises(UsageError, match="runs on the host and cannot be compiled"):
            envs.make_env(name)
    with pytest.raises(UsageError, match="Did you mean CartPole-v1"):
        envs.make_env("CartPole")
    with pytest.raises(UsageError, match="The compiled one is Pendulum-v1"):
        envs.make_env("gymnasium/Pendulum-v1")
    with pytest.raises(UsageError, match="DeviceEnvs, not one compiled"):
        envs.make_env("my_robots:batch")


def test_an_extra_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UsageError, match=r"gymnax is not installed. Install it with: pip install -e '\.\[gymnax\]'"):
        envs.make("gymnax/CartPole-v1", 2)


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'mkae'"):
        _ = envs.mkae
