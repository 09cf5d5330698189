"""All answers: that these are all, and what is said of a policy by hand."""

import math

import jax
import numpy as np
import pytest

from steersman.language import enumerated as known


def test_answers_are_all_there_are(small):
    among = known.answers(11, 2, end=3)
    assert len(among.tokens) == 1 + 10 + 100
    assert len({tuple(row[:n]) for row, n in zip(among.tokens, among.mask.sum(1), strict=True)}) == 111
    p = np.exp(jax.jit(lambda m: known.log_probs(m, np.array([1, 2]), among, 0.7).sum(-1))(small))
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(among.ended, (among.tokens == 3).any(1) & ~(among.mask.all(1) & ~among.ended))


def test_the_standing_by_hand():
    ref, reward = np.log(np.array([[0.5, 0.5]], np.float32)), np.array([[0.0, math.log(3.0)]], np.float32)
    best = known.standing(np.log(np.array([[0.25, 0.75]], np.float32)), ref, reward, 1.0)
    assert best.gain == pytest.approx(1.0, abs=1e-5)
    assert best.variation == pytest.approx(0.0, abs=1e-6)
    assert best.value == pytest.approx(math.log(2.0), abs=1e-5)  # log of the mean of exp(r)
    assert best.kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-5)
    none = known.standing(ref, ref, reward, 1.0)
    assert (float(none.gain), float(none.kl)) == (0.0, 0.0)
    assert none.variation == pytest.approx(0.25)


def test_what_the_probe_pays():
    said = np.array([[1, 2, 4, 0], [2, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4], [2, 2, 2, 2]], np.int32)
    prompt = np.broadcast_to(np.array([1, 2], np.int32), (5, 2))
    got = known.probe_reward(prompt, said, said > 0)
    np.testing.assert_allclose(got, [1 + 0.5 + 0.5, 0 + 0.5 + 0.5, 0, 1 + 0 + 0.5, 0])
