"""The command line: what is printed where, and exit codes: 0 done, 2 the user's mistake, 1 ours, 130 interrupted."""

import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

import steersman
from steersman.cli import display, main, train
from steersman.cli.main import run as cli
from steersman.run.disk import checkpoint, run_folder
from steersman.run.disk.run_folder import RunWarning
from steersman.run.events import Compiling, Evaluating, Trained

SUMMARY = {"steps", "wall_seconds", "compile_seconds", "steps_per_second", "evaluation", "status", "run"}
EVALUATION = {"episodes", "mean", "median", "iqm", "ci95"}


def said(capsys, arguments, code=0):
    """-> (standard output, standard error) of a command that ends with an exit code."""
    assert cli([str(a) for a in arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def digest(run):
    return checkpoint.stored_sha256(checkpoint.latest(run / "checkpoints")[0], under="agent")


# Help


def test_help_needs_no_jax():
    code = (
        "import sys; from steersman.cli.main import run; import steersman; "
        "assert run(['--help']) == run(['train', '--help']) == run(['--version']) == 0; "
        "heavy = {'jax', 'tyro', 'gymnasium', 'rich', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_overview_names_every_command(capsys):
    out, err = said(capsys, ["--help"])
    assert all(f"\n  {name} " in out for name in main.COMMANDS)
    assert not err
    assert said(capsys, [])[0] == out
    assert said(capsys, ["--version"])[0].strip() == steersman.__version__
    assert max(map(len, f"{out}{main.TRAIN_USAGE}".splitlines())) <= 80
    assert said(capsys, ["train"], 2) == ("", main.TRAIN_USAGE + "\n")
    assert said(capsys, ["help", "train"])[0] == main.TRAIN_USAGE + "\n"


@pytest.mark.parametrize("name", [*main.COMMANDS])
def test_every_command_has_help_and_json(capsys, name):
    out, _ = said(capsys, [name, "--help"])
    assert "usage: steersman " + name in out
    assert "--json" in out


def test_every_setting_is_a_flag_with_the_preset_as_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    out, _ = said(capsys, ["train", "ppo", "CartPole-v1", "--help"])
    from steersman.agents.policy_gradient.ppo import PPOConfig
    from steersman.run.settings import RunConfig

    for name in [*PPOConfig.__dataclass_fields__, *RunConfig.__dataclass_fields__, "out", "quiet", "json"]:
        assert f"--{name.replace('_', '-')}" in out
    line = lambda text, flag: next(line for line in text.splitlines() if flag in line)
    assert "(default: 200000)" in line(out, "--steps ")
    plain, _ = said(capsys, ["train", "ppo", "CartPole-v1", "--no-preset", "--help"])
    assert "(default: 100000)" in line(plain, "--steps ")
    assert "steersman train ppo ENVIRONMENT" in said(capsys, ["train", "ppo", "--help"])[0]


# The user's mistakes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("trian ppo CartPole-v1", "no command 'trian'. Did you mean train?"),
        ("train pp0 CartPole-v1", "no algorithm 'pp0'. Did you mean ppo?"),
        ("train ppo", "Name an environment"),
        ("train CartPole-v1", "The algorithm comes first: steersman train ppo CartPole-v1"),
        ("train CartPole ppo", "The algorithm comes first: steersman train ppo CartPole"),
        ("train --steps 5", "Name an algorithm"),
        ("train ppo CartPole-v9", "CartPole-v1"),
        ("train ppo gimnax/CartPole-v1", "families are gymnasium/, gymnax/"),
        ("train ppo nowhere.to:be_found", "nowhere"),
        ("train ppo CartPole-v1 --stesp 5", "--steps"),
        ("train ppo CartPole-v1 --steps many", "many"),
        ("train ppo CartPole-v1 --lr 1e-3", "There is no --lr. Here it is called --learning-rate."),
        ("train ppo CartPole-v1 --steps=1e6 --seeds 1e0 --gamma 1.5", "gamma = 1.5"),
        ("train ppo CartPole-v1 --steps 1.5e0", "1.5e0"),
        ("train actor-critic CartPole-v1", "Did you mean actor_critic?"),
        ("train sac Pendulum-v1 --steps 1000 --learning-starts 1000", "--learning-starts 100)"),
        ("train ppo CartPole-v1 --workers 2", "worker"),
        ("train --resume nowhere", "There is no run folder nowhere"),
        ("train --resume .", "is not a run"),
        ("train --config nowhere.json", "nowhere.json"),
        ("train --config", "--config needs a file"),
        ("evaluate nowhere", "There is no run folder nowhere"),
        ("evaluate", "RUN"),
        ("record nowhere", "There is no run folder nowhere"),
        ("plot nowhere", "nowhere is not a run"),
        ("plot", "There is no run to plot"),
        ("info nowhere", "There is no run folder nowhere"),
        ("list --nonsense", "nonsense"),
        ("train ppo CartPole-v1 --steps 1e9.5", "--steps 1e9.5: it must be a whole number, as in 1000000 or 1e6."),
        ("evaluate runs/x --episodes ten", "--episodes ten: it must be a whole number"),
        ("train ppo CartPole-v1 --out=", "--out is given an empty text: it must be a file or a folder, or none."),
        ("train ./no.py:ALGORITHM CartPole-v1", "There is no file ./no.py for the algorithm"),
        ("train no.ALGORITHM CartPole-v1", "There is no algorithm 'no.ALGORITHM'"),
        ("train ppo CartPole-v1 gamma=0.9", "'gamma=0.9' is one word too many: steersman train ALGORITHM ENVIRONMENT"),
        ("train ppo CartPole-v1 --tensorboard true", "--tensorboard takes no value; it switches on"),
        ("train --algo ppo --env CartPole-v1", "--algo: the two are named without flags: steersman train ALGORITHM"),
        ("train ppo CartPole-v1 --environment Pendulum-v1", "--environment: the two are named without flags"),
        ("evaluate run other", "'other' is one word too many. See steersman evaluate --help"),
    ],
)
def test_one_message_and_exit_code_2(capsys, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    out, err = said(capsys, line.split(), 2)
    assert says in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_extra_that_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    monkeypatch.chdir(tmp_path)
    _, err = said(capsys, ["train", "ppo", "gymnax/CartPole-v1"], 2)
    assert "pip install -e '.[gymnax]'" in err


def test_a_folder_that_holds_a_run_is_not_trained_into(capsys, trained, flags):
    _, err = said(capsys, ["train", "ppo", "CartPole-v1", "--out", trained[2], *flags], 2)
    assert "already holds a run. Go on with it: steersman train --resume" in err


def test_a_run_is_replaced_where_that_is_asked_for(capsys, trained, flags, tmp_path):
    run = shutil.copytree(trained[2], tmp_path / "run")
    line = ["train", "ppo", "CartPole-v1", "--steps", "64", "--replace", "--out", run, *flags, "--json"]
    said(capsys, [*line, "--num-minibatches", "7"], 2)
    assert digest(run) == digest(trained[2])  # it went only once the other one could begin
    assert json.loads(said(capsys, line)[0])["steps"] < 100
    assert max(steps for steps, _ in checkpoint.saved(run / "checkpoints")) < 100


def test_standard_output_is_for_the_json_alone(capfd):
    with display.json_alone():
        print("by Python")
        os.write(1, b"by the descriptor\n")
        ctypes.CDLL(None).puts(b"by C")
        subprocess.run(["echo", "by a worker"], check=True)
        display.print_json({"a": 1})
    print("after it")
    out, err = capfd.readouterr()
    assert out == '{"a": 1}\nafter it\n'
    assert sorted(err.splitlines()) == ["by C", "by Python", "by a worker", "by the descriptor"]


def test_json_is_alone_in_every_command(capfd, monkeypatch):
    def talking(arguments):
        print("hello")
        display.print_json(arguments)
        return 0

    monkeypatch.setattr("steersman.cli.listing.run", talking)
    assert said(capfd, ["list", "--json"]) == ('["--json"]\n', "hello\n")
    assert said(capfd, ["list"])[0].startswith("hello")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--resume RUN --gamma 0.98", "its settings. NEW ppo CartPole-v1 --init-from RUN --gamma 0.98"),
        ("--seed 3 --resume=RUN --steps 900", "its settings. NEW ppo CartPole-v1 --init-from RUN --seed 3 --steps 900"),
        ("--resume RUN --hidden-sizes 8 8", "its settings. NEW ppo CartPole-v1 --init-from RUN --hidden-sizes 8 8"),
        ("--resume RUN --lr 1e-3", "its settings. NEW ppo CartPole-v1 --init-from RUN --lr 1e-3"),
        ("--resume RUN --out there", "its settings. NEW ppo CartPole-v1 --init-from RUN --out there"),
        ("ppo CartPole-v1 --resume RUN", "ppo CartPole-v1 out. NEW ppo CartPole-v1 --init-from RUN"),
        ("--resume RUN Acrobot-v1 --quiet", "leave Acrobot-v1 out. NEW ppo Acrobot-v1 --init-from RUN --quiet"),
        ("ppo Acrobot-v1 --resume RUN --gamma 1", "its settings. NEW ppo Acrobot-v1 --init-from RUN --gamma 1"),
        ("--resume RUN --gamme 1", "--gamme"),
    ],
)
def test_a_resumed_run_keeps_its_settings_and_how_to_go_on_is_said(capsys, trained, typed, says):
    run = str(trained[2])
    _, err = said(capsys, ["train", *typed.replace("RUN", run).split()], 2)
    new = "To go on with new ones: steersman train"
    assert says.replace("RUN", run).replace("NEW", new) in " ".join(err.split())


def test_a_warm_start(capsys, trained, flags, tmp_path):
    begin = ["train", "ppo", "gymnasium/CartPole-v1", "--init-from", trained[2], "--out", tmp_path / "run"]
    _, err = said(capsys, [*begin, "--steps", 64, "--learning-rate", "0.01"])
    assert "starts from run: its newest parameters, at 324 steps" in err
    assert f"settings of {trained[2]}" in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["config"]["hidden_sizes"], config["config"]["learning_rate"]) == ([8], 0.01)
    _, err = said(capsys, ["train", "--config", tmp_path / "run", "--out", tmp_path / "again"], 2)
    assert "began with the parameters of another, run. Name that: --init-from RUN" in err


# Training


def test_the_json_of_a_training(trained):
    code, out, run = trained
    assert code == 0
    summary = json.loads(out)
    assert summary.keys() >= SUMMARY
    assert summary["evaluation"].keys() >= EVALUATION
    assert len(summary["evaluation"]["ci95"]) == 2
    assert summary["run"] == str(run)
    saved = json.loads((run / "summary.json").read_text())
    assert saved == {k: v for k, v in summary.items() if k != "run"}


def test_config_repeats_a_run_and_quiet_prints_nothing(capsys, trained, tmp_path):
    _, _, run = trained
    config = run / "config.json"
    assert said(capsys, ["train", "--config", config, "--out", tmp_path / "again", "--quiet"]) == ("", "")
    assert digest(tmp_path / "again") == digest(run)
    again, first = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "again", run))
    assert again.pop("cadence") != first.pop("cadence")  # when to save was said this time
    assert again == first
    out, err = said(capsys, ["train", f"--config={run}", "--seed", "1", "--out", tmp_path / "other"])
    assert digest(tmp_path / "other") != digest(run)
    assert f"settings of {run}/config.json" in err
    assert "given: seed=1" in err
    assert "mean return" in out


def test_what_is_given_is_said_though_it_is_the_default():
    asked = train.Asked("ppo", "X", {"gamma": 0.9, "steps": 5}, "preset of X", ["--num-envs=8", "--gamma", "0.9"])
    settings = {"num_envs": 8, "gamma": 0.9, "steps": 5, "seed": 0, "learning_starts": 3}
    notes = train._notes(asked, settings, settings | {"learning_starts": 9})
    assert notes == ["preset of X: steps=5", "given: num_envs=8, gamma=0.9", "for so few steps: learning_starts=3"]
    before = settings | {"scale_rewards": False, "batch_size": 256, "burn_in": 9}
    notes = train._notes(asked, settings | {"scale_rewards": True, "batch_size": 64, "burn_in": 4}, before)
    assert notes[2:] == ["for a cost limit: scale_rewards=True", "for a memory: batch_size=64, burn_in=4"]


def test_a_run_that_is_done_says_so(capsys, trained):
    _, first, run = trained
    out, err = said(capsys, ["train", "--resume", run])
    assert "done already" in err
    assert "mean return" in out
    assert json.loads(said(capsys, ["train", "--resume", run, "--json"])[0]) == json.loads(first)


def test_what_is_shown_and_how_a_run_goes_on(capsys, own, flags, tmp_path):
    line = ["train", "ppo", f"{own}:interrupted", "--steps", "640", "--checkpoint-every", "64", *flags]
    out, err = said(capsys, [*line, "--out", tmp_path / "run"], 130)
    assert f"{own}:interrupted (host): 4 environments, 644 steps (640 rounded up to whole rollouts)" in err
    assert "given: steps=640, schedule_steps=1000, num_envs=4" in err
    assert f"run folder: {tmp_path / 'run'}" in err
    assert "ppo on own_places:interrupted: interrupted" in out
    assert "cannot be saved midway: the run goes on from its last checkpoint, at 196 steps" in " ".join(err.split())
    assert f"steersman train --resume {tmp_path / 'run'} --environment {own}:interrupted" in err
    # A run folder does not decide what is imported.
    for command in (["train", "--resume"], ["evaluate"], ["record"]):
        assert f"--environment {own}:interrupted" in said(capsys, [*command, tmp_path / "run"], 2)[1]
    rest = ["--environment", f"{own}:dots", "--json"]
    summary = json.loads(said(capsys, ["train", "--resume", tmp_path / "run", *rest])[0])
    assert (summary["status"], summary["steps"]) == ("done", 644)
    evaluation = json.loads(said(capsys, ["evaluate", tmp_path / "run", "--episodes", "3", *rest])[0])
    assert (evaluation["episodes"], evaluation["mean"]) == (3, 5.0)
    config = tmp_path / "run" / "config.json"
    _, err = said(capsys, ["train", "--config", config, "--out", tmp_path / "more"], 2)
    assert f"PACKAGE.MODULE:FACTORY --config {config}" in err
    assert said(capsys, ["train", "ppo", f"{own}:dots", "--config", config, "--out", tmp_path / "more", "--quiet"])
    assert digest(tmp_path / "more") == digest(tmp_path / "run")


def test_interrupted_and_saved(capsys, monkeypatch, trained, tmp_path):
    """A compiled run is saved wherever it stops."""
    show = display.TrainingDisplay.__call__

    def interrupting(self, event):
        if isinstance(event, Trained) and event.steps < event.total:
            signal.raise_signal(signal.SIGINT)
        show(self, event)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(display.TrainingDisplay, "__call__", interrupting)
        out, err = said(capsys, ["train", "--config", trained[2] / "config.json", "--out", run], 130)
    assert "interrupted" in out
    assert f"Interrupted, and saved at 36 steps.\nGo on with: steersman train --resume {run}\n" in err
    assert ", going on from step 36\n" in said(capsys, ["train", "--resume", run])[1]
    assert digest(run) == digest(trained[2])


def test_interrupted_at_once(capsys, monkeypatch, trained, tmp_path):
    """It says what is kept: here nothing."""
    run = tmp_path / "run"

    def interrupting(self, event):
        if isinstance(event, Compiling):
            raise KeyboardInterrupt

    monkeypatch.setattr(display.TrainingDisplay, "__call__", interrupting)
    _, err = said(capsys, ["train", "--config", trained[2] / "config.json", "--out", run], 130)
    again = f"steersman train --resume {run}"
    assert err == f"steersman: interrupted. Nothing was saved yet: begin anew with {again}\n"
    monkeypatch.setattr(run_folder, "open_run", interrupting_at_once)
    assert said(capsys, ["info", run], 130)[1] == "steersman: interrupted.\n"


def interrupting_at_once(*args):
    raise KeyboardInterrupt


def test_nan_is_exit_code_1_and_a_dying_environment_is_2(capsys, own, flags, tmp_path):
    line = ["--steps", "640", "--checkpoint-every", "64", "--quiet", *flags]
    out, err = said(capsys, ["train", "ppo", f"{own}:Decaying", "--out", tmp_path / "nan", *line], 1)
    assert err.startswith("steersman: Training stopped near step ")
    assert "loss is nan" in err
    assert "The last good checkpoint is" in err
    assert out == ""
    _, err = said(capsys, ["train", "ppo", f"{own}:Dying", "--out", tmp_path / "dead", *line], 2)
    assert "motor on fire" in err
    assert checkpoint.saved(tmp_path / "dead" / "checkpoints")


def test_stopped_early_with_a_network_of_ones_own(capsys, own, flags, tmp_path):
    run, network = tmp_path / "run", ["--network", f"{own}:network"]
    line = ["train", "ppo", "CartPole-v1", "--steps", "640", "--stop-at-return", "1", "--out", run, *flags]
    out, err = said(capsys, [*line, *network])
    assert "stopped early" in out
    assert "stopped by" in out
    assert "Stopped early by StopAtReturn: a mean return of" in err
    for command in (["evaluate", run], ["train", "--resume", run], ["record", run]):
        assert f"--network {own}:network" in said(capsys, command, 2)[1]
    assert json.loads(said(capsys, ["evaluate", run, "--episodes", "2", "--json", *network])[0])["episodes"] == 2
    assert "stopped early already" in said(capsys, ["train", "--resume", run, *network])[1]
    again = ["train", "--config", run, "--out", tmp_path / "again", "--quiet"]
    assert "--network PACKAGE.MODULE:FACTORY" in said(capsys, again, 2)[1]
    said(capsys, [*again, *network])
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["status"] == "done"


# The other commands


def test_info_of_a_run(capsys, trained):
    run = trained[2]
    found = json.loads(said(capsys, ["info", run, "--json"])[0])
    assert found["parameters_sha256"] == digest(run)
    assert (found["algorithm"], found["environment"], found["steps"], found["budget"]) == (
        "ppo",
        "CartPole-v1",
        324,
        320,
    )
    assert found["status"] == "done"
    assert found["summary"]["evaluation"].keys() >= EVALUATION
    out, _ = said(capsys, ["info", run])
    assert digest(run) in out
    assert "mean return" in out


def test_info_of_this_machine(capsys):
    found = json.loads(said(capsys, ["info", "--json"])[0])
    assert found["steersman"] == steersman.__version__
    assert found["devices"]
    assert found["jax"] in said(capsys, ["info"])[0]
    assert found["installed_algorithms"] == []


def test_installed_algorithms_are_listed(capsys, monkeypatch):
    monkeypatch.setattr("steersman.run.plugins.installed", lambda: {"awr": "nowhere:ALGORITHM", "ppo": "nowhere:PPO"})
    assert json.loads(said(capsys, ["list", "--json"])[0])["installed"]["awr"] == "nowhere:ALGORITHM"
    out = said(capsys, ["list"])[0]
    assert "awr: installed, nowhere:ALGORITHM" in out
    assert "ppo: installed, nowhere:PPO; its name is taken" in out
    assert "awr, ppo" in said(capsys, ["info"])[0]


def test_evaluate(capsys, trained):
    run = trained[2]
    found = json.loads(said(capsys, ["evaluate", run, "--episodes", "5", "--json"])[0])
    assert found.keys() >= EVALUATION
    assert found["episodes"] == 5
    out, err = said(capsys, ["evaluate", run, "--episodes", "5"])
    assert f"{found['mean']:.2f}" in out
    assert err == ""
    host = json.loads(
        said(capsys, ["evaluate", run, "--environment", "gymnasium/CartPole-v1", "--episodes", "5", "--json"])[0]
    )
    assert host["episodes"] == 5
    assert "trained on CartPole-v1" in said(capsys, ["evaluate", run, "--environment", "Acrobot-v1"], 2)[1]
    assert "there is no number 3" in said(capsys, ["evaluate", run, "--seed-index", "3"], 2)[1]
    assert "0 evaluation episodes" in said(capsys, ["evaluate", run, "--episodes", "0"], 2)[1]


def test_record(capsys, trained, tmp_path):
    film = tmp_path / "film.gif"
    found = json.loads(said(capsys, ["record", trained[2], "--out", film, "--steps", "12", "--json"])[0])
    assert found["video"] == str(film)
    assert 0 < found["returns"][0] <= 12
    assert film.read_bytes()[:4] == b"GIF8"
    out, _ = said(capsys, ["record", trained[2], "--out", film, "--steps", "12"])
    assert out == f"{film}: 1 episode, return {found['returns'][0]:.1f}\n"
    assert "film.jpg" in said(capsys, ["record", trained[2], "--out", tmp_path / "film.jpg"], 2)[1]


def test_plot(capsys, trained, tmp_path):
    picture = tmp_path / "both.svg"
    with pytest.warns(RunWarning, match="counted once"):
        assert said(capsys, ["plot", trained[2], trained[2], "--out", picture]) == (f"{picture}\n", "")
    assert "CartPole-v1" in picture.read_text()
    found = json.loads(said(capsys, ["plot", trained[2], "--out", tmp_path / "a.png", "--y", "loss", "--json"])[0])
    assert found == {"picture": str(tmp_path / "a.png")}
    assert "Did you mean entropy" in said(capsys, ["plot", trained[2], "--y", "entropi"], 2)[1]


def test_list_is_readable_and_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, _ = said(capsys, ["list"])
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 75
    words = out.split()
    found = json.loads(said(capsys, ["list", "--json"])[0])
    assert "ppo" in found["algorithms"]
    assert "CartPole-v1" in found["presets"]["ppo"]
    for row in found["environments"]:
        name = row["id"].removeprefix(row["family"] + "/")
        assert name == "*" or {name, f"{name}*"} & set(words), name


# The terminal


def test_the_bar_fits_80_columns():
    bar = display.TrainingDisplay(["preset of CartPole-v1: " + ", ".join(f"some_setting_{i}={i}" for i in range(20))])
    screen = io.StringIO()
    bar.console.file, bar.console._width, bar.console._force_terminal = screen, 80, True
    training = SimpleNamespace(folder="runs/a", within=None)
    bar(Compiling(training, "ppo on CartPole-v1 (compiled)", 200_000_000))
    bar(Trained(training, 123_456_789, 200_000_000, 1_234_567.8, -1234.5, None))
    shown = Console(file=io.StringIO(), width=80)
    shown.print(bar.progress.get_renderable())
    line = shown.file.getvalue().rstrip("\n")
    assert "\n" not in line
    for part in ("training", "123M/200M", "1.23M steps/s", "return -1,234.5"):
        assert part in line
    bar(Evaluating(training, 100))
    text = screen.getvalue()
    assert "run folder: runs/a" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "some_setting_7=7" in text.replace("\n", " ")  # a name and its value stay together


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (512, "512"), (999.6, "1k"), (20_496, "20.5k"), (999_960, "1M"), (1_250_000, "1.25M"), (3e9, "3G")],
)
def test_short_counts(value, text):
    assert display.short(value) == text


def test_only_our_own_warnings_are_shown(capsys):
    for category in (RunWarning, DeprecationWarning, UserWarning):
        main._show_warning(category("something"), category, "file.py", 1)
    assert capsys.readouterr().err == "steersman: something\n"


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 7.28 TiB for an array"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")],
)
def test_what_no_memory_holds(monkeypatch, capsys, error):
    def fail(rest):
        raise error

    monkeypatch.setattr("steersman.cli.info.run", fail)
    assert cli(["info"]) == 2
    assert f"There is not enough memory ({error}). Ask for less" in capsys.readouterr().err
