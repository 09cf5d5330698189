"""Tile coding, the pictures, and what the command line is made from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgba

import steersman.tabular as tabular
from steersman.cli.tabular import learn, solve
from steersman.envs.classic.mountain_car import MountainCar
from steersman.errors import UsageError
from steersman.tabular.learning.linear import sarsa_lambda_linear, tile_coder
from steersman.tabular.pictures import backup_diagrams, maps, pictures
from steersman.tabular.pictures.equations import EQUATIONS
from steersman.tabular.problems import classics
from steersman.theory.statistics import bootstrap_band


def test_tiles_generalise_locally():
    coder = tile_coder([0.0, 0.0], [1.0, 1.0], [4, 4], 8)
    active = jax.vmap(coder)(jnp.array([[0.5, 0.5], [0.56, 0.5], [0.9, 0.1], [2.0, 1.0], [1.0, 1.0]]))
    assert coder.size == 8 * 25
    assert all(len(set(row.tolist())) == 8 for row in active)
    shared = lambda i, j: len(set(active[i].tolist()) & set(active[j].tolist()))
    assert 5 <= shared(0, 1) < 8  # close: most tiles in common
    assert shared(0, 2) == 0  # further apart than a tile
    assert shared(3, 4) == 8  # outside is clipped to the edge
    assert int(active.max()) < coder.size
    # Tilings differ: within one tile's width every tiling has its own border.
    line = jax.vmap(coder)(jnp.stack([jnp.linspace(0.0, 0.2499, 200), jnp.full(200, 0.1)], -1))
    assert len({tuple(row) for row in np.asarray(line).tolist()}) == 8
    with pytest.raises(UsageError, match="finite box"):
        tile_coder([0.0], [np.inf], [4])


@pytest.mark.parametrize("trace", ["replacing", "true-online"])
def test_the_car_gets_out_of_the_valley(trace):
    coder = tile_coder([-1.2, -0.07], [0.6, 0.07], [8, 8], 8)
    f = lambda k: sarsa_lambda_linear(
        MountainCar(), coder, k, episodes=40, alpha=0.5 / 8, lambda_=0.9, trace=trace, max_episode_steps=2000
    )
    lengths = np.asarray(jax.jit(jax.vmap(f))(jax.random.split(jax.random.key(0), 4)).lengths)
    assert lengths[:, -10:].mean() < 190  # a poor policy takes 500 and more; the first episodes do
    assert lengths[:, 0].mean() > 300


def test_pictures_are_drawn(tmp_path):
    table = solve.solve("dyna-maze")
    figures = [
        solve.picture(table),
        solve.picture(solve.solve("gamblers-problem", "value-iteration")),
        maps.occupancy_map(table.mdp, tabular.visitation(table.mdp, table.policy, normalise=False)),
    ]
    figures += [backup_diagrams.backup_diagram(classics.russell_norvig(), 0, method=m) for m in backup_diagrams.BACKUPS]
    for i, figure in enumerate(figures):
        path = tmp_path / f"{i}.png"
        figure.savefig(path, dpi=50)
        assert path.stat().st_size > 2000
    arrows = [c for c in figures[0].axes[0].texts if getattr(c, "arrow_patch", None) is not None]
    assert len(arrows) == 46  # one for each of the 47 cells but the goal
    with pytest.raises(UsageError, match="not a gridworld"):
        maps.value_map(classics.gamblers_problem(), np.zeros(101))
    with pytest.raises(UsageError, match="No backup is called"):
        backup_diagrams.backup_diagram(table.mdp, 0, method="vstar")


def test_a_maximum_has_an_arc_and_an_expectation_none():
    world = classics.russell_norvig()
    arcs = lambda method: sum(
        line.get_color() == pictures.ACCENT
        for line in backup_diagrams.backup_diagram(world, 8, method=method).axes[0].lines
    )
    assert arcs("v_pi") == arcs("q_pi") == arcs("sarsa") == arcs("expected_sarsa") == 0
    assert arcs("v_star") == arcs("q_learning") == 1
    assert arcs("q_star") == 3  # forward and two slips
    weights = [
        t.get_text() for t in backup_diagrams.backup_diagram(world, 0, method="td_lambda", steps=4).axes[0].texts
    ]
    plain = [
        w.replace("\\lambda", "l").replace("\\,", " ").strip("$").strip()
        for w in weights
        if "lambda" in w and "arrow" not in w
    ]
    assert plain == ["(1-l)", "(1-l) l", "(1-l) l^{2}", "l^{3}"]
    for wrong, message in [
        ({"state": 99}, "State 99 is outside 0..10"),
        ({"state": 0, "action": 4}, "Action 4 is outside 0..3"),
        ({"state": 0, "steps": 0}, "at least one step"),
    ]:
        with pytest.raises(UsageError, match=message):
            backup_diagrams.backup_diagram(world, **wrong)


def test_a_backup_says_states_actions_rewards_and_its_equation():
    said = lambda **k: [t.get_text() for t in backup_diagrams.backup_diagram(**k).axes[0].texts]
    texts = said(mdp=classics.cliff_walking(), state=36, method="q_learning", action=0)
    assert {"from (3, 0)", "(2, 0)", "r = -1", "up", "right", "down", "left"} < set(texts)
    assert texts[-1] == EQUATIONS["q_learning"][0]
    texts = said(mdp=classics.russell_norvig(), state=0, method="v_star")
    assert texts.count("p = 0.8\nr = -0.04") == 2  # down and left stay for both of their slips
    paid = said(mdp=classics.cliff_walking(), state=36, method="v_pi")
    assert sum("r = -100" in text for text in paid) == 1
    assert set(EQUATIONS) == set(backup_diagrams.BACKUPS)


def test_bands_are_bootstrap_intervals():
    runs = np.random.default_rng(0).normal(size=(40, 3)) + np.array([0.0, 5.0, 10.0])
    figure = pictures.curves({"a": runs, "b": runs[:1]})
    (band,) = figure.axes[0].collections  # one run has no band
    low, high = bootstrap_band(runs)
    ends = band.get_paths()[0].vertices[:, 1]
    assert ends.min() == pytest.approx(low.min())
    assert ends.max() == pytest.approx(high.max())


def test_solve_and_learn_by_name():
    table = solve.solve("cliff-walking", "gauss-seidel")
    assert table.facts["value of the start"] == pytest.approx(-13)
    assert table.facts["error bound"] < 1e-8
    assert len(table.rows) == 48
    assert table.rows[47][2] == "end"
    learned = learn.learn("cliff-walking", "q-learning", episodes=300, seeds=3, alpha=0.5)
    assert learned.facts["greedy value of the start, learned"] == pytest.approx(-13, abs=0.2)
    assert learned.curves["Q-learning"].shape == (3, 300)
    assert solve.picture(learned).axes
    for call, message in [
        (lambda: solve.solve("dyna-maze", "value-itration"), "Did you mean value-iteration"),
        (lambda: learn.learn("cliff-walking", "sarsaa"), "Did you mean sarsa"),
        (lambda: learn.learn("car-rental", "sarsa"), "never ends"),
    ]:
        with pytest.raises(UsageError, match=message):
            call()


def test_methods_learn_side_by_side_and_their_ways_are_drawn():
    table = learn.learn("cliff-walking", ["sarsa", "q-learning"], episodes=300, seeds=8, alpha=0.5)
    assert table.columns[1:3] == ("value, SARSA", "action, SARSA")
    assert {label: runs.shape for label, runs in table.curves.items()} == {"SARSA": (8, 300), "Q-learning": (8, 300)}
    assert table.facts["Q-learning: greedy way"] == "13 steps"  # along the edge
    assert int(table.facts["SARSA: greedy way"].split()[0]) > 13  # further away from it
    assert table.facts["SARSA: return, last tenth"] > table.facts["Q-learning: return, last tenth"]
    upper, lower = solve.picture(table).axes
    assert [line.get_label() for line in upper.lines] == ["SARSA", "Q-learning"]
    assert len(upper.lines[0].get_xdata()) == 50  # means over six episodes
    ways = [line for line in lower.lines if len(line.get_xdata()) > 2]
    assert [to_rgba(w.get_color()) for w in ways] == [to_rgba(line.get_color()) for line in upper.lines]
    assert len(ways[1].get_xdata()) == 14
    assert len(solve.picture(learn.learn("FrozenLake-v1", episodes=60, seeds=1)).axes) == 1  # it slips: no way to draw
    maze = solve.picture(learn.learn("dyna-maze", episodes=20, seeds=2))
    assert maze.axes[0].get_ylabel() == "steps an episode"  # each return is 1
    with pytest.raises(UsageError, match="do not share an axis"):
        learn.learn("cliff-walking", ["sarsa", "td-lambda"])


def test_a_greedy_way_ends_or_comes_back():
    cliff = classics.cliff_walking()
    up, right, down = 0, 1, 2
    policy = np.full(48, right)
    policy[36], policy[35] = up, down
    assert maps.greedy_path(cliff, policy) == [36, *range(24, 36), 47]
    policy[30] = down  # into the cliff, and back at the start
    assert maps.greedy_path(cliff, policy) == [36, *range(24, 31), 36]


def test_cells_that_nobody_reaches_are_hatched():
    cliff = classics.cliff_walking()
    assert np.flatnonzero(~maps.reachable(cliff)).tolist() == list(range(37, 47))
    axes = maps.value_map(cliff, np.zeros(48), np.zeros(48, int)).axes[0]
    hatched = [cell for cell in axes.patches if getattr(cell, "get_hatch", lambda: None)()]
    assert len(hatched) == 10
    assert len([c for c in axes.texts if getattr(c, "arrow_patch", None) is not None]) == 48 - 10 - 1


def test_values_of_a_policy_are_learned_by_name():
    table = learn.learn("random-walk", "td-lambda", episodes=60, seeds=3, lambda_=0.8)
    assert table.curves["td-lambda"].shape == (3, 60)
    assert table.facts["RMS error over the states, at the end"] < 0.35
    assert table.rows[1][2] == pytest.approx(-0.9)
    assert solve.solve("gridworld-4x4", "uniform-policy").rows[1][1] == pytest.approx(-14)
    assert solve.solve("gridworld-4x4", "average-reward").facts["error bound"] < 1e-7


def test_tasks_without_an_end_are_learned_by_steps():
    table = learn.learn("gridworld-5x5", "r-learning", steps=4000, seeds=2)
    assert table.curves["R-learning"].shape == (2, 4000)
    assert table.facts["optimal average reward"] == pytest.approx(20 / 9 + 5 / 45, abs=1.0)
    assert solve.picture(table).axes[0].get_xlabel() == "step"


def test_partly_seen_problems_by_name():
    table = solve.solve("tiger", tol=1e-2)
    assert table.facts["value of the start, at least"] <= 19.3714 <= table.facts["at most"]
    assert table.facts["first action"] == "listen"
    assert solve.picture(table).axes[0].get_xlabel() == "P(tiger-left)"
    with pytest.raises(UsageError, match="Known: pbvi, qmdp"):
        solve.solve("tiger", "policy-iteration")
    with pytest.raises(UsageError, match="seen only in part"):
        learn.learn("hallway")


def test_drawings_by_name():
    assert (
        "td lambda at state 0"
        in solve.drawing("random-walk", "backup", method="td-lambda", state=0).axes[0].get_title()
    )
    assert solve.drawing("dyna-maze", "occupancy").axes
    by_name = solve.drawing("cliff-walking", "backup", method="q-learning", state="3,0", action="right")
    assert by_name.axes[0].get_title() == "q learning at (3, 0), right: cliff-walking"
    assert solve.drawing("gamblers-problem", "occupancy").axes[0].get_ylabel() == "expected discounted visits"
    with pytest.raises(UsageError, match="Did you mean occupancy"):
        solve.drawing("dyna-maze", "ocupancy")


def test_every_public_name_is_there():
    assert all(callable(getattr(tabular, name)) for name in tabular.__all__)
    with pytest.raises(AttributeError):
        tabular.nonsense  # noqa: B018
