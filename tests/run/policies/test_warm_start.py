"""A run that begins with what another has learned: what it takes, says and refuses, and that it resumes."""

import signal

import jax
import numpy as np
import pytest

import steersman
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.run.disk import checkpoint
from steersman.run.disk.run_folder import open_run
from steersman.run.events import Compiled, Compiling, Trained

FROM = {"evaluation_episodes": 0, "steps": 320}


class Watch:
    """Keeps what is said at the start, and each seed's parameters before the first update."""

    def __init__(self, stop_at=None):
        self.notes, self.params, self.stop_at = (), [], stop_at

    def __call__(self, event):
        if isinstance(event, Compiling):
            self.notes = event.notes
        if isinstance(event, Compiled):
            states = [event.training.policy(i).state for i in range(len(event.training.seeds))]
            self.params = [[np.array(x) for x in jax.tree.leaves(learned(state))] for state in states]
        if isinstance(event, Trained) and self.stop_at is not None and event.steps >= self.stop_at:
            signal.raise_signal(signal.SIGINT)


def learned(state):
    """Parameters and normaliser, and no more, of a policy with a normaliser of observations."""
    return state.agent.params, state.moments


@pytest.fixture(scope="module")
def source(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "walker"
    settings = {**small, **FROM, "evaluate_every": 160, "evaluate_episodes": 2, "normalize_observations": True}
    return steersman.train("ppo", "CartPole-v1", out=out, gamma=0.9, **settings)


@pytest.mark.parametrize(("place", "more"), [("CartPole-v1", {"seeds": 2}), ("gymnasium/CartPole-v1", {})])
def test_it_begins_where_the_other_ended(source, tmp_path, place, more):
    watch, out = Watch(), tmp_path / "run"
    given = {"steps": 64, "learning_rate": 1e-4, "evaluation_episodes": 0, "evaluate_every": 0, **more}
    steersman.train("ppo", place, out=out, init_from=source.run, callbacks=[watch], **given)
    for params in watch.params:
        jax.tree.map(np.testing.assert_array_equal, params, jax.tree.leaves(learned(source.policy.state)))
    config = open_run(out).config
    newest = checkpoint.latest(source.run / "checkpoints")[0]
    sha256 = checkpoint.stored_sha256(newest, under="agent")
    origin = {"run": "walker", "best": False, "optimiser": False, "steps": 320, "parameters_sha256": sha256}
    assert config["init"] == origin
    assert str(source.run) not in str(config)
    assert f"starts from walker: its newest parameters, at 320 steps ({sha256[:12]})" in watch.notes
    assert (config["config"]["gamma"], config["config"]["learning_rate"]) == (0.9, 1e-4)  # the other's, but those given
    assert config["run"]["steps"] == 64
    assert checkpoint.read(checkpoint.latest(out / "checkpoints")[0]).header["steps"] == 64  # counted anew


def test_the_best_and_the_optimiser(source):
    watch = Watch()
    given = {"steps": 64, "evaluation_episodes": 0, "evaluate_every": 0, "init_best": True, "init_optimiser": True}
    result = steersman.train("ppo", "CartPole-v1", init_from=source.run, callbacks=[watch], **given)
    jax.tree.map(np.testing.assert_array_equal, watch.params[0], jax.tree.leaves(learned(source.best.state)))
    moments = lambda policy: jax.tree.leaves(policy.state.agent.optimiser)
    before = int(moments(source.best)[0])
    assert int(moments(result.policy)[0]) > before > 0  # Adam's count goes on
    assert watch.notes[0].endswith("with its optimiser")


def test_stopped_before_the_first_checkpoint_it_begins_there_again(source, tmp_path):
    given = {"steps": 128, "evaluation_episodes": 0, "evaluate_every": 0, "checkpoint_every": 64}
    given |= {"init_from": source.run}
    place = "gymnasium/CartPole-v1"
    whole = steersman.train("ppo", place, out=tmp_path / "whole", **given)
    out = tmp_path / "run"
    assert steersman.train("ppo", place, out=out, callbacks=[Watch(stop_at=1)], **given).interrupted
    assert checkpoint.saved(out / "checkpoints") == []
    again = steersman.resume(out)
    jax.tree.map(np.testing.assert_array_equal, learned(again.policy.state), learned(whole.policy.state))


def test_what_does_not_fit_is_named(source, tmp_path):
    begin = lambda *what, **given: steersman.train(*what, init_from=source.run, **given)
    with pytest.raises(UsageError, match=r"walker was trained by ppo; .* do not start a2c.*train ppo ENVIRONMENT"):
        begin("a2c", "CartPole-v1")
    with pytest.raises(UsageError, match=r"hidden_sizes is .*8.* there, and \(16,\) here"):
        begin("ppo", "CartPole-v1", hidden_sizes=(16,))
    with pytest.raises(UsageError, match=r"normalize_observations is True there, and False here"):
        begin("ppo", "CartPole-v1", normalize_observations=False)
    with pytest.raises(UsageError, match=r"params/.* Settings that differ: share_trunk \(False there, True here\)"):
        begin("ppo", "CartPole-v1", share_trunk=True)
    with pytest.raises(UsageError, match="trained on CartPole-v1, whose observation_space is .*Acrobot-v1 has"):
        begin("ppo", "Acrobot-v1")
    with pytest.raises(UsageError, match="ppo's own networks, not with yours"):
        begin("ppo", "CartPole-v1", network=lambda key, spec: ActorCritic(spec, hidden_sizes=(8,), key=key))
    with pytest.raises(UsageError, match="There is no run folder"):
        steersman.train("ppo", "CartPole-v1", init_from=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="name it: init_from=RUN"):
        steersman.train("ppo", "CartPole-v1", init_best=True)


def test_an_agent_with_replay_begins_without_memory(tmp_path):
    settings = {"num_envs": 2, "unroll_length": 4, "learning_starts": 16, "replay_capacity": 256, "hidden_sizes": (8,)}
    settings |= {"batch_size": 8, "evaluation_episodes": 0, "evaluate_every": 0, "preset": False, "steps": 64}
    settings |= {"normalize_observations": False, "scale_rewards": False}
    first = steersman.train("dqn", "CartPole-v1", out=tmp_path / "first", **settings)
    seen = []
    look = lambda event: isinstance(event, Compiled) and seen.append(jax.device_get(event.policy.state))
    steersman.train("dqn", "CartPole-v1", init_from=tmp_path / "first", callbacks=[look], steps=32)
    begun, old = seen[0], first.policy.state
    jax.tree.map(np.testing.assert_array_equal, begun.learner.params, jax.device_get(old.learner.params))
    assert (int(begun.memory.count), int(begun.learner.updates)) != (int(old.memory.count), int(old.learner.updates))
    assert int(begun.learner.updates) == 0
