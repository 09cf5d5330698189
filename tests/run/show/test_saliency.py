"""Saliency maps: the arithmetic on known networks, and the pictures of runs of every kind of network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

import steersman
from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.cli.main import run as command
from steersman.envs.wrappers import PureEnv
from steersman.errors import UsageError
from steersman.nets.encoders import Encoder
from steersman.nets.layers.mlp import MLP
from steersman.run import policy as policies
from steersman.run.disk.spec_json import transitions_like
from steersman.run.show import saliency as drawn
from steersman.types import EnvSpec, TimeStep

SIZE = 10
SPACE = spaces.Box(0, 1, (SIZE, SIZE, 2))


def catch():
    """A dot falls; the paddle at the bottom is to be under it. A small game of our own on a grid of two planes."""

    def look(state):
        ball, column, paddle = state
        dot = jnp.zeros((SIZE, SIZE)).at[ball, column].set(1.0)
        return jnp.stack([dot, jnp.zeros((SIZE, SIZE)).at[SIZE - 1, paddle].set(1.0)], -1)

    def reset(key):
        column = jax.random.randint(key, (), 0, SIZE, jnp.int32)
        state = (jnp.int32(0), column, jnp.int32(SIZE // 2))
        return state, look(state)

    def step(state, action, key):
        ball, column, paddle = state
        state = (ball + np.int32(1), column, jnp.clip(paddle + action - np.int32(1), 0, SIZE - 1))
        done = state[0] == SIZE - 1
        reward = jnp.where(done & (state[2] == column), jnp.float32(1), jnp.float32(0))
        obs = look(state)
        return state, TimeStep(obs, reward, done, jnp.zeros((), bool), obs, jnp.zeros((0,), jnp.float32), {})

    actions = spaces.Discrete(3)
    return PureEnv(EnvSpec("catch", SPACE, actions, actions, SIZE), reset, step)


class Dueling(eqx.Module):
    """Value and advantage with trunks of their own, Q = V + A - mean A; each may see half of the picture only."""

    value: MLP
    advantage: MLP
    encoder: Encoder

    def __init__(self, key, spec):
        keys = jax.random.split(key, 3)
        self.encoder = Encoder(spec.observation_space, "flatten", key=keys[0])
        size = self.encoder.out_size // 2
        self.value = MLP(size, (8, 1), activation="tanh", key=keys[1])
        self.advantage = MLP(size, (8, int(spec.action_space.n)), activation="tanh", key=keys[2])

    def streams(self, obs):
        x = self.encoder(obs)
        half = x.shape[0] // 2
        advantage = self.advantage(x[half:])
        return self.value(x[:half])[0], advantage - advantage.mean()

    def __call__(self, obs):
        value, advantage = self.streams(obs)
        return value + advantage


def policy_of(algorithm, spec, network=None, **settings):
    """An untrained one."""
    entry = ALGORITHMS[algorithm]
    config = entry.config(**settings)
    agent = entry.factory(config, spec, network=network)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), transitions_like(spec, (1, 1)))
    return policies.policy_of(agent, config, jax.jit(agent.init)(jax.random.key(0), zeros), spec)


def test_a_dueling_network_is_read_stream_by_stream():
    """The value stream sees the upper half, the advantage stream the lower one; so say their maps."""
    env = catch()
    shot = drawn.lens(policy_of("pqn", env.spec, Dueling))(np.asarray(env.reset(jax.random.key(0))[1]))
    upper = np.arange(SIZE)[:, None] < SIZE // 2
    assert shot.value.shape == shot.advantage.shape == shot.frame.shape == (SIZE, SIZE)
    assert (shot.value[np.broadcast_to(~upper, shot.value.shape)] == 0).all()
    assert (shot.advantage[np.broadcast_to(upper, shot.value.shape)] == 0).all()
    assert shot.value.max() == shot.advantage.max() == 1


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("pqn", {"normalize_observations": True}),
        ("ppo", {"share_trunk": True}),
        ("ppo", {"memory": "gru", "normalize_observations": True}),
        ("dqn", {"dueling": True, "replay_capacity": 8, "n_step": 2}),
    ],
)
def test_every_agent_whose_network_has_streams(algorithm, settings):
    env = catch()
    shot = drawn.lens(policy_of(algorithm, env.spec, hidden_sizes=(8,), **settings))(
        np.asarray(env.reset(jax.random.key(0))[1])
    )
    assert shot.value.max() == shot.advantage.max() == 1
    assert (shot.value != shot.advantage).any()


def test_what_is_drawn():
    frame, where = np.zeros((4, 4), np.float32), np.eye(4, dtype=np.float32)
    frame[0, 1] = 0.5
    picture = drawn.overlay(frame, where)
    assert picture.shape == (320, 320, 3)
    np.testing.assert_array_equal(picture[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(picture[0, 80], [0, 128, 128])
    jacobian = np.zeros((3, 8, 9), np.float32)  # channels first
    jacobian[1, 2, 3] = 4.0
    assert np.argwhere(drawn.flat(jacobian)).tolist() == [[2, 3]]


def test_a_run_is_drawn(tmp_path):
    out = tmp_path / "run"
    short = {"num_envs": 8, "unroll_length": 8, "num_minibatches": 1, "num_epochs": 1}
    short |= {"evaluation_episodes": 0, "evaluate_every": 0}
    steersman.train("pqn", catch(), out=out, steps=128, network=Dueling, **short)
    with pytest.raises(UsageError, match="the strip is a .png"):
        drawn.saliency_run(out, "x.mp4", environment=drawn_stage, network=Dueling)
    film = tmp_path / "a.gif"
    made = drawn.saliency_run(out, environment=drawn_stage, network=Dueling, shots=3, steps=15, episodes=2, film=film)
    assert made.steps == 15 + 1  # one more picture for the second episode's reset
    assert len(made.returns) == 2
    strip = np.asarray(Image.open(made.picture))
    assert strip.shape[1] == 3 * 320 + 2 * 6
    assert film.stat().st_size > 1000
    assert command(["saliency", str(out), "--shots", "0"]) == 2
    with pytest.raises(UsageError, match=r"samples = 0.*at least 1"):
        drawn.saliency_run(out, environment=drawn_stage, network=Dueling, samples=0)


def drawn_stage(render_mode="rgb_array"):
    from steersman.run.show.as_gymnasium import DeviceStage

    return DeviceStage(envs.make(catch(), 1))


def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="laid over images; CartPole-v1 observes Box"):
        drawn.lens(policy_of("pqn", envs.make("CartPole-v1", 1).spec, hidden_sizes=(4,)))
    with pytest.raises(UsageError, match="does not say its streams"):
        drawn.streams_of((jnp.ones(3), eqx.nn.Linear(2, 2, key=jax.random.key(0))))


def test_what_the_value_sees_has_to_be_there():
    actions, seen = spaces.Discrete(3), spaces.Dict(hidden=spaces.Box(-1, 1, (2,)), picture=SPACE)
    spec = EnvSpec("catch", seen, actions, actions, SIZE)
    look = drawn.lens(policy_of("ppo", spec, encoder="flatten", policy_sees=("picture",)), samples=1, noise=0.0)
    picture = np.ones(SPACE.shape, np.float32)
    assert look({"hidden": np.zeros(2, np.float32), "picture": picture}).value.shape == (SIZE, SIZE)
    with pytest.raises(UsageError, match="the value too, which sees hidden"):
        look({"picture": picture})
