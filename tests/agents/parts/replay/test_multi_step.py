"""n steps out of replay for every agent: what each correction asks of it, and what does not go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents import ALGORITHMS
from steersman.agents.parts.config import ReplayConfig
from steersman.agents.parts.replay import multi_step
from steersman.errors import UsageError
from steersman.run.disk.spec_json import transitions_like
from steersman.run.settings import reopened
from steersman.types import EnvSpec, Rollout

TWO, UNIT = spaces.Discrete(2), spaces.Box(-1, 1, (1,))
SMALL = {"n_step": 3, "hidden_sizes": (4,), "batch_size": 4, "replay_capacity": 64, "update_ratio": 1 / 8}
C51, QUANTILE = {"distribution": "categorical"}, {"distribution": "quantile", "num_atoms": 3}
GOES = [  # algorithm, actions, correction, settings
    ("dqn", TWO, "none", {}),
    ("dqn", TWO, "cut", {"target": "sarsa", "dueling": True, **QUANTILE}),
    ("dqn", TWO, "cut", {"target": "expected_sarsa", "prioritized": True, **C51}),
    ("dqn", TWO, "retrace", {"double": True, "prioritized": True, **C51}),
    ("dqn", TWO, "retrace", QUANTILE),
    ("dqn", TWO, "retrace", {"target": "sarsa", "exploration": "boltzmann", "noisy": True, "scale_rewards": True}),
    ("sac", TWO, "cut", {}),
    ("sac", TWO, "retrace", {"normalize_observations": True}),
    ("sac", UNIT, "retrace", {}),
    ("crossq", UNIT, "retrace", {"critic_sizes": (4,)}),
]  # fmt: skip


def spec_of(action):
    return EnvSpec("test", spaces.Box(-1, 1, (3,)), action, action)


@pytest.mark.parametrize(("name", "action", "correction", "settings"), GOES)
def test_every_agent_with_every_correction(name, action, correction, settings):
    """By shapes: what is stored is what acting records, and the agreement is said where targets are corrected."""
    entry = ALGORITHMS[name]
    agent = entry.factory(entry.config(**SMALL, n_step_correction=correction, **settings), spec_of(action), budget=100)
    rollout = transitions_like(spec_of(action), (4, 2))

    def learn(key):
        state = agent.init(key, rollout_of(rollout))
        obs, first = jnp.zeros((2, 3)), jnp.ones(2, bool)
        _, _, extras = agent.act(state, agent.begin(2), obs, first, key, explore=True)
        played = rollout_of(rollout)._replace(extras={n: jnp.zeros((4, 2), x.dtype) for n, x in extras.items()})
        return state, agent.update(state, played, key)

    before, (after, metrics) = jax.eval_shape(learn, jax.random.key(0))
    assert set(before.memory.stream.steps.extras if "prioritized" in settings else before.memory.steps.extras) == (
        {"log_prob"} if correction == "retrace" else set()
    )
    assert ("n_step_agreement" in metrics) == (correction != "none")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


def rollout_of(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ddpg", {"n_step_correction": "retrace"}, "DDPG: .* retrace: the policy is deterministic.* to none"),
        ("td3", {"n_step_correction": "cut"}, "TD3: .* cut: the policy is deterministic"),
        ("tqc", {"n_step_correction": "retrace"}, "TQC: .* count negative"),
        ("sac", {"n_step_correction": "cut"}, "SAC: .* cut: of a density no action has a probability.*none or retrace"),
        ("crossq", {"n_step_correction": "cut"}, "CrossQ: .* cut: of a density"),
        ("sac", {"n_step_correction": "retrace", "exploration_noise": "pink"}, "exploration_noise pink .*gaussian"),
    ],
)
def test_corrections_that_an_agent_cannot_make(name, settings, said):
    entry = ALGORITHMS[name]
    with pytest.raises(UsageError, match=said):
        entry.factory(entry.config(**settings), spec_of(UNIT))


def test_one_step_reads_and_stores_nothing_more():
    config = ReplayConfig(n_step=1, n_step_correction="retrace")
    assert not multi_step.corrects(config)
    assert multi_step.keeps(config) == ()
    assert [f"{name}: {entry.config().n_step_correction}" for name, entry in ALGORITHMS.items() if replays(entry)] == [
        "dqn: cut", "ddpg: none", "td3: none", "sac: none", "tqc: none", "crossq: none", "mbpo: none",
        "dyna: cut",
    ]  # fmt: skip


def replays(entry):
    return issubclass(entry.config, ReplayConfig)


@pytest.mark.parametrize(("correction", "c"), [("cut", np.exp([-0.5, -2.0])), ("retrace", 0.7 * np.exp([0.0, -1.0]))])
def test_targets_by_hand(correction, c):
    """Three steps, of which the last item has two: it stops there, and repeats its last."""
    config = ALGORITHMS["sac"].config(n_step=3, n_step_correction=correction, retrace_lambda=0.7, gamma=0.5)
    r = np.array([[1, 2, 4], [1, 2, 2]], np.float32)
    stops, no = np.array([[0, 0, 1], [0, 1, 1]], bool), np.zeros((2, 3), bool)
    obs, extras = r[..., None], {"log_prob": np.full((2, 3), -1.0, np.float32)}
    path = Rollout(obs, r.astype(np.int32), r, no, stops, obs, no, np.zeros((2, 3, 0), np.float32), extras)
    steps = multi_step.steps_of(config, path)
    np.testing.assert_array_equal(steps.action_t.reshape(3, 2)[:2], [[2, 2], [4, 2]])
    v, q = np.array([[8, 8], [6, 6], [4, 4]], np.float32), np.array([[5, 5], [3, 3], [99, 99]], np.float32)
    log_prob = np.array([[-0.5, -0.5], [-2.0, 50.0], [50.0, 50.0]], np.float32)
    y, metrics = multi_step.target(config, steps, v.ravel(), q.ravel(), log_prob.ravel())
    third = 4 + 0.5 * 4
    second = 2 + 0.5 * (6 + c[1] * (third - 3))
    right = [1 + 0.5 * (8 + c[0] * (second - 5)), 1 + 0.5 * (8 + c[0] * (2 + 0.5 * 6 - 5))]
    np.testing.assert_allclose(y, right, rtol=1e-6)
    kept = c / 0.7 if correction == "retrace" else c
    np.testing.assert_allclose(metrics["n_step_agreement"], (2 * kept[0] + kept[1]) / 3, rtol=1e-6)


def test_a_run_from_before_the_correction_had_none():
    config = {"format": "1.1", "run": {"steps": 100}, "config": {"n_step": 3}}
    assert reopened(ALGORITHMS["dqn"], config)["n_step_correction"] == "none"
    config["config"]["n_step_correction"] = "cut"
    assert reopened(ALGORITHMS["dqn"], config)["n_step_correction"] == "cut"
    assert "n_step_correction" not in reopened(ALGORITHMS["ppo"], {**config, "config": {}})
