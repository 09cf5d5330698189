"""A training from its settings to its folder; the learning itself is tested elsewhere."""

import json
import threading
from dataclasses import replace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman import envs
from steersman.envs.host.gymnasium import GymnasiumEnvs
from steersman.errors import EnvironmentFault, TrainingFault, UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.run import progress
from steersman.run.disk import checkpoint, logs
from steersman.run.disk.run_folder import RunWarning, open_run
from steersman.run.events import Compiled, Compiling, Done, Evaluated, Evaluating, Trained
from steersman.run.loops.loop import LoopState, Totals
from steersman.run.plan import planned
from steersman.run.prepare import _checkpoint_every, prepare
from steersman.run.settings import RunConfig
from steersman.types import EnvSpec, TimeStep
from steersman.unroll import Acting, Episodes


class Dots(gymnasium.Env):
    """Five steps of reward 1. ``open`` counts what is not closed; ``poison`` maps a step of its life to a number."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)
    open, life, poison = 0, 0, {}

    def __init__(self):
        type(self).open += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        type(self).life += 1
        reward = self.poison.get(type(self).life, 1.0)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, self.t == 5, False, {}

    def close(self):
        type(self).open -= 1


class Decaying:
    """Compiled: five steps of reward 1, which is NaN once a member has lived ``after`` steps."""

    def __init__(self, after):
        space = spaces.Box(-1.0, 1.0, (1,))
        self.spec, self.after = EnvSpec("Decaying", space, spaces.Discrete(2), spaces.Discrete(2)), after

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jax.random.uniform(key, (1,))

    def step(self, t, action, key):
        obs = jax.random.uniform(key, (1,))
        reward = jnp.where(t + 1 < self.after, 1.0, jnp.nan).astype(jnp.float32)
        over = (t + 1) % 5 == 0
        return t + 1, TimeStep(obs, reward, over & False, over & False, obs, jnp.zeros((0,)), {})


def test_the_result_and_the_folder_tell_the_same(trained):
    run, summary = trained.run, trained.summary
    saved = json.loads((run / "summary.json").read_text())
    assert saved.keys() == summary.keys() >= {"steps", "wall_seconds", "compile_seconds", "steps_per_second"}
    assert saved["evaluation"].keys() >= {"episodes", "mean", "median", "iqm", "ci95"}
    assert saved["evaluation"] == trained.evaluation.summary()
    assert saved["steps"] == 644  # 1 x 4 to begin with, then whole rollouts of 8 x 4
    assert saved["status"] == "done"
    assert saved["steps_per_second"] == pytest.approx(644 / saved["training_seconds"])
    assert saved["wall_seconds"] > saved["compile_seconds"] > 0
    rows = logs.read_metrics(run / "metrics.jsonl")
    np.testing.assert_equal(rows, trained.history)
    steps = [row["steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == 644
    assert (run / "curve.png").stat().st_size > 1000
    assert any((run / "tensorboard").iterdir())
    assert [s for s, _ in checkpoint.saved(run / "checkpoints")][-1] == 644
    assert not trained.interrupted


def test_rows_are_means_over_what_was_seen(trained):
    rows = trained.history
    assert all(row["episode_return"] == row["episode_length"] for row in rows if row["episodes"])  # CartPole
    assert any(np.isnan(row["episode_return"]) for row in rows) == any(row["episodes"] == 0 for row in rows)
    assert sum(row["episodes"] * row["episode_length"] for row in rows if row["episodes"]) <= 644
    assert rows[0]["learning_rate"] > rows[-1]["learning_rate"] > 0


def test_evaluating_again(trained):
    assert trained.evaluate(4) == trained.evaluation
    assert trained.evaluate(6).episodes == 6


def test_what_is_shown_of_a_result_is_short(trained):
    assert repr(trained) == (
        f"Result(ppo on {trained.summary['environment']}, done at 644 steps: evaluation {trained.evaluation!r}, "
        f"history of {len(trained.history)} rows, run folder {trained.run})"
    )
    low, high = trained.evaluation.ci95
    said = f"Evaluation(mean {trained.evaluation.mean:.6g}, 95% interval {low:.6g} to {high:.6g}, 4 episodes)"
    assert repr(trained.evaluation) == said
    assert repr(replace(trained.evaluation, unfinished=2)).endswith("4 episodes, 2 cut unfinished)")
    assert repr(trained.policy).startswith(f"Policy({trained.policy.spec.id}: Box([-4.8")
    assert repr(trained.policy).endswith("(4,), float32) -> Discrete(2))")


def test_plans_that_are_none():
    with pytest.raises(UsageError, match='out = "" is no folder'):
        planned("ppo", "CartPole-v1", {}, out="")
    with pytest.raises(UsageError, match=r"callbacks = <built-in function print>; .* callbacks=\[f\]"):
        planned("ppo", "CartPole-v1", {}, callbacks=print)
    with pytest.raises(UsageError, match=r"callbacks = \[3\]; "):
        planned("ppo", "CartPole-v1", {}, callbacks=[3])


def test_more_devices_than_there_are(small):
    with pytest.warns(RunWarning, match=rf"devices = 99, but JAX has {len(jax.devices())}: no more"):
        prepared("CartPole-v1", {**small, "steps": 64, "devices": 99})


def test_the_config_says_all(trained, small):
    config = open_run(trained.run).config
    assert (config["algorithm"], config["environment"]) == ("ppo", "CartPole-v1")
    assert config["run"]["steps"] == 640
    assert config["run"]["checkpoint_every"] == 32
    assert config["config"]["hidden_sizes"] == [8]
    assert config["run"]["schedule_steps"] == 1000


@pytest.mark.parametrize(
    ("environment", "steps", "limit", "expected"),
    [
        ("compiled", 2_000_000, 500, 100_000),  # a twentieth of the run
        ("host", 2_000_000, 500, 100_000),  # as much: enough for ten episodes in each of 8 environments
        ("host", 400_000, 500, 40_000),  # ten episodes in each
        ("host", 400_000, None, 80_000),  # of 1000 steps, where no limit is known
        ("host", 2_000_000, 27_000, 500_000),  # a quarter of the run
    ],
)
def test_checkpoints_leave_room_for_whole_episodes_on_hosts(environment, steps, limit, expected):
    spec = EnvSpec("x", spaces.Discrete(2), spaces.Discrete(2), spaces.Discrete(2), limit)
    host = spec if environment == "host" else None
    assert _checkpoint_every(RunConfig(steps=steps, num_envs=8), host) == expected


def test_several_seeds(two_seeds):
    summary = two_seeds.summary
    assert summary["seeds"] == [0, 1]
    assert len(summary["evaluations"]) == len(two_seeds.policies) == 2
    assert summary["evaluation"]["episodes"] == 8
    means = [e["mean"] for e in summary["evaluations"]]
    assert summary["evaluation"]["mean"] == pytest.approx(np.mean(means))
    assert summary["evaluation"]["ci95"] == pytest.approx(sorted(means))
    assert two_seeds.history[-1]["loss"].shape == (2,)
    a, b = (np.asarray(jax.tree.leaves(p.state)[0]) for p in two_seeds.policies)
    assert (a != b).any()


def test_several_seeds_need_environments_of_their_own(small, tmp_path):
    made = gymnasium.vector.SyncVectorEnv([Dots] * 4, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    with pytest.raises(UsageError, match="seeds = 2: each seed trains in environments of its own.*made already"):
        steersman.train("ppo", made, seeds=2, steps=64, out=tmp_path / "run", **small)
    made.close()
    assert Dots.open == 0
    assert not (tmp_path / "run").exists()


def test_seeds_on_a_host_are_one_run_and_each_as_alone(small, tmp_path):
    settings = {**small, "steps": 164, "normalize_observations": True, "evaluate_every": 64, "evaluate_episodes": 2}
    both = steersman.train("ppo", Dots, seeds=2, seed=5, out=tmp_path / "run", **settings)
    assert Dots.open == 0
    assert both.history[-1]["loss"].shape == (2,)
    assert [e["episodes"] for e in both.summary["evaluations"]] == [4, 4]
    kept = [steersman.load(tmp_path / "run", seed_index=index).state for index in range(2)]
    for index, seed in enumerate((5, 6)):
        one = steersman.train("ppo", Dots, seed=seed, **settings)
        jax.tree.map(np.testing.assert_array_equal, one.policy.state, both.policies[index].state)
        jax.tree.map(np.testing.assert_array_equal, one.policy.state, kept[index])
        assert both.summary["evaluations"][index] == one.summary["evaluation"]
        for row, own in zip(both.history, one.history, strict=True):
            for name in own.keys() - {"seconds", "steps"}:
                np.testing.assert_array_equal(np.asarray(row[name])[index], own[name], err_msg=name)


def test_workers_are_chosen_by_the_run_and_change_nothing(small, monkeypatch, tmp_path):
    asked = []
    choose = lambda self, steps, processes: asked.append((self, steps)) or 1
    monkeypatch.setattr(GymnasiumEnvs, "best_workers", choose)
    place, settings = "gymnasium/CartPole-v1", {**small, "steps": 164}
    seen = []
    chosen = steersman.train("ppo", place, out=tmp_path / "run", callbacks=[seen.append], **settings)
    assert "(host, 1 worker): 4 environments" in seen[0].description
    assert chosen.summary["workers"] == 1
    assert open_run(tmp_path / "run").config["run"]["workers"] is None  # another machine may choose another number
    assert [steps for _, steps in asked] == [41]
    assert asked[0][0]._members._workers == []  # ended
    here = steersman.train("ppo", place, workers=0, **settings)
    assert len(asked) == 1
    assert "workers" not in here.summary
    jax.tree.map(np.testing.assert_array_equal, here.policy.state, chosen.policy.state)
    assert here.evaluation == chosen.evaluation


@pytest.fixture(scope="module")
def dots(small):
    """A run on a host environment, outside the main thread. -> (the result, what happened)"""
    seen, results = [], []
    train = lambda: results.append(steersman.train("ppo", Dots, steps=100, callbacks=[seen.append], **small))
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    return results[0], seen


def test_a_budget_says_what_is_warm_up(small):
    settings = {**small, "steps": 100, "scale_rewards": True}
    described = lambda more: prepared(Dots, settings | more).describe()
    assert "128 steps (100 rounded up to whole rollouts; 32 of them warm-up)" in described({})
    assert "68 steps (65 rounded up to whole rollouts)" in described({"steps": 65, "scale_rewards": False})
    with pytest.raises(UsageError, match="steps = 32 ends in the warm-up"):
        steersman.train("ppo", Dots, **{**settings, "steps": 32})
    assert Dots.open == 0


def prepared(place, settings):
    """A run's parts, its environments closed again."""
    settings = dict(settings)
    setup = prepare(planned("ppo", place, settings, preset=settings.pop("preset")))
    setup.close()
    return setup


def test_host_environments_are_closed(dots):
    result, _ = dots
    assert result.evaluation.mean == 5.0
    assert Dots.open == 0
    assert result.evaluate(3).mean == 5.0
    assert Dots.open == 0


def test_what_happens_is_reported_in_order(dots):
    result, seen = dots
    kinds = [type(event) for event in seen]
    assert kinds == [Compiling, Compiled, *[Trained] * 3, Evaluating, Evaluated, Done]
    assert "Dots (host): 4 environments, 100 steps" in seen[0].description
    assert seen[0].total == 100
    trained = seen[2:5]
    assert [event.steps for event in trained] == [36, 68, 100]
    np.testing.assert_equal([event.row for event in trained], result.history)
    assert trained[-1].return_100 == 5.0
    assert seen[-3].episodes == 4
    assert seen[-2].evaluation == result.evaluation
    assert (seen[-1].summary, seen[-1].history) == (result.summary, result.history)


# Environments and networks of one's own


def test_made_environments_are_used_as_they_are(small):
    rest = {k: v for k, v in small.items() if k != "num_envs"}
    mine = Dots()
    result = steersman.train("ppo", mine, steps=64, **rest)
    assert result.summary["steps"] == 65
    assert result.evaluation.episodes == 4
    assert Dots.open == 1
    mine.close()
    made = envs.make("probe/two-steps", 4)
    result = steersman.train("ppo", made, steps=64, **(rest | {"evaluation_episodes": 6}))
    assert result.evaluation.returns == (1.0,) * 6
    with pytest.raises(UsageError, match="made with num_envs=4"):
        steersman.train("ppo", made, steps=64, **(rest | {"num_envs": 8}))


def test_a_network_of_ones_own(small, tmp_path):
    def tiny(key, spec):
        return ActorCritic(spec, hidden_sizes=(3,), key=key)

    out = tmp_path / "run"
    result = steersman.train("ppo", Dots, network=tiny, out=out, steps=64, **small)
    assert (1, 3) in {x.shape for x in jax.tree.leaves(result.policy.state.params)}
    with pytest.raises(UsageError, match="network of your own; give it"):
        steersman.load(out)
    with pytest.raises(UsageError, match="network of your own; give it"):
        steersman.resume(out, environment=Dots)
    with pytest.raises(UsageError, match="environment given as an object, Dots"):
        steersman.resume(out, network=tiny)
    obs = np.zeros(2)
    assert steersman.load(out, network=tiny)(obs) == result.policy(obs)
    assert steersman.resume(out, environment=Dots, network=tiny).summary == json.loads(
        (out / "summary.json").read_text()
    )


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"algorithm": "pp0"}, "no algorithm 'pp0'. Did you mean ppo"),
        ({"environment": "CartPole-v7"}, "CartPole-v1"),
        ({"num_minibatches": 5}, "8 x num_envs 4 = 32 transitions.*5 equal minibatches. Set num_minibatches to 4 or 8"),
        ({"gama": 0.9}, "no setting 'gama'. Did you mean gamma"),
        ({"presets": False}, "no setting 'presets'. Did you mean preset or"),
        ({"stop_at_return": 9}, r"In Python it is a callback: callbacks=\[StopAtReturn\(475\)\]"),
        ({"network": 3}, "your network: it is an int"),
        ({"environment": "no_such_module:boat"}, "no_such_module"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(small, tmp_path, arguments, says):
    arguments = {"algorithm": "ppo", "environment": "CartPole-v1", "steps": 64, **small, **arguments}
    with pytest.raises(UsageError, match=says):
        steersman.train(out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_an_action_space_that_is_not_served(small):
    class Both(Dots):
        action_space = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))

    with pytest.raises(UsageError, match="ppo|PPO needs a Discrete.*Both has Dict"):
        steersman.train("ppo", Both, steps=64, **small)
    assert Both.open == 0


@pytest.mark.parametrize(
    ("setting", "package", "extra"),
    [({"tensorboard": True}, "tensorboardX", "tensorboard"), ({"wandb": "mine"}, "wandb", "wandb")],
)
def test_an_extra_that_is_not_installed(small, tmp_path, monkeypatch, setting, package, extra):
    monkeypatch.setattr("steersman.run.prepare.find_spec", lambda name: None if name == package else True)
    with pytest.raises(UsageError, match=rf"pip install -e '\.\[{extra}\]'"):
        steersman.train("ppo", "probe/action", steps=64, out=tmp_path / "run", **small, **setting)
    assert not (tmp_path / "run").exists()


def test_nan_from_a_compiled_environment_stops_the_run(small, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(
        TrainingFault, match=r"near step \d+: loss is nan. The last good checkpoint is .*step_0"
    ) as caught:
        steersman.train("ppo", lambda: Decaying(60), out=out, steps=640, checkpoint_every=32, **small)
    at = checkpoint.saved(out / "checkpoints")[-1][0]
    assert str(checkpoint.step_path(out / "checkpoints", at)) in str(caught.value)
    assert 36 < at < 60 * 4
    policy = steersman.load(out)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(policy.state))
    steps = [row["steps"] for row in logs.read_metrics(out / "metrics.jsonl")]
    assert steps[-1] == at  # nothing of the rollout with the NaN is logged


def test_a_fault_names_the_number_that_is_too_large():
    """An observation or a reward whose square overflows, where the state or the returns show one."""

    def said(obs=0.0, returned=1.0, memory=(), metric="loss"):
        acting = Acting((), {"lidar": jnp.zeros((2, 3)).at[1, 2].set(obs)}, jnp.zeros(2, bool), ())
        episodes = Episodes(*(np.array([x]) for x in (2, returned, 10)), np.zeros((1, 0)), {}, ())
        totals = Totals(episodes, {"model/nll": np.array([np.nan]), metric: np.array([np.nan])}, 1)
        with pytest.raises(TrainingFault) as caught:
            progress.check_finite(totals, 1000, None, LoopState(memory, acting, jax.random.key(0)))
        return str(caught.value)

    assert "loss is nan. The cause: acting/obs/lidar holds -1e+20 at [1, 2], and its square overflows" in said(-1e20)
    assert "The cause: episodes return about 5e+25" in said(returned=1e26)
    assert "agent/reward holds 1e+25 at [1]" in said(memory={"reward": jnp.array([0.0, 1e25])})
    assert "Usual causes: a learning rate" in said(1e6, 1e9)
    assert "model/nrmse_2 is nan" in said(metric="model/nrmse_2")


def test_nan_from_a_host_environment_names_member_and_step(small, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(Dots, "life", 0)
    monkeypatch.setattr(Dots, "poison", {1 + 4 + 5 * 32 + 2: np.nan})
    with pytest.raises(EnvironmentFault, match=r"Dots \(member 1\) returned NaN as its reward, at step"):
        steersman.train("ppo", Dots, out=out, steps=640, checkpoint_every=64, **small)
    assert Dots.open == 0
    assert [s for s, _ in checkpoint.saved(out / "checkpoints")] == [4 + 2 * 32, 4 + 4 * 32]
    steersman.load(out)


def test_an_environment_that_dies(small, tmp_path):
    class Dies(Dots):
        life = 0

        def step(self, action):
            if type(self).life > 100:
                raise RuntimeError("motor on fire")
            return super().step(action)

    with pytest.raises(EnvironmentFault, match="Dies .*motor on fire"):
        steersman.train("ppo", Dies, out=tmp_path / "run", steps=640, checkpoint_every=64, **small)
    assert Dies.open == 0
    assert checkpoint.latest(tmp_path / "run" / "checkpoints")[0] is not None
