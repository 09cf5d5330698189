"""Reading POMDPs in Cassandra's file format, the one the literature's problems are kept in (pomdp.org)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.builders import from_arrays
from steersman.tabular.pomdp import POMDP

KEYWORDS = ("discount", "values", "states", "actions", "observations", "start", "T", "O", "R")


class Token(NamedTuple):
    text: str
    line: int


def read_pomdp(path: str | Path) -> POMDP:
    """The POMDP in a ``.POMDP`` file. Raises UsageError with the line number of the first mistake."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no file {path}.")
    return parse_pomdp(path.read_text(), name=path.stem)


def parse_pomdp(text: str, *, name: str = "pomdp") -> POMDP:
    """The POMDP a text describes: preamble, start, and entries T, O, R in their one-number, row and matrix forms.

    ``values: cost`` turns the signs. Rewards are averaged over the observations. (Cassandra's file grammar, version 1.)
    """
    return _Parser(text, name).parse()


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.tokens: list[Token] = []
        for number, line in enumerate(text.splitlines(), 1):
            for word in re.findall(r":|[^\s:]+", line.split("#")[0]):
                self.tokens.append(Token(word, number))
        self.at, self.name = 0, name
        self.names: dict[str, list[str]] = {}
        self.discount: float | None = None
        self.sign = 1.0
        self.start: np.ndarray | None = None

    def fail(self, message: str, token: Token | None = None) -> UsageError:
        line = (token or (self.tokens[min(self.at, len(self.tokens) - 1)] if self.tokens else Token("", 1))).line
        return UsageError(f"{self.name}, line {line}: {message}")

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> Token:
        if self.at >= len(self.tokens):
            raise self.fail(f"the file ends where {expected or 'more'} was expected.")
        token = self.tokens[self.at]
        if expected is not None and token.text != expected:
            raise self.fail(f"expected {expected!r}, found {token.text!r}.", token)
        self.at += 1
        return token

    def number(self) -> float:
        token = self.take()
        try:
            return float(token.text)
        except ValueError:
            raise self.fail(f"expected a number, found {token.text!r}.", token) from None

    def numbers(self, count: int) -> np.ndarray:
        return np.array([self.number() for _ in range(count)])

    def is_entry(self) -> bool:
        """Whether a keyword and its colon come next (an old form writes "start include:")."""
        return self.peek() in KEYWORDS and (self.peek(1) == ":" or self.peek() == "start")

    def parse(self) -> POMDP:
        while self.at < len(self.tokens) and self.peek() not in ("T", "O", "R"):
            self.preamble()
        for key in ("states", "actions", "observations"):
            if key not in self.names:
                raise self.fail(f"no {key}: line comes before the first entry.")
        if self.discount is None:
            raise self.fail("no discount: line comes before the first entry.")
        s, a, o = (len(self.names[k]) for k in ("states", "actions", "observations"))
        self.t, self.o, self.r = np.zeros((a, s, s)), np.zeros((a, s, o)), np.zeros((a, s, s, o))
        while self.at < len(self.tokens):
            self.entry()
        self.check_rows(self.t, "T", ("actions", "states"))
        self.check_rows(self.o, "O", ("actions", "states"))
        reward = self.sign * np.einsum("ase,aeo,aseo->as", self.t, self.o, self.r)
        mdp = from_arrays(
            self.t.transpose(1, 0, 2), reward.T, gamma=self.discount,
            start=np.full(s, 1 / s) if self.start is None else self.start, name=self.name,
            action_names=tuple(self.names["actions"]),
        )  # fmt: skip
        return POMDP(mdp, self.o, tuple(self.names["observations"]), tuple(self.names["states"]))

    def preamble(self) -> None:
        token = self.take()
        if token.text not in KEYWORDS:
            raise self.fail(f"unknown word {token.text!r}; a preamble line is one of {', '.join(KEYWORDS[:6])}.", token)
        mode = self.take().text if token.text == "start" and self.peek() in ("include", "exclude") else ""
        self.take(":")
        if token.text == "discount":
            self.discount = self.number()
        elif token.text == "values":
            kind = self.take()
            if kind.text not in ("reward", "cost"):
                raise self.fail(f"values: is reward or cost, not {kind.text!r}.", kind)
            self.sign = 1.0 if kind.text == "reward" else -1.0
        elif token.text == "start":
            self.read_start(mode)
        else:
            words = []
            while self.at < len(self.tokens) and not self.is_entry():
                words.append(self.take().text)
            if len(words) == 1 and words[0].isdigit():
                words = [str(i) for i in range(int(words[0]))]
            if not words:
                raise self.fail(f"{token.text}: names nothing.", token)
            self.names[token.text] = words

    def read_start(self, mode: str) -> None:
        if "states" not in self.names:
            raise self.fail("start: comes before states:.")
        count, words = len(self.names["states"]), []
        while self.at < len(self.tokens) and not self.is_entry():
            words.append(self.take())
        if mode:
            chosen = np.zeros(count)
            for word in words:
                chosen[self.index("states", word)] = 1
            chosen = chosen if mode == "include" else 1 - chosen
            self.start = chosen / chosen.sum()
        elif len(words) == 1 and words[0].text == "uniform":
            self.start = np.full(count, 1 / count)
        elif len(words) == 1 and count > 1:
            self.start = np.eye(count)[self.index("states", words[0])][0]
        elif len(words) == count:
            try:
                self.start = np.array([float(w.text) for w in words])
            except ValueError:
                raise self.fail("start: holds something that is not a number.", words[0]) from None
        else:
            raise self.fail(f"start: gives {len(words)} numbers for {count} states.")

    def index(self, kind: str, token: Token) -> np.ndarray:
        """The numbers a name, a number or * stands for."""
        names = self.names[kind]
        if token.text == "*":
            return np.arange(len(names))
        if token.text in names:
            return np.array([names.index(token.text)])
        if token.text.isdigit() and int(token.text) < len(names):
            return np.array([int(token.text)])
        raise self.fail(f"{token.text!r} is none of the {len(names)} {kind}.", token)

    def entry(self) -> None:
        token = self.take()
        if token.text not in ("T", "O", "R"):
            raise self.fail(f"expected T:, O: or R:, found {token.text!r}.", token)
        table = {"T": self.t, "O": self.o, "R": self.r}[token.text]
        kinds = {
            "T": ("actions", "states", "states"),
            "O": ("actions", "states", "observations"),
            "R": ("actions", "states", "states", "observations"),
        }[token.text]
        self.take(":")
        where = [self.index(kinds[0], self.take())]
        while self.peek() == ":" and len(where) < len(kinds):
            self.take(":")
            where.append(self.index(kinds[len(where)], self.take()))
        rest = table.shape[len(where) :]
        if len(rest) > 2 or (token.text == "R" and len(where) < 2):
            raise self.fail("R: needs at least an action and a state.", token)
        block = self.block(rest, token)
        table[np.ix_(*where)] = block

    def block(self, shape: tuple[int, ...], token: Token) -> np.ndarray:
        if self.peek() == "uniform" and shape:
            self.take()
            return np.full(shape, 1 / shape[-1])
        if self.peek() == "identity" and len(shape) == 2 and shape[0] == shape[1]:
            self.take()
            return np.eye(shape[0])
        return self.numbers(int(np.prod(shape))).reshape(shape)

    def check_rows(self, table: np.ndarray, which: str, kinds: tuple[str, str]) -> None:
        error = np.abs(table.sum(-1) - 1)
        # Files round their numbers to a few digits; within that, rows are scaled to one.
        if error.max() > 1e-3 or table.min() < 0:
            i, j = np.unravel_index(np.argmax(error), error.shape)
            names = self.names[kinds[0]][int(i)], self.names[kinds[1]][int(j)]
            last = self.tokens[-1]
            raise self.fail(f"{which}: {names[0]} : {names[1]} sums to {table[i, j].sum():.6g}, not one.", last)
        table /= table.sum(-1, keepdims=True)
