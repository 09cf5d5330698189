"""Flags made from settings: grouped by the classes that give them, with their docstrings, parsed to plain values."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from steersman.agents import ALGORITHMS
from steersman.agents.policy_gradient.ppo import PPOConfig
from steersman.cli.flags import documented, groups, parse, plain
from steersman.cli.main import run as cli
from steersman.errors import UsageError
from steersman.types import Algorithm


@dataclass(frozen=True)
class Steering:
    """How it steers. More of it."""

    rudder: float = 0.5
    """Of the rudder,
    in radians."""
    sails: int = 2
    """How many sails."""


@dataclass(frozen=True)
class Winds:
    """Where the wind is from."""

    wind: str = "west"
    """Its name."""


@dataclass(frozen=True)
class BoatConfig(Steering, Winds):
    """Settings of a boat."""

    unroll_length: int = 8
    """T."""
    sails: int = 3
    """Sails of a boat."""


@dataclass(frozen=True)
class Output:
    """What comes out."""

    quiet: bool = False
    """Nothing."""


BOAT = Algorithm("boat", BoatConfig, lambda config, spec, **rest: None, "")


def test_a_group_is_the_class_that_first_names_a_setting():
    assert groups(BoatConfig) == [
        (BoatConfig, ["unroll_length"]),
        (Steering, ["rudder", "sails"]),
        (Winds, ["wind"]),
    ]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_of_ours_is_in_one_group_and_has_a_docstring(name):
    config = ALGORITHMS[name].config
    found = [setting for _, names in groups(config) for setting in names]
    assert sorted(found) == sorted(config.__dataclass_fields__)
    assert documented(config).keys() == config.__dataclass_fields__.keys()


def test_the_docstring_nearest_to_the_class_counts():
    assert documented(BoatConfig) == {
        "unroll_length": "T.",
        "sails": "Sails of a boat.",
        "rudder": "Of the rudder, in radians.",
        "wind": "Its name.",
    }


def test_values_by_name_with_what_they_start_from():
    flags = ["--steps", "1e3", "--rudder=0.25", "--quiet"]
    output, settings, defaults = parse(BOAT, Output, {"wind": "north", "seeds": 2.0}, flags, "boat")
    assert output == Output(quiet=True)
    assert (settings["steps"], settings["rudder"], settings["wind"], settings["seeds"]) == (1000, 0.25, "north", 2)
    assert {k for k in settings if settings[k] != defaults[k]} == {"steps", "rudder"}
    assert (defaults["sails"], defaults["wind"]) == (3, "north")
    with pytest.raises(UsageError, match="boat has no setting 'winds'. Did you mean wind"):
        parse(BOAT, Output, {"winds": "north"}, [], "boat")


HINTS = {"steps": int, "rate": float | None, "sizes": tuple[int, ...], "out": Path | None, "set": tuple[str, ...]}
HINTS |= {"quiet": bool, "env": str, "most": int | None}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--steps 1e6 --rate 3e-4", "--steps 1000000 --rate 3e-4"),
        ("--steps=2.5e5 --quiet x --rate=none", "--steps 250000 --quiet x --rate None"),
        ("--steps 1_000 --most None --rate -1", "--steps 1000 --most None --rate -1"),
        ("--sizes 64,32", "--sizes 64 32"),
        ("--sizes=64,32 --out o", "--sizes 64 32 --out o"),
        ("--sizes (64, 32) --out o", "--sizes 64 32 --out o"),
        ("--sizes [64] 1e1", "--sizes 64 10"),
        ("--sizes --out o", "--sizes --out o"),
        ("run --set a=1,2 b=x --env 1e6 --other 1e6", "run --set a=1,2 b=x --env 1e6 --other 1e6"),
    ],
)
def test_values_as_people_write_them(given, read):
    assert plain(given.split(), HINTS) == read.split()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--steps", "1e9.5"], "--steps 1e9.5: it must be a whole number, as in 1000000 or 1e6."),
        (["--most", "inf"], "--most inf: it must be a whole number, as in 1000000 or 1e6, or none."),
        (["--steps=1.5"], "--steps 1.5: it must be a whole number"),
        (["--steps", "nan"], "--steps nan: it must be a whole number"),
        (["--steps", "_"], "--steps _: it must be a whole number"),
        (["--sizes", "64;32"], "--sizes 64;32: it must be whole numbers, as in 64 64 or 64,64."),
        (["--sizes", "64,x"], "--sizes x: it must be whole numbers"),
        (["--rate", "0,001"], "--rate 0,001: it must be a number, as in 0.001 or 1e-3, or none."),
        (["--steps"], "--steps is given without a value; it must be a whole number"),
        (["--steps", "--quiet"], "--steps is given without a value"),
        (["--out", ""], "--out is given an empty text: it must be a file or a folder, or none."),
        (["--env="], "--env is given an empty text: it must be a text."),
    ],
)
def test_values_that_are_none(given, says):
    with pytest.raises(UsageError) as caught:
        plain(given, HINTS)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("run other", "'other' is one word too many. See steersman plot --help."),
        ("run --steps 3 4", "'4' is one word too many: --steps takes one value"),
        ("run --quiet true", "'true' is one word too many: --quiet takes no value; it switches on, --no-quiet off"),
        ("run --quiet=true", "--quiet=true: --quiet takes no value; it switches on, --no-quiet off."),
        ("run --no-quiet=true", "--no-quiet=true: --quiet takes no value"),
    ],
)
def test_words_that_are_too_many(given, says):
    with pytest.raises(UsageError) as caught:
        plain(given.split(), HINTS, 1, "steersman plot")
    assert str(caught.value).startswith(says)
    plain(["run", "--unknown", "3", "4"], HINTS, 1)  # which the parser says


def test_sizes_in_both_ways():
    for flags in (["--hidden-sizes", "8", "4"], ["--hidden-sizes", "8,4"]):
        assert parse(ALGORITHMS["ppo"], Output, {}, flags, "ppo")[1]["hidden_sizes"] == (8, 4)


def test_the_help_shows_the_groups(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli(["train", "ppo", "CartPole-v1", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.index("Where results go") < out.index("Settings of PPO") < out.index("How a run goes")
    assert out.index("Settings of PPO") < out.index("--clip ") < out.index("--learning-rate ")
    assert "--learning-rate" in out[out.index(documented_first_line(groups(PPOConfig)[1][0])) :]


def documented_first_line(kind):
    return kind.__doc__.splitlines()[0][:40]
