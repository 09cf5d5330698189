"""What answers are worth, and what a reward that is none is told."""

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language import rewards
from steersman.language.rewards import Part, own_score, scored


def worth(name, said, prompt="", **row):
    return own_score(name)([prompt], [said], [row])[0]


@pytest.mark.parametrize(
    ("name", "answer", "value", "more"),
    [
        ("exact", " 12\n", 1, {"answer": 12}),
        ("exact", "12.", 0, {"answer": "12"}),
        ("number", "It is $1,234.0.", 1, {"answer": "1234"}),
        ("number", "-3 or 4", 0, {"answer": -3}),
        ("number", "10-3=7", 1, {"answer": "7"}),
        ("number", "from 5 to -7", 1, {"answer": "-7"}),
        ("number", "none", 0, {"answer": "7"}),
        ("number", "1e3", 1, {"answer": 1000}),
        ("regex:^Y.s$", "Yes", 1, {}),
        ("regex:^Y", "No Y", 0, {}),
        ("ends-with:.", "Done. \n", 1, {}),
        ("ends-with:!", "Done.", 0, {}),
        ("length:4", "a b c", 0.75, {}),
        ("length:4", "a " * 6, 0.5, {}),
        ("length:4", "a " * 99, 0, {}),
        ("brackets", "([]{})", 1, {}),
        ("brackets", "([)]", 0, {}),
        ("brackets", "((", 0, {}),
        ("brackets", ")(", 0, {}),
        ("sorted", "1123", 1, {"prompt": "3121>"}),
        ("sorted", "1132", 0, {"prompt": "3121>"}),
        ("addition", " 49", 1, {"prompt": "45+4="}),
        ("addition", "49.0", 0, {"prompt": "45+4="}),
        ("json", '{"a": [1]}', 1, {}),
        ("json", "{a: 1}", 0, {}),
    ],
)
def test_by_hand(name, answer, value, more):
    assert worth(name, answer, **more) == value


def test_a_sum_has_weights_and_tells_its_terms():
    parts = [
        Part(name, weight, own_score(name)) for weight, name in map(rewards.weighted_name, ("json", "-0.5*length:2"))
    ]
    total, terms = scored(parts, ["", ""], ["1 ", "x y"], [{}, {}])
    np.testing.assert_allclose(total, [1 - 0.25, -0.5])
    np.testing.assert_array_equal(terms["length:2"], [0.5, 1.0])
    assert rewards.weighted_name("regex:2*3") == (1.0, "regex:2*3")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "gave None; it is to give one finite number for each answer, a list of 2"),
        ([1.0], "gave 1 numbers for 2 answers"),
        ([1.0, float("nan")], r"gave nan.*\n  prompt  'q2'\n  answer  'second'"),
        ([1.0, None], r"gave None.*\n  prompt  'q2'"),
        ([1.0, "2"], r"gave '2'"),
        (3.0, r"gave 3\.0"),
    ],
)
def test_a_reward_that_is_none_is_shown(given, says):
    with pytest.raises(UsageError, match=says):
        scored([Part("mine", 1.0, lambda *_: given)], ["q1", "q2"], ["first", "second"], [{}, {}])


def test_a_reward_that_raises_is_named_with_its_line():
    def mine(prompts, answers, rows):
        return [rows[0]["missing"]]

    with pytest.raises(UsageError, match=r"mine raised KeyError.*test_rewards.py, line \d+.*\n  prompt  'q1'"):
        scored([Part("mine", 1.0, mine)], ["q1"], ["first"], [{}])


def test_names_that_are_none_and_rows_without_an_answer():
    with pytest.raises(UsageError, match="no reward 'numbers'.*Did you mean number"):
        own_score("numbers")
    with pytest.raises(UsageError, match="no reward 'length'; there are .*length:WORDS"):
        own_score("length")
    with pytest.raises(UsageError, match="length:x wants a number"):
        own_score("length:x")
    with pytest.raises(UsageError, match="no regular expression"):
        own_score("regex:(")
    with pytest.raises(UsageError, match="column answer, and a row has question"):
        worth("exact", "x", question="y")


def test_a_group_is_shown():
    shown = rewards.group_shown("q", ["a", "b" * 300], [0.5, 1.0])
    assert shown.splitlines()[:2] == ["  prompt    'q'", "       0.5  'a'"]
    assert len(shown) < 300
