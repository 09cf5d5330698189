"""What comes out of replay is what went in: against a plain record of everything seen, by hand, and in bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.memory import nbytes, prioritized, stream, uniform
from steersman.types import Rollout

GAMMA = 0.5


class World:
    """Environments whose observation is a number never seen before; episodes end at random, either way."""

    def __init__(self, num_envs, ends=0.2, seed=0, shape=(1,), dtype=np.float32):
        self.rng, self.num_envs, self.ends, self.shape, self.dtype = (
            np.random.default_rng(seed),
            num_envs,
            ends,
            shape,
            dtype,
        )
        self.now, self.first = [10_000 * (b + 1) for b in range(num_envs)], [True] * num_envs

    def step(self):
        row = []
        for b in range(self.num_envs):
            obs, after = self.now[b], self.now[b] + 1
            end = self.rng.random() < self.ends
            terminated = end and self.rng.random() < 0.5
            row.append((obs, after, terminated, end and not terminated, self.first[b]))
            self.first[b], self.now[b] = end, after + end
        return row

    def rollout(self, length):
        rows = np.array([self.step() for _ in range(length)], np.int64)
        obs, after = (rows[..., i, None].astype(np.float32) for i in (0, 1))
        flag = lambda i: rows[..., i].astype(bool)
        number = rows[..., 0].astype(np.float32)
        return Rollout(
            obs, rows[..., 0].astype(np.int32), number, flag(2), flag(3), after,
            flag(4), np.zeros((*number.shape, 0), np.float32), {},
        )  # fmt: skip


def joined(rollouts):
    return jax.tree.map(lambda *x: np.concatenate(x), *rollouts)


def expected(seen, t, b, n):
    """The item that starts at row t of environment b, from the record of everything."""
    reward, m = 0.0, 0
    while True:
        reward += GAMMA**m * seen.reward[t + m, b]
        m += 1
        last = t + m - 1
        if seen.terminated[last, b] or seen.truncated[last, b] or m == n or last + 1 == len(seen.reward):
            return reward, GAMMA**m * (1.0 - seen.terminated[last, b]), last


def stream_of(memory):
    return memory if isinstance(memory, stream.Stream) else memory.stream


@pytest.mark.parametrize(("make", "length", "num_envs", "capacity"), [(uniform, 4, 2, 8), (prioritized, 1, 1, 7)])
def test_items_are_what_was_seen(make, length, num_envs, capacity):
    """Also after the rings have turned many times, and where ends leave less room than rows."""
    buffer = make(capacity, 64, n_step=3, gamma=GAMMA, path=True)
    world = World(num_envs)
    rollouts = [world.rollout(length)]
    memory = jax.jit(buffer.init)(rollouts[0])
    add, sample = jax.jit(buffer.add, donate_argnums=0), jax.jit(buffer.sample)
    for i in range(30):
        rollouts.append(world.rollout(length))
        memory = add(memory, rollouts[-1])
        drawn, seen = jax.tree.map(np.asarray, sample(memory, jax.random.key(i))), joined(rollouts)
        held = int(stream_of(memory).count)
        assert min(len(seen.reward), capacity // num_envs // 2) <= held <= capacity // num_envs
        rows = {float(seen.reward[t, b]): (t, b) for t in range(len(seen.reward)) for b in range(num_envs)}
        for j in range(64):
            t, b = rows[float(drawn.batch.obs[j, 0])]
            assert t >= len(seen.reward) - held
            reward, discount, last = expected(seen, t, b, 3)
            np.testing.assert_allclose(drawn.batch.reward[j], reward, rtol=1e-6)
            assert drawn.discount[j] == pytest.approx(discount)
            assert drawn.batch.next_obs[j, 0] == seen.next_obs[last, b, 0]
            assert drawn.batch.action[j] == seen.action[t, b]
            assert (drawn.batch.terminated[j], drawn.batch.truncated[j], drawn.batch.first[j]) == (
                seen.terminated[last, b], seen.truncated[last, b], seen.first[t, b],
            )  # fmt: skip
            for k in range(3):  # its steps, the last of them repeated
                at = min(t + k, last)
                assert drawn.path.reward[j, k] == seen.reward[at, b] == drawn.path.obs[j, k, 0]
                assert (drawn.path.action[j, k], drawn.path.next_obs[j, k, 0]) == (
                    seen.action[at, b], seen.next_obs[at, b, 0],
                )  # fmt: skip
                over = seen.terminated[at, b]
                assert (drawn.path.terminated[j, k], drawn.path.truncated[j, k]) == (over, at == last and not over)


def rollout_by_hand(terminated, truncated):
    n = len(terminated)
    flags = [np.array(x, bool)[:, None] for x in (terminated, truncated)]
    obs = np.arange(n, dtype=np.float32).reshape(n, 1, 1)
    ends = flags[0] | flags[1]
    first = np.concatenate([np.ones((1, 1), bool), ends[:-1]])
    after = obs + np.where(ends[..., None], 0.5, 1.0).astype(np.float32)  # the true successor of an end is x.5
    reward = np.arange(1, n + 1, dtype=np.float32)[:, None]
    return Rollout(obs, np.zeros((n, 1), np.int32), reward, *flags, after, first, np.zeros((n, 1, 0), np.float32), {})


@pytest.mark.parametrize(
    ("end", "rewards", "discounts", "successors"),
    [
        # rewards 1 2 3 4 5, the third step an end, three steps an item, gamma 1/2; the last two steps are the newest
        ("truncated", [2.75, 2 + 1.5, 3, 4 + 2.5, 5], [1 / 8, 1 / 4, 1 / 2, 1 / 4, 1 / 2], [2.5, 2.5, 2.5, 5, 5]),
        ("terminated", [2.75, 2 + 1.5, 3, 4 + 2.5, 5], [0, 0, 0, 1 / 4, 1 / 2], [2.5, 2.5, 2.5, 5, 5]),
        ("neither", [2.75, 2 + 1.5 + 1, 3 + 2 + 1.25, 6.5, 5], [1 / 8, 1 / 8, 1 / 8, 1 / 4, 1 / 2], [3, 4, 5, 5, 5]),
    ],
)  # fmt: skip
def test_three_steps_by_hand(end, rewards, discounts, successors):
    third = [0, 0, 1, 0, 0]
    rollout = rollout_by_hand(*(third if end == kind else [0] * 5 for kind in ("terminated", "truncated")))
    memory = stream_of(jax.jit(uniform(5, 1).init)(rollout))
    batch, discount = jax.jit(lambda m: stream.item(m, jnp.arange(5), 3, GAMMA))(memory)
    np.testing.assert_array_equal(batch.obs[:, 0], np.arange(5))
    np.testing.assert_allclose(batch.reward, rewards)
    np.testing.assert_allclose(discount, discounts)
    np.testing.assert_allclose(batch.next_obs[:, 0], successors)


def test_a_memory_can_open_in_the_middle_of_an_episode_and_keeps_the_end_of_a_long_rollout():
    rollout = World(2, ends=0.1).rollout(20)
    rollout = rollout._replace(
        first=np.zeros_like(rollout.first) | np.roll(rollout.terminated | rollout.truncated, 1, 0)
    )
    rollout.first[0] = False
    memory = jax.jit(uniform(10, 4).init)(rollout)
    newest = rollout.reward[20 - int(memory.count) :]
    batch, _ = stream.item(memory, jnp.arange(10), 1, GAMMA)
    held = (memory.head - 1 - jnp.arange(10) // 2) % 5 < memory.count
    assert set(np.asarray(batch.obs[held, 0])) == set(newest.ravel())
    assert set(np.asarray(batch.next_obs[held, 0])) == set(rollout.next_obs[20 - int(memory.count) :].ravel())


def stacked(world_frames, stack, axis):
    """Observations of the newest ``stack`` frames, the first of an episode repeated before it."""
    return np.stack(world_frames[-stack:], axis)


@pytest.mark.parametrize(("axis", "padding"), [(0, "repeat"), (-1, "zero")])
def test_stacks_come_back_whole_from_frames_stored_once(axis, padding):
    stack, length, rng = 3, 6, np.random.default_rng(0)
    frames, first = [], True
    new = lambda: rng.integers(0, 256, (5, 6), np.uint8)

    def start():
        frame = new()
        return [frame if padding == "repeat" else np.zeros_like(frame)] * (stack - 1) + [frame]

    record, rollouts = [], []
    frames = start()
    for _ in range(12):
        rows = []
        for _ in range(length):
            obs = stacked(frames, stack, axis)
            frames.append(new())
            after, end = stacked(frames, stack, axis), bool(rng.random() < 0.15)
            rows.append((obs, after, end, first, len(record)))
            record.append((obs, after))
            first = end
            if end:
                frames = start()
        obs, after, end, opened, number = (np.array(x)[:, None] for x in zip(*rows, strict=True))
        no, reward = np.zeros_like(end), number.astype(np.float32)
        rollouts.append(Rollout(obs, reward, reward, no, end, after, opened, np.zeros((length, 1, 0), np.float32), {}))
    buffer = uniform(30, 40, n_step=2, gamma=0.0, frame_stack=stack, path=True)
    memory = jax.jit(buffer.init)(rollouts[0])
    add, sample = jax.jit(buffer.add), jax.jit(buffer.sample)
    for i, rollout in enumerate(rollouts[1:]):
        memory = add(memory, rollout)
        drawn = jax.tree.map(np.asarray, sample(memory, jax.random.key(i)))
        batch, path = drawn.batch, drawn.path
        assert batch.obs.dtype == path.obs.dtype == np.uint8
        for j in range(40):
            np.testing.assert_array_equal(batch.obs[j], record[int(batch.reward[j])][0])
            np.testing.assert_array_equal(batch.next_obs[j], record[int(path.reward[j, 1])][1])
            for k in range(2):
                obs, after = record[int(path.reward[j, k])]
                np.testing.assert_array_equal(path.obs[j, k], obs)
                np.testing.assert_array_equal(path.next_obs[j, k], after)


def test_bytes_are_those_of_each_frame_once():
    """A million transitions of four 84 x 84 frames in 8 GB, where storing both stacks would take 56."""
    shape = jax.ShapeDtypeStruct
    lead, flag, number = (1, 1), shape((1, 1), bool), shape((1, 1), np.float32)
    obs = shape((*lead, 84, 84, 4), np.uint8)
    rollout = Rollout(obs, shape(lead, np.int32), number, flag, flag, obs, flag, shape((1, 1, 0), np.float32), {})
    size = lambda stack: nbytes(jax.eval_shape(uniform(10**6, 32, frame_stack=stack).init, rollout))
    frame, step = 84 * 84, 4 + 4 + 3 + 4
    assert size(4) == pytest.approx((9 / 8 * frame + step) * 10**6, rel=1e-4)
    assert size(1) == pytest.approx((9 / 8 * 4 * frame + step) * 10**6, rel=1e-4)
    with pytest.raises(UsageError, match=r"frame_stack = 5.*84, 84, 4"):
        size(5)


def test_donated_memory_is_written_in_place():
    buffer, world = prioritized(1000, 4), World(1)
    memory = jax.jit(buffer.init)(world.rollout(1))
    pointers = [x.unsafe_buffer_pointer() for x in (memory.stream.frames, memory.stream.steps.reward, memory.tree[0])]
    add = jax.jit(buffer.add, donate_argnums=0)
    memory = add(memory, world.rollout(1))
    after = [x.unsafe_buffer_pointer() for x in (memory.stream.frames, memory.stream.steps.reward, memory.tree[0])]
    assert after == pointers


def test_vmapped_memories_are_those_one_by_one():
    buffer, world = prioritized(12, 8, n_step=2), World(1)
    rollouts = [jax.tree.map(lambda *x: np.stack(x), *(world.rollout(2) for _ in range(3))) for _ in range(8)]

    def run(first, others, key):
        memory, _ = jax.lax.scan(lambda m, r: (buffer.add(m, r), None), buffer.init(first), others)
        sample = buffer.sample(memory, key)
        return buffer.update(memory, sample.index, sample.batch.reward), sample

    others = jax.tree.map(lambda *x: np.stack(x, 1), *rollouts[1:])
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(run))(rollouts[0], others, keys)
    for i in range(3):
        one = jax.jit(run)(*jax.tree.map(lambda x, i=i: x[i], (rollouts[0], others, keys)))
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6)


def test_uniform_is_uniform():
    from scipy import stats

    buffer, world = uniform(50, 500), World(2, ends=0.0)
    memory = jax.jit(buffer.init)(world.rollout(20))  # 40 of 50 held
    draw = jax.jit(lambda m, keys: jax.vmap(lambda k: buffer.sample(m, k).index)(keys))
    drawn = draw(memory, jax.random.split(jax.random.key(1), 40))
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=50)
    assert set(np.flatnonzero(counts)) == set(range(40))
    assert stats.chisquare(counts[:40]).pvalue > 1e-3


def test_a_rollout_longer_than_the_memory():
    buffer, world = uniform(4, 2), World(1)
    with pytest.raises(UsageError, match=r"5 steps does not fit .*4 rows.*Raise replay_capacity"):
        jax.eval_shape(buffer.add, jax.eval_shape(buffer.init, world.rollout(1)), world.rollout(5))
