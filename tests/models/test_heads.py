"""Inverse dynamics, distance and future return, against answers that are known."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.models import temporal
from steersman.models.data import of_rollout
from steersman.models.distance import DistanceConfig, distance
from steersman.models.future import FutureConfig, future, to_go
from steersman.models.inverse import InverseConfig, inverse
from steersman.types import EnvSpec, Rollout

QUICK = {"hidden_sizes": (32,), "updates": 400, "batch_size": 64, "learning_rate": 1e-2}


def spec(observed, acted, **more):
    return EnvSpec("test", observed, acted, acted, **more)


def rollout(obs, action, next_obs, reward=None, terminated=None, first=None):
    """[T, B]; episodes go on to the end where nothing else is said."""
    shape = jax.tree.leaves(action)[0].shape[:2]
    no, zero = np.zeros(shape, bool), np.zeros(shape, np.float32)
    opens = no.copy()
    opens[0] = True
    given = (x if y is None else y for x, y in ((zero, reward), (no, terminated), (opens, first)))
    reward, terminated, first = given
    return Rollout(obs, action, reward, terminated, no, next_obs, first, np.zeros((*shape, 0), np.float32), {})


# --- inverse dynamics ---


def test_an_action_that_does_something_is_found_and_one_that_does_nothing_is_guessed():
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(60, 10, 2)).astype(np.float32)
    action, stranger = rng.uniform(-1, 1, (2, 60, 10, 1)).astype(np.float32)
    after = 1.3 * obs + np.array([0.0, 0.1], np.float32) * action
    config = InverseConfig(hidden_sizes=(32,), model_steps=400, model_batch_size=64, model_learning_rate=1e-2)
    model = inverse(config, spec(spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,))))
    fit = jax.jit(lambda data: model.fit(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1)))
    where = jnp.array([1.0, 0.5]), jnp.array([1.3, 0.65 + 0.1 * 0.7])

    M, metrics = fit(rollout(obs, action, after))
    assert metrics["inverse/r2"] > 0.98
    assert abs(float(model.action(M, *where).mode()[0]) - 0.7) < 0.1
    assert float(model.action(M, *where).entropy()) < -1

    M, metrics = fit(rollout(obs, stranger, after))
    assert -0.15 < metrics["inverse/r2"] < 0.05
    assert abs(float(model.action(M, *where).log_std[0]) - np.log(np.sqrt(1 / 3))) < 0.25  # uniform in [-1, 1]


def test_where_a_limit_hides_the_action_the_middle_of_what_is_left_is_guessed():
    """x' = min(x + a / 2, 1): from 0.8 to 1 any action above 0.4 leads, from 0.8 to 0.99 only 0.38."""
    rng = np.random.default_rng(5)
    obs, action = rng.uniform(-1, 1, (60, 20, 1)).astype(np.float32), rng.uniform(-1, 1, (60, 20, 1))
    action = action.astype(np.float32)
    data = rollout(obs, action, np.minimum(obs + np.float32(0.5) * action, np.float32(1)))
    config = InverseConfig(hidden_sizes=(32,), model_steps=800, model_batch_size=64, model_learning_rate=1e-2)
    model = inverse(config, spec(spaces.Box(-9, 1, (1,)), spaces.Box(-1, 1, (1,))))
    M, _ = jax.jit(model.fit)(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1))
    guess = lambda after: float(model.action(M, jnp.array([0.8]), jnp.array([after])).mode()[0])
    assert abs(guess(1.0) - 0.7) < 0.1
    assert abs(guess(0.99) - 0.38) < 0.1


def test_of_categories_the_frequencies_are_what_is_left_where_actions_do_nothing():
    rng = np.random.default_rng(1)
    action = rng.choice(3, (60, 10), p=[0.6, 0.3, 0.1]).astype(np.int32)
    obs, after = (rng.integers(0, 4, (60, 10)).astype(np.int32) for _ in range(2))
    model = inverse(
        InverseConfig(hidden_sizes=(), model_steps=400, model_learning_rate=1e-2),
        spec(spaces.Discrete(4), spaces.Discrete(3)),
    )
    data = rollout(obs, action, after)
    M, metrics = jax.jit(model.fit)(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1))
    told = jax.vmap(lambda s: model.action(M, s, 1).probabilities())(jnp.arange(4)).mean(0)
    np.testing.assert_allclose(told, [0.6, 0.3, 0.1], atol=0.08)
    assert abs(metrics["inverse/accuracy"] - 0.6) < 0.12


# --- distance ---


@pytest.fixture(scope="module")
def line():
    """A walk on eight places in a row, by chance: -> (rollout, spec)"""
    rng = np.random.default_rng(2)
    place, obs, after, action = rng.integers(0, 8, 20), [], [], []
    for _ in range(40):
        move = rng.integers(0, 2, 20)
        to = np.clip(place + 2 * move - 1, 0, 7)
        obs.append(place), after.append(to), action.append(move)
        place = to
    obs, action, after = (np.array(x, np.int32) for x in (obs, action, after))
    return rollout(obs, action, after), spec(spaces.Discrete(8), spaces.Discrete(2))


def test_the_distance_on_a_line_is_the_number_of_steps(line):
    data, here = line
    model = distance(DistanceConfig(longest=20, **QUICK | {"updates": 800}), here, reached=same)
    M, metrics = jax.jit(model.fit)(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1))
    s, g = np.meshgrid(np.arange(8), np.arange(8))
    pairs = (x.reshape(-1).astype(np.int32) for x in (s, g))
    found = np.asarray(jax.vmap(lambda s, g: model.steps(M, s, g))(*pairs))
    exact = np.abs(s - g).reshape(-1)
    assert (found[exact == 0] == 0).all()
    assert np.abs(found - exact).mean() < 0.5
    assert metrics["distance/excess"] < 0.3  # no path that was seen is much shorter


def test_what_ended_elsewhere_never_arrives():
    """From 0 one step leads to 1, where the episode ends, or to 2, each half of the time."""
    after = np.tile(np.array([[1, 2]], np.int32), (1, 20))
    obs, action = np.zeros_like(after), after - 1
    data = rollout(obs, action, after, terminated=after == 1)
    config = DistanceConfig(longest=10, future_share=0.0, expectile=0.5, **QUICK)
    model = distance(config, spec(spaces.Discrete(3), spaces.Discrete(2)), reached=same)
    M = model.init(jax.random.key(0), data)
    assert float(model.steps(M, 0, 2)) < 2  # it begins below
    M, _ = jax.jit(model.fit)(M, of_rollout(data), jax.random.key(1))
    assert float(model.steps(M, 0, 2)) == pytest.approx((1 + 10) / 2, abs=0.7)


def same(s, g):
    return s == g


def test_what_is_desired_is_not_part_of_where_one_is():
    place = spaces.Box(-1, 1, (2,))
    parts = {"observation": place, "achieved_goal": place, "desired_goal": place}
    model = distance(
        DistanceConfig(), spec(spaces.Dict(parts), place), reached=lambda a, g: jnp.linalg.norm(a - g) < 0.1
    )
    M = model.init(jax.random.key(0), None)
    x = jnp.array([0.5, 0.5])
    obs = {"observation": x, "achieved_goal": x, "desired_goal": x}
    assert float(model.steps(M, obs, -x)) == float(model.steps(M, obs | {"desired_goal": -x}, -x)) >= 1
    assert float(model.steps(M, obs, x + 0.05)) == 0


# --- future return ---


def test_returns_to_go_by_hand():
    reward = np.array([[1.0], [2.0], [4.0], [8.0]], np.float32)
    first, ended = np.array([[1], [0], [1], [0]], bool), np.array([[0], [1], [0], [0]], bool)
    x = np.zeros((4, 1, 1), np.float32)
    paid, left, end = to_go(of_rollout(rollout(x, x, x, reward, ended, first)), 0.5)
    assert paid.tolist() == [2.0, 2.0, 8.0, 8.0]
    assert left.tolist() == [0.0, 0.0, 0.25, 0.5]  # truncated: what follows counts
    assert end.tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("target", ["td", "monte_carlo"])
def test_quantiles_of_a_return_that_is_normal(target):
    """r ~ N(1, 1) for ever, gamma 1/2: G ~ N(2, 4/3)."""
    reward = np.random.default_rng(3).normal(1, 1, (50, 40)).astype(np.float32)
    x, action = np.zeros((50, 40, 1), np.float32), np.zeros((50, 40), np.int32)
    here = spec(spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
    model = future(FutureConfig(gamma=0.5, quantiles=16, target=target, **QUICK | {"updates": 800}), here)
    data = rollout(x, action, x, reward)
    M, metrics = jax.jit(model.fit)(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1))
    exact = [NormalDist(2, (4 / 3) ** 0.5).inv_cdf((2 * i + 1) / 32) for i in range(16)]
    np.testing.assert_allclose(model.quantiles(M, jnp.zeros(1)), exact, atol=0.25)
    assert abs(metrics["future/coverage90"] - 0.9) < 0.05


def test_the_value_of_an_action_is_not_that_of_its_state():
    """Action 1 pays 1 and the episode ends; action 0 pays 0 and the next row pays by its own."""
    action = np.random.default_rng(4).integers(0, 2, (40, 20)).astype(np.int32)
    reward, ended = action.astype(np.float32), action == 1
    first = np.concatenate([np.ones((1, 20), bool), ended[:-1]])
    x = np.zeros((40, 20, 1), np.float32)
    here = spec(spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
    model = future(FutureConfig(gamma=0.5, given_action=True, **QUICK), here)
    data = rollout(x, action, x, reward, ended, first)
    M, _ = jax.jit(model.fit)(model.init(jax.random.key(0), data), of_rollout(data), jax.random.key(1))
    q = [float(model.quantiles(M, jnp.zeros(1), a).mean()) for a in (0, 1)]
    # Q(0) = gamma (Q(0) + Q(1)) / 2, Q(1) = 1
    np.testing.assert_allclose(q, [1 / 3, 1.0], atol=0.06)


# --- what all of them do ---


def test_no_features_are_learned_of_images():
    here = spec(spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2))
    for make in (
        lambda: inverse(InverseConfig(), here),
        lambda: distance(DistanceConfig(), here, reached=same),
        lambda: future(FutureConfig(), here),
    ):
        with pytest.raises(UsageError, match="images"):
            make()


def test_rows_of_a_mask_are_drawn_and_no_others():
    mask = jnp.array([False, True, False, True, True])
    drawn = np.asarray(temporal.drawer(mask, 300)(jax.random.key(0)))
    assert set(drawn.tolist()) == {1, 3, 4}
    assert np.bincount(drawn)[[1, 3, 4]].min() > 70
