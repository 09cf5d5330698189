"""The one fitter, on linear regression, whose answer is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.models.fitting import FittingConfig, _chances, fit
from steersman.models.model import Data

N, STEEP = 100, np.array([2.0, -1.0], np.float32)
X = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
CLIFF = 10.0  # beyond it nothing is a number
CONFIG = FittingConfig(
    model_steps=300, model_check_every=25, model_batch_size=32, model_learning_rate=0.1, model_schedule="cosine"
)


def data(episodes=10, valid=N):
    return Data((), np.arange(N, dtype=np.int32) * episodes // N, np.arange(N) < valid)


def error(w, rows):
    x, y = rows
    return jnp.where(w[0] > CLIFF, jnp.nan, jnp.square((x * w[None]).sum(1) - y))


def rows(y=None):
    return X, X @ STEEP if y is None else y


START = jnp.array([[0.0, 0.0], [1.0, 1.0]])
fitted = jax.jit(partial(fit, CONFIG, error))


def test_it_finds_the_line(key):
    w, loss, metrics = fitted(START, rows(), data(), key)
    np.testing.assert_allclose(w, [STEEP, STEEP], atol=1e-3)
    assert (loss < 1e-5).all()
    assert metrics["model/held_out_rows"] == 20
    assert metrics["model/held_out_loss"] == loss.mean()


def test_what_is_held_out_is_not_learned_from_and_judges(key):
    held = np.isin(np.arange(N) // 10, (4, 9))
    y = np.where(held, 0, X @ STEEP).astype(np.float32)
    w, loss, _ = fitted(START, rows(y), data(), key)
    np.testing.assert_allclose(w, [STEEP, STEEP], atol=0.3)
    np.testing.assert_allclose(loss, [np.square(X[held] @ one).mean() for one in np.asarray(w)], rtol=1e-5)
    assert (loss < np.square(X[held] @ STEEP).mean()).all()  # of the way there it is the round that does best on 0


def test_with_a_single_episode_what_is_learned_from_judges(key):
    w, _, metrics = fitted(START, rows(), data(1), key)
    np.testing.assert_allclose(w, [STEEP, STEEP], atol=1e-3)
    assert metrics["model/held_out_rows"] == 0


def test_rows_that_are_not_valid_count_for_nothing(key):
    broken = tuple(np.where((np.arange(N) < 60).reshape(-1, *[1] * (a.ndim - 1)), a, np.nan) for a in rows())
    w, loss, _ = fitted(START, broken, data(valid=60), key)
    np.testing.assert_allclose(w, [STEEP, STEEP], atol=1e-3)
    assert np.isfinite(loss).all()


def test_a_member_that_is_not_finite_keeps_its_last_good_parameters(key):
    w, loss, metrics = fitted(START, rows(X @ (10 * STEEP)), data(), key)  # on its way to 20 it comes to the cliff
    assert (w[:, 0] > 2).all()
    assert (w[:, 0] < CLIFF).all()
    assert np.isfinite(loss).all()
    assert np.isnan(metrics["model/train_loss"])  # which ends a training, by this name


def test_under_vmap_every_seed_ends_where_it_would_alone():
    keys = jax.random.split(jax.random.key(1), 2)
    ys = np.stack([X @ STEEP, np.zeros(N, np.float32)])  # the second seed's first member has nothing to learn
    start = jnp.stack([START, jnp.zeros((2, 2))])
    together = jax.jit(jax.vmap(lambda w, y, key: fit(CONFIG, error, w, (X, y), data(), key)))(start, ys, keys)
    for i in range(2):
        alone = fitted(start[i], rows(ys[i]), data(), keys[i])
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-4, atol=1e-5)
    steps = together[2]["model/fit_steps"]
    assert steps[0] > steps[1] == 6 * 25  # five looks without a gain after the first


def test_members_weigh_the_rows_each_in_its_own_way_and_always_the_same():
    learned = jnp.arange(N) < 60
    first, again = _chances(learned, 2, True), _chances(learned, 2, True)
    np.testing.assert_array_equal(first, again)
    weights = np.diff(first, axis=1, prepend=0)
    assert (weights[:, :60] > 0).all()
    assert not weights[:, 60:].any()
    assert np.abs(np.corrcoef(weights[:, :60])[0, 1]) < 0.4
    np.testing.assert_array_equal(
        _chances(learned, 2, False), np.minimum(np.arange(1, N + 1), 60)[None] * np.ones((2, 1))
    )


def test_a_fit_of_fewer_steps_than_lie_between_two_looks(key):
    short = FittingConfig(model_steps=3, model_learning_rate=0.1)
    w, _, metrics = jax.jit(partial(fit, short, error))(0 * START, rows(), data(), key)
    assert metrics["model/fit_steps"] == 3
    np.testing.assert_allclose(w, [[0.3, -0.3]] * 2, atol=0.01)  # Adam's first steps are of one size


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5])
def test_a_share_that_holds_out_nothing_or_all_is_refused(share):
    with pytest.raises(UsageError, match=r"held_out_share.*between 0 and 1"):
        FittingConfig(held_out_share=share)
