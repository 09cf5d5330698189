"""Planning as an agent, and what came of its promises, by hand arithmetic; PETS and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import steersman
from steersman.agents.model_based.mpc import PROMISE, PlanConfig, kept_promises, mpc, score_in
from steersman.agents.model_based.pets import PETSConfig, pets
from steersman.errors import UsageError
from steersman.models.model import Model, Prediction
from steersman.types import EnvSpec, Rollout

BOX = spaces.Box(-1, 1, (1,))
SPEC = EnvSpec("Line", spaces.Box(-9, 9, (1,)), BOX, BOX, max_episode_steps=20)
SMALL = {"plan_horizon": 3, "plan_population": 32, "plan_elites": 4, "plan_noise_exponent": 0.0}


def slopes():
    """Members that are sure of a world each: x' = x + a, the reward is M_k a."""

    def step(state, x, action, key):
        paid = state[0] * action[0]
        after = x + action
        return after, Prediction(after, paid, jnp.float32(-1), jnp.append(after, paid), jnp.zeros(2))

    return Model(
        lambda key, rollout: jnp.array([1.0, 3.0, -1.0]),
        lambda state, data, key: (state, {}),
        lambda state, obs, key: obs,
        step,
        lambda state: state[:, None],
    )


def test_a_score_goes_through_every_member():
    sequences, obs = jnp.array([[0.5, 0.5], [-1.0, 0.0]])[..., None], jnp.zeros(1)
    options = {"gamma": 0.5, "risk": 0.0}
    score = lambda **more: score_in(slopes(), jnp.array([1.0, 3.0, -1.0]), SPEC, obs, **{**options, **more})
    mean = score()(sequences, jax.random.key(0))
    np.testing.assert_allclose(mean, [0.75, -1.0], rtol=1e-6)  # the members' slope is 1 on average
    risky = score(risk=1.0)(sequences, jax.random.key(0))
    spread = np.std([1.0, 3.0, -1.0])
    np.testing.assert_allclose(risky, [0.75 * (1 - spread), -1.0 - spread], rtol=1e-5)


def test_acting_begins_anew_where_an_episode_opens():
    agent = mpc(PlanConfig(**SMALL), SPEC, slopes())
    state, obs = agent.init(jax.random.key(0), None), jnp.zeros((3, 1))
    act = jax.jit(lambda carry, first, key: agent.act(state, carry, obs, first, key, explore=True))
    fresh = agent.begin(3)
    _, warm, said = act(fresh, jnp.ones(3, bool), jax.random.key(1))
    action, after, _ = act(warm, jnp.array([True, False, False]), jax.random.key(2))
    again, _, _ = act(fresh, jnp.array([False, True, False]), jax.random.key(2))
    assert action[0] == again[0]  # as if nothing had been before
    assert not np.array_equal(action[1:], again[1:])
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, fresh)
    assert said[PROMISE].shape == (3,)
    assert (action > 0.3).all()  # the slope is positive on average


def test_equal_observations_are_answered_alike_in_evaluation():
    agent = mpc(PlanConfig(**SMALL), SPEC, slopes())
    state = agent.init(jax.random.key(0), None)
    act = lambda explore: agent.act(
        state, agent.begin(4), jnp.zeros((4, 1)), jnp.ones(4, bool), jax.random.key(1), explore=explore
    )
    assert len(np.unique(act(True)[0])) > 1
    assert len(np.unique(act(False)[0])) == 1


def rollout_of(reward, terminated, truncated, promises):
    rows = jnp.asarray(reward)[:, None]
    flag = lambda x: (
        jnp.zeros(rows.shape, bool).at[jnp.array(x, int), 0].set(True) if x else jnp.zeros(rows.shape, bool)
    )
    obs = jnp.zeros((*rows.shape, 1))
    extras = {PROMISE: jnp.asarray(promises)[:, None]}
    costs = jnp.zeros((*rows.shape, 0))
    return Rollout(obs, obs, rows, flag(terminated), flag(truncated), obs, flag([0]), costs, extras)


@pytest.mark.parametrize(
    ("terminated", "truncated", "promised", "came"),
    [
        ([], [], [1, 2, 3, 4], [1.5, 3, 6, 8]),  # the last step shows no second one
        ([1], [], [1, 2, 3, 4], [1.5, 1, 6, 8]),  # step 1 ends it: its own reward alone
        ([], [1], [1, 3, 4], [1.5, 6, 8]),  # the clock hides what step 1 would have got
        ([4], [], [1, 2, 3, 4, 5], [1.5, 3, 6, 8, 8]),  # an end shows the last one whole
    ],
)
def test_promises_beside_what_came(terminated, truncated, promised, came):
    """Over two steps at a discount of 1/2; over nine, there is none that shows it."""
    rollout = rollout_of([1.0, 1.0, 4.0, 4.0, 8.0], terminated, truncated, [1.0, 2.0, 3.0, 4.0, 5.0])
    before = (jnp.float32(7), jnp.float32(-7))
    told = kept_promises(rollout, 2, 0.5, before)
    np.testing.assert_allclose(told, (np.mean(promised), np.mean(came)), rtol=1e-6)
    if not terminated:
        np.testing.assert_array_equal(kept_promises(rollout, 9, 0.5, before), before)


def test_what_is_refused():
    with pytest.raises(UsageError, match="plan_elites = 40; they are the best of plan_population = 32"):
        PlanConfig(plan_elites=40)
    free = spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(UsageError, match="entry 0 of"):
        pets(PETSConfig(), EnvSpec("Free", SPEC.observation_space, free, free))
    with pytest.raises(UsageError, match="learns a model and no policy"):
        pets(PETSConfig(), SPEC, network=lambda key, spec: None)
    image = EnvSpec("Pictures", spaces.Box(0, 255, (8, 8, 3), np.uint8), BOX, BOX)
    with pytest.raises(UsageError, match="predicts vectors of numbers"):
        pets(PETSConfig(), image)


def test_a_budget_that_ends_in_the_warm_up_names_the_setting():
    with pytest.raises(UsageError, match=r"learning_starts = 5,000.* steps = 1,000. Set learning_starts to 100"):
        steersman.train("pets", "Pendulum-v1", steps=1000, num_envs=1, learning_starts=5000, preset=False)
