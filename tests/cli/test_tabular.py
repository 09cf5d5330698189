"""``steersman tabular``: the textbook's answers from the command line."""

import json

import pytest

from steersman.cli.main import run


def test_solve_prints_the_textbook_value(capsys):
    assert run(["tabular", "solve", "cliff-walking", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["facts"]["value of the start"] == pytest.approx(-13.0)
    assert answer["facts"]["converged"] is True
    assert {"state", "value", "action"} == set(answer["states"][0])


def test_solve_shows_a_table_and_draws(capsys, tmp_path):
    assert run(["tabular", "solve", "dyna-maze", "--rows", "3", "--picture", str(tmp_path / "maze.png")]) == 0
    out = capsys.readouterr().out
    assert "error bound" in out
    assert "more states" in out
    assert (tmp_path / "maze.png").read_bytes()[:4] == b"\x89PNG"


def test_learn_compares_with_the_exact_answer(capsys):
    assert run(["tabular", "learn", "cliff-walking", "--episodes", "300", "--seeds", "4", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["optimal value of the start"] == pytest.approx(-13.0)
    assert -25 < facts["greedy value of the start, learned"] < -8


def test_several_methods_and_lambda_by_its_name(capsys, tmp_path):
    asked = ["random-walk", "--method", "td-lambda", "td0", "--lambda", "0.5", "--episodes", "20", "--seeds", "2"]
    assert run(["tabular", "learn", *asked, "--picture", str(tmp_path / "both.png"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"value, td-lambda", "value, td0"} < set(answer["states"][0])
    assert (tmp_path / "both.png").is_file()


def test_a_partly_seen_problem_and_a_drawing(capsys, tmp_path):
    assert run(["tabular", "solve", "tiger", "--picture", str(tmp_path / "tiger.svg")]) == 0
    out = capsys.readouterr().out
    assert "listen" in out
    assert "hear" not in out  # rows are states
    assert (
        run(["tabular", "draw", "dyna-maze", str(tmp_path / "b.png"), "--what", "backup", "--method", "q-learning"])
        == 0
    )
    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "tiger.svg").stat().st_size > 2000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["learn", "gridworld-4x4", "--episodes", "-3"], "--episodes -3: it must be 1 or more."),
        (["learn", "gridworld-4x4", "--alpha=0"], "--alpha 0.0: it must be above 0."),
        (["learn", "gridworld-4x4", "--epsilon", "1.1"], "--epsilon 1.1: it must be between 0 and 1."),
        (["solve", "gridworld-4x4", "--rows", "-1"], "--rows -1: it must be 0 or more."),
        (["solve", "FrozenLake-v9"], "FrozenLake-v9 is none of Gymnasium's toy-text environments: "),
        (["solve", "cliff-wlaking"], "cliff-walking"),
        (["solve", "cliff-walking", "--method", "policy-iterration"], "policy-iteration"),
        (["solv", "cliff-walking"], "Did you mean solve"),
        (["solve", "tigre"], "Did you mean tiger"),
        (["solve", "no/such.POMDP"], "There is no file"),
        (["draw", "dyna-maze", "b.png", "--what", "backup", "--action", "upp"], "Did you mean up"),
        (["draw", "dyna-maze", "b.png", "--what", "backup", "--state", "9,9"], "No state is called '9,9'"),
        (["draw", "dyna-maze", "maze.txt"], "A picture is a .png, .svg or .pdf file"),
    ],
)
def test_wrong_names(arguments, says, capsys):
    assert run(["tabular", *arguments]) == 2
    assert says in capsys.readouterr().err
