"""Recorded transitions: written and read back, put into replay as they are, trained from, resumed without them."""

import json
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman import envs
from steersman.errors import UsageError
from steersman.run.disk import checkpoint, dataset, tensors
from steersman.run.disk.dataset import Dataset, check_fits
from steersman.run.disk.spec_json import transitions_like
from steersman.run.events import Trained
from steersman.run.plan import planned
from steersman.run.policy import saved_agent
from steersman.run.prepare import prepare
from steersman.types import EnvSpec

SMALL = {"hidden_sizes": (8,), "evaluation_episodes": 2, "evaluate_every": 0, "preset": False}
REPLAY = {"num_envs": 2, "unroll_length": 4, "update_ratio": 0.25, "batch_size": 8, "replay_capacity": 1000}
REPLAY |= {"normalize_observations": False, "scale_rewards": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained policy, which is as good as any to record."""
    out = tmp_path_factory.mktemp("runs") / "dqn"
    steersman.train("dqn", "CartPole-v1", out=out, steps=80, learning_starts=64, **REPLAY, **SMALL)
    return out


@pytest.fixture(scope="module")
def recorded(run):
    return steersman.collect(run, run.parent / "data", steps=203, num_envs=4, explore=True)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_written_is_read(recorded, run):
    data = steersman.read_dataset(run.parent / "data")
    same(recorded.transitions, data.transitions)
    assert (len(data), data.spec.id, data.origin["run"]) == (203, "CartPole-v1", str(run))
    assert data.origin["explore"] is True


def test_episodes_are_whole_or_cut_and_follow_one_another(recorded):
    x = recorded.transitions
    after, before = np.asarray(x.next_obs)[:-1], np.asarray(x.obs)[1:]
    inside = ~recorded.ends[:-1]
    np.testing.assert_array_equal(after[inside], before[inside])
    np.testing.assert_array_equal(x.first[1:], recorded.ends[:-1])
    assert recorded.ends[-1]
    assert recorded.ends[[50, 101, 152]].all()  # stretches of 51 steps
    assert not (x.terminated & x.truncated).any()
    # CartPole pays 1 a step: the mean return of whole episodes is their mean length.
    assert recorded.origin["whole_episodes"] == x.terminated.sum()
    lengths = np.diff(np.flatnonzero(np.concatenate([[True], recorded.ends])))
    whole = lengths[x.terminated[recorded.ends]]
    assert recorded.origin["mean_return"] == pytest.approx(whole.mean())


def test_host_environments_are_recorded_too(run):
    data = steersman.collect(run, run.parent / "host", steps=30, num_envs=2, environment="gymnasium/CartPole-v1")
    inside = ~data.ends[:-1]
    np.testing.assert_array_equal(data.transitions.next_obs[:-1][inside], data.transitions.obs[1:][inside])
    assert data.ends[14]
    # The actions are the policy's own at what it saw.
    policy = steersman.load(run)
    np.testing.assert_array_equal(policy(data.transitions.obs), data.transitions.action)


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_are_put_together(recorded, tmp_path, monkeypatch, parts):
    row = sum(x.nbytes for x in jax.tree.leaves(recorded.transitions)) // len(recorded)
    monkeypatch.setattr(dataset, "PART_BYTES", row * (-(-203 // parts)))
    with dataset.creating(tmp_path / "data") as folder:
        dataset.write(folder, recorded)
    assert len(list((tmp_path / "data").glob("part-*"))) == parts
    same(steersman.read_dataset(tmp_path / "data").transitions, recorded.transitions)


def test_the_command_says_what_it_wrote(run, tmp_path, capsys):
    from steersman.cli.main import run as cli

    told = ["collect", str(run), "--out", str(tmp_path / "data"), "--steps", "60", "--num-envs", "1"]
    assert cli([*told, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["transitions"] == 60
    assert said["whole_episodes"] == steersman.read_dataset(tmp_path / "data").origin["whole_episodes"] > 0
    assert cli(told) == 2
    assert "exists already" in capsys.readouterr().err


# --- into replay ---


def test_replay_starts_as_the_data_and_resume_is_exact_without_it(recorded, run, tmp_path):
    """On compiled environments; resumed on the host with a replay memory: tests/run/show/test_replay_runs.py."""
    place = "CartPole-v1"
    data = tmp_path / "data"
    data.symlink_to(run.parent / "data")
    settings = {"steps": 160, "checkpoint_every": 40, "from_data": data, **REPLAY, **SMALL}
    whole = steersman.train("dqn", place, out=tmp_path / "whole", **settings)
    memory = whole.policies[0].state.memory
    expected = recorded.rollout(2)
    length = len(expected.reward)
    assert length == 101
    assert int(memory.count) == length + 80  # nothing else came before what the agent did
    for name in ("action", "reward", "terminated", "truncated", "first"):
        np.testing.assert_array_equal(getattr(memory.steps, name)[:length], getattr(expected, name))
    slots = np.asarray(memory.steps.slot[:length])
    frames, envs = np.asarray(memory.frames), np.arange(2)[None]
    np.testing.assert_array_equal(frames[slots, envs], expected.obs)
    np.testing.assert_array_equal(frames[slots + 1, envs], expected.next_obs)

    def stop(event):
        if isinstance(event, Trained) and event.steps >= 80 and not stop.done:
            stop.done = True
            signal.raise_signal(signal.SIGINT)

    stop.done = False
    assert steersman.train("dqn", place, out=tmp_path / "run", callbacks=[stop], **settings).interrupted
    data.unlink()
    assert not steersman.resume(tmp_path / "run").interrupted
    final = [checkpoint.stored_sha256(checkpoint.latest(tmp_path / r / "checkpoints")[0]) for r in ("whole", "run")]
    assert final[0] == final[1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["from_data"] == str(data)
    # No random steps were played, so none are counted: epsilon starts at 1 and is half-way down after 8 steps of 160.
    assert [row["exploration"] for row in whole.history[:3]] == pytest.approx([0.525, 0.05, 0.05])
    assert int(whole.policies[0].state.learner.steps) == 160
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())["config"]
    assert saved["learning_starts"] == 1000  # the setting is as it was


def test_a_memory_starts_from_the_data(recorded, run):
    """In whole unrolls, the oldest rows left out; what acted then has left nothing to go on from."""
    settings = {**REPLAY, "hidden_sizes": (8,), "steps": 80, "from_data": run.parent / "data", "memory": "gru"}
    settings |= {"memory_size": 4, "burn_in": 2, "sequence_length": 6}
    made = lambda **more: prepare(planned("dqn", "CartPole-v1", settings | more, preset=False))
    setup = made()
    rollout = recorded.rollout(2)._replace(carry=setup.agent.begin(2))
    memory = jax.jit(setup.agent.init)(jax.random.key(0), rollout).memory
    assert int(memory.stream.count) == 100
    np.testing.assert_array_equal(memory.stream.steps.action[:100], rollout.action[1:])
    assert not memory.known.any()
    setup.close()
    with pytest.raises(UsageError, match=r"memory = 'gru' .* unroll_length = 200 steps; .* has 101 for each of num"):
        made(unroll_length=200)


def test_offline_agents_count_gradient_steps_and_resume(recorded, run, tmp_path):
    settings = {"steps": 50, "checkpoint_every": 20, "from_data": run.parent / "data", **SMALL}
    place = "gymnasium/CartPole-v1"
    whole = steersman.train("bc", place, out=tmp_path / "whole", **settings)
    assert whole.summary["steps"] == 50
    assert whole.evaluation.episodes == 2
    with tensors.opened(checkpoint.latest(tmp_path / "whole" / "checkpoints")[0]) as file:
        assert {"/".join(name.split("/")[:2]) for name in file.entries} == {"agent/actor", "agent/steps", "key"}
    steersman.train("bc", place, out=tmp_path / "run", **settings | {"steps": 30})
    resumed = steersman.resume(tmp_path / "run", steps=50)
    final = [checkpoint.stored_sha256(checkpoint.latest(tmp_path / r / "checkpoints")[0]) for r in ("whole", "run")]
    assert final[0] == final[1]
    assert resumed.evaluation.mean == whole.evaluation.mean
    assert steersman.load(tmp_path / "run")([0.0, 0.0, 0.0, 0.0]) in (0, 1)


@pytest.mark.parametrize("place", ["gymnasium/CartPole-v1", "CartPole-v1"])
def test_offline_agents_are_evaluated_on_the_way(recorded, run, tmp_path, place):
    settings = SMALL | {"steps": 50, "from_data": run.parent / "data", "evaluate_every": 20, "evaluate_episodes": 2}
    result = steersman.train("bc", place, out=tmp_path / "run", seeds=1, **settings)
    rows = [row for row in result.history if "evaluation_return" in row]
    assert [row["steps"] for row in rows] == [20, 40, 50]
    assert result.summary["best"]["return"] == max(row["evaluation_return"] for row in rows)
    assert (tmp_path / "run" / "curve.png").exists()  # of these alone: no episode is played in training


def test_other_data_is_not_gone_on_with(recorded, run, tmp_path):
    """The data is read again at a resume, and is to be what the run began with."""
    data = tmp_path / "data"
    data.symlink_to(run.parent / "data")
    settings = {"steps": 20, "from_data": data, **SMALL}
    whole = steersman.train("bc", "CartPole-v1", out=tmp_path / "run", **settings)
    other = replace(recorded, transitions=recorded.transitions._replace(reward=recorded.transitions.reward + 1))
    with dataset.creating(tmp_path / "other") as folder:
        dataset.write(folder, other)
    data.unlink()
    data.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match=r"data, which holds other transitions than when it began .*new run"):
        steersman.resume(tmp_path / "run", steps=40)
    data.unlink()
    with pytest.raises(UsageError, match=r"There is no folder .*data"):
        steersman.resume(tmp_path / "run", steps=40)
    data.symlink_to(run.parent / "data")
    assert steersman.resume(tmp_path / "run", steps=40).summary["steps"] == 40
    assert len(whole.policies) == 1


def test_what_is_saved_has_the_columns_of_the_data_not_of_the_environment(recorded, run):
    """The return that each column stands at, for scaled rewards; these environments are three, and cannot be fewer."""
    made = envs.make("CartPole-v1", 3)
    settings = {"from_data": run.parent / "data", "steps": 5, "scale_rewards": True, "hidden_sizes": (8,)}
    setup = prepare(planned("iql", made, settings))
    like = saved_agent(setup.agent, setup.spec, setup.run)["agent"]
    assert [x.shape for x in jax.tree.leaves(like)] == [x.shape for x in jax.tree.leaves(setup.loop.shapes().agent)]


def test_a_comparison_of_what_learns_from_data_goes_on(recorded, run, tmp_path):
    settings = {"steps": 20, "from_data": run.parent / "data", "seeds": 1, "out": tmp_path / "compared", **SMALL}
    one, again = (steersman.compare(["bc"], "CartPole-v1", **settings) for _ in range(2))
    assert len(one.outcomes) == len(again.outcomes) == 1
    with pytest.raises(UsageError, match="compared with other settings: hidden_sizes"):
        steersman.compare(["bc"], "CartPole-v1", **settings | {"hidden_sizes": (9,)})


def test_normalisers_start_from_the_data(recorded, run):
    """Of all rows alike, the data's and those played after it; a discounted return starts at 0 after every end."""
    settings = REPLAY | {"normalize_observations": True, "scale_rewards": True, "evaluation_episodes": 0}
    settings |= {"steps": 8, "from_data": run.parent / "data"}
    result = steersman.train("dqn", "CartPole-v1", **SMALL | settings)
    state = result.policy.state
    rows, memory = 101 + 4, state.memory
    obs = np.asarray(memory.frames)[np.asarray(memory.steps.slot[:rows]), np.arange(2)[None]]
    np.testing.assert_array_equal(obs[:101], recorded.rollout(2).obs)
    np.testing.assert_allclose(state.learner.moments.mean, obs.mean((0, 1)), rtol=1e-4, atol=1e-6)
    running, returns = np.zeros(2), []
    for reward, *ends in zip(*(np.asarray(x[:rows]) for x in memory.steps[1:4]), strict=True):
        returns.append(running := reward + 0.99 * running)
        running = np.where(np.any(ends, axis=0), 0.0, running)
    np.testing.assert_allclose(state.learner.agent.moments.variance, np.var(returns), rtol=1e-4)
    np.testing.assert_allclose(state.learner.agent.returns.value, running, rtol=1e-4)


def test_several_seeds_learn_from_the_same_data(run):
    settings = {"steps": 20, "from_data": run.parent / "data", **SMALL}
    three = steersman.train("bc", "gymnasium/CartPole-v1", seeds=3, **settings)
    one = steersman.train("bc", "gymnasium/CartPole-v1", seed=2, **settings)
    for x, y in zip(jax.tree.leaves(three.policies[2].state), jax.tree.leaves(one.policy.state), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="overlap is for host environments; learning from data alone steps none"):
        steersman.train("bc", "gymnasium/CartPole-v1", overlap=True, **settings)


def test_episodes_of_one_step_fit_the_room_that_is_set():
    """Each takes two frames; none of it is lost."""
    spec = EnvSpec("one", spaces.Box(-9.0, 9.0, (1,)), spaces.Discrete(2), spaces.Discrete(2))
    n = 50
    like = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), transitions_like(spec, (n,)))
    obs = np.arange(n, dtype=np.float32)[:, None]
    yes = np.ones(n, bool)
    data = Dataset(like._replace(obs=obs, next_obs=obs + 0.5, terminated=yes, first=yes), spec, "one")
    from steersman.memory import uniform

    memory = jax.jit(uniform(data.room, 4).init)(data.rollout(1))
    assert int(memory.count) == n
    slots = np.asarray(memory.steps.slot[:n])
    np.testing.assert_array_equal(np.asarray(memory.frames)[slots, 0].ravel(), np.arange(n))


# --- what is refused ---


def test_mistakes_are_told(recorded, run, tmp_path):
    data = run.parent / "data"
    train = lambda name, place, **k: steersman.train(name, place, steps=10, **SMALL, **k)
    with pytest.raises(UsageError, match=r"bc learns from recorded transitions alone.* --from-data FOLDER"):
        train("bc", "CartPole-v1")
    with pytest.raises(UsageError, match=r"ppo learns from what it has just done itself"):
        train("ppo", "CartPole-v1", from_data=data)
    with pytest.raises(UsageError, match=r"recorded in CartPole-v1, whose observation_space is .*; Pendulum-v1 has"):
        train("bc", "Pendulum-v1", from_data=data)
    with pytest.raises(UsageError, match=rf"replay_capacity = 100 .* 203 transitions .* to {recorded.room} or more"):
        train("dqn", "CartPole-v1", from_data=data, **REPLAY | {"replay_capacity": 100})
    with pytest.raises(UsageError, match=r"exists already"):
        steersman.collect(run, data, steps=10)
    with pytest.raises(UsageError, match=r"steps = 0; it must be 1 or more"):
        steersman.collect(run, tmp_path / "new", steps=0)
    with pytest.raises(UsageError, match=r"not a folder of recorded transitions: it has no dataset.json"):
        steersman.read_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"203 transitions, too few for num_envs = 500"):
        recorded.rollout(500)
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.iterdir())


def test_damage_is_told(recorded, tmp_path):
    with dataset.creating(tmp_path / "data") as folder:
        dataset.write(folder, recorded)
    part = tmp_path / "data" / "part-00000.safetensors"
    raw = bytearray(part.read_bytes())
    raw[-100] ^= 1
    part.write_bytes(raw)
    with pytest.raises(UsageError, match=r"part-00000.*cannot be used: .*checksum") as told:
        steersman.read_dataset(tmp_path / "data")
    assert "--resume" not in str(told.value)
    nan = recorded.transitions._replace(reward=np.full(203, np.nan, np.float32))
    with dataset.creating(tmp_path / "nan") as folder:
        dataset.write(folder, Dataset(nan, recorded.spec, "x"))
    with pytest.raises(UsageError, match=r"reward holds NaN"):
        steersman.read_dataset(tmp_path / "nan")


def test_costs_have_to_agree(recorded):
    with pytest.raises(UsageError, match=r"have 0 costs each; CartPole-v1 has 2"):
        check_fits(recorded, replace(recorded.spec, cost_names=("a", "b")))


@pytest.mark.filterwarnings("default")  # Minari warns of what a dataset does not say of itself
def test_minari(tmp_path, monkeypatch):
    """A dataset made here, because none can be counted on."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = pytest.importorskip("minari")
    env = minari.DataCollector(gymnasium.make("Pendulum-v1", max_episode_steps=7))
    seen, acted, rng = [], [], np.random.default_rng(0)
    for episode in range(3):
        seen.append(env.reset(seed=episode)[0])
        for _ in range(7 if episode < 2 else 4):  # the last one is cut
            acted.append(rng.uniform(-2, 2, 1).astype(np.float32))
            seen.append(env.step(acted[-1])[0])
    env.create_dataset("test/pendulum-v0", algorithm_name="random")
    env.close()
    data = steersman.read_dataset("test/pendulum-v0")
    np.testing.assert_array_equal(np.flatnonzero(data.ends), [6, 13, 17])
    np.testing.assert_allclose(data.transitions.action, np.array(acted) / 2, rtol=1e-6)
    np.testing.assert_array_equal(data.transitions.obs, np.array(seen)[[*range(7), *range(8, 15), *range(16, 20)]])
    result = steersman.train("iql", "Pendulum-v1", from_data="test/pendulum-v0", steps=5, **SMALL)
    assert result.summary["steps"] == 5
    with pytest.raises(UsageError, match=r"Minari has no dataset 'test/other-v0' on this machine"):
        steersman.read_dataset("test/other-v0")


@pytest.mark.parametrize(
    ("actions", "acted", "inside"),
    [
        (spaces.Box(-100, 100, (1,), np.int8), [[-100], [0], [50], [100]], [[-1], [0], [0.5], [1]]),
        (spaces.Box(0, 255, (1,), np.uint8), [[0], [51], [204], [255]], [[-1], [-0.6], [0.6], [1]]),
        (spaces.Box(-1e300, 1e300, (1,), np.float64), [[-1e300], [0], [5e299], [2e300]], [[-1], [0], [0.5], [1]]),
        (spaces.Box(np.array([1.0, -2.0]), np.array([1.0, 2.0]), dtype=np.float64), [[1, 2]] * 4, [[0, 1]] * 4),
        (spaces.Box(-2, 2, (1, 2)), np.ones((4, 1, 2)), np.full((4, 1, 2), 0.5)),
        (spaces.Box(-2, 2, ()), [-2, 0, 1, 2], [-1, 0, 0.5, 1]),
    ],
    ids=str,
)
def test_recorded_actions_of_any_box(monkeypatch, actions, acted, inside):
    """Read from Minari, by a stand-in for it."""
    ends = np.array([False, False, False, True])
    episode = SimpleNamespace(
        observations=np.zeros((5, 2)), actions=np.array(acted, actions.dtype), rewards=np.ones(4),
        terminations=ends, truncations=~ends & ends,
    )  # fmt: skip
    found = SimpleNamespace(
        observation_space=spaces.Box(-1, 1, (2,)), action_space=actions, iterate_episodes=lambda: [episode]
    )
    monkeypatch.setitem(sys.modules, "minari", SimpleNamespace(load_dataset=lambda name: found))
    monkeypatch.setattr(dataset, "find_spec", lambda name: True)
    data = steersman.read_dataset("stand-in/actions-v0")
    np.testing.assert_allclose(data.transitions.action, np.array(inside, np.float32), atol=1e-6)
    assert data.transitions.action.dtype == np.float32


def test_without_minari_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(dataset, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"no folder mujoco/hopper-v0.*pip install -e '\.\[minari\]'"):
        steersman.read_dataset("mujoco/hopper-v0")
