"""The compiled tasks with costs, beside their originals, their tables and hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman import envs
from steersman.envs.safe import point_goal, tasks
from steersman.envs.safe.names import COMPILED, VELOCITY, original
from steersman.envs.safe.velocity import too_fast
from steersman.errors import UsageError
from steersman.run.settings import preset_for
from steersman.spaces import abstract
from steersman.tabular.planning.constrained import solve_constrained


@pytest.mark.parametrize(("name", "entry", "limit"), [("pendulum", 2, 2.0), ("cartpole", 0, 1.0)])
def test_a_twin_costs_where_it_is_beyond_and_is_else_the_same(name, entry, limit):
    costly, plain = tasks.task(name)(limit=limit), envs.make_env(original(f"safe/{name}"))
    key, steps = jax.random.key(1), 40

    def run(env):
        def step(state, key):
            action = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract(env.spec.action_space))
            state, seen = env.step(state, action, key)
            return state, seen

        return jax.lax.scan(step, env.reset(key)[0], jax.random.split(key, steps))[1]

    one, other = jax.jit(lambda: (run(costly), run(plain)))()
    for x, y in zip(one[:5], other[:5], strict=True):
        np.testing.assert_array_equal(x, y)
    beyond = np.abs(other.final_obs[:, entry]) > limit
    assert 0 < beyond.sum() < steps
    np.testing.assert_array_equal(one.costs[:, 0], beyond)


def test_a_constrained_problem_charges_its_table():
    problem = tasks.hazards()
    assert solve_constrained(problem).value == pytest.approx(0.7531, abs=1e-4)
    env = tasks.gridworld()
    assert (env.spec.cost_names, env.spec.max_episode_steps) == (("hazard",), 100)
    states, actions = (jnp.asarray(x.ravel(), jnp.int32) for x in np.indices(problem.costs.shape[1:]))

    def charged(s, a):
        start, _ = env.reset(jax.random.key(0))
        inner = start.env._replace(env=(s, jnp.int32(0)), obs=s)
        return env.step(start._replace(env=inner), a, jax.random.key(1))[1].costs

    np.testing.assert_array_equal(jax.vmap(charged)(states, actions)[:, 0], problem.costs.ravel())
    cells = [tuple(cell) for cell in problem.mdp.grid.cells.tolist()]
    assert {cells[s] for s in np.flatnonzero(problem.costs[0, :, 0])} == set(tasks.HAZARDS)
    assert [cells[s] for s in np.flatnonzero(problem.mdp.terminal)] == [tasks.GOAL]


def point(position, velocity=(0, 0), goal=(1, 0), hazards=((0, 1), (0.5, 0))):
    return point_goal.Point(*(jnp.asarray(x, jnp.float32) for x in (position, velocity, goal, hazards)))


def test_a_point_by_hand():
    env = point_goal.point_goal(hazards=2)
    start, _ = env.reset(jax.random.key(0))
    step = jax.jit(lambda p, a: env.step(start._replace(env=p), a, jax.random.key(3)))
    after, seen = step(point((0.2, 0), (1, 0)), jnp.array([1.0, 0.0]))
    # v = 1 + 0.1 (1 - 0.5) = 1.05, x = 0.305: 0.195 from the hazard at 0.5, 0.105 nearer to the goal
    np.testing.assert_allclose(after.env.position, [0.305, 0], atol=1e-6)
    np.testing.assert_allclose([seen.reward, *seen.costs], [0.105, 1], atol=1e-6)
    after, seen = step(point((0.79, 0), goal=(1, 0)), jnp.array([0.0, 0.0]))  # there, and nobody's hazard
    np.testing.assert_allclose([seen.reward, *seen.costs], [1, 0], atol=1e-6)
    assert np.linalg.norm(after.env.goal[None] - after.env.hazards, axis=-1).min() > point_goal.HAZARD + point_goal.GOAL
    after, _ = step(point((1.48, 0), (1, 0.5)), jnp.zeros(2))  # at the wall
    np.testing.assert_allclose([after.env.position[0], *after.env.velocity], [1.5, 0, 0.475], atol=1e-6)


def test_lidar_by_hand():
    width = 2 * np.pi / point_goal.BEAMS
    ring = point_goal.lidar(jnp.array([[np.cos(0.25 * width), np.sin(0.25 * width)], [0.0, -0.5]], jnp.float32))
    wanted = np.zeros(point_goal.BEAMS)
    wanted[[0, 1]] = np.exp(-1) * np.array([0.75, 0.25])
    wanted[12] = np.exp(-0.5)  # straight below: 3/4 of the way round
    np.testing.assert_allclose(ring, wanted, atol=1e-5)


def test_places_are_clear_of_hazards_where_that_can_be():
    state, obs = jax.jit(jax.vmap(point_goal.point_goal().reset))(jax.random.split(jax.random.key(0), 200))
    for place, distance in ((state.env.position, point_goal.HAZARD), (state.env.goal, 0.5)):
        assert np.linalg.norm(place[:, None] - state.env.hazards, axis=-1).min() > distance
    assert obs.shape == (200, 34)


def test_speeds_by_hand():
    info = {"x_velocity": 2.0, "y_velocity": -2.0}  # 2.83 in the plane
    assert too_fast(VELOCITY["Ant-v5"], None, None, info) == [1.0]
    assert too_fast(VELOCITY["Walker2d-v5"], None, None, info) == [0.0]
    assert too_fast(VELOCITY["Hopper-v5"], None, None, {"x_velocity": 0.7403}) == [1.0]


def test_robots_have_their_limit():
    pytest.importorskip("mujoco")
    made = envs.make("safe/HalfCheetah-v5", 1, costs=["x_velocity > -99"])
    assert (made.spec.id, made.spec.cost_names) == ("safe/HalfCheetah-v5", ("velocity", "x_velocity > -99"))
    assert made.spec.max_episode_steps == 1000
    made.reset(0)
    assert made.step(np.zeros((1, 6), np.float32)).costs.tolist() == [[0, 1]]
    made.close()


def test_names():
    rows = {row.id: row.kind for row in envs.available() if row.family == "safe"}
    assert rows == {f"safe/{n}": "compiled" for n in COMPILED} | {f"safe/{n}": "host" for n in VELOCITY}
    with pytest.raises(UsageError, match=r"There is no safe/pointgoal. Did you mean point-goal"):
        envs.make("safe/pointgoal", 1)
    with pytest.raises(UsageError, match="runs on the host"):
        envs.make_env("safe/Ant-v5")
    assert preset_for("ppo", "safe/pendulum,limit=3") == preset_for("ppo", "Pendulum-v1") != {}
