"""The best of several answers against all choices of them, and its divergence against an enumerated policy."""

import itertools
import math

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.theory.alignment.best_of import best_of, best_of_kl, pass_at


def test_the_best_is_the_mean_over_all_choices():
    reward = np.random.default_rng(0).normal(size=(3, 6))
    for k in range(1, 7):
        every = np.mean([reward[:, list(some)].max(1) for some in itertools.combinations(range(6), k)], axis=0)
        np.testing.assert_allclose(best_of(reward, k), every)


def test_passing_by_hand_and_of_many():
    passed = np.arange(10)[None] < np.array([[0], [3], [10]])
    np.testing.assert_allclose(pass_at(passed, 4), [0, 1 - math.comb(7, 4) / math.comb(10, 4), 1])
    many = np.arange(2000)[None] < 20
    np.testing.assert_allclose(pass_at(many, 100), 1 - math.comb(1980, 100) / math.comb(2000, 100))


def test_its_divergence_is_the_bound_where_answers_differ():
    count, n = 4000, 8
    best = np.diff((np.arange(count + 1) / count) ** n)  # which of equally likely answers is the best of n
    exact = np.sum(best * np.log(best * count))
    assert exact == pytest.approx(best_of_kl(n), abs=1e-3)
    few = np.diff((np.arange(4) / 3) ** n)
    assert np.sum(few * np.log(few * 3)) < best_of_kl(n)


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_were_drawn_is_refused(k):
    with pytest.raises(UsageError, match="of 3 drawn"):
        best_of(np.zeros((1, 3)), k)
    with pytest.raises(UsageError, match="n is 1 or more"):
        best_of_kl(0)
