"""What every environment promises, compiled or on the host: one suite over all of them, through ``envs.make``.

Each is played once with random actions long enough for several episodes to end; the promises are read off that.
"""

import functools
from dataclasses import replace
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.envs import classic, wrappers
from steersman.envs.goals import GOALS
from steersman.envs.partial import hiding
from steersman.envs.partial.hidden import HIDDEN
from steersman.envs.probe import PROBES
from steersman.envs.safe.names import COMPILED
from steersman.models.ensemble import EnsembleConfig, ensemble
from steersman.models.env import model_env
from steersman.spaces import abstract, canonical_action_space, sample_action, to_native
from steersman.types import DeviceEnvs, EnvSpec, HostEnvs, TimeStep, cost_names


def with_costs(env, *costs):
    """Costs that are functions of the successor."""

    def step(state, action, key):
        state, seen = env.step(state, action, key)
        return state, seen._replace(costs=jnp.stack([cost(seen.final_obs) for cost in costs]))

    return wrappers.PureEnv(replace(env.spec, cost_names=cost_names(len(costs))), env.reset, step)


class Costly(gymnasium.Wrapper):
    """The same on the host: one as a number, several as an array. The info of a reset has others."""

    def __init__(self, env, *costs):
        super().__init__(env)
        self.costs = costs

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return obs, info | {"cost": 99.0}

    def step(self, action):
        obs, *rest, info = self.env.step(action)
        costs = [float(cost(obs)) for cost in self.costs]
        return obs, *rest, info | {"cost": costs[0] if len(costs) == 1 else np.array(costs)}


class Levers(gymnasium.Env):
    """Takes actions of its own space only; counts that start elsewhere, in a buffer that all copies write into."""

    observation_space = spaces.Dict(n=spaces.MultiDiscrete([9, 4], start=[-3, 2]), x=spaces.Box(-9, 9, (2,)))
    counts = np.zeros(2, np.int64)

    def __init__(self, low, high, dtype, shape):
        self.action_space = spaces.Box(low, high, shape, dtype)

    def see(self):
        self.counts[:] = self.np_random.integers([-3, 2], [6, 6])
        return {"n": self.counts, "x": self.np_random.uniform(-9, 9, 2)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.see(), self.np_random.random(), self.np_random.random() < 0.1, False, {}


def learned():
    """A model of random weights, which nobody has fitted: a random walk within bounds."""
    actions = spaces.Box(-1, 1, (2,))
    spec = EnvSpec("a model", spaces.Box(-3, 3, (3,)), actions, actions)
    small = EnsembleConfig(members=2, model_hidden_sizes=(8,))
    model = ensemble(small, spec, terminated=lambda obs, action, after: after[0] > 2)
    starts = jax.random.uniform(jax.random.key(5), (1000, 3), jnp.float32, -2, 2)
    return model_env(model, model.init(jax.random.key(6), None), spec, starts, 9)


leaning, moving = lambda obs: abs(obs[2]), lambda obs: obs[1] ** 2 - 1.0  # of CartPole; a cost may be negative
B = 4
SPACES = {}  # by their repr: equal ones share their compiled actions
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")  # of EnvPool's own spaces
CUSTOM = {
    "frames of CartPole": lambda: wrappers.frame_stack(classic.make("CartPole-v1"), 3),
    "CartPole cut at 12": lambda: wrappers.time_limit(classic.make("CartPole-v1"), 12),
    "CartPole with a cost": lambda: with_costs(classic.make("CartPole-v1"), leaning),
    "CartPole with two costs": lambda: with_costs(classic.make("CartPole-v1"), leaning, moving),
    "host CartPole with a cost": lambda: lambda: Costly(gymnasium.make("CartPole-v1"), leaning),
    "host CartPole with two costs": lambda: lambda: Costly(gymnasium.make("CartPole-v1"), leaning, moving),
    "host lever": lambda: lambda: Levers(-2, 5, np.float32, ()),
    "host levers of int8": lambda: lambda: Levers(-100, 100, np.int8, (2, 3)),
    "host levers, one stuck": lambda: lambda: Levers(*np.array([[[0], [1]], [[255], [1]]], np.uint8), np.uint8, (2, 1)),
    "CartPole that flickers": lambda: hiding.flicker(classic.make("CartPole-v1"), 0.3),
    "CartPole seen late": lambda: hiding.delay_observation(classic.make("CartPole-v1"), 2),
    "Pendulum with what came before": lambda: hiding.observe_previous(classic.make("Pendulum-v1")),
    "a model": learned,
    "scaled Pendulum": lambda: wrappers.transform_reward(classic.make("Pendulum-v1"), lambda r: r / 8),
}
HOST = ["gymnasium/CartPole-v1", "gymnasium/Pendulum-v1", "envpool/CartPole-v1", "atari/Pong,max_frames=400"]
HOST += ["popgym/PositionOnlyCartPoleEasy", "popgym/AutoencodeEasy"]
PACKAGES = {"gymnax": "gymnax", "envpool": "envpool", "atari": "ale_py", "popgym": "popgym"}
GYMNAX = ["gymnax/CartPole-v1", "gymnax/Breakout-MinAtar", "gymnax/DeepSea-bsuite", "gymnax/PointRobot-misc"]
MEMORY = ["memory/chain-5", "memory/tmaze-2", "memory/repeat-2", "memory/rocksample,size=3,rocks=2"]
PARTIAL = [*MEMORY, "CartPoleNoVel-v1", "PendulumNoVel-v1", "pomdp/tiger,max_episode_steps=20"]
PARTIAL += ["pomdp/hallway,belief=true"]
SAFE = [f"safe/{name}" for name in COMPILED]
NAMES = [*classic.TWINS, *PROBES, *GOALS, *HIDDEN, *PARTIAL, *SAFE, *CUSTOM, *HOST, *GYMNAX]

ALWAYS_THE_SAME_START = {"probe/one-step", "probe/two-steps", "probe/action", "probe/truncation"}
ALWAYS_THE_SAME_START |= {"gymnax/DeepSea-bsuite", "atari/Pong,max_frames=400"}  # Pong's first half second stands still
ALWAYS_THE_SAME_START |= {"safe/gridworld", MEMORY[-1], *PARTIAL[-2:], "CartPole seen late"}
FEW_STARTS = ("probe/", "gymnax/Breakout", "memory/", "popgym/Autoencode", "CartPole that flickers", "a model")
ENDS_LOOK_LIKE_STARTS = {f"probe/{x}" for x in ("one-step", "observation", "action", "action-observation")}
ENDS_LOOK_LIKE_STARTS |= {"probe/continuous-action", "probe/truncation", "probe/mask"}
NEVER_TERMINATES = {
    "Pendulum-v1",
    "scaled Pendulum",
    "gymnasium/Pendulum-v1",
    "gymnax/PointRobot-misc",
    *GOALS,
    *HIDDEN,
}
NEVER_TERMINATES |= {"probe/truncation", "probe/truncation-ring", "atari/Pong,max_frames=400"}
NEVER_TERMINATES |= {"PendulumNoVel-v1", "pomdp/tiger,max_episode_steps=20", "Pendulum with what came before"}
NEVER_TERMINATES |= {"safe/pendulum", "safe/point-goal"}
RARELY_TERMINATES = {"Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"}  # for random actions
LENGTH = {"MountainCarContinuous-v0": 1010, "Acrobot-v1": 510, "gymnax/PointRobot-misc": 110, "safe/point-goal": 260}


class Played(NamedTuple):
    """Numpy: the first observations [B, ...], the actions [T, B, ...], what came [T, B, ...]."""

    first: object
    action: object
    seen: TimeStep


def make(name, num_envs=B):
    family = name.partition("/")[0]
    if family in PACKAGES:
        pytest.importorskip(PACKAGES[family])
    return envs.make(CUSTOM[name]() if name in CUSTOM else name, num_envs)


@functools.cache
def actions_for(space_repr, length):
    space = SPACES[space_repr]
    keys = jax.random.split(jax.random.key(99), length)
    return jax.jit(jax.vmap(lambda k: sample_action(space, k, B)))(keys)


def play(name, made, seed, actions):
    if isinstance(made, DeviceEnvs):
        run = compiled(name)
        first, seen = run(jax.random.key(seed), actions)
        return Played(*jax.tree.map(np.asarray, (first, actions, seen)))
    actions = jax.tree.map(np.asarray, actions)
    first = made.reset(seed)
    steps = [made.step(jax.tree.map(lambda x, t=t: x[t], actions)) for t in range(len(jax.tree.leaves(actions)[0]))]
    names = set.intersection(*(set(step.info) for step in steps))  # some are told only where an episode ends
    steps = [step._replace(info={name: step.info[name] for name in sorted(names)}) for step in steps]
    return Played(first, actions, jax.tree.map(lambda *x: np.stack(x), *steps))


@functools.cache
def compiled(name):
    made = make(name)

    def run(key, actions):
        state, first = made.reset(key)
        return first, jax.lax.scan(made.step, state, actions)[1]

    return jax.jit(run)


@functools.cache
def played(name, seed=0):
    made = make(name)
    try:
        space = made.spec.action_space
        SPACES[repr(space)] = space
        return made.spec, play(name, made, seed, actions_for(repr(space), LENGTH.get(name, 210)))
    finally:
        if isinstance(made, HostEnvs):
            made.close()


def ended(seen):
    return seen.terminated | seen.truncated


def same(a, b):
    """[T, B]: whether the observations are equal."""
    parts = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return functools.reduce(np.logical_and, [(x == y).reshape(*x.shape[:2], -1).all(-1) for x, y in parts])


every = pytest.mark.parametrize("name", NAMES)


@every
def test_shapes_and_dtypes_are_the_specs(name):
    spec, (first, action, seen) = played(name)
    length = len(seen.reward)
    kinds = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    assert kinds(first) == abstract(spec.observation_space, (B,))
    assert kinds(seen.obs) == kinds(seen.final_obs) == abstract(spec.observation_space, (length, B))
    assert kinds(action) == abstract(spec.action_space, (length, B))
    number, flag, count = (jax.ShapeDtypeStruct((length, B), x) for x in (np.float32, np.bool_, np.int32))
    assert kinds((seen.reward, seen.terminated, seen.truncated)) == (number, flag, flag)
    assert kinds(seen.costs) == jax.ShapeDtypeStruct((length, B, spec.num_costs), np.float32)
    assert kinds(seen.info["episode_return"]) == number
    assert kinds(seen.info["episode_length"]) == count
    assert kinds(seen.info["episode_cost"]) == kinds(seen.costs)
    assert spec.num_costs == {"with a cost": 1, "with two costs": 2}.get(name.partition("CartPole ")[2], name in SAFE)
    assert spec.id == name or name in CUSTOM


@every
def test_observations_are_finite_and_in_their_space(name):
    spec, (_, _, seen) = played(name)
    space = spec.observation_space
    parts = space.spaces.items() if isinstance(space, spaces.Dict) else [(None, space)]
    for part_name, part in parts:
        for obs in (seen.obs, seen.final_obs):
            x = obs if part_name is None else obs[part_name]
            assert np.isfinite(x).all()
            if isinstance(part, spaces.Box):
                assert (x >= part.low - 1e-5).all()
                assert (x <= part.high + 1e-5).all()
    assert np.isfinite(seen.reward).all()


@every
def test_auto_reset_in_the_same_step(name):
    _, (_, _, seen) = played(name)
    ends = ended(seen)
    assert ends.any()
    assert same(seen.obs, seen.final_obs)[~ends].all()
    if name not in ENDS_LOOK_LIKE_STARTS:
        assert not same(seen.obs, seen.final_obs)[ends].all()
    assert (seen.info["episode_length"][0] == 1).all()
    np.testing.assert_array_equal(seen.info["episode_length"][1:] == 1, ends[:-1])


@every
def test_the_two_ends_of_an_episode(name):
    spec, (_, _, seen) = played(name)
    length = seen.info["episode_length"]
    if spec.max_episode_steps is not None:
        assert (length <= spec.max_episode_steps).all()
        assert ended(seen)[length == spec.max_episode_steps].all()
        assert (length[seen.truncated] == spec.max_episode_steps).all()
    if name not in RARELY_TERMINATES:
        assert seen.terminated.any() == (name not in NEVER_TERMINATES)
    if name in NEVER_TERMINATES:
        assert seen.truncated.any()


@every
def test_episode_statistics(name):
    _, (_, _, seen) = played(name)
    reward = seen.info.get("native_reward", seen.reward)
    total, cost, count = np.zeros(B), np.zeros(seen.costs.shape[1:]), np.zeros(B, int)
    for t in range(len(reward)):
        total, cost, count = total + reward[t], cost + seen.costs[t], count + 1
        np.testing.assert_allclose(seen.info["episode_return"][t], total, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen.info["episode_cost"][t], cost, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(seen.info["episode_length"][t], count)
        total, cost, count = (np.where(ended(seen)[t], 0, x.T).T for x in (total, cost, count))


@pytest.mark.parametrize("name", [name for name in CUSTOM if name.endswith(("a cost", "two costs"))])
def test_costs_are_of_the_step_that_was_taken(name):
    _, (_, _, seen) = played(name)
    assert ended(seen).any()
    for i, cost in enumerate((leaning, moving)[: seen.costs.shape[-1]]):
        costs = np.apply_along_axis(cost, -1, seen.final_obs)  # where an episode ended, not those of the next one
        np.testing.assert_allclose(seen.costs[..., i], costs, rtol=1e-5, atol=1e-6)


@every
def test_members_have_their_own_noise(name):
    _, (first, _, seen) = played(name)
    rows = np.concatenate([x.reshape(B, -1) for x in jax.tree.leaves(first)], axis=1)
    starts = [x[ended(seen)] for x in jax.tree.leaves(seen.obs)]
    later = np.concatenate([x.reshape(len(x), -1) for x in starts], axis=1)
    distinct = len(np.unique(np.concatenate([rows, later]), axis=0))
    if name in ALWAYS_THE_SAME_START:
        assert distinct == 1
    elif name.startswith(FEW_STARTS):
        assert distinct > 1
    else:
        assert distinct == len(rows) + len(later)


@every
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    _, (first, actions, seen) = played(name)
    made = make(name)
    again = play(name, made, 0, actions)
    if isinstance(made, HostEnvs):
        made.close()
    for ours, theirs in zip(*map(jax.tree.leaves, (again, (first, actions, seen))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if name not in ALWAYS_THE_SAME_START:
        assert not same(played(name, seed=1)[1].seen.obs, seen.obs).all()


@every
def test_actions_are_canonical(name):
    spec, (_, action, _) = played(name)
    assert spec.action_space == canonical_action_space(spec.native_action_space)
    if not isinstance(spec.native_action_space, spaces.Box):
        return
    native = spec.native_action_space
    for end, bound in ((-1, native.low), (1, native.high)):
        np.testing.assert_array_equal(to_native(native, np.full(native.shape, end, np.float32)), bound)
    beyond = jax.tree.map(lambda x: jnp.asarray(np.where(x > 0, 1.7, -1.7), jnp.float32)[:20], action)
    within = jnp.clip(beyond, -1, 1)
    outcomes = []
    for actions in (beyond, within):  # the clip is at the environment's door
        made = make(name)
        if isinstance(made, DeviceEnvs):
            outcomes.append(compiled(name)(jax.random.key(3), actions)[1])
        else:
            outcomes.append(play(name, made, 3, actions).seen)
            made.close()
    for ours, theirs in zip(*map(jax.tree.leaves, outcomes), strict=True):
        np.testing.assert_array_equal(ours, theirs)
