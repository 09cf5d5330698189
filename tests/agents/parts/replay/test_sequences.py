"""What is learned from sequences: n steps that stop at both ends, by hand; what a network sees there is what it saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.agents.parts.replay import multi_step
from steersman.agents.parts.replay.sequences import items_of
from steersman.agents.value_based.dqn import DQNConfig, dqn_learner
from steersman.memory import Sample, sequences
from steersman.nets.memory import remembering
from steersman.types import Rollout
from steersman.unroll import begin, unroll

L, N, K, GAMMA = 6, 3, 2, 0.5


def sample_of(seed=0):
    """Sequences [K + L, N] of numbers; ends of both kinds, also in the last row and in the burn-in."""
    rng = np.random.default_rng(seed)
    x = np.arange((K + L) * N, dtype=np.float32).reshape(K + L, N)
    terminated, truncated = np.zeros((2, K + L, N), bool)
    terminated[K + 1, 0] = truncated[K + 2, 1] = truncated[1, 1] = terminated[-1, 0] = truncated[-1, 2] = True
    extras = {"log_prob": np.full(x.shape, -0.9, np.float32)}
    reward = rng.normal(size=x.shape).astype(np.float32)
    action = rng.integers(0, 3, x.shape).astype(np.int32)
    no, costs = np.zeros_like(terminated), np.stack([reward, 2 * reward], -1)
    parts = x[..., None], action, reward, terminated, truncated, x[..., None] + 0.5, no, costs, extras
    batch = jax.tree.map(jnp.asarray, Rollout(*parts))
    discount = jnp.where(batch.terminated, 0.0, GAMMA)
    return Sample(batch, discount, jnp.ones(x.shape, jnp.float32), jnp.arange(N))


def config_of(**settings):
    return DQNConfig(gamma=GAMMA, burn_in=K, sequence_length=K + L, **settings)


def seen_of(config, sample):
    """-> (the items, what they see), in one program"""

    @jax.jit
    def both(sample):
        items = items_of(config, sample)
        return items._replace(sees=None), items.sees(None, ())

    return both(sample)


def ends_of(rows, t, b, n):
    """The last row of the item at row t of sequence b."""
    last = t
    while last < min(t + n, L) - 1 and not (rows.terminated[last, b] or rows.truncated[last, b]):
        last += 1
    return last


@pytest.mark.parametrize("n", [1, 3])
def test_n_steps_stop_at_the_episodes_end_and_at_the_sequences(n):
    sample = sample_of()
    items, (obs, obs_t) = seen_of(config_of(n_step=n, n_step_correction="none"), sample)
    rows = jax.tree.map(lambda x: np.asarray(x)[K:], sample.batch._replace(carry=()))
    for t in range(L):
        for b in range(N):
            last, i = ends_of(rows, t, b, n), t * N + b
            reward = sum(GAMMA**k * rows.reward[t + k, b] for k in range(last - t + 1))
            np.testing.assert_allclose(items.reward[i], reward, rtol=1e-5)
            np.testing.assert_allclose(items.costs[i], [reward, 2 * reward], rtol=1e-5)
            assert items.discount[i] == GAMMA ** (last - t + 1) * (not rows.terminated[last, b])
            assert (obs[i], obs_t[i]) == (rows.obs[t, b], rows.next_obs[last, b])
            assert items.action[i] == rows.action[t, b]


@pytest.mark.parametrize("correction", ["cut", "retrace"])
def test_corrected_steps_by_hand(correction):
    """Backwards from where each stops, with any values of what comes after: nothing from beyond reaches it."""
    n, sample = 3, sample_of()
    config = config_of(n_step=n, n_step_correction=correction, retrace_lambda=0.7)
    items = items_of(config, sample)
    rows = jax.tree.map(lambda x: np.asarray(x)[K:], sample.batch._replace(carry=()))
    rng = np.random.default_rng(1)
    (value, q), chance = rng.normal(size=(2, L, N)).astype(np.float32), rng.random((L, N)).astype(np.float32)
    index = np.asarray(items.sees(None, ())[1])[:, 0] - 0.5
    at = ((index / N).astype(int) - K, (index % N).astype(int))  # the rows that each of n * M steps leads from
    found, _ = multi_step.target(config, items.steps, value[at], q[at], jnp.log(chance[at]))
    for t in range(L):
        for b in range(N):
            g = 0.0
            last = ends_of(rows, t, b, n)
            for k in range(last, t - 1, -1):
                after = value[k, b]
                if k < last:
                    c = 0.7 * min(1.0, chance[k, b] / np.exp(-0.9)) if correction == "retrace" else chance[k, b]
                    after = after + c * (g - q[k, b])
                g = rows.reward[k, b] + GAMMA * (not rows.terminated[k, b]) * after
            np.testing.assert_allclose(found[t * N + b], g, rtol=1e-4, atol=1e-5, err_msg=f"{t} {b}")


def test_rows_that_are_not_there_count_for_nothing():
    sample = sample_of()
    weight = np.ones((K + L, N), np.float32)
    weight[-3:, 1] = 0.0
    items = items_of(config_of(), sample._replace(weight=jnp.asarray(weight)))
    x = jnp.where(items.weight > 0, 2.0, jnp.nan)
    assert float(items.mean(x)) == 2.0
    np.testing.assert_allclose(items.priority(x), [2.0, 0.9 * 2 + 0.1 * 2 * (L - 3) / L, 2.0], rtol=1e-6)


P, B = 4, 3
MEMORY = {"memory": "gru", "memory_size": 6, "hidden_sizes": (8,), "unroll_length": P, "update_ratio": 1 / (P * B)}


def test_replay_sees_what_acting_saw():
    """From the stored carry, over episodes of three steps and unrolls of four: the same action values, to the digit."""
    made = envs.make("probe/memory", B)
    settings = {"burn_in": 3, "sequence_length": 8, "exploration_start": 0.5, "replay_capacity": 200}
    config = DQNConfig(**MEMORY, **settings)
    learner = dqn_learner(config, made.spec)
    buffer = sequences(200, 32, 8, period=P)

    @jax.jit
    def replayed(key):
        acting = begin(learner, made, key)
        state = learner.init(key, None)

        def act(carry, obs, first, key):
            action, after, _ = learner.act(state, carry, obs, first, key)
            _, seen = remembering.step(state.params, carry, obs, first)
            return action, after, {"q": jax.vmap(state.params)(seen)}

        memory = None
        for i in range(4):
            acting, rollout, _ = unroll(act, made, acting, jax.random.key(i), P)
            memory = buffer.init(rollout) if memory is None else buffer.add(memory, rollout)
        sample = buffer.sample(memory, key)
        items = items_of(config, sample)
        q, q_t = (jax.vmap(state.params)(seen) for seen in items.sees(state.params, items.carry))
        return sample, items.weight, q, q_t

    sample, weight, q, q_t = replayed(jax.random.key(0))
    there = np.asarray(weight) > 0
    thought = np.asarray(sample.batch.extras["q"])[3:]
    assert np.ptp(thought) > 0.1
    assert 100 < there.sum() < there.size
    np.testing.assert_allclose(q[there], thought.reshape(-1, 2)[there], rtol=1e-5, atol=1e-6)
    goes_on = np.asarray(~(sample.batch.terminated | sample.batch.truncated))[3:-1].reshape(-1)
    np.testing.assert_allclose(q_t[:-32][goes_on], thought[1:].reshape(-1, 2)[goes_on], rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_through_the_burn_in():
    """Nor into the stored carry; and the rows after it do have one."""
    made = envs.make("probe/memory", B)
    config = DQNConfig(**MEMORY, burn_in=K, sequence_length=K + L)
    learner = dqn_learner(config, made.spec)
    params = jax.jit(learner.init)(jax.random.key(0), None).params
    sample = sample_of()
    carry = jax.tree.map(lambda x: x + 0.1, remembering.begin(params, N))
    obs = jnp.broadcast_to(sample.batch.obs, (K + L, N, 2)) / 10
    sample = sample._replace(batch=sample.batch._replace(obs=obs, next_obs=obs, action=sample.batch.action % 2))

    def out(obs):
        items = items_of(config, sample._replace(batch=sample.batch._replace(obs=obs, carry=carry)))
        return jnp.square(items.sees(params, items.carry)[0]).sum()

    moves = np.abs(jax.jit(jax.grad(out))(obs)).sum((1, 2)) > 0
    assert moves.tolist() == [False] * K + [True] * L


def test_a_network_without_memory_is_asked_as_ever():
    """The carry is that of before, and a sample of single transitions is passed on."""
    made = envs.make("probe/memory", B)
    learner = dqn_learner(DQNConfig(), made.spec)
    assert learner.begin(B) == ()
    assert not learner.remembers
    flat = jax.tree.map(lambda x: x[0], sample_of()._replace(index=None))
    items = items_of(DQNConfig(), flat)
    assert items.sees(None) == (flat.batch.obs, flat.batch.next_obs)
    assert items.priority(items.reward) is items.reward
