"""What an answer is worth, where a program can tell: an answer that is known, a form that is kept, a sum of several.

A score is a function (prompts, answers, rows) -> a number for each, B texts, B texts and what the data has beside the
prompts, such as ``row["answer"]``. Answers are whole texts without special tokens. All here lie between 0 and 1.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from steersman.errors import UsageError, nearest, raised_at

Row = Mapping[str, Any]
Score = Callable[[Sequence[str], Sequence[str], Sequence[Row]], Sequence[float]]
One = Callable[[str, str, Row], float]  # the same of one answer


def exact(prompt: str, answer: str, row: Row) -> float:
    """1 where the answer is ``row["answer"]``, but for white space around it.

    >>> exact("", " Paris ", {"answer": "Paris"})
    1.0
    """
    return float(answer.strip() == str(_known(row)).strip())


def number(prompt: str, answer: str, row: Row) -> float:
    """1 where the last number of the answer is that of ``row["answer"]``; commas between digits do not count.

    >>> number("", "that makes 1,200.50", {"answer": 1200.5}), number("", "12 or 13", {"answer": "12"})
    (1.0, 0.0)
    """
    said, right = _numbers(answer), _numbers(str(_known(row)))
    if not right:
        raise UsageError(f"The reward number needs one in the column answer; a row has {_known(row)!r}.")
    return float(bool(said) and math.isclose(said[-1], right[-1], rel_tol=1e-9))


def brackets(prompt: str, answer: str, row: Row) -> float:
    """1 where the answer has brackets ()[]{}, each closed by its own, in order.

    >>> brackets("", "f(x[1])", {}), brackets("", "(]", {}), brackets("", "none", {})
    (1.0, 0.0, 0.0)
    """
    pairs, held, found = {")": "(", "]": "[", "}": "{"}, [], False
    for character in answer:
        if character in pairs.values():
            held.append(character)
            found = True
        elif character in pairs and (not held or held.pop() != pairs[character]):
            return 0.0
    return float(found and not held)


def sorted_digits(prompt: str, answer: str, row: Row) -> float:
    """1 where the answer is the prompt's digits in their order.

    >>> sorted_digits("3120=", "0123", {})
    1.0
    """
    return float(answer.strip() == "".join(sorted(re.findall(r"\d", prompt))))


def addition(prompt: str, answer: str, row: Row) -> float:
    """1 where the answer is the sum of the prompt's whole numbers.

    >>> addition("17+5=", "22", {})
    1.0
    """
    return float(answer.strip() == str(sum(int(n) for n in re.findall(r"\d+", prompt))))


def is_json(prompt: str, answer: str, row: Row) -> float:
    """1 where the answer is JSON."""
    try:
        json.loads(answer)
    except ValueError:
        return 0.0
    return 1.0


def regex(pattern: str) -> One:
    """1 where the pattern is found in the answer (``re.search``). Raises UsageError for one that is none."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"The reward regex:{pattern} is no regular expression: {error}.") from error
    return lambda prompt, answer, row: float(found.search(answer) is not None)


def ends_with(text: str) -> One:
    """1 where the answer ends with this, white space behind it aside."""
    return lambda prompt, answer, row: float(answer.rstrip().endswith(text))


def length(words: str) -> One:
    """1 at so many words, falling to 0 at none and at twice as many.

    >>> length("4")("", "two words", {})
    0.5
    """
    if not words.isdecimal() or not int(words):
        raise UsageError(f"The reward length:{words} wants a number of words, 1 or more: length:40.")
    return lambda prompt, answer, row: max(0.0, 1.0 - abs(len(answer.split()) - int(words)) / int(words))


PLAIN: dict[str, One] = {
    "exact": exact,
    "number": number,
    "brackets": brackets,
    "sorted": sorted_digits,
    "addition": addition,
    "json": is_json,
}
WITH_ARGUMENT: dict[str, tuple[Callable[[str], One], str]] = {
    "regex": (regex, "PATTERN"),
    "ends-with": (ends_with, "TEXT"),
    "length": (length, "WORDS"),
}


class Part(NamedTuple):
    """One term of a reward."""

    name: str  # as it was asked for, and as its mean is logged
    weight: float
    score: Score


def each(one: One) -> Score:
    """A score of one answer, of all."""
    return lambda prompts, answers, rows: [one(*three) for three in zip(prompts, answers, rows, strict=True)]


def weighted_name(spec: str) -> tuple[float, str]:
    """``0.1*length:40`` -> (0.1, "length:40"); without a weight it is 1.

    >>> weighted_name("0.1*length:40"), weighted_name("number")
    ((0.1, 'length:40'), (1.0, 'number'))
    """
    found = re.match(r"([-+]?[\d.]+(?:e[-+]?\d+)?)\*(?=.)", spec)
    return (float(found[1]), spec[found.end() :]) if found else (1.0, spec)


def own_score(name: str) -> Score:
    """One of those above, by name: ``number``, ``regex:^Yes``. Raises UsageError for a name that none has."""
    base, colon, argument = name.partition(":")
    if base in PLAIN and not colon:
        return each(PLAIN[base])
    if base in WITH_ARGUMENT and colon and argument:
        return each(WITH_ARGUMENT[base][0](argument))
    known = [*PLAIN, *(f"{name}:{what}" for name, (_, what) in WITH_ARGUMENT.items())]
    hint = nearest(base, [*PLAIN, *WITH_ARGUMENT])
    raise UsageError(f"There is no reward {name!r}; there are {', '.join(known)}. {hint}".rstrip())


def scored(
    parts: Sequence[Part], prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """-> (the weighted sum float32 [B], each term by its name, unweighted).

    Raises UsageError, with an answer, where a score raises or gives something else than a finite number for each.
    """
    terms = {part.name: _checked(part, prompts, answers, rows) for part in parts}
    total = sum((part.weight * terms[part.name] for part in parts), np.zeros(len(answers)))
    return np.asarray(total, np.float32), terms


def _checked(part: Part, prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    def at(i: int) -> str:
        return f"\n  prompt  {_short(prompts[i])}\n  answer  {_short(answers[i])}"

    try:
        given = part.score(prompts, answers, rows)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"The reward {part.name} raised {type(error).__name__}: {error}{raised_at(error)}. It had {len(answers)} "
            f"answers, the first of which was{at(0)}"
        ) from error
    right = "it is to give one finite number for each answer"
    if given is None or isinstance(given, str | Mapping | Real):
        raise UsageError(f"The reward {part.name} gave {given!r}; {right}, a list of {len(answers)}.{at(0)}")
    values = list(given)
    if len(values) != len(answers):
        raise UsageError(f"The reward {part.name} gave {len(values)} numbers for {len(answers)} answers; {right}.")
    for i, value in enumerate(values):
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UsageError(f"The reward {part.name} gave {value!r}; {right}.{at(i)}")
    return np.asarray(values, np.float64)


def _short(text: str, most: int = 200) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")


def group_shown(prompt: str, answers: Sequence[str], reward: Sequence[float]) -> str:
    """One prompt's answers with what they got, a line each, for a message."""
    lines = [f"  {r:8.4g}  {_short(answer)}" for answer, r in zip(answers, reward, strict=True)]
    return "\n".join([f"  prompt    {_short(prompt)}", *lines[:8]])


def _known(row: Row) -> Any:
    if "answer" not in row:
        raise UsageError(
            f"This reward compares with the column answer, and a row has {', '.join(row) or 'none'}. Add it to the "
            'data: {"prompt": "2+2=", "answer": "4"}.'
        )
    return row["answer"]


def _numbers(text: str) -> list[float]:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    return [float(n) for n in re.findall(r"(?:(?<!\d)[-+])?\d*\.?\d+(?:[eE][-+]?\d+)?", plain)]
