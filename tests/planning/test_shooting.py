"""Shooting: one iteration against hand arithmetic, then optima that are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from steersman.errors import UsageError
from steersman.planning.noise import power_law
from steersman.planning.shooting import Warm, cem, icem, mppi, random_shooting

BOX = spaces.Box(-1, 1, (2,))
GOAL = jnp.array([0.6, -0.3])
SIZES = {"horizon": 5, "population": 16, "elites": 4}


def score(sequences, key):
    return -jnp.square(sequences - GOAL[None, None]).sum((1, 2))


def warm_start(kept):
    rows = jnp.linspace(-0.5, 0.5, 5)[:, None] * jnp.ones((1, 2))
    return Warm(rows, jnp.stack([rows * 0.1 * i for i in range(kept)]) if kept else jnp.zeros((0, 5, 2)))


@pytest.mark.parametrize(
    ("make", "kept", "exponent"), [(cem, 0, 0.0), (icem, 2, 2.0), (partial(mppi, temperature=0.5), 0, 0.0)]
)
def test_an_iteration_by_hand(make, kept, exponent):
    planner = make(BOX, iterations=1, std=0.4, **SIZES)
    warm, key = warm_start(kept), jax.random.key(3)
    plan = planner.plan(score, warm, key)
    noise_key, _ = jax.random.split(jax.random.split(key, 1)[0])
    noise = np.asarray(power_law(noise_key, (15 - kept, 5, 2), exponent))
    mean = np.asarray(warm.mean)
    sequences = np.concatenate([mean[None], warm.kept, np.clip(mean + 0.4 * noise, -1, 1)])
    assert sequences.shape == (16, 5, 2)
    scores = np.asarray(score(jnp.asarray(sequences), None))
    order = np.argsort(-scores)[:4]
    elite = sequences[order]
    weights = np.full(4, 0.25)
    if make not in (cem, icem):
        weights = np.exp((scores[order] - scores.max()) / 0.5)
        weights = weights / weights.sum()
    center = np.einsum("e,eha->ha", weights, elite)
    width = np.sqrt(np.einsum("e,eha->ha", weights, (elite - center) ** 2))
    momentum = 0.1 if make in (cem, icem) else 0.0
    after = np.concatenate([(momentum * mean + (1 - momentum) * center)[1:], np.zeros((1, 2))])
    np.testing.assert_allclose(plan.action, elite[0, 0], rtol=1e-6)
    np.testing.assert_allclose(plan.value, scores.max(), rtol=1e-6)
    np.testing.assert_allclose(plan.warm.mean, after, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plan.spread, (momentum * 0.4 + (1 - momentum) * width)[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(plan.warm.kept[:, :4], elite[:kept, 1:], rtol=1e-6)
    np.testing.assert_array_equal(plan.warm.kept[:, 4], 0)


def test_more_iterations_come_closer_and_a_warm_start_helps():
    best = lambda plan: float(-plan.value)
    plans, sizes = [], {"horizon": 5, "population": 64, "elites": 6}
    for iterations in (1, 8):
        planner = icem(BOX, iterations=iterations, **sizes)
        plans.append(planner.plan(score, planner.begin(), jax.random.key(0)))
    assert best(plans[1]) < 0.3 < best(plans[0])
    near = Warm(jnp.broadcast_to(GOAL[None], (5, 2)), jnp.zeros((2, 5, 2)))
    assert float(planner.plan(score, near, jax.random.key(0)).value) == 0  # the mean is scored too
    drawn = random_shooting(BOX, horizon=5, population=64)
    assert best(drawn.plan(score, drawn.begin(), jax.random.key(0))) > best(plans[1])


def test_discrete_actions_are_logits():
    """Of three actions, number 2 first and then number 0 pay."""
    wanted = jnp.array([2, 0, 0])
    count = lambda sequences, key: (sequences.argmax(-1) == wanted[None]).sum(1).astype(jnp.float32)
    planner = cem(spaces.Discrete(3), horizon=3, population=32, iterations=3, elites=6)
    plan = planner.plan(count, planner.begin(), jax.random.key(0))
    assert (plan.action.dtype, int(plan.action), float(plan.value)) == (jnp.int32, 2, 3.0)
    assert plan.warm.mean.argmax(-1)[:2].tolist() == [0, 0]


def test_a_score_that_is_not_finite_is_the_worst():
    """Half of the model's predictions are lost: the plan is made of the other half."""
    broken = lambda sequences, key: jnp.where(sequences[:, 0, 0] > 0, jnp.nan, score(sequences, key))
    for make in (cem, mppi):
        planner = make(BOX, iterations=3, **SIZES)
        plan = planner.plan(broken, planner.begin(), jax.random.key(0))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(plan))
        assert float(plan.action[0]) <= 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"horizon": 0}, "horizon = 0"),
        ({"iterations": 0}, "iterations = 0"),
        ({"population": 0}, "population = 0; at least 4: beside the mean and the 2"),
        ({"elites": 17}, "elites = 17; they are the best of the population of 16"),
        ({"elites": 0}, "elites = 0"),
        ({"elites": 200}, "elites = 200; .* the population of 16"),  # not the 60 of them that would be kept
        ({"keep": 1.5}, "keep is the share"),
    ],
)
def test_sizes_that_cannot_be(settings, said):
    with pytest.raises(UsageError, match=said):
        icem(BOX, **{**SIZES, "iterations": 2, **settings})
