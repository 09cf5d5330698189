"""Reading POMDPs and MDPs in Cassandra's file format, the one the literature's problems are kept in (pomdp.org)."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steersman.errors import UsageError
from steersman.tabular.pomdp import POMDP
from steersman.tabular.problems.builders import from_arrays

# How the files of editors on Windows begin; the marks of UTF-32 first, as those of UTF-16 are their beginnings.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
KEYWORDS = ("discount", "values", "states", "actions", "observations", "start", "T", "O", "R")
ROUNDED = 1e-3  # files round their numbers to a few digits; rows that are off by less are scaled to one


class Token(NamedTuple):
    text: str
    line: int


def read_pomdp(path: str | Path, *, gamma: float | None = None) -> POMDP:
    """The POMDP in a ``.POMDP`` file (or the MDP in a ``.MDP`` one), with its discount or another one.

    Raises UsageError with the line number of the first mistake, and for a file that is no text.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    return parse_pomdp(_text(content, path), name=path.stem, gamma=gamma)


def _text(content: bytes, path: Path) -> str:
    """UTF-8, or what a byte order mark says; else Latin-1, as names in comments often are and any byte can be."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if re.search(r"[\0-\x08\x0e-\x1f]", text):
        raise UsageError(f"{path} is not a text file, so it holds no POMDP. Give a .POMDP file, saved as UTF-8.")
    return text


def parse_pomdp(text: str, *, name: str = "pomdp", gamma: float | None = None) -> POMDP:
    """The POMDP a text describes: preamble, start, and entries T, O, R for one number, a row or a matrix.

    All of the grammar: names, numbers and ``*``; ``uniform``, ``identity``, ``reset`` (to the start); ``start`` as a
    distribution, ``uniform``, one state or several by name, ``include`` or ``exclude``; a later entry replaces an
    earlier one. ``values: cost`` turns the signs. Rewards are averaged over the observations. Without ``observations``
    it is an MDP, and its state is what is seen. ``gamma`` replaces the file's discount, where that is 1. (Cassandra's
    file grammar, pomdp-solve 5.)
    """
    return _Parser(text, name, gamma).parse()


def _is_number(word: str) -> bool:
    try:
        return float(word) is not None
    except ValueError:
        return False


class _Parser:
    def __init__(self, text: str, name: str, gamma: float | None) -> None:
        self.tokens: list[Token] = []
        for number, line in enumerate(text.splitlines(), 1):
            for word in re.findall(r"[:*]|[^\s:*]+", line.split("#")[0]):
                self.tokens.append(Token(word, number))
        self.at, self.name, self.gamma = 0, name, gamma
        self.names: dict[str, list[str]] = {}
        self.discount: float | None = None
        self.sign = 1.0
        self.start: np.ndarray | None = None

    def fail(self, message: str, line: int | None = None) -> UsageError:
        if line is None:
            line = self.tokens[min(self.at, len(self.tokens) - 1)].line if self.tokens else 1
        return UsageError(f"{self.name}, line {line}: {message}")

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> Token:
        if self.at >= len(self.tokens):
            raise self.fail(f"the file ends where {expected or 'more'} was expected.")
        token = self.tokens[self.at]
        if expected is not None and token.text != expected:
            raise self.fail(f"expected {expected!r}, found {token.text!r}.")
        self.at += 1
        return token

    def number(self) -> float:
        sign = {"-": -1.0, "+": 1.0}.get(self.peek())
        if sign is not None:  # the grammar lets a sign stand apart
            self.take()
        token = self.take()
        try:
            return (sign or 1.0) * float(token.text)
        except ValueError:
            raise self.fail(f"expected a number, found {token.text!r}.", token.line) from None

    def is_entry(self) -> bool:
        """Whether a keyword and its colon come next (``start include:`` has a word between)."""
        return self.peek() in KEYWORDS and (self.peek(1) == ":" or self.peek() == "start")

    def parse(self) -> POMDP:
        while self.at < len(self.tokens) and self.peek() not in ("T", "O", "R"):
            self.preamble()
        for key in ("states", "actions"):
            if key not in self.names:
                raise self.fail(f"no {key}: line comes before the first entry.")
        gamma = self.discount if self.gamma is None else self.gamma
        if gamma is None:
            raise self.fail("no discount: line comes before the first entry. Or give one: gamma=0.95 (--gamma 0.95).")
        is_mdp = "observations" not in self.names
        if is_mdp:
            self.names["observations"] = self.names["states"]
        s, a, o = (len(self.names[k]) for k in ("states", "actions", "observations"))
        if self.start is None:
            self.start = np.full(s, 1 / s)
        self.kinds = {
            "T": ("actions", "states", "states"),
            "O": ("actions", "states", "observations"),
            "R": ("actions", "states", "states") + (() if is_mdp else ("observations",)),
        }
        self.tables = {"T": np.zeros((a, s, s)), "O": np.zeros((a, s, o))}
        self.lines = {key: np.zeros((a, s), int) for key in self.tables}  # where each row was given last
        self.rewards: list[tuple[list[np.ndarray], np.ndarray]] = []
        if is_mdp:
            self.tables["O"][:] = np.eye(s)
        while self.at < len(self.tokens):
            self.entry()
        self.check_rows("T")
        self.check_rows("O")
        t, seen = self.tables["T"], self.tables["O"]
        reward = np.stack([self.expected_reward(i, t[i], seen[i]) for i in range(a)], -1)
        try:
            mdp = from_arrays(
                t.transpose(1, 0, 2), reward, gamma=gamma, start=self.start, name=self.name,
                action_names=tuple(self.names["actions"]),
            )  # fmt: skip
        except UsageError as error:
            hint = " Give another discount: gamma=0.95 (--gamma 0.95)." if gamma == 1 else ""
            raise UsageError(f"{self.name}: {error}{hint}") from None
        return POMDP(mdp, seen, tuple(self.names["observations"]), tuple(self.names["states"]))

    def preamble(self) -> None:
        token = self.take()
        if token.text not in KEYWORDS:
            known = ", ".join(KEYWORDS[:6])
            raise self.fail(f"unknown word {token.text!r}; a preamble line is one of {known}.", token.line)
        mode = self.take().text if token.text == "start" and self.peek() in ("include", "exclude") else ""
        self.take(":")
        if token.text == "discount":
            self.discount = self.number()
            if not 0 <= self.discount <= 1:
                raise self.fail(f"the discount must lie in [0, 1]; it is {self.discount:g}.", token.line)
        elif token.text == "values":
            kind = self.take()
            if kind.text not in ("reward", "rewards", "cost", "costs"):
                raise self.fail(f"values: is reward or cost, not {kind.text!r}.", kind.line)
            self.sign = 1.0 if kind.text.startswith("reward") else -1.0
        elif token.text == "start":
            self.read_start(mode)
        else:
            words = []
            while self.at < len(self.tokens) and not self.is_entry():
                words.append(self.take().text)
            if len(words) == 1 and words[0].isdigit():
                words = [str(i) for i in range(int(words[0]))]
            if not words:
                raise self.fail(f"{token.text}: names nothing.", token.line)
            if len(set(words)) < len(words):
                twice = next(w for w in words if words.count(w) > 1)
                raise self.fail(f"{token.text}: {twice!r} is named twice.", token.line)
            self.names[token.text] = words

    def read_start(self, mode: str) -> None:
        line = self.tokens[self.at - 1].line
        if "states" not in self.names:
            raise self.fail("start: comes before states:.", line)
        count, words = len(self.names["states"]), []
        while self.at < len(self.tokens) and not self.is_entry():
            words.append(self.take())
        if len(words) > 1 and all(word.text in self.names["states"] and not _is_number(word.text) for word in words):
            mode = mode or "include"  # not in the grammar, but there are files that name their starts so
        if mode:
            chosen = np.zeros(count)
            for word in words:
                chosen[self.index("states", word)] = 1
            chosen = chosen if mode == "include" else 1 - chosen
            if not chosen.any():
                raise self.fail(f"start {mode}: leaves no state to start in.", line)
            self.start = chosen / chosen.sum()
        elif len(words) == 1 and words[0].text == "uniform":
            self.start = np.full(count, 1 / count)
        elif len(words) == 1 and (count > 1 or words[0].text in self.names["states"]):
            self.start = np.eye(count)[self.index("states", words[0])][0]
        elif len(words) == count:
            try:
                self.start = np.array([float(w.text) for w in words])
            except ValueError:
                raise self.fail("start: holds something that is not a number.", words[0].line) from None
            if self.start.min() < 0 or abs(self.start.sum() - 1) > ROUNDED:
                raise self.fail(f"start: is not a distribution; it sums to {self.start.sum():.6g}.", line)
            self.start = self.start / self.start.sum()
        else:
            listed = " ".join(word.text for word in words[:8])
            raise self.fail(
                f"start: gives {len(words)} numbers for {count} states. For states to start in, each as likely, write "
                f"start include: {listed}",
                line,
            )

    def index(self, kind: str, token: Token) -> np.ndarray:
        """The numbers a name, a number or * stands for."""
        names = self.names[kind]
        if token.text == "*":
            return np.arange(len(names))
        if token.text in names:
            return np.array([names.index(token.text)])
        if token.text.isdigit() and int(token.text) < len(names):
            return np.array([int(token.text)])
        raise self.fail(f"{token.text!r} is none of the {len(names)} {kind}.", token.line)

    def entry(self) -> None:
        token = self.take()
        key = token.text
        if key not in self.kinds:
            raise self.fail(f"expected T:, O: or R:, found {key!r}.", token.line)
        kinds = self.kinds[key]
        self.take(":")
        where = [self.index(kinds[0], self.take())]
        while self.peek() == ":" and len(where) < len(kinds):
            self.take(":")
            where.append(self.index(kinds[len(where)], self.take()))
        rest = tuple(len(self.names[kind]) for kind in kinds[len(where) :])
        if len(rest) > 2:
            raise self.fail("R: needs at least an action and a state.", token.line)
        block = self.block(rest)
        if key == "R":
            self.rewards.append((where, block))
        else:
            self.tables[key][np.ix_(*where)] = block
            rows = where[1] if len(where) > 1 else np.arange(self.lines[key].shape[1])
            self.lines[key][np.ix_(where[0], rows)] = token.line

    def block(self, shape: tuple[int, ...]) -> np.ndarray:
        if self.peek() == "uniform" and shape:
            self.take()
            return np.full(shape, 1 / shape[-1])
        if self.peek() == "identity" and len(shape) == 2 and shape[0] == shape[1]:
            self.take()
            return np.eye(shape[0])
        if self.peek() == "reset" and shape and self.start is not None and shape[-1] == len(self.start):
            self.take()
            return np.broadcast_to(self.start, shape)
        return np.array([self.number() for _ in range(int(np.prod(shape)))]).reshape(shape)

    def expected_reward(self, action: int, moved: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """r(s, a) [S]: one action at a time, as all rewards [A, S, S, O] of a larger file would not fit."""
        shape = moved.shape if len(self.kinds["R"]) == 3 else (*moved.shape, seen.shape[1])
        paid = np.zeros(shape)
        for where, block in self.rewards:
            if action in where[0]:
                paid[np.ix_(*where[1:])] = block
        paid = paid if paid.ndim == 2 else np.einsum("eo,seo->se", seen, paid)
        return self.sign * (moved * paid).sum(-1)

    def check_rows(self, key: str) -> None:
        table = self.tables[key]
        error = np.where(table.min(-1) < 0, np.inf, np.abs(table.sum(-1) - 1))
        if error.max() > ROUNDED:
            i, j = (int(x) for x in np.unravel_index(np.argmax(error), error.shape))
            row, line = f"{key}: {self.names['actions'][i]} : {self.names['states'][j]}", int(self.lines[key][i, j])
            if line == 0:
                raise self.fail(f"{row} is never given.", self.tokens[-1].line)
            if table[i, j].min() < 0:
                raise self.fail(f"{row} holds a negative probability, {table[i, j].min():g}.", line)
            raise self.fail(f"{row} sums to {table[i, j].sum():.6g}, not one.", line)
        table /= table.sum(-1, keepdims=True)
