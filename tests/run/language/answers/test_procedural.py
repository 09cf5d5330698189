"""Prompts and judges of reasoning-gym, where it is installed."""

import sys

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.run.language.align import planned
from steersman.run.language.answers import procedural
from steersman.run.language.answers.scores import Reward
from steersman.run.language.reading import data_sha256, is_environment, is_task, read_rows

NAME = "reasoning_gym:chain_sum,max_terms=2,max_digits=1,size=4"


def test_a_name_is_of_a_task_an_environment_or_a_file():
    names = [NAME, "text/guess,most=3", "mine:make", "asked.jsonl", "reasoning_gym:of.jsonl"]
    assert [is_task(name) for name in names] == [True, False, False, False, False]
    assert [is_environment(name) for name in names] == [False, True, True, False, False]
    assert planned("rloo", "tiny", NAME, {}).config.reward == ("reasoning_gym",)
    assert planned("rloo", "tiny", NAME, {"reward": ("json",)}).config.reward == ("json",)
    assert [row.content for row in read_rows("text/guess", 5, 2)] == [
        {"prompt": "1-7?", "seed": 5 + i} for i in range(2)
    ]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    procedural.dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(UsageError, match=r"needs the package reasoning-gym: pip install -e '.\[reasoning\]'"):
        read_rows(NAME)


@pytest.fixture
def installed():
    pytest.importorskip("reasoning_gym", exc_type=ImportError)


@pytest.mark.usefixtures("installed")
def test_its_prompts_are_judged_by_it():
    rows = [row.content for row in read_rows(NAME)]
    right = [row["answer"] for row in rows]
    answers = [right[0], f"so: <answer> {right[1]} </answer>", "", "x"]
    total, _ = Reward(["reasoning_gym"])([row["prompt"] for row in rows], answers, rows)
    np.testing.assert_array_equal(total, [1, 1, 0, 0])
    assert data_sha256(NAME) == data_sha256(NAME) != data_sha256(f"{NAME},seed=1")
    with pytest.raises(UsageError, match="judges its own prompts alone"):
        Reward(["reasoning_gym"])(["2+2="], ["4"], [{"prompt": "2+2=", "answer": "4"}])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chain_sun", "no task 'chain_sun'. Did you mean chain_sum"),
        ("chain_sum,max_term=2", "takes no such settings"),
        ("chain_sum,size=0", "size must be positive"),
    ],
)
def test_tasks_that_are_none(name, says):
    with pytest.raises(UsageError, match=says):
        read_rows(f"reasoning_gym:{name}")
