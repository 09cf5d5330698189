"""Environments of texts: a number that is guessed, names, and what a broken one is told."""

import sys

import numpy as np
import pytest

from steersman.envs import text
from steersman.envs.text import Guess, Reply, factory, is_name
from steersman.errors import EnvironmentFault, UsageError


def halved(env, seed):
    """What who halves earns, in how many guesses."""
    env.reset(seed=seed)
    low, high, guesses = 1, env.most, 0
    while True:
        guess, guesses = (low + high) // 2, guesses + 1
        reply, reward, over, truncated, _ = env.step(f" {guess}\n")
        assert not truncated
        if over:
            return reward, guesses
        low, high = (guess + 1, high) if reply == "higher" else (low, guess - 1)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8, 15])
def test_who_halves_always_wins(most):
    env = Guess(most)
    found = [halved(env, seed) for seed in range(60)]
    assert all(reward == 1 for reward, _ in found)
    assert max(guesses for _, guesses in found) == env.guesses
    assert len({guesses for _, guesses in found}) == env.guesses  # sooner, too, with luck


def test_who_does_not_listen_seldom_does():
    env = Guess(7)
    won = 0.0
    for seed in range(700):
        env.reset(seed=seed)
        won += max(env.step(str(guess))[1] for guess in (1, 4, 7))
    assert won / 700 == pytest.approx(3 / 7, abs=0.05)


def test_what_is_no_number_costs_a_guess():
    env = Guess(7, guesses=2)
    env.reset(seed=0)
    assert env.step("four") == ("a number!", 0.0, False, False, {})
    assert env.step("") == ("a number!", 0.0, True, False, {})
    assert env.reset(seed=3)[0] == "1-7?"
    again = Guess(7)
    again.reset(seed=3)
    assert env.number == again.number


def test_names():
    assert factory("text/guess,most=15")().guesses == 4
    assert [is_name(name) for name in ("text/guess", "mine:make,a=1", "texts.jsonl", "runs/sft")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(UsageError, match="there is text/guess"):
        factory("text/gues")
    with pytest.raises(UsageError, match="most = 0"):
        factory("text/guess,most=0")()
    with pytest.raises(UsageError, match="It takes most, guesses"):
        factory("text/guess,upto=3")()


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "spoken.py").write_text(
        "class Broken:\n"
        "    def __init__(self, how='none'):\n        self.how = how\n"
        "    def reset(self, *, seed):\n        return {'reset': 'a text'}.get(self.how, ('say', {}))\n"
        "    def step(self, answer):\n"
        "        if self.how == 'raises':\n            raise KeyError('gone')\n"
        "        given = ('so', 1.0, False, True, {})\n"
        "        if self.how == 'nan':\n            given = ('so', float('nan'), False, False, {})\n"
        "        return given[:4] if self.how == 'short' else given\n"
        "def nothing():\n    return 3\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda how: factory(f"spoken:Broken,how={how}")()
    sys.modules.pop("spoken", None)


def test_one_of_your_own(own):
    env = own("none")
    assert text.begin(env, 0, "mine") == "say"
    assert text.answer(env, "yes", "mine") == Reply("so", 1.0, True)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", r"mine: step\('yes'\) raised KeyError: 'gone' \(.*spoken.py, line 8\)"),
        ("nan", "gave the reward nan; it is to be a finite number"),
        ("short", "it is to give .reply, reward, terminated, truncated, info."),
    ],
)
def test_a_broken_one_is_told(how, says, own):
    with pytest.raises(EnvironmentFault, match=says):
        text.answer(own(how), "yes", "mine")


def test_what_is_none(own):
    with pytest.raises(EnvironmentFault, match=r"gave 'a text'; it is to give \(prompt, info\)"):
        text.begin(own("reset"), 0, "mine")
    with pytest.raises(UsageError, match="gives a int, which has no reset and no step"):
        factory("spoken:nothing")()
    with pytest.raises(UsageError, match="is a int; it is to be a class or a function"):
        factory("spoken:number")
    assert text.answer(Float(), "", "mine").reward == 2.0


class Float:
    """Numpy's numbers are numbers."""

    def reset(self, *, seed=None):
        return "", {}

    def step(self, action):
        return "", np.float32(2), np.bool_(True), False, {}
