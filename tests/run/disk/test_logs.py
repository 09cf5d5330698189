"""Metrics: whole lines, NaN as null, resume without doubles, and the optional sinks."""

import json
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.errors import UsageError
from steersman.run.disk import logs


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, *rows):
    sink = logs.JsonLines(path)
    for steps, metrics in rows:
        sink.write(steps, metrics)
    sink.close()


def test_what_is_written_is_read(path):
    write(path, (1, {"loss": 0.1, "n": 3, "x": np.float32(0.1), "y": jnp.float32(2)}), (2, {"loss": 1e-30}))
    assert logs.read_metrics(path) == [
        {"steps": 1, "loss": 0.1, "n": 3, "x": 0.1, "y": 2.0},
        {"steps": 2, "loss": 1e-30},
    ]
    assert path.read_text().splitlines()[0].startswith('{"steps": 1, "loss": 0.1')


def test_nan_and_infinity_are_null_in_the_file_and_nan_after(path):
    write(path, (1, {"a": np.nan, "b": float("inf"), "c": np.array([1.0, np.nan])}))
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "steps": 1,
        "a": None,
        "b": None,
        "c": [1.0, None],
    }
    row = logs.read_metrics(path)[0]
    assert np.isnan(row["a"])
    assert np.isnan(row["b"])
    np.testing.assert_array_equal(row["c"], [1.0, np.nan])


def test_lines_are_there_while_the_run_goes_on(path):
    sink = logs.JsonLines(path)
    sink.write(1, {"a": 1.0})
    assert len(logs.read_metrics(path)) == 1
    sink.close()
    sink.close()


@pytest.mark.parametrize("tail", [b'{"steps": 3, "a"', b'{"steps": 3, "a": 1.0}', b"\x00" * 5000, b"{"])
def test_a_half_written_last_line_is_tolerated_and_cut(path, tail):
    write(path, (1, {"a": 1.0}), (2, {"a": 2.0}))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert [r["steps"] for r in logs.read_metrics(path)] == [1, 2]
    logs.truncate_to(path, 99)
    assert path.read_bytes() == whole
    path.write_bytes(whole + tail)
    write(path, (3, {"a": 3.0}))
    assert [r["steps"] for r in logs.read_metrics(path)] == [1, 2, 3]


def test_only_half_a_line(path):
    path.write_bytes(b'{"steps": 3')
    assert logs.read_metrics(path) == []
    write(path, (1, {}))
    assert logs.read_metrics(path) == [{"steps": 1}]


@pytest.mark.parametrize(
    "bad", [b"nonsense\n", b"[1]\n", b'{"a": 1}\n', b'{"steps": "x"}\n', b'{"steps": 1, "a": {}}\n', b"\n"]
)
def test_another_broken_line_is_named(path, bad):
    write(path, (1, {"a": 1.0}))
    path.write_bytes(path.read_bytes() + bad)
    with pytest.raises(UsageError, match="line 2"):
        logs.read_metrics(path)
    logs.truncate_to(path, 1)
    assert logs.read_metrics(path) == [{"steps": 1, "a": 1.0}]


def test_no_file(path):
    with pytest.raises(UsageError, match="No such file"):
        logs.read_metrics(path)
    logs.truncate_to(path, 5)
    assert not path.exists()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=10), st.integers(0, 60), st.integers(0, 60))
def test_truncate_then_write_again_equals_an_uninterrupted_log(tmp_path_factory, increments, at, cut):
    steps = np.cumsum(increments).tolist()
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    rows = [(s, {"a": s / 7}) for s in steps]
    write(path, *rows)
    uninterrupted = path.read_bytes()
    path.write_bytes(uninterrupted[: max(0, len(uninterrupted) - cut)])  # killed in the middle of a line
    kept = [r["steps"] for r in logs.read_metrics(path)]
    resume = max([s for s in kept if s <= at], default=0)
    logs.truncate_to(path, resume)
    write(path, *[row for row in rows if row[0] > resume])
    assert path.read_bytes() == uninterrupted


def test_columns_align_rows_that_differ():
    table = logs.columns(
        [{"steps": 1, "r": [1.0, 2.0]}, {"steps": 2, "loss": 3.0}, {"steps": 3, "r": [4.0, float("nan")]}]
    )
    np.testing.assert_array_equal(table["steps"], [1, 2, 3])
    np.testing.assert_array_equal(table["r"], [[1, 2], [np.nan, np.nan], [4, np.nan]])
    np.testing.assert_array_equal(table["loss"], [np.nan, 3, np.nan])
    assert logs.columns([]) == {}
    assert logs.columns([{"r": [1.0]}])["r"].shape == (1, 1)


def test_what_is_not_a_number_is_refused(path):
    sink = logs.JsonLines(path)
    with pytest.raises(TypeError):
        sink.write(1, {"a": object()})
    sink.close()
    assert path.read_bytes() == b""


def test_a_full_disk(path, monkeypatch):
    sink = logs.JsonLines("/dev/full")
    with pytest.raises(UsageError, match="disk is full"):
        sink.write(1, {"a": 1.0})
    sink.close()


def scalars(folder):
    """(tag, step, value) of all events, in order of the files; and the steps from which earlier events are void."""
    from tensorboardX.proto.event_pb2 import Event

    found, purged = [], []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            purged += [event.step] if event.HasField("session_log") else []
    return found, purged


def test_tensorboard_has_means_and_seeds(tmp_path):
    sink = logs.TensorBoard(tmp_path / "tb")
    sink.write(100, {"seconds": 1.0, "loss": 0.5, "episode_return": np.array([1.0, 3.0]), "nothing": np.nan})
    sink.write(200, {"seconds": 3.0, "episode_return": np.array([np.nan, 4.0])})
    sink.close()
    sink.close()
    found, purged = scalars(tmp_path / "tb")
    assert found == [
        ("time/seconds", 100, 1.0),
        ("train/loss", 100, 0.5),
        ("rollout/episode_return", 100, 2.0),
        ("rollout/episode_return/seed_0", 100, 1.0),
        ("rollout/episode_return/seed_1", 100, 3.0),
        ("time/seconds", 200, 3.0),
        ("rollout/episode_return", 200, 4.0),
        ("rollout/episode_return/seed_1", 200, 4.0),
        ("time/steps_per_second", 200, 50.0),
    ]
    assert purged == []


def test_the_groups_of_rows():
    groups = {
        "rollout": ("episode_return", "episode_length", "episodes", "return_100"),
        "constraint": ("episode_cost_1", "cost_100", "cost_0_100", "over_limit_100", "multiplier_1", "discounted_cost"),
        "env": ("episode_height", "height_100"),
        "eval": ("evaluation_return", "evaluation_success"),
        "time": ("seconds", "steps_per_second"),
        "train": ("loss", "q", "kl", "clip_fraction", "learning_rate", "entropy", "exploration", "mean_q"),
    }
    for group, names in groups.items():
        assert {logs.tag(name).partition("/")[0] for name in names} == {group}
    assert logs.tag("evaluation_return") == "eval/return"
    assert logs.tag("my/number") == "my/number"


def test_tensorboard_says_the_settings_once(tmp_path):
    for steps in (1, 2):
        sink = logs.TensorBoard(tmp_path / "tb", {"learning_rate": 3e-4, "hidden_sizes": [64, 64], "kl_target": None})
        sink.write(steps, {"loss": 1.0})
        sink.close()
        for file in (tmp_path / "tb").glob("events*"):  # the name is of the second, the process and the host
            file.rename(file.with_name(f"a{steps}"))
    tags = [name for name, _, _ in scalars(tmp_path / "tb")[0] if "loss" not in name]
    assert tags == ["settings/text_summary", "_hparams_/experiment", "_hparams_/session_start_info"]


def test_tensorboard_after_a_resume_voids_what_is_written_again(tmp_path):
    for start in (1, 2):
        sink = logs.TensorBoard(tmp_path / "tb")
        for steps in range(start, 4):
            sink.write(steps, {"loss": 1.0})
        sink.close()
        for file in (tmp_path / "tb").iterdir():  # the name is of the second, the process and the host
            if not file.name.startswith("a"):
                file.rename(file.with_name(f"a{start}"))
    assert scalars(tmp_path / "tb")[1] == [2]


@pytest.mark.parametrize(
    ("sink", "extra"), [(logs.TensorBoard, "tensorboard"), (lambda p: logs.WandB(p, "x"), "wandb")]
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, sink, extra):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=rf"pip install -e '\.\[{extra}\]'"):
        sink(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wandb_goes_on_under_the_same_id(tmp_path, monkeypatch):
    calls = []

    class Run:
        def define_metric(self, *args, **kwargs):
            calls.append(("define", args, kwargs))

        def log(self, row):
            calls.append(("log", row))

        def finish(self):
            calls.append(("finish",))

    class Failure(Exception):
        pass

    def init(**kwargs):
        calls.append(("init", kwargs))
        if kwargs["project"] == "broken":
            raise Failure("no API key")
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, errors=SimpleNamespace(Error=Failure)))
    for _ in range(2):
        sink = logs.WandB(tmp_path, "demo", {"seed": 1})
        sink.write(5, {"r": np.array([1.0, 2.0])})
        sink.close()
    starts = [c[1] for c in calls if c[0] == "init"]
    assert starts[0] == starts[1]
    assert (starts[0]["project"], starts[0]["resume"], starts[0]["config"]) == ("demo", "allow", {"seed": 1})
    assert ("log", {"steps": 5, "train/r": 1.5, "train/r/seed_0": 1.0, "train/r/seed_1": 2.0}) in calls
    with pytest.raises(UsageError, match=r"no API key.*WANDB_MODE=offline"):
        logs.WandB(tmp_path, "broken")
