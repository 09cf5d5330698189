"""When a run evaluates, and what comes of it: rows, events, the best policy; by hand and in small runs."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman import envs
from steersman.errors import UsageError
from steersman.run.disk import logs
from steersman.run.events import Assessed, Trained
from steersman.run.policies.periodic import SEED, SHARE, Cadence, Spent, cadence, environments
from steersman.run.policies.playing import first_episodes
from steersman.run.settings import RunConfig
from steersman.unroll import Episodes


class Lever(gymnasium.Env):
    """Four steps; action 1 is worth 1, action 0 nothing. ``open`` counts what is not closed."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)
    open = 0

    def __init__(self):
        type(self).open += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), float(action), self.t == 4, False, {}

    def close(self):
        type(self).open -= 1


# When

PLAN = Cadence(every=10, total=100, episodes=5, limit=50, share=0.5, of_training=4.0, of_step=2.0)


def test_one_is_due_where_it_and_the_last_can_be_paid_for():
    cheap = Spent(length=5.0)  # at most 10 steps for 20; after 10 updates 20 may be spent, in all 200
    assert [n for n in range(1, 101) if PLAN.due(n, cheap)] == list(range(10, 101, 10))
    dear = Spent(length=100.0)  # cut after 50, for 100: allowed after 50 updates, and so is the last beside it
    assert [n for n in range(1, 101) if PLAN.due(n, dear)] == [50, 60, 70, 80, 90, 100]
    assert [n for n in range(1, 101) if PLAN.due(n, dear._replace(steps=1.0))] == [100]  # 1 x 2 + 2 x 100 > 200
    assert not PLAN.due(100, dear._replace(steps=51.0))
    assert PLAN.due(50, Spent())  # nothing is known of their length: the longest
    assert not PLAN.due(40, Spent())


def test_who_says_how_often_gets_it():
    asked = Cadence(10, 95, 5, 50, None, 4.0, 2.0)
    assert [n for n in range(1, 96) if asked.due(n, Spent(steps=1e9))] == [*range(10, 91, 10), 95]


def test_lengths_of_training_episodes_are_as_of_the_last_one_due():
    spent = Spent(7.0, 3.0)
    assert spent.now() == spent
    played = Episodes(np.array([1, 1]), np.zeros(2), np.array([10, 30]), np.zeros((2, 0)), {}, ())
    assert spent.plus(played).plus(played).now() == Spent(7.0, 20.0)


def test_how_often_and_how_many_by_default():
    made = envs.make("CartPole-v1", 2)
    when = lambda run, **more: cadence(run, made, **{"updates": 3200, "length": 10, "num_envs": 8, **more})
    often = when(RunConfig())
    assert (often.every, often.episodes, often.limit) == (224, 5, 500)  # 16 times, in whole rows of 32 updates
    assert (often.of_training, often.of_step) == (10.0, 1.0)
    assert often.share == SHARE["compiled"]
    assert not often.too_dear
    assert when(RunConfig(), updates=10).too_dear  # 100 steps in turn, and an episode may take 500
    asked = when(RunConfig(evaluate_every=2000, evaluate_episodes=3))
    assert (asked.every, asked.episodes, asked.share) == (25, 3, None)
    assert not when(RunConfig(evaluate_every=1), updates=10).too_dear
    host = envs.make(Lever, 2)
    on_host = lambda updates, **run: cadence(RunConfig(**run), host, updates=updates, length=10, num_envs=8)
    assert [on_host(n).limit for n in (100, 10_000, 1_000_000)] == [1000, 1718, 27_000]  # no limit of its own is known
    assert on_host(100, evaluate_every=80).limit == 27_000
    host.spec = made.spec
    assert [on_host(n).episodes for n in (100, 500, 10_000)] == [1, 1, 5]  # fewer, where episodes are long beside a run
    assert (on_host(1000).of_training, on_host(10_000).of_step) == (110.0, 8.0)
    host.close()


# What comes of it


@pytest.fixture(scope="module")
def tested(small, tmp_path_factory):
    """A run on a host environment that tells nothing of its episodes' length; -> (result, events)."""
    seen, out = [], tmp_path_factory.mktemp("tested") / "run"
    settings = {**small, "steps": 1600, "evaluate_every": 320, "evaluate_episodes": 3, "learning_rate": 0.01}
    result = steersman.train("ppo", Lever, out=out, callbacks=[seen.append], **settings)
    return result, [event for event in seen if isinstance(event, Assessed | Trained)]


def test_evaluations_are_in_the_rows_and_told_after_them(tested):
    result, events = tested
    rows = [row for row in result.history if "evaluation_return" in row]
    assert [row["steps"] for row in rows] == [324, 644, 964, 1284, 1604]  # and no step of theirs is counted
    told = [event for event in events if isinstance(event, Assessed)]
    assert [event.steps for event in told] == [row["steps"] for row in rows]
    for event, row in zip(told, rows, strict=True):
        assert event.returns.shape == event.lengths.shape == event.unfinished.shape == (1, 3)
        assert event.returns.mean() == row["evaluation_return"]
        assert (event.lengths == 4).all()
        assert set(event.returns.flat) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # the most likely action
        before = events[events.index(event) - 1]
        assert before.row["evaluation_return"] == row["evaluation_return"]
    assert logs.read_metrics(result.run / "metrics.jsonl") == result.history
    assert Lever.open == 0


def test_the_best_is_kept(tested):
    result, events = tested
    means = [event.returns.mean() for event in events if isinstance(event, Assessed)]
    steps = [event.steps for event in events if isinstance(event, Assessed)]
    last = max(i for i, mean in enumerate(means) if mean == max(means))
    assert result.summary["best"] == {"steps": steps[last], "return": max(means)}
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    loaded = steersman.load(result.run, best=True)
    np.testing.assert_array_equal(loaded(obs), result.best(obs))
    np.testing.assert_array_equal(steersman.resume(result.run, environment=Lever).best(obs), result.best(obs))


def test_training_is_the_same_without(tested, small):
    settings = {**small, "steps": 1600, "learning_rate": 0.01}
    plain = steersman.train("ppo", Lever, **settings)
    assert plain.best is None
    assert plain.summary["best"] is None
    obs = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    np.testing.assert_array_equal(plain.policy(obs), tested[0].policy(obs))
    with pytest.raises(UsageError, match="not evaluated on the way"):
        plain.evaluate(best=True)


def test_several_seeds_side_by_side(small, tmp_path):
    settings = {**small, "steps": 320, "seeds": 3, "evaluate_every": 160, "evaluate_episodes": 2}
    result = steersman.train("ppo", "CartPole-v1", out=tmp_path / "run", **settings)
    values = [row["evaluation_return"] for row in result.history if "evaluation_return" in row]
    assert np.shape(values) == (2, 3)
    assert result.summary["best"]["return"] == np.max(values, 0).tolist()
    play = jax.jit(first_episodes(result.policy.agent, envs.make("CartPole-v1", 2)))
    for i, policy in enumerate(result.policies):
        returns, *_ = play(policy.state, jax.random.key(SEED + i))
        assert values[-1][i] == pytest.approx(np.mean(returns))
        kept = result.policies[i] if result.summary["best"]["steps"][i] == 324 else None
        loaded = steersman.load(tmp_path / "run", best=True, seed_index=i)
        for wanted in filter(None, (result.bests[i], kept)):
            jax.tree.map(np.testing.assert_array_equal, loaded.state, wanted.state)


# Where there is none


def test_what_cannot_be_made_twice_is_not_evaluated_in():
    host = envs.make(Lever, 1)
    when = cadence(RunConfig(), host, updates=1000, length=10, num_envs=8)
    without = lambda place, **run: environments(place, RunConfig(**run), when, host.spec)
    mine = Lever()
    assert without(mine) == (
        None,
        "no evaluation while it trains: Lever was given ready made, and cannot be made twice",
    )
    assert without(mine, evaluate_every=0) == (None, "")
    with pytest.raises(UsageError, match="evaluate_every = 32 takes .*: Lever was given ready made.*evaluate_every=0"):
        without(mine, evaluate_every=32)

    def taken():
        raise RuntimeError("the port is taken")

    none, why = without(taken)
    assert none is None
    assert "Lever could not be made a second time" in why
    assert "the port is taken" in why
    host.close()
    mine.close()


def test_a_short_run_says_that_it_has_none():
    made = envs.make("CartPole-v1", 8)
    when = lambda run: cadence(run, made, updates=10, length=10, num_envs=8)
    none, why = environments("CartPole-v1", RunConfig(), when(RunConfig()), made.spec)
    assert none is None
    assert why.startswith("no evaluation while it trains: an episode of CartPole-v1 may take 500 steps")
    asked = RunConfig(evaluate_every=80, evaluate_episodes=3)
    own, why = environments("CartPole-v1", asked, when(asked), made.spec)
    assert (own.num_envs, why) == (3, "")


def test_without_a_best_policy_to_load(trained):
    with pytest.raises(UsageError, match="keeps no best policy.*--evaluate-every"):
        steersman.load(trained.run, best=True)
