"""Algorithms and networks of one's own: by name, as an object, installed; what is wrong with one is said by name."""

import importlib.metadata
import sys
import textwrap
from dataclasses import dataclass

import numpy as np
import pytest

import steersman
from steersman import agents
from steersman.agents.policy_gradient.a2c import A2CConfig, a2c
from steersman.errors import UsageError
from steersman.nets.actor_critic import ActorCritic
from steersman.run import plugins
from steersman.run.compare.entries import read_entries
from steersman.run.disk.run_folder import open_run
from steersman.run.settings import preset_for, presets, split
from steersman.types import Algorithm

SMALL = {"num_envs": 4, "unroll_length": 8, "hidden_sizes": (8,), "evaluation_episodes": 2, "steps": 64}
SMALL |= {"evaluate_every": 0, "schedule_steps": 1000}  # the same programs for all budgets
MINE = Algorithm("mine", A2CConfig, a2c, "A2C by another name", presets={"CartPole-v1": {"gamma": 0.5}})


@pytest.fixture
def own(tmp_path, monkeypatch):
    """-> the name of a module of the working directory that has algorithms and a network."""
    (tmp_path / "own_algorithms.py").write_text(
        textwrap.dedent("""
        from steersman.agents.policy_gradient.a2c import A2CConfig, a2c
        from steersman.nets.actor_critic import ActorCritic
        from steersman.types import Algorithm

        ALGORITHM = Algorithm("mine", A2CConfig, a2c, "A2C by another name")
        TAKEN = Algorithm("ppo", A2CConfig, a2c, "")
        NOTHING = a2c

        def network(key, spec):
            return ActorCritic(spec, hidden_sizes=(3,), key=key)
        """)
    )
    monkeypatch.chdir(tmp_path)
    yield "own_algorithms"
    sys.modules.pop("own_algorithms", None)


def test_ours_are_found_by_name_and_listing_imports_none():
    assert plugins.algorithm("ppo") is agents.ALGORITHMS["ppo"]
    assert plugins.algorithm(agents.ALGORITHMS["ppo"]) is agents.ALGORITHMS["ppo"]
    with pytest.raises(UsageError, match="no algorithm 'pp0'. Did you mean ppo"):
        plugins.algorithm("pp0")
    with pytest.raises(UsageError, match="Known: a2c, actor_critic"):
        plugins.algorithm("zzzzzz")


def test_an_object_is_trained_and_named_again(tmp_path):
    out = tmp_path / "run"
    result = steersman.train(MINE, "CartPole-v1", out=out, **SMALL)
    config = open_run(out).config
    assert (config["algorithm"], config["run"]["foreign"], config["config"]["gamma"]) == ("mine", True, 0.5)
    for act in (steersman.load, steersman.resume):
        with pytest.raises(UsageError, match="algorithm of your own, mine.*--algorithm package.module:ALGORITHM"):
            act(out)
    with pytest.raises(UsageError, match="trained by mine, not by a2c"):
        steersman.load(out, algorithm="a2c")
    obs = np.zeros(4)
    assert steersman.load(out, algorithm=MINE)(obs) == result.policy(obs)
    assert steersman.resume(out, algorithm=MINE).summary == result.summary
    longer = steersman.resume(out, algorithm=MINE, steps=128)
    assert longer.summary["steps"] > result.summary["steps"]


def test_a_name_is_imported_from_the_working_directory(own, tmp_path):
    name = f"{own}:ALGORITHM"
    result = steersman.train(name, "CartPole-v1", network=f"{own}:network", out=tmp_path / "run", **SMALL)
    saved = open_run(tmp_path / "run").config["run"]
    assert (saved["foreign"], saved["network"]) == (name, f"{own}:network")
    with pytest.raises(UsageError, match=f"name it again, --algorithm {name}"):
        steersman.load(tmp_path / "run")
    with pytest.raises(UsageError, match=f"--network {own}:network"):
        steersman.resume(tmp_path / "run", algorithm=name)
    again = steersman.resume(tmp_path / "run", algorithm=name, network=f"{own}:network")
    assert again.summary == result.summary


def test_a_comparison_takes_it(own, tmp_path):
    entries = [f"{own}:ALGORITHM", f"ppo:network={own}:network,num_minibatches=1"]
    asked = {"seeds": 1, "preset": False, "out": tmp_path / "compared", **SMALL}
    result = steersman.compare(entries, "CartPole-v1", **asked)
    assert list(result.outcomes) == ["mine", "ppo num_minibatches=1"]
    assert result.outcomes["mine"].algorithm == "mine"
    with pytest.raises(UsageError, match=f"of your own.*give the entry again, mine={own}:ALGORITHM"):
        steersman.compare(out=tmp_path / "compared")
    again = steersman.compare(entries, "CartPole-v1", **asked)
    assert again.summary() == result.summary()


def test_an_entry_with_settings(own):
    entries = read_entries([f"small={own}:ALGORITHM:gamma=0.9"])
    entries += read_entries({"x": MINE, "y": {"algorithm": MINE, "gamma": 0.9}})
    given = [(entry.label, entry.algorithm.name, entry.given) for entry in entries]
    assert given == [("small", "mine", {"gamma": 0.9}), ("x", "mine", {}), ("y", "mine", {"gamma": 0.9})]


def test_an_installed_one_is_found_by_its_name(own, monkeypatch):
    points = [importlib.metadata.EntryPoint("mine", f"{own}:ALGORITHM", plugins.GROUP)]
    points += [importlib.metadata.EntryPoint("ppo", f"{own}:TAKEN", plugins.GROUP)]
    points += [importlib.metadata.EntryPoint("other", f"{own}:ALGORITHM", plugins.GROUP)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == plugins.GROUP else [])
    assert plugins.installed() == {"mine": f"{own}:ALGORITHM", "ppo": f"{own}:TAKEN", "other": f"{own}:ALGORITHM"}
    assert own not in sys.modules
    assert plugins.algorithm("ppo") is agents.ALGORITHMS["ppo"]
    assert own not in sys.modules
    assert plugins.algorithm("mine").name == "mine"
    with pytest.raises(UsageError, match=r"'other' \(own_algorithms:ALGORITHM\) calls itself 'mine'"):
        plugins.algorithm("other")
    with pytest.raises(UsageError, match="no algorithm 'mien'. Did you mean mine"):
        plugins.algorithm("mien")


def test_presets_of_ones_own():
    assert presets(MINE) == {"CartPole-v1": {"gamma": 0.5}}
    assert preset_for(MINE, "gymnasium/CartPole-v1") == {"gamma": 0.5}
    assert preset_for(MINE, object()) == {}


# What is wrong


@dataclass(frozen=True)
class Short:
    gamma: float = 0.9


@dataclass
class Thawed:
    unroll_length: int = 1


@dataclass(frozen=True)
class Bare:
    unroll_length: int


@dataclass(frozen=True)
class Odd:
    unroll_length: int = 1
    layers: "list[int]" = ()


@dataclass(frozen=True)
class Both:
    unroll_length: int = 1
    steps: int = 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("no_such_module:ALGORITHM", "Cannot import 'no_such_module' for the algorithm"),
        ("own_algorithms:ALGORITMH", "no 'ALGORITMH'.*Did you mean ALGORITHM"),
        ("own_algorithms:NOTHING", "own_algorithms:NOTHING is of type function, not a steersman.types.Algorithm"),
        ("own_algorithms:TAKEN", r"'ppo' \(own_algorithms:TAKEN\): that name is taken"),
        (MINE._replace(name="a2c"), "that name is taken"),
        (MINE._replace(name="my algorithm"), "a name is made of letters"),
        (MINE._replace(config=Short), "'mine'.*Short lacks unroll_length"),
        (MINE._replace(config=Thawed), "Thawed is not frozen"),
        (MINE._replace(config={}), "it must be a frozen dataclass"),
        (MINE._replace(config=Bare), "unroll_length has no default"),
        (MINE._replace(config=Odd), "layers is annotated list"),
        (MINE._replace(factory=lambda config, spec: None), "does not take what it is given"),
        (MINE._replace(factory=3), "its factory is 3"),
        (MINE._replace(factory=lambda config, spec, **k: "agent"), "its factory gives str"),
        (MINE._replace(config=Both), "mine: steps is a setting of every run already"),
        (3, "3 is of type int"),
    ],
)
def test_bad_ones_are_said_by_name_before_anything_is_made(own, tmp_path, given, says):
    with pytest.raises(UsageError, match=says):
        steersman.train(given, "CartPole-v1", out=tmp_path / "run", steps=64)
    assert not (tmp_path / "run").exists()


def test_offline_ones_need_no_unroll_length():
    assert plugins.algorithm(MINE._replace(config=Short, data="only")).name == "mine"


def test_annotations_that_are_no_texts_are_read_too():
    short = MINE._replace(config=Short, data="only")
    assert split(short, {"gamma": 1})[1] == Short(gamma=1)
    with pytest.raises(UsageError, match="gamma = 'x'; it must be a number"):
        split(short, {"gamma": "x"})


@pytest.mark.parametrize("given", ["network", "own_algorithms:netwrok"])
def test_a_network_that_is_not_there(own, given):
    with pytest.raises(UsageError, match="package.module:factory|Did you mean network"):
        steersman.train("ppo", "CartPole-v1", network=given, steps=64)


def test_a_network_by_name_is_the_network(own):
    made = plugins.network(f"{own}:network")
    assert callable(made)
    assert plugins.network(ActorCritic) is ActorCritic
    assert plugins.network(None) is None
