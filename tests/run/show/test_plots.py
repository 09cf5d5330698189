"""Learning curves: what is drawn, and that every run that can be drawn is."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.run.disk import logs
from steersman.run.show import plots


@pytest.fixture
def make_run(tmp_path):
    def make(name, rows, algorithm="ppo", environment="CartPole-v1", seed=None, config=None, **run):
        path = tmp_path / name
        path.mkdir()
        seed = len(list(tmp_path.iterdir())) if seed is None else seed
        content = {"format": "1.1", "algorithm": algorithm, "environment": environment, "config": config or {}}
        content |= {"run": {"seed": seed, **run}, "spec": {}, "versions": {}}
        (path / "config.json").write_text(json.dumps(content))
        sink = logs.JsonLines(path / "metrics.jsonl")
        for steps, metrics in rows:
            sink.write(steps, metrics)
        sink.close()
        return path

    return make


def ramp(offset=0.0, n=20, step=100):
    return [((i + 1) * step, {"episode_return": i + offset, "seconds": i / 2}) for i in range(n)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    figures, real = [], plots._draw
    monkeypatch.setattr(plots, "_draw", lambda *args: figures.append(real(*args)) or figures[-1])
    return figures


def texts(figure):
    """The names of the lines, at their ends, and what is said of all."""
    return [t.get_text() for t in figure.axes[0].texts], figure.axes[0].get_title(loc="left")


INTERVAL = "mean with its 95% bootstrap interval"


def test_mean_and_interval_over_seeds_that_were_logged_together():
    x = np.array([1.0, 2.0, 3.0])
    got = plots.curve([(x, np.array([0.0, 1.0, 5.0])), (x, np.array([2.0, 3.0, 5.0])), (x, np.array([4.0, 5.0, 5.0]))])
    np.testing.assert_array_equal(got.x, x)
    np.testing.assert_allclose(got.mean, [2, 3, 5])
    np.testing.assert_allclose(got.low, [0, 1, 5])  # 1 of 27 resamples is all of the lowest seed: more than 2.5%
    np.testing.assert_allclose(got.high, [4, 5, 5])
    assert got.seeds == 3


def test_seeds_logged_at_different_places_are_interpolated_and_not_extrapolated():
    a = (np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    b = (np.array([5.0, 20.0]), np.array([5.0, 20.0]))
    got = plots.curve([a, b, (np.array([0.0, 7.0]), np.array([0.0, 7.0]))])
    np.testing.assert_array_equal(got.x, [5, 7])  # from where all have begun to where the first one stops
    np.testing.assert_allclose(got.mean, got.x)
    np.testing.assert_allclose(got.low, got.x)
    assert len(plots.curve([a, (np.array([11.0, 12.0]), np.zeros(2))]).x) == 0


def test_a_mean_is_never_over_some_of_the_seeds(make_run, tmp_path, drawn):
    """One seed at 0, one at 100: whatever is missing, no place has a mean of one of them alone."""
    gaps = [(10 * i, {"return_100": np.array([0.0, 100.0 if i in (3, 5, 6) else np.nan])}) for i in range(1, 10)]
    plots.learning_curve([make_run("a", gaps, seeds=2)], tmp_path / "x.png")
    line = drawn[0].axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), 50.0)
    np.testing.assert_array_equal(line.get_xdata(), [30, 40, 50, 60, 70, 80, 90])  # the last value is carried on
    apart = [make_run("b", [(s, {"return_100": 0.0}) for s in (10, 20, 30)]), make_run("c", gaps[2:6], seed=9)]
    plots.learning_curve(apart, tmp_path / "x.png")


def test_many_points_share_a_grid():
    a, b = np.linspace(1, 1000, 700), np.linspace(2, 1000, 650)
    got = plots.curve([(a, 3 * a), (b, 3 * b)])
    assert len(got.x) <= plots._POINTS
    np.testing.assert_allclose(got.mean, 3 * got.x, rtol=1e-6)
    assert len(plots.curve([(a, a)]).x) == 700


def test_one_seed_has_no_interval():
    got = plots.curve([(np.array([1.0, 2.0]), np.array([3.0, 4.0]))])
    np.testing.assert_array_equal(got.mean, [3, 4])
    assert np.isnan(got.low).all()
    assert np.isnan(got.high).all()


def test_groups_are_algorithm_and_environment(make_run, tmp_path, drawn):
    runs = [make_run("a", ramp()), make_run("b", ramp(2)), make_run("c", ramp(5), algorithm="dqn")]
    plots.learning_curve(runs, tmp_path / "x.png")
    assert texts(drawn[0]) == (["ppo (2 seeds)", "dqn (1 seed)"], INTERVAL)
    assert drawn[0].get_suptitle() == "CartPole-v1"
    other = make_run("d", ramp(), environment="Acrobot-v1")
    plots.learning_curve([*runs[:2], other], tmp_path / "x.png")
    assert texts(drawn[1])[0] == ["CartPole-v1 (2 seeds)", "Acrobot-v1 (1 seed)"]
    plots.learning_curve([*runs, other], tmp_path / "x.png")
    named = ["ppo, CartPole-v1 (2 seeds)", "dqn, CartPole-v1 (1 seed)", "ppo, Acrobot-v1 (1 seed)"]
    assert texts(drawn[2])[0] == named
    plots.learning_curve({"fast": runs[:1], "slow $x_": runs[1:2]}, tmp_path / "x.png", title="mine")
    assert texts(drawn[3]) == (["fast", r"slow \$x_"], "1 seed")
    assert drawn[3].get_suptitle() == "mine"


def test_axes_say_what_they_show(make_run, tmp_path, drawn):
    run = make_run("a", [(s, {**m, "value_loss": 1.0}) for s, m in ramp()])
    plots.learning_curve([run], tmp_path / "x.png")
    plots.learning_curve([run], tmp_path / "y.png", x="seconds", y="value_loss")
    axes = [f.axes[0] for f in drawn]
    assert [a.get_xlabel() for a in axes] == ["environment steps", "wall time (s)"]
    assert [a.get_ylabel() for a in axes] == ["episode return (sum of rewards)", "value loss"]
    line = axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [s for s, _ in ramp()])
    np.testing.assert_allclose(line.get_ydata(), np.arange(20))
    assert axes[0].xaxis.get_major_formatter()(150_000) == "150k"


def test_a_run_of_several_seeds_is_a_group_of_its_own(make_run, tmp_path, drawn):
    rows = [(100 * i, {"episode_return": np.array([i, i + 2.0, np.nan])}) for i in range(1, 6)]
    plots.learning_curve([make_run("a", rows, seeds=3)], tmp_path / "x.png")
    assert texts(drawn[0]) == (["ppo"], f"{INTERVAL}, 2 of 3 seeds")  # the third never ended an episode
    np.testing.assert_allclose(drawn[0].axes[0].lines[0].get_ydata(), [2, 3, 4, 5, 6])


@pytest.mark.parametrize("suffix", plots.SUFFIXES)
def test_each_kind_of_picture(make_run, tmp_path, suffix):
    out = plots.learning_curve([make_run("a", ramp()), make_run("b", ramp(3))], tmp_path / f"x{suffix}")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert out.read_bytes().startswith(start)
    assert not list(tmp_path.glob(".x*"))
    if suffix == ".png":
        image = iio.imread(out)[..., :3]
        assert min(image.shape[:2]) > 600
        blue = np.array([0x00, 0x72, 0xB2])
        assert (np.abs(image.astype(int) - blue).sum(-1) < 12).sum() > 500  # the line is there


@pytest.mark.parametrize(
    "rows",
    [
        [(5, {"episode_return": 1.0})],
        [(5, {"episode_return": np.array([1.0, 2.0])})],
        [(5, {"episode_return": np.nan}), (6, {"loss": 2.0}), (7, {"episode_return": 1.0})],
        [(5, {"episode_return": 0.0}), (6, {"episode_return": 0.0})],
        [(10**9, {"episode_return": 1e12}), (2 * 10**9, {"episode_return": -1e12})],
    ],
    ids=["one point", "one point, two seeds", "gaps", "flat", "large"],
)
def test_odd_runs_are_drawn(make_run, tmp_path, rows):
    assert plots.learning_curve([make_run("ein Läufer $1 名", rows)], tmp_path / "x.png").stat().st_size > 5000


def test_many_groups(make_run, tmp_path, drawn):
    groups = {f"variant {i}": [make_run(str(i), ramp(i))] for i in range(9)}
    plots.learning_curve(groups, tmp_path / "x.png")
    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 20]  # the others lead to the names
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 9
    heights = sorted(t.get_position()[1] for t in drawn[0].axes[0].texts)
    assert min(np.diff(heights)) > 0.03  # names do not lie on each other


def test_names_are_spread_as_little_as_they_must():
    assert plots.spread([0.9, 0.1, 0.5], 0.2) == [0.9, 0.1, 0.5]
    np.testing.assert_allclose(plots.spread([0.5, 0.5, 0.9], 0.25), [0.375, 0.625, 0.9])
    np.testing.assert_allclose(plots.spread([0.0, 0.0, 0.0], 0.1), [0.0, 0.1, 0.2])
    np.testing.assert_allclose(plots.spread([1.0, 0.99, 0.3], 0.1), [1.0, 0.9, 0.3])
    rng = np.random.default_rng(0)
    for n in (2, 5, 8):
        wanted = rng.random(n)
        got = np.sort(plots.spread(wanted, 0.1))
        assert (np.diff(got) > 0.1 - 1e-9).all()
        assert got[0] >= 0
        assert got[-1] <= 1 + 1e-9
        assert (np.argsort(plots.spread(wanted, 0.1), kind="stable") == np.argsort(wanted, kind="stable")).all()
    assert len(plots.spread([0.5] * 30, 0.1)) == 30  # they do not fit: as they come


def test_what_cannot_be_drawn(make_run, tmp_path):
    run = make_run("a", ramp())
    with pytest.raises(UsageError, match=r"suffix '.bmp'; a picture is one of .png"):
        plots.learning_curve([run], tmp_path / "x.bmp")
    with pytest.raises(UsageError, match=r"no metric 'episode_retur'. Did you mean episode_return"):
        plots.learning_curve([run], tmp_path / "x.png", y="episode_retur")
    with pytest.raises(UsageError, match="There are steps, episode_return, seconds"):
        plots.learning_curve([run], tmp_path / "x.png", y="zzz")
    with pytest.raises(UsageError, match="at least one run"):
        plots.learning_curve([], tmp_path / "x.png")
    with pytest.raises(UsageError, match="is not a run"):
        plots.learning_curve([tmp_path], tmp_path / "x.png")
    for empty in (make_run("none", []), make_run("nan", [(1, {"episode_return": np.nan})])):
        with pytest.raises(UsageError, match="no values yet"):
            plots.learning_curve([empty], tmp_path / "x.png")
    shutil.copytree(run, tmp_path / "b")
    (tmp_path / "b" / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="No such file"):
        plots.learning_curve([tmp_path / "b"], tmp_path / "x.png")
    assert not list(tmp_path.glob("x*"))


def test_no_global_state_of_pyplot():
    assert "pyplot" not in Path(plots.__file__).read_text()


def test_evaluations_on_the_way_are_points_beside_the_line(make_run, drawn, tmp_path):
    rows = [(n, row | ({"evaluation_return": 2.0 * n} if n % 1000 == 0 else {})) for n, row in ramp()]
    plots.learning_curve([make_run("a", rows)], tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    line, points = (next(p for p in axes.lines if len(p.get_xdata()) == n) for n in (20, 2))
    assert points.get_ydata().tolist() == [2000.0, 4000.0]
    assert axes.get_ylim()[1] > 4000.0
    assert (line.get_marker(), points.get_marker()) == ("None", "o")
    assert (line.get_clip_on(), points.get_clip_on()) == (True, False)  # the last point is at the edge
    assert line.get_color() == points.get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "evaluation"]
    plots.learning_curve([make_run("b", ramp())], tmp_path / "curve.png")
    assert drawn[1].axes[0].get_legend() is None


def test_trainings_on_texts_are_drawn_by_what_tells_how_good_they_are(make_run, tmp_path, drawn):
    rows = [
        (i, {"loss": 1.0 - i / 10, "reward": i / 10} | ({"held_out_reward": i / 10} if i % 2 else {})) for i in range(6)
    ]
    short = [(i, {"loss": 1.0}) for i in range(3)]
    for name, method, logged in (("a", "rloo", rows), ("b", "ppo", rows), ("c", "sft", short)):
        run = make_run(name, logged, algorithm=method, environment="tiny")
        config = json.loads((run / "config.json").read_text()) | {"spec": {"language": {}}}
        (run / "config.json").write_text(json.dumps(config))
    plots.learning_curve([tmp_path / "a", tmp_path / "b"], tmp_path / "out.png")
    assert (drawn[0].axes[0].get_ylabel(), drawn[0].axes[0].get_xlabel()) == ("held out reward", "updates")
    assert sorted(texts(drawn[0])[0]) == ["ppo", "rloo"]
    plots.learning_curve([tmp_path / "a", tmp_path / "c"], tmp_path / "out.png")
    assert drawn[1].axes[0].get_ylabel() == "loss"  # what both have
