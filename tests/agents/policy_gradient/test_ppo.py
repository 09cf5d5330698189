"""PPO learns the known answers of the probes, and each of its options does what it says."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman import envs
from steersman.agents.policy_gradient.ppo import PPOConfig, ppo
from steersman.envs.probe import known_values
from steersman.errors import UsageError
from steersman.run.evaluate import device_evaluator
from steersman.run.loops.device_loop import device_loop
from steersman.types import EnvSpec, Rollout

PLAIN = {"normalize_observations": False, "scale_rewards": False}
LEARNER = PPOConfig(
    **PLAIN,
    unroll_length=16,
    num_epochs=4,
    num_minibatches=2,
    learning_rate=3e-3,
    anneal_learning_rate=True,
    gamma=0.9,
    gae_lambda=0.9,
    hidden_sizes=(32,),
    log_std_init=-0.5,
)


def learn(name, config=LEARNER, updates=200, **env):
    made = partial(envs.make, name, **env)
    agent = ppo(config, made(1).spec, budget=200 * 16 * 16)
    loop = device_loop(agent, made, num_envs=16, unroll_length=16, first_length=16, seeds=[0], shards=1)
    state, totals = loop.advance(loop.start(), updates)
    return agent, jax.tree.map(np.asarray, state.agent), totals, made


def test_learns_the_value():
    """Of the probe that the others of values are simpler cases of."""
    name = "probe/truncation-ring"
    _, state, _, _ = learn(name)
    known = known_values(name, LEARNER.gamma)
    value = jax.vmap(state.params)(known.obs)[1]
    np.testing.assert_allclose(value, known.value, atol=0.06 * max(1.0, np.abs(known.value).max()))


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("probe/action-observation", "penalty"),
        ("probe/mask", "clip"),
        ("probe/continuous-action", "penalty"),
    ],
)
def test_learns_the_policy(name, objective):
    agent, state, _, made = learn(name, dataclasses.replace(LEARNER, objective=objective))
    evaluation = device_evaluator(agent, made(64))(state, 1)
    known = known_values(name, LEARNER.gamma)
    assert evaluation.mean == pytest.approx(known.mean_return, abs=0.1)


def test_never_takes_an_illegal_action():
    made = envs.make("probe/mask", 256)
    agent = ppo(LEARNER, made.spec, budget=200 * 16 * 16)
    _, obs = made.reset(jax.random.key(0))
    rollout = Rollout(*[jax.tree.map(lambda x: x[None], obs)] * 9)
    state, act = jax.jit(agent.init)(jax.random.key(0), rollout), jax.jit(partial(agent.act, explore=True))
    action, _, extras = act(state, (), obs, np.ones(256, bool), jax.random.key(1))
    legal = jnp.take_along_axis(obs["action_mask"], action[:, None], axis=1)
    assert (np.asarray(legal) == 1).all()
    assert (np.exp(extras["log_prob"]) > 0.4).all()  # two of three are legal, and the first policy is near uniform


def spec_of(observation, action):
    return EnvSpec("test", observation, action, action)


def zero_rollout(spec, length=8, num=4):
    from steersman.spaces import abstract

    zeros = lambda space: jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), abstract(space, (length, num)))
    obs, flags = zeros(spec.observation_space), np.zeros((length, num), bool)
    reward = np.random.default_rng(0).normal(size=(length, num)).astype(np.float32)
    log_prob = np.zeros((length, num), np.float32)
    action = zeros(spec.action_space)
    return Rollout(
        obs, action, reward, flags, flags, obs, flags, np.zeros((length, num, 0), np.float32), {"log_prob": log_prob}
    )


BOX = spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BOX, spaces.MultiDiscrete([2, 3])),
        (BOX, spaces.MultiBinary(3)),
        (spaces.Tuple((BOX, spaces.Discrete(2))), spaces.Box(-1, 1, (2,))),
        (spaces.Dict(a=BOX, b=spaces.Discrete(4), c=spaces.MultiDiscrete([2, 2])), spaces.Discrete(2)),
        (spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(2)),
    ],
    ids=str,
)
def test_serves_every_space(observation, action):
    spec = spec_of(observation, action)
    config = PPOConfig(unroll_length=8, num_epochs=1, num_minibatches=2, hidden_sizes=(8,), normalize_observations=True)
    agent = ppo(config, spec)
    rollout = zero_rollout(spec)
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    obs = jax.tree.map(lambda x: x[0], rollout.obs)
    act = jax.jit(partial(agent.act, explore=True))
    chosen, _, extras = act(state, (), obs, np.ones(4, bool), jax.random.key(1))
    assert all(spec.action_space.contains(a) for a in np.asarray(chosen).clip(-1, None)) or isinstance(
        action, spaces.Box
    )
    assert extras["log_prob"].shape == (4,)
    assert np.asarray(chosen).shape == rollout.action.shape[1:]
    state, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(2))
    assert np.isfinite(metrics["loss"])


def one_update(**settings):
    """An update on a fixed batch with a wide step, so that the options' limits bind."""
    spec = spec_of(BOX, spaces.Discrete(3))
    small = PLAIN | {"unroll_length": 8, "num_epochs": 8, "num_minibatches": 2, "learning_rate": 0.05}
    config = PPOConfig(**small | settings)
    agent = ppo(config, spec)
    rollout = zero_rollout(spec)
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(8, 4, 3)).astype(np.float32)
    rollout = rollout._replace(
        obs=obs, next_obs=np.roll(obs, -1, 0), action=rng.integers(0, 3, (8, 4)).astype(np.int32)
    )
    state = jax.jit(agent.init)(jax.random.key(0), rollout)
    inner = state
    log_prob = jax.vmap(jax.vmap(inner.params))(rollout.obs)[0].log_prob(rollout.action)
    rollout = rollout._replace(extras={"log_prob": log_prob})
    after, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(2))
    return state, after, metrics


def test_kl_stop_ends_the_update_early():
    _, _, free = one_update()
    before, stopped_state, stopped = one_update(stop_kl=1e-4)
    assert float(free["kl"]) > 1e-3
    assert bool(stopped["stopped_early"])
    assert not bool(free["stopped_early"])
    moved = [
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(stopped_state.params), strict=True)
    ]
    assert max(moved) <= 2.5 * 0.05  # at most the steps taken before the limit, Adam's first ones of size lr each


def test_penalty_coefficient_adapts_to_the_kl():
    before, after, _ = one_update(objective="penalty", kl_target=1e-6)
    assert float(after.kl_coefficient) == 2 * float(before.kl_coefficient)
    before, after, _ = one_update(objective="penalty", kl_target=1e3)
    assert float(after.kl_coefficient) == 0.5 * float(before.kl_coefficient)


def test_schedules_fall_linearly_and_end_at_zero():
    spec = spec_of(BOX, spaces.Discrete(3))
    small = {"unroll_length": 8, "num_minibatches": 1, "num_epochs": 1, "learning_rate": 1e-2}
    agent = ppo(PPOConfig(**small, anneal_learning_rate=True), spec, budget=4 * 32)
    rollout = zero_rollout(spec)
    state, rates = jax.jit(agent.init)(jax.random.key(0), rollout), []
    for i in range(6):
        state, metrics = jax.jit(agent.update)(state, rollout, jax.random.key(i))
        rates.append(float(metrics["learning_rate"]))
    np.testing.assert_allclose(rates, [1e-2, 7.5e-3, 5e-3, 2.5e-3, 0, 0], atol=1e-8)


def test_value_clipping_and_recomputed_advantages_change_the_update():
    base = one_update()[1].params
    for settings in ({"value_clip": 0.01}, {"recompute_advantages": True}, {"normalize_advantages": False}):
        other = one_update(**settings)[1].params
        assert any((a != b).any() for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(other), strict=True)), settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gamma": 1.5}, "gamma = 1.5"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0"),
        ({"num_minibatches": 0}, "num_minibatches = 0"),
        ({"objective": "clipp"}, "clip or penalty"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes"),
        ({"clip": float("nan")}, "clip = nan"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        PPOConfig(**settings)


def test_an_action_space_without_a_policy():
    with pytest.raises(UsageError, match="Discrete, MultiDiscrete, MultiBinary or Box"):
        ppo(PPOConfig(), spec_of(BOX, spaces.Text(3)))


def test_a_sweep_over_learning_rates_is_one_program():
    """The agent is built inside vmap: no Python branch reads a swept float."""
    made = envs.make("probe/two-steps", 4)

    def train(learning_rate, seed):
        agent = ppo(
            PPOConfig(unroll_length=4, num_minibatches=1, hidden_sizes=(4,), learning_rate=learning_rate, **PLAIN),
            made.spec,
        )
        rollout = jax.tree.map(jnp.asarray, zero_rollout(made.spec, 4, 4))
        state = agent.init(jax.random.fold_in(jax.random.key(0), seed), rollout)
        return agent.update(state, rollout, jax.random.key(1))[0].params

    rates = jnp.array([1e-3, 1e-2], jnp.float32)
    swept = jax.jit(jax.vmap(train))(rates, jnp.arange(2))
    alone = jax.jit(train)(rates[1], 1)
    for a, b in zip(jax.tree.leaves(swept), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6)
