"""Comparisons: what is asked, what is trained once and kept, what is said of it, what is refused before training."""

import json
import shutil
import signal
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

import steersman
from steersman.cli.compare import show
from steersman.envs.families import reward_threshold
from steersman.errors import TrainingFault, UsageError
from steersman.run.compare import compare as module
from steersman.run.compare.compare import compare
from steersman.run.compare.entries import read_entries, resolve
from steersman.run.compare.results import Compared, improvement_of, limited
from steersman.run.disk.logs import read_metrics
from steersman.run.disk.run_folder import open_run
from steersman.run.events import Compiling, Trained
from steersman.run.policies.limits import Limits
from steersman.run.show import plots
from steersman.theory.comparison import improvement, stratified_bootstrap

SMALL = {"num_envs": 4, "unroll_length": 8, "num_minibatches": 2, "num_epochs": 1, "hidden_sizes": (8,)}
SMALL |= {"schedule_steps": 1000, "evaluation_episodes": 4, "evaluate_every": 0, "preset": False, "steps": 640}
SMALL |= {"normalize_observations": False, "scale_rewards": False, "anneal_learning_rate": True}  # as ``small``
NORMAL = SMALL | {"normalize_observations": True}  # these programs are compiled for another test already
HALF = "half=ppo:steps=320"  # no program of its own


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison of two variants over two seeds on a compiled environment."""
    out = tmp_path_factory.mktemp("compared") / "two"
    said = []
    result = compare(["ppo", HALF], "CartPole-v1", seeds=2, out=out, callbacks=[said.append], **NORMAL)
    return result, said


@pytest.fixture
def trains_nothing(monkeypatch):
    def never(*args, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(module, "run", never)


def begun_and_done(events):
    """In order: the trainings that began and the entries that are done."""
    told = []
    for event in events:
        if isinstance(event, Compiling):
            told.append(("begun", event.training.within.entry))
        if isinstance(event, Compared):
            told.append(("done", event.entry))
    return told


# Entries


def test_entries_are_read():
    made = read_entries(["ppo", "ppo:objective=penalty", "wide=ppo:hidden-sizes=256,128,clip=0.1,share_trunk=true"])
    assert [e.label for e in made] == ["ppo", "ppo objective=penalty", "wide"]
    assert [e.folder for e in made] == ["ppo", "ppo-objective-penalty", "wide"]
    assert [e.algorithm.name for e in made] == ["ppo"] * 3
    assert made[1].given == {"objective": "penalty"}
    assert made[2].given == {"hidden_sizes": (256, 128), "clip": 0.1, "share_trunk": True}
    (one,) = read_entries("ppo:gamma=.9,stop_kl=none,learning_rate=1e-3")
    assert one.given == {"gamma": 0.9, "stop_kl": "none", "learning_rate": 1e-3}
    factory = lambda key, spec: None
    mapped = read_entries({"a": "ppo:clip=0.1", "b": {"algorithm": "ppo", "clip": 0.3, "network": factory}})
    assert [(e.label, e.given) for e in mapped] == [("a", {"clip": 0.1}), ("b", {"clip": 0.3})]
    assert mapped[1].network is factory


def test_all_get_the_largest_budget_and_the_settings_meet_in_order():
    entries = read_entries(["ppo", "own=ppo:steps=5000,gamma=0.5", "ppo:gamma=0.6"])
    found = resolve(entries, "CartPole-v1", {"gamma": 0.7, "num_envs": 32}, steps=None, preset=True)
    assert [e.settings["steps"] for e in found] == [200_000, 5000, 200_000]  # the preset's
    assert [e.settings["gamma"] for e in found] == [0.7, 0.5, 0.6]
    assert {e.settings["num_envs"] for e in found} == {32}
    assert {e.settings["gae_lambda"] for e in found} == {0.8}  # the preset's
    none = read_entries(["ppo:stop_kl=none,memory=none", "reinforce:baseline=None"])  # no number; a choice of that name
    configs = [e.config for e in resolve(none, "CartPole-v1", {}, steps=7000, preset=False)]
    assert (configs[0].stop_kl, configs[0].memory, configs[1].baseline) == (None, "none", "none")
    (plain,) = resolve(entries[:1], "CartPole-v1", {}, steps=7000, preset=False)
    assert (plain.settings["steps"], plain.settings["gae_lambda"]) == (7000, 0.95)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "Name at least one algorithm"),
        (["pp0"], "no algorithm 'pp0'. Did you mean ppo"),
        (["ppo", "ppo"], "Two entries are called 'ppo'. Give each a label of its own"),
        (["a b=ppo", "a-b=ppo"], "too alike"),
        (["ppo,a2c"], "entries are separated by spaces: ppo a2c"),
        ([":clip=1"], "names no algorithm"),
        (["=ppo"], "names no algorithm"),
        (["..=ppo"], "cannot name a folder"),
        (["ppo:penalty"], "'penalty' is not SETTING=VALUE"),
        (["ppo:objectiv=penalty"], "Did you mean objective"),
        (["ppo:objective=penalti"], "Did you mean penalty"),
        (["ppo:gamma=2"], "gamma = 2"),
        (["ppo:num_envs=some"], "num_envs = 'some'; it must be a whole number"),
        (["ppo:seeds=3"], "seeds is the same for all entries; give it once, as --seeds"),
        (["ppo:num_minibatches=7"], "cannot be cut into 7"),
        ({"a": {"clip": 0.1}}, "it must be an entry's text or"),
        ({"a": 3}, "it must be an entry's text or"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(entries, says, tmp_path, trains_nothing):
    with pytest.raises(UsageError) as error:
        compare(entries, "CartPole-v1", out=tmp_path / "new")
    assert says in str(error.value)
    assert not (tmp_path / "new").exists()


def test_other_mistakes(tmp_path, trains_nothing):
    with pytest.raises(UsageError, match="Name an environment"):
        compare(["ppo"])
    with pytest.raises(UsageError, match="Unknown environment"):
        compare(["ppo"], "CartPole-v7")
    with pytest.raises(UsageError, match="evaluation_episodes = 0; a comparison is made of final evaluations"):
        compare(["ppo"], "CartPole-v1", evaluation_episodes=0)
    with pytest.raises(UsageError, match="seeds = 0"):
        compare(["ppo"], "CartPole-v1", seeds=0)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        compare(["ppo"], "CartPole-v1", out=tmp_path / "file")
    with pytest.raises(UsageError, match=r"is not a comparison \(file\)"):
        compare(["ppo"], "CartPole-v1", out=tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    with pytest.raises(UsageError, match="is a run. Give --out"):
        compare(["ppo"], "CartPole-v1", out=tmp_path / "run")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "comparison.json").write_text('{"format": "9.0"}')
    with pytest.raises(UsageError, match="not a comparison that this steersman reads"):
        compare(["ppo"], "CartPole-v1", out=tmp_path / "odd")


@pytest.mark.parametrize(
    ("entries", "environment", "says"),
    [(["ppo", "dqn"], "Pendulum-v1", "dqn: DQN needs a Discrete"), (["ppo", "td3"], "CartPole-v1", "td3: TD3 needs")],
)
def test_an_algorithm_that_does_not_serve_the_actions_is_found_first(
    entries, environment, says, tmp_path, trains_nothing
):
    with pytest.raises(UsageError, match=says):
        compare(entries, environment, seeds=2, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Compiled environments: the seeds side by side


def test_the_folder_and_the_result_tell_the_same(compared):
    result, said = compared
    saved = json.loads((result.path / "comparison.json").read_text())
    assert saved.items() >= result.summary().items()
    assert saved["status"] == "done"
    assert saved["entries"]["half"]["given"] == {"steps": 320}
    assert saved["entries"]["half"]["settings"]["hidden_sizes"] == [8]
    assert sorted(p.name for p in result.path.iterdir() if p.name != ".lock") == [
        "comparison.json",
        "comparison.png",
        "half",
        "ppo",
    ]
    assert (result.path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for label, outcome in result.outcomes.items():
        summary = json.loads((result.path / label / "summary.json").read_text())
        assert outcome.scores.tolist() == [e["mean"] for e in summary["evaluations"]]
        assert outcome.mean.value == pytest.approx(summary["evaluation"]["mean"])
        assert (outcome.steps, outcome.training_seconds) == (summary["steps"], summary["training_seconds"])
        assert outcome.compile_seconds == summary["compile_seconds"] > 0
        assert [len(x) > 0 for x, _ in outcome.series] == [True, True]
        assert outcome.threshold_steps.tolist() == [np.inf, np.inf]
        assert saved["results"][label]["steps_to_threshold"]["seeds"] == [None, None]
        assert (outcome.reached, outcome.median_steps.value) == (0, np.inf)
    assert begun_and_done(said) == [("begun", "ppo"), ("done", "ppo"), ("begun", "half"), ("done", "half")]


def test_what_is_said_of_which_is_better(compared):
    result, _ = compared
    x, y = (result.outcomes[label].scores for label in ("ppo", "half"))
    assert result.improvement["ppo", "half"] == improvement(x, y)
    assert sum(result.improvement[pair].value for pair in (("ppo", "half"), ("half", "ppo"))) == 1
    ((better, than, p),) = result.ranked
    assert {better, than} == {"ppo", "half"}
    assert p.value >= 0.5
    assert result.threshold == 475


def test_a_finished_comparison_is_kept_and_read_again(compared, trains_nothing):
    result, _ = compared
    again = compare(out=result.path)
    assert again.summary() == result.summary()
    easy = compare(["ppo", HALF], "CartPole-v1", seeds=2, out=result.path, threshold=5.0, **NORMAL)
    assert easy.outcomes["ppo"].reached == 2
    assert 0 < easy.outcomes["ppo"].median_steps.value < 644
    assert compare(out=result.path, threshold=475.0).summary() == result.summary()


def test_its_folder_is_drawn_and_is_no_run(compared, tmp_path, monkeypatch):
    result, _ = compared
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out: figures.append(figure) or out)
    plots.learning_curve([result.path], tmp_path / "x.png")
    assert [t.get_text() for t in figures[0].axes[0].texts] == ["ppo", "half"]
    with pytest.raises(UsageError, match=r"is a comparison; its runs are .*ppo, .*half\. Give"):
        open_run(result.path)


@pytest.mark.parametrize(
    ("entries", "asked", "says"),
    [
        (["ppo:gamma=0.5"], {}, None),
        ([], {"seeds": 3}, "seeds was 2, now 3"),
        ([], {"steps": 9999}, "steps was 640, now 9999"),
        ([], {"gamma": 0.5}, "gamma was 0.99, now 0.5"),
        (["ppo"], {"num_envs": 8}, "num_envs was 4, now 8"),
        (["half=ppo:steps=160"], {}, "half was compared with other settings: steps was 320, now 160"),
        ([], {"environment": "Acrobot-v1"}, "compares on CartPole-v1, not on Acrobot-v1"),
    ],
)
def test_a_comparison_goes_on_as_it_was(compared, trains_nothing, entries, asked, says):
    result, _ = compared
    with pytest.raises(UsageError if says else AssertionError, match=says or "trained"):  # another label is a new entry
        compare(entries, out=result.path, **({"environment": "CartPole-v1"} | NORMAL | {"steps": None} | asked))


def test_a_run_that_was_changed_behind_its_back(compared, trains_nothing, tmp_path):
    result, _ = compared
    shutil.copytree(result.path, tmp_path / "copy")
    config = tmp_path / "copy" / "ppo" / "config.json"
    content = json.loads(config.read_text())
    content["run"]["steps"] = 1280
    config.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="steps is 1280, not 640. Remove that folder"):
        compare(out=tmp_path / "copy")


def test_an_interrupted_comparison_goes_on_to_the_same_end(compared, tmp_path):
    result, _ = compared
    out = tmp_path / "stopped"

    def stopping(event):
        if isinstance(event, Trained) and event.training.within.entry == "half":
            signal.raise_signal(signal.SIGINT)

    asked = {"environment": "CartPole-v1", "seeds": 2, "out": out, **NORMAL}
    stopped = compare(["ppo", HALF], callbacks=[stopping], **asked)
    assert stopped.interrupted
    assert stopped.unfinished == ["half"]
    assert list(stopped.outcomes) == ["ppo"]
    saved = json.loads((out / "comparison.json").read_text())
    assert (saved["status"], saved["unfinished"]) == ("interrupted", ["half"])
    said = []
    whole = compare(out=out, callbacks=[said.append])
    assert begun_and_done(said) == [("done", "ppo"), ("begun", "half"), ("done", "half")]
    assert not whole.interrupted
    for label, outcome in result.outcomes.items():
        np.testing.assert_array_equal(whole.outcomes[label].scores, outcome.scores)
        np.testing.assert_equal(whole.outcomes[label].series, outcome.series)


# Host environments: one run after another


def test_host_environments_train_seed_by_seed_and_entries_are_added(tmp_path):
    out = tmp_path / "host"
    asked = {"environment": "gymnasium/CartPole-v1", "out": out, **SMALL, "steps": 96}
    first = compare(["ppo"], seeds=2, seed=5, **asked)
    assert [p.name for p in first.outcomes["ppo"].runs] == ["seed-5", "seed-6"]
    assert all((out / "ppo" / f"seed-{s}" / "summary.json").exists() for s in (5, 6))
    assert (first.compiled, first.seeds, first.threshold) == (False, [5, 6], 475)
    assert len(first.outcomes["ppo"].scores) == 2
    said = []
    two = compare([HALF], callbacks=[said.append], **asked)
    assert begun_and_done(said) == [("done", "ppo"), ("begun", "half"), ("begun", "half"), ("done", "half")]
    assert list(two.outcomes) == ["ppo", "half"]
    np.testing.assert_array_equal(two.outcomes["ppo"].scores, first.outcomes["ppo"].scores)


def test_seeds_on_a_host_environment_share_one_compilation(tmp_path):
    """One of the user's own: none of our tests' programs are its."""
    make = lambda: gymnasium.make("CartPole-v1")
    settings = SMALL | {"steps": 96}
    result = compare(["ppo"], make, seeds=2, seed=3, out=tmp_path / "x", **settings)
    first, second = result.outcomes["ppo"].runs
    seconds = [json.loads((run / "summary.json").read_text())["compile_seconds"] for run in (first, second)]
    assert seconds[0] > 0
    assert seconds[1] == 0
    alone = steersman.train("ppo", make, seed=4, **settings)
    assert alone.summary["compile_seconds"] > 0
    assert alone.evaluation.mean == result.outcomes["ppo"].scores[1]
    rows = [[row["loss"] for row in history] for history in (alone.history, read_metrics(second / "metrics.jsonl"))]
    assert rows[0] == rows[1]


def test_a_training_that_fails_does_not_end_the_others(monkeypatch, tmp_path):
    real = module.run

    def failing(plan):
        if plan.run.steps == 320:
            raise TrainingFault("Training stopped near step 64: loss is nan.")
        return real(plan)

    monkeypatch.setattr(module, "run", failing)
    result = compare([HALF, "ppo"], "CartPole-v1", seeds=2, out=tmp_path / "x", **NORMAL)
    assert result.failures == {"half": "Training stopped near step 64: loss is nan."}
    assert list(result.outcomes) == ["ppo"]
    assert result.summary()["status"] == "failed"


def test_without_a_folder_and_with_an_object_nothing_is_written(tmp_path, monkeypatch):
    from steersman.envs.classic import make
    from steersman.types import Env

    monkeypatch.chdir(tmp_path)
    env: Env = make("CartPole-v1")
    result = steersman.compare({"one": "ppo"}, env, seeds=2, **NORMAL)
    assert result.path is None
    assert result.outcomes["one"].runs == []
    assert result.environment == "CartPole-v1"
    assert list(tmp_path.iterdir()) == []
    assert steersman.plot(result, tmp_path / "x.svg").read_text().startswith("<?xml")


def test_thresholds_that_gymnasium_registers():
    assert reward_threshold("Acrobot-v1") == reward_threshold("gymnax/Acrobot-v1") == -100
    assert reward_threshold("Pendulum-v1") is None
    assert reward_threshold("own.module:factory") is None


# The picture


@pytest.fixture
def many(compared):
    """A comparison of nine, some of which solved the task, made from the two."""
    result, _ = compared
    base = result.outcomes["ppo"]
    rng = np.random.default_rng(0)
    outcomes = {}
    for i in range(9):
        label = f"a rather long variant's name {i}"
        solved = np.where(rng.random(2) < 0.5, rng.integers(1, 640, 2), np.inf)
        outcomes[label] = replace(base, label=label, scores=rng.normal(100 * i, 60, 2), threshold_steps=solved)
    return replace(result, outcomes=outcomes, improvement=improvement_of(outcomes))


@pytest.fixture
def priced(compared):
    """A comparison of four: a free one, one that holds its limit, one that does not, one whose seeds differ."""
    result, _ = compared
    base = replace(result.outcomes["ppo"], limits=Limits(("speed",)))
    kinds = {"free": (900, (90, 80), ()), "holds": (300, (9, 10), (10,)), "over": (500, (15, 30), (20,))}
    kinds["half"] = (400, (5, 25), (20,))
    outcomes = {
        label: replace(
            base,
            label=label,
            scores=np.full(2, float(score)),
            mean=stratified_bootstrap([score] * 2),
            costs=np.array(costs, float)[:, None],
            mean_cost=[stratified_bootstrap(costs)],
            limits=base.limits._replace(most=most),
        )
        for label, (score, costs, most) in kinds.items()
    }
    outcomes = limited(outcomes)
    return replace(result, outcomes=outcomes, improvement=improvement_of(outcomes))


def test_who_holds_the_limits_comes_first_and_then_the_return_counts(priced, capsys):
    assert priced.outcomes["free"].limits.most == (20,)  # the loosest of the others'
    assert [(label, o.feasible) for label, o in priced.outcomes.items()] == [
        ("free", False),
        ("holds", True),
        ("over", False),
        ("half", True),
    ]
    assert priced.ranking == ["half", "holds", "free", "over"]
    better = {pair: p.value for pair, p in priced.improvement.items()}
    assert better["holds", "free"] == 1.0  # a third of the return, and within the limit
    assert better["free", "over"] == 0.5  # one seed of "over" holds it
    assert better["half", "holds"] == 0.5
    found = priced.summary()["results"]
    assert (found["half"]["cost_limit"], found["half"]["seeds_feasible"]) == ([20.0], 0.5)
    show(priced)
    lines = capsys.readouterr().out.splitlines()
    order = [
        line.split()[0] for line in lines[lines.index(next(x for x in lines if "final evaluation" in x)) + 2 :][:4]
    ]
    assert order == priced.ranking
    assert any(line.split()[:3] == ["half:", "speed", "15.00"] and line.endswith("1 of 2") for line in lines)


def test_the_picture_names_everything(compared, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, out: figures.append(figure) or out)
    result, _ = compared
    steersman.plot(result, "x.png")
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert sorted(titles) == [
        "Final evaluation",
        "Learning",
        "Performance profile, final evaluation",
        "Probability of improvement",
        "Seeds that have reached 475",
    ]
    learning = figures[0].axes[titles.index("Learning")]
    assert {"ppo", "half", "threshold 475"} <= {t.get_text() for t in learning.texts}
    assert all(axes.get_xlabel() for axes in figures[0].axes)


def test_many_entries_are_drawn(many, tmp_path):
    assert steersman.plot(many, tmp_path / "many.png").stat().st_size > 50_000
    with pytest.raises(UsageError, match="suffix"):
        steersman.plot(many, tmp_path / "many.bmp")
