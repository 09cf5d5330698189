"""Which runs are one line, and what it is called."""

import json

import pytest

from steersman.errors import UsageError
from steersman.run.disk.run_folder import RunWarning
from steersman.run.show.groups import grouped


@pytest.fixture
def make_run(tmp_path):
    def make(name, algorithm="ppo", environment="CartPole-v1", *, log="", run=None, **config):
        path = tmp_path / name
        path.mkdir()
        content = {"format": "1.1", "algorithm": algorithm, "environment": environment, "config": config}
        content |= {"run": run or {}, "spec": {}, "versions": {}}
        (path / "config.json").write_text(json.dumps(content))
        (path / "metrics.jsonl").write_text(log)
        return path

    return make


def names(runs):
    """-> label -> names of the folders and which of their seeds; the title"""
    groups, title = grouped(runs)
    return {label: [(run.path.name, run.seeds) for run in some] for label, some in groups.items()}, title


def test_equal_settings_are_one_line_whatever_is_told_of_the_run(make_run):
    a = make_run("a", run={"seed": 0}, num_epochs=10)
    b = make_run(
        "b", run={"seed": 1, "workers": 2, "devices": 1, "tensorboard": True, "log_info": ["x"]}, num_epochs=10
    )
    c = make_run("c", run={"seed": 7, "seeds": 2, "evaluation_episodes": 3})  # the default, said by nobody
    assert names([a, b, c]) == ({"ppo": [("a", [0]), ("b", [0]), ("c", [0, 1])]}, "CartPole-v1")


def test_different_settings_are_lines_named_by_what_differs(make_run):
    runs = [
        make_run("a", num_epochs=4, hidden_sizes=[64, 64], scale_rewards=True),
        make_run("b", num_epochs=10, hidden_sizes=[64, 64], scale_rewards=True),
        make_run("c", num_epochs=10, hidden_sizes=[8], scale_rewards=False),
        make_run("d", "dqn", hidden_sizes=[8]),
    ]
    found, title = names(runs)
    assert title == "CartPole-v1"
    wide, small = {"hidden_sizes 64 64", "scale_rewards on"}, {"hidden_sizes 8", "scale_rewards off"}
    parts = [{"num_epochs 4", *wide}, {"num_epochs 10", *wide}, {"num_epochs 10", *small}]
    assert [set(label.split(", ")) - {"ppo"} for label in [*found][:3]] == parts
    assert [*found][3] == "dqn"  # the only one of its algorithm
    assert names(runs[:2])[0].keys() == {"ppo, num_epochs 4", "ppo, num_epochs 10"}
    budgets = [make_run(f"of {n}", run={"steps": n, "checkpoint_every": n // 20}) for n in (1000, 2000)]
    assert names(budgets)[0].keys() == {"ppo, steps 1000", "ppo, steps 2000"}
    elsewhere = make_run("e", environment="Acrobot-v1", num_epochs=10)
    found, title = names([*runs[:2], elsewhere])
    assert title == "ppo"
    assert [*found] == ["CartPole-v1, num_epochs 4", "CartPole-v1, num_epochs 10", "Acrobot-v1"]


def test_many_differences_are_cut_short_and_names_stay_apart(make_run):
    of = {"num_epochs": 1, "num_minibatches": 1, "unroll_length": 8, "gamma": 0.9}
    runs = [make_run(name, **of | {"learning_rate": rate}) for name, rate in (("a", 0.1), ("b", 0.2))]
    runs.append(make_run("c"))
    labels = [*names(runs)[0]]
    assert len(labels) == len(set(labels)) == 3
    assert labels[0].endswith(", ...")
    assert labels[1] == f"{labels[0]} (2)" or labels[1].count(",") == 4


def test_the_same_settings_and_seed_are_counted_once_from_the_longest_log(make_run):
    a = make_run("a", run={"seed": 0, "seeds": 2}, log='{"steps": 1}\n')
    b = make_run("b", run={"seed": 1}, log='{"steps": 1}\n{"steps": 2}\n')
    c = make_run("c", run={"seed": 1}, num_epochs=5)  # other settings
    with pytest.warns(RunWarning, match=r"Seed 1 of the same settings comes 2 times \(.*a, .*b\): it is counted once"):
        found, _ = names([a, b, c])
    assert [*found.values()] == [[("a", [0]), ("b", [0])], [("c", [0])]]
    with pytest.warns(RunWarning, match="Seed 0 .*, as do 1 more: it is counted once"):
        assert names({"mine": [a, a]})[0] == {"mine": [("a", [0, 1])]}


def test_a_folder_alone_imports_nothing(make_run):
    own = make_run("a", "somewhere.nobody:ALGORITHM", beta=1)
    assert names([own])[0] == {"somewhere.nobody:ALGORITHM": [("a", [0])]}
    with pytest.raises(UsageError, match="is not a run"):
        grouped([own.parent])
