"""With a model that knows the truth, what is imagined is what would have been: of a linear system, and of its end."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.agents.model_based.dyna import DynaConfig
from steersman.agents.model_based.imagination import ImaginationConfig, newest_rows, when, with_imagination
from steersman.agents.model_based.mbpo import MBPOConfig
from steersman.agents.parts.replay.with_replay import BatchLearner, with_replay
from steersman.errors import UsageError
from steersman.memory import uniform
from steersman.models.model import Model, Prediction
from steersman.types import EnvSpec, TimeStep
from steersman.unroll import Acting, random_policy, unroll
from steersman.vector import vectorize

T, B, N = 8, 4, 16
KEY = jax.random.key(0)
BOX = spaces.Box(-1.0, 1.0, (1,))
SPEC = EnvSpec("Line", spaces.Box(-10.0, 10.0, (2,)), BOX, BOX)


def dynamics(obs, action):
    """x' = x + v / 2, v' = v + a; r = -x^2; over where |x'| is above 2."""
    after = jnp.stack([obs[0] + 0.5 * obs[1], obs[1] + action[0]])
    return after, -jnp.square(obs[0]), jnp.abs(after[0]) > 2.0


@dataclass(frozen=True)
class Line:
    spec: EnvSpec = SPEC

    def reset(self, key):
        obs = jax.random.uniform(key, (2,), jnp.float32, -1, 1)
        return obs, obs

    def step(self, state, action, key):
        after, reward, over = dynamics(state, action)
        return after, TimeStep(after, reward, over, jnp.zeros((), bool), after, jnp.zeros((0,), jnp.float32), {})


class Fits(NamedTuple):
    """What the model of the truth has learned: how often it was fitted, and to how many rows."""

    fits: jax.Array
    rows: jax.Array


def truth(members=2):
    """The system itself; each of its equal members is one of ``members``."""

    def fit(state, data, key):
        rows = jnp.asarray(data.valid).sum(dtype=jnp.int32)
        return Fits(state.fits + 1, rows), {"model/fits": state.fits + 1}

    def step(state, obs, action, key):
        after, reward, over = dynamics(obs, action)
        mean = jnp.concatenate([after, reward[None]])
        logit = jnp.where(over, 10.0, -10.0).astype(jnp.float32)
        return after, Prediction(after, reward, logit, mean, jnp.zeros_like(mean))

    return Model(
        init=lambda key, rollout: Fits(jnp.int32(0), jnp.int32(0)),
        fit=fit,
        start=lambda state, obs, key: obs,
        step=step,
        members=lambda state: jax.tree.map(lambda x: jnp.stack([x] * members), state),
    )


class Shown(NamedTuple):
    """The state of a learner that keeps the last batch it was given, and goes by the gradient steps."""

    sample: tuple
    updates: jax.Array


def shows(policy, like):
    """A learner whose policy is a function of the observation, and that shows what it learns from."""

    def act(state, carry, obs, first, key, *, explore=True):
        return jax.vmap(policy)(obs), carry, {}

    def learn(state, sample, key):
        return Shown(sample, state.updates + 1), jnp.zeros((N,)), {"seen": sample.batch.reward.mean()}

    init = lambda key, rollout: Shown(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like), jnp.int32(0))
    return BatchLearner(init, lambda num: (), act, learn)


def config_of(**settings):
    given = {"batch_size": N, "replay_capacity": 256, "update_ratio": 1 / (T * B), "refit_every": T * B}
    given |= {"imagined_steps": 48, "imagined_capacity": 192, "real_share": 0.25, "gamma": 0.9}
    return MBPOConfig(**{**given, **settings})


POLICY = lambda obs: jnp.tanh(obs[:1] - obs[1:])
MOVING = {"rollout_horizon": 1, "rollout_horizon_end": 3, "rollout_horizon_schedule": (64, 128)}
ANEW = {"imagination": "in_batch", "refit_every": 2 * T * B}


@pytest.fixture(scope="module")
def rollouts():
    """Some of a random policy, one after another."""
    envs, act = vectorize(Line(), B), random_policy(SPEC)

    @jax.jit
    def play(state, obs, first, key):
        now, rollout, _ = unroll(act, envs, Acting(state, obs, first, ()), key, T)
        return now, rollout._replace(extras={})

    now, found = Acting(*jax.jit(envs.reset)(KEY), np.ones(B, bool), ()), []
    for i in range(6):
        now, rollout = play(*now[:3], jax.random.key(i))
        found.append(rollout)
    return found


def history(rollouts, make):
    """The states and metrics after each rollout of the agent that ``make`` makes of the learner that shows."""
    like = jax.eval_shape(lambda: BUFFER.sample(BUFFER.init(rollouts[0]), KEY))
    agent = make(shows(POLICY, like))
    state, update, found = jax.jit(agent.init)(KEY, rollouts[0]), jax.jit(agent.update), []
    for i, rollout in enumerate(rollouts[1:]):
        state, metrics = update(state, rollout, jax.random.key(i))
        found.append(jax.tree.map(np.asarray, (state, metrics)))
    assert update._cache_size() == 1
    return found


BUFFER = uniform(256, N, gamma=0.9)


@pytest.fixture(scope="module")
def moving(rollouts):
    """Branched, of a horizon that moves."""
    return history(rollouts, lambda own: with_imagination(own, BUFFER, truth(), SPEC, config_of(**MOVING)))


@pytest.fixture(scope="module")
def anew(rollouts):
    """In each batch anew, a fit after every second rollout."""
    return history(rollouts, lambda own: with_imagination(own, BUFFER, truth(), SPEC, config_of(**ANEW)))


def assert_true(batch, discount, policy):
    """Rows are what the system does under the policy."""
    after, reward, over = jax.vmap(dynamics)(batch.obs, batch.action)
    np.testing.assert_allclose(batch.action, jax.vmap(policy)(batch.obs), rtol=1e-6)
    np.testing.assert_allclose(batch.next_obs, after, rtol=1e-6)
    np.testing.assert_allclose(batch.reward, reward, rtol=1e-6)
    np.testing.assert_array_equal(batch.terminated, over)
    np.testing.assert_allclose(discount, np.where(over, 0.0, 0.9), rtol=1e-6)


@pytest.mark.parametrize("imagination", ["moving", "anew"])
def test_a_batch_is_in_part_real_and_the_rest_is_true(rollouts, imagination, request):
    """Of 16 the first 4 are replayed, with the actions of a random policy; the others are the policy's."""
    state, _ = request.getfixturevalue(imagination)[1]
    sample = state.learner.sample
    rest = jax.tree.map(lambda x: x[4:], sample._replace(index=()))
    assert_true(rest.batch, rest.discount, POLICY)
    real = jax.tree.map(lambda x: x[:4], sample.batch)
    assert np.abs(real.action - jax.vmap(POLICY)(real.obs)).min() > 1e-3
    seen = np.concatenate([np.asarray(r.obs).reshape(-1, 2) for r in rollouts[:3]])
    assert all((seen == obs).all(1).any() for obs in real.obs)
    if imagination == "anew":  # the states are those of replay too
        assert all((seen == obs).all(1).any() for obs in rest.batch.obs)


def test_a_whole_share_is_replay_itself(rollouts):
    """real_share 1: the batches of with_replay, on the same keys."""
    whole = config_of(real_share=1.0, **ANEW)
    a = history(rollouts[:3], lambda own: with_replay(own, BUFFER, ratio=1 / (T * B)))
    b = history(rollouts[:3], lambda own: with_imagination(own, BUFFER, truth(), SPEC, whole))
    jax.tree.map(np.testing.assert_array_equal, [s.learner for s, _ in a], [s.learner for s, _ in b])


def newest(state, count):
    """Of the imagined memory, [count, B, ...]."""
    memory = state.memory.imagined
    return jax.tree.map(np.asarray, jax.jit(newest_rows, static_argnums=1)(memory, count))


def test_imagined_episodes_begin_at_replayed_states_and_are_cut(rollouts, moving):
    """Of 3 steps each, unless they end before: after an end comes a state that was seen."""
    rows = newest(moving[2][0], 3)
    assert rows.reward.shape == (3, 16)
    flat = jax.tree.map(lambda x: x.reshape(48, *x.shape[2:]), rows)
    assert_true(flat, np.where(flat.terminated, 0.0, 0.9), POLICY)
    seen = np.concatenate([np.asarray(r.obs).reshape(-1, 2) for r in rollouts[:4]])
    assert all((seen == obs).all(1).any() for obs in rows.obs[rows.first])
    over = rows.terminated | rows.truncated
    np.testing.assert_array_equal(rows.first[1:], over[:-1])
    assert rows.first[0].all()
    np.testing.assert_array_equal(rows.obs[1:][~over[:-1]], rows.next_obs[:-1][~over[:-1]])
    whole = ~rows.terminated.any(0)
    assert whole.sum() > 4
    assert rows.truncated[2, whole].all()
    assert not rows.truncated[:2].any()


def test_the_horizon_moves_and_nothing_is_compiled_again(moving):
    """From 1 at 64 steps to 3 at 128; every fit imagines as many steps, in episodes of k."""
    for i, k in enumerate((1, 2, 3, 3, 3)):
        state, metrics = moving[i]
        assert metrics["rollout_horizon"] == k
        rows = newest(state, 3)
        assert rows.truncated.any(1).tolist() == {1: [True] * 3, 2: [False, True, True], 3: [False, False, True]}[k]
        if k == 1:
            assert (rows.terminated | rows.truncated).all()
    assert 6 < state.memory.imagined.count <= 12  # of 192 transitions: short ones take more room


def test_fits_come_when_they_are_due(anew):
    """The first before the first gradient step, on all that is there; then every 2 rollouts."""
    found = [state.memory for state, _ in anew]
    assert [int(m.model.fits) for m in found] == [1, 1, 2, 2, 3]
    assert [int(m.model.rows) for m in found] == [64, 64, 128, 128, 192]
    assert [int(m.since) for m in found] == [0, 32, 0, 32, 0]
    assert int(found[-1].steps) == 192
    assert [float(m["model/fits"]) for _, m in anew] == [1, 1, 2, 2, 3]
    assert all(float(m["model/nrmse"]) < 1e-6 for _, m in anew)


def test_the_newest_rows_are_in_order(rollouts):
    buffer = uniform(2 * T * B, N)
    memory, add = jax.jit(buffer.init)(rollouts[0]), jax.jit(buffer.add)
    newest = jax.jit(newest_rows, static_argnums=1)
    few = newest(memory, T + 2)
    for rollout in rollouts[1:4]:
        memory = add(memory, rollout)
    rows = newest(memory, T + 3)
    np.testing.assert_array_equal(rows.obs[3:], rollouts[3].obs)
    np.testing.assert_array_equal(rows.next_obs[:3], rollouts[2].next_obs[-3:])
    np.testing.assert_array_equal(rows.reward[:3], rollouts[2].reward[-3:])
    np.testing.assert_array_equal(few.obs[:2], jnp.stack([rollouts[0].obs[0]] * 2))
    np.testing.assert_array_equal(few.obs[2:], rollouts[0].obs)


def test_seeds_side_by_side_are_seeds_one_by_one(rollouts, anew):
    like = jax.eval_shape(lambda: BUFFER.sample(BUFFER.init(rollouts[0]), KEY))
    agent = with_imagination(shows(POLICY, like), BUFFER, truth(), SPEC, config_of(**ANEW))
    both = lambda seed: jnp.stack([jax.random.key(seed), jax.random.key(99)])
    states = jax.jit(jax.vmap(agent.init, (0, None)))(both(0), rollouts[0])
    update = jax.jit(jax.vmap(agent.update, (0, None, 0)))
    for i, (alone, _) in enumerate(anew[:3]):
        states, _ = update(states, rollouts[i + 1], both(i))
        one = jax.tree.map(lambda x: x[0], states)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, alone)
    assert (states.learner.sample.batch.obs[0] != states.learner.sample.batch.obs[1]).any()


def test_over_seeds_nothing_is_done_for_nobody():
    """vmap over agents of which one is due and one is not: a loop, where cond would be a choice."""
    step = lambda x: x + 1.0
    due, x = jnp.array([True, False]), jnp.array([3.0, 5.0])
    np.testing.assert_array_equal(jax.vmap(lambda d, x: when(d, step, x))(due, x), [4.0, 5.0])
    assert "while" in str(jax.make_jaxpr(jax.vmap(lambda d, x: when(d, step, x)))(due, x))


def test_n_steps_of_imagined_episodes(rollouts):
    """Branched: two steps, the second from the state that the model came to; r + 0.9 r', gamma^2."""
    config = config_of(n_step=2, rollout_horizon=2, real_share=0.0)
    buffer = uniform(256, N, gamma=0.9, n_step=2)
    (state, _), *_ = history(rollouts[:2], lambda own: with_imagination(own, buffer, truth(), SPEC, config))
    sample = state.learner.sample
    two = np.isclose(sample.discount, 0.81)
    assert 2 < two.sum() < N
    first, reward, _ = jax.vmap(dynamics)(sample.batch.obs, jax.vmap(POLICY)(sample.batch.obs))
    second, later, _ = jax.vmap(dynamics)(first, jax.vmap(POLICY)(first))
    np.testing.assert_allclose(sample.batch.reward[two], (reward + 0.9 * later)[two], rtol=1e-5)
    np.testing.assert_allclose(sample.batch.next_obs[two], second[two], rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "settings", "says"),
    [
        (MBPOConfig, {"real_share": 1.2}, "real_share = 1.2 .* between 0 and 1"),
        (MBPOConfig, {"imagination": "branching"}, "imagination = 'branching'; it must be branched or in_batch"),
        (MBPOConfig, {"memory": "gru"}, "memory = 'gru'; it must be left out: the model imagines single steps"),
        (MBPOConfig, {"frame_stack": 4}, "frame_stack = 4; .* the model reads vectors"),
        (MBPOConfig, {"n_step": 3, "imagination": "in_batch"}, "n_step = 3; each batch imagines single steps"),
        (MBPOConfig, {"imagined_steps": 20, "rollout_horizon_end": 25}, "imagined_steps = 20; .* an episode of 25"),
        (MBPOConfig, {"imagined_steps": 20, "imagined_capacity": 10}, "imagined_steps = 20; .* imagined_capacity = 10"),
        (MBPOConfig, {"rollout_horizon_schedule": (9, 9)}, r"rollout_horizon_schedule = \(9, 9\); .* a later one"),
        (MBPOConfig, {"hindsight": 0.8}, "MBPO: hindsight = 0.8; .* it replaces goals"),
        (MBPOConfig, {"cost_limit": (1.0,)}, r"MBPO: cost_limit = \(1.0,\); .* the model predicts no costs"),
        (DynaConfig, {"prioritized": True}, "Dyna: prioritized = True; .* Train dqn"),
    ],
)
def test_what_cannot_be_imagined_is_refused(config, settings, says):
    with pytest.raises(UsageError, match=says):
        config(**settings)


def test_a_learner_of_sequences_is_refused():
    learner = BatchLearner(None, None, None, None, remembers=True)
    with pytest.raises(UsageError, match="this learner learns from sequences"):
        with_imagination(learner, uniform(8, 2), truth(), SPEC, config_of())


def test_the_groups_defaults_stand_alone():
    assert ImaginationConfig().longest == 1
    assert ImaginationConfig(rollout_horizon=2, rollout_horizon_end=15).longest == 15
