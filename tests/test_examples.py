"""The examples run, as they stand, on small budgets; and they do what their text says."""

import ast
import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import steersman
from steersman import envs
from steersman.agents import ALGORITHMS
from steersman.agents.policy_gradient.ppo import PPOConfig
from steersman.cli.main import run as cli
from steersman.errors import EnvironmentFault
from steersman.memory import stream
from steersman.run.disk.spec_json import transitions_like
from steersman.run.policy import Policy
from steersman.unroll import begin, random_policy, unroll

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {"steps": 512, "num_envs": 4, "unroll_length": 32, "evaluation_episodes": 4, "num_epochs": 1}
SMALL |= {"evaluate_every": 0}


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path):
    source = path.read_text()
    assert len([line for line in source.splitlines() if line.strip()]) <= 60
    assert f"python examples/{path.name}" in ast.get_docstring(ast.parse(source))
    assert 'if __name__ == "__main__":\n    main()\n' in source


def test_every_example_is_tested():
    here = Path(__file__).read_text()
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'load("{path.stem}")' not in here] == []


def test_by_hand(capsys):
    mean = load("by_hand").main(updates=50, episodes=4)
    assert 50 < mean <= 500  # a random policy gets 22
    assert "update 50: mean return" in capsys.readouterr().out


def test_sweep(capsys):
    returns = load("sweep").main(updates=5, seeds=2, learning_rates=(0.0, 1e-2))
    assert returns.shape == (2, 2)
    assert np.isfinite(returns).all()
    assert returns[0, 0] != returns[0, 1]  # seeds differ
    assert returns[0, 0] != returns[1, 0]  # learning rates differ
    assert capsys.readouterr().out.count("learning rate") == 2


def test_own_environment(capsys):
    mean = load("own_environment").main(**SMALL)
    assert 0 < mean < 200
    assert "degrees" in capsys.readouterr().out


def test_own_compiled_environment():
    assert 0 < load("own_compiled_environment").main(**SMALL) < 200


def test_the_two_boats_are_one():
    host = load("own_environment").Boat(wind=0.0)
    compiled = load("own_compiled_environment").boat(wind=0.0)
    state, obs = compiled.reset(jax.random.key(0))
    host.reset(seed=0)
    host.offset, host.heading = map(float, obs)
    for rudder in (0.0, 1.0, -0.5, 2.0):  # canonical; the last is clipped
        state, seen = compiled.step(state, jnp.full((1,), rudder), jax.random.key(1))
        there, reward, terminated, _, _ = host.step(np.full(1, 30.0 * np.clip(rudder, -1, 1)))
        np.testing.assert_allclose(seen.obs, there, rtol=1e-5)
        np.testing.assert_allclose(seen.reward, reward, rtol=1e-5)
        assert bool(seen.terminated) == terminated


@pytest.mark.parametrize("name", ["own_environment:boat", "own_compiled_environment:boat"])
def test_an_environment_by_its_name_from_its_folder(name, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    made = envs.make(name, 2)
    assert made.spec.id == name
    assert made.spec.max_episode_steps == 200
    assert float(made.spec.action_space.high[0]) == 1.0
    assert float(made.spec.native_action_space.high[0]) == 30.0


def test_own_algorithm(capsys):
    assert 5 < load("own_algorithm").main(**SMALL) <= 500
    assert "mean return" in capsys.readouterr().out


def test_an_algorithm_of_ones_own_from_the_command_line(monkeypatch, capsys, tmp_path):
    """Trained, evaluated and loaded, by its name from its folder; resumed and compared: tests/run/test_plugins.py."""
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    name, out = "own_algorithm:ALGORITHM", str(tmp_path / "run")
    flags = ["--num-envs", "4", "--evaluation-episodes", "0", "--evaluate-every", "0", "--num-epochs", "1", "--quiet"]
    assert cli(["train", name, "CartPole-v1", "--steps", "512", "--out", out, *flags]) == 0
    assert cli(["evaluate", out, "--episodes", "2"]) == 2  # a folder alone imports nothing
    assert f"--algorithm {name}" in capsys.readouterr().err
    assert cli(["evaluate", out, "--episodes", "2", "--algorithm", name]) == 0
    assert steersman.load(out, algorithm=name)(np.zeros(4)) in (0, 1)


def test_own_robot(tmp_path):
    pytest.importorskip("mujoco")
    robot = load("own_robot")
    env = robot.arm(heaviest=0.5)
    obs, _ = env.reset(seed=0)
    assert 0.1 <= obs["privileged_state"][0] <= 0.5
    angles = np.arctan2(obs["state"][2:4], obs["state"][:2]).cumsum()
    tip = np.array([0.25, 0.2]) @ np.stack([np.cos(angles), np.sin(angles)], 1)
    drawn = env.unwrapped.data.site("target").xpos[:2]
    np.testing.assert_allclose(obs["state"][6:], drawn - tip, atol=1e-5)
    obs, reward, *_, info = env.step(env.action_space.high)
    assert -np.linalg.norm(obs["state"][6:]) == pytest.approx(reward)
    assert info == {"cost": 0.0, "is_success": False}
    broken = tmp_path / "arm.xml"
    broken.write_text(robot.MJCF.read_text().replace("damping", "dampin"))
    with pytest.raises(EnvironmentFault, match=rf"{broken}.*attribute: 'dampin'\s*Element 'joint', line 5"):
        envs.make(robot.arm, 1, mjcf=broken)


def test_own_network():
    assert 5 < load("own_network").main(**SMALL) <= 500


@pytest.mark.parametrize(
    ("algorithm", "network", "environment"),
    [
        ("dqn", "action_values", "CartPole-v1"),
        ("pqn", "action_values", "CartPole-v1"),
        ("sac", "soft", "Pendulum-v1"),
        ("td3", "firm", "Pendulum-v1"),
        ("ddpg", "firm", "Pendulum-v1"),
    ],
)
def test_own_networks_of_every_family(algorithm, network, environment):
    """An update is traced, all shapes and dtypes of it, and not run."""
    make, pure = getattr(load("own_networks"), network), envs.make_env(environment)
    entry, places = ALGORITHMS[algorithm], envs.vectorize(pure, 2)
    small = {"num_minibatches": 2} if algorithm == "pqn" else {"batch_size": 4, "replay_capacity": 32}
    config = entry.config(unroll_length=4, **small)
    agent = entry.factory(config, pure.spec, network=make)

    def update(key):
        acting = begin(agent, places, key)
        acting, first, _ = unroll(random_policy(pure.spec), places, acting, key, 1)
        state = agent.init(key, first)
        _, rollout, _ = unroll(partial(agent.act, state, explore=True), places, acting, key, 4)
        return agent.update(state, rollout, key)[1]

    assert {"loss", "critic_loss"} & set(jax.eval_shape(update, jax.random.key(0)))


@pytest.mark.parametrize("algorithm", ["bc", "iql"])
def test_own_networks_for_recorded_data(algorithm):
    entry, pure = ALGORITHMS[algorithm], envs.make_env("Pendulum-v1")
    agent = entry.factory(entry.config(batch_size=4), pure.spec, network=load("own_networks").imitator)
    rollout = transitions_like(pure.spec, (32, 1))
    data = jax.eval_shape(lambda r: stream.append(stream.empty(r, 64), r)[0], rollout)
    traced = lambda r, data, key: agent.update(agent.init(key, r._replace(carry=agent.begin(1))), data, key)[1]
    assert set(jax.eval_shape(traced, rollout, data, jax.random.key(0))) & {"loss", "policy_loss"}


def test_own_rover():
    """A cost, a success, a clock and a picture; of its Dict only the critic sees all."""
    make = load("own_rover").rover
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (96, 96, 3)
    seen = [env.step(np.zeros(2, np.float32)) for _ in range(100)]
    assert {(float, bool)} == {(type(info["cost"]), type(info["is_success"])) for *_, info in seen}
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in seen] == [(False, False)] * 99 + [
        (False, True)
    ]
    spec = envs.make(make, 1).spec
    assert spec.num_costs == 1
    agent = ALGORITHMS["ppo"].factory(PPOConfig(), spec, network=load("own_networks").Privileged)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), transitions_like(spec, (1, 1)))
    state = jax.jit(agent.init)(jax.random.key(0), zeros)
    places = [{name: np.full(s.shape, f, np.float32) for name, s in spec.observation_space.items()} for f in (0.2, 0.8)]
    policy = Policy(agent, state, spec)
    np.testing.assert_array_equal(policy(places[0]), policy(places[0] | {"friction": places[1]["friction"]}))


def test_belief_pendulum(capsys):
    """The belief is nearer than the sensor, 0.1 rad, and than what two of its angles say of a velocity, 2.8 rad/s."""
    example = load("belief_pendulum")
    angle, velocity = example.main(steps=60, episodes=8)
    assert angle < 0.05
    assert velocity < 0.3
    assert "two angles tell it to 2.83 rad/s" in capsys.readouterr().out
    env = example.pendulum()
    assert env.spec.max_episode_steps == 200
    seen = jax.eval_shape(lambda key: envs.vectorize(env, 2).reset(key)[1], jax.random.key(0))
    assert seen.shape == (2, 6)


def test_align_smollm2(tmp_path, capsys):
    example = load("align_smollm2")
    assert len(example.paragraphs()) > 400
    assert example.reward("It is sweet.") > example.reward("It is") > example.reward(" ".join(["It is"] * 20))
    few = {"count": 4, "lora": 1, "updates": 1, "max_length": 64, "samples": 0, "evaluations": 0, "batch_size": 2}
    example.main("tiny", str(tmp_path), **few)
    told = capsys.readouterr().out
    assert told.count("before") == told.count("after") == 2
    assert "tiny: " in told
