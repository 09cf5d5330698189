"""Trainings on texts: what a run folder holds, exact resume, devices, and what is made of a run."""

import json

import jax
import numpy as np
import pytest

import steersman
from steersman.agents.language.on_policy import Sampled
from steersman.errors import TrainingFault, UsageError
from steersman.language.completions import Completions
from steersman.language.config import DecoderConfig
from steersman.run.disk.logs import read_metrics
from steersman.run.events import Learned
from steersman.run.language import align as aligning
from steersman.run.language import memory, models
from steersman.run.language.align import align, resume
from steersman.run.language.data import Data
from steersman.run.language.runs import open_model
from steersman.run.language.settings import AlignConfig
from steersman.run.policy import load as load_policy

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module", autouse=True)
def tinier():
    """One layer of eight numbers in the place of ``tiny``, and one length of rows: few and small programs."""
    config = DecoderConfig(
        vocab_size=97, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=8, context=32
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "TINY", config)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    texts = [{"text": "the cat " * (1 + i % 3)} for i in range(14)]
    pairs = [{"prompt": f"{i} is", "chosen": "big", "rejected": f"no {i}"} for i in range(14)]
    for name, rows in (("texts", texts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SFT = {"batch_size": 4, "epochs": 2, "held_out": 0.15, "evaluations": 1, "samples": 1, "max_new": 4}
SFT |= {"learning_rate": 0.02, "lora": 2}


@pytest.fixture(scope="module")
def done(files):
    """A run of six updates, looked at before, after three and at the end."""
    return align("sft", "tiny", files / "texts.jsonl", out=files / "sft", **SFT)


def test_a_run_folder_holds_all_of_it(done, files):
    folder = files / "sft"
    assert {p.name for p in folder.iterdir()} == {
        ".lock", "checkpoints", "config.json", "curve.png", "metrics.jsonl", "samples.jsonl", "summary.json"
    }  # fmt: skip
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["steps"] for row in rows] == list(range(7))
    assert (
        rows[-1]["tokens"] == done.summary["tokens"] == 2 * sum(len("the cat ") * (1 + i % 3) + 1 for i in kept(files))
    )
    held = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    assert len(held) == 3
    assert held[-1] < held[0]
    assert done.summary["after"]["held_out_perplexity"] == pytest.approx(np.exp(held[-1]))
    said = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [one["steps"] for one in said] == [0, 3, 6]
    assert said[0]["prompt"].startswith("the")
    assert done.summary["status"] == "done"


def kept(files):
    """The rows that are learned from, by their place in the file."""
    return aligning.split(Data(list(range(14)), [], True), AlignConfig(held_out=0.15))[0]


def test_pieces_of_a_text_are_not_on_both_sides():
    data = Data([f"{line}{piece}" for line in range(10) for piece in "ab"], [], True, [i // 2 for i in range(20)])
    learned, held = aligning.split(data, AlignConfig(held_out=0.3))
    assert sorted(learned + held) == data.rows
    assert len(held) == 6
    assert not {row[0] for row in learned} & {row[0] for row in held}
    alone = aligning.split(Data(list("abcd"), [], True, [1] * 4), AlignConfig(held_out=0.5))
    assert [len(part) for part in alone] == [2, 2]


@pytest.fixture
def stopped_after(files):
    """A run that ends at once after so many updates, in a way of one's choice."""

    def make(out, updates, how):
        def end(event):
            if isinstance(event, Learned) and event.steps == updates:
                how(event)

        return align("sft", "tiny", files / "texts.jsonl", out=out, callbacks=[end], **SFT)

    return make


def same(done, again):
    jax.tree.map(np.testing.assert_array_equal, done.learner, again.learner)
    for read in (lambda one: one.history, lambda one: read_metrics(one.run / "metrics.jsonl")):
        rows = [[{k: v for k, v in row.items() if k not in TIMES} for row in read(one)] for one in (done, again)]
        assert rows[0] == rows[1]
    assert (done.run / "samples.jsonl").read_text() == (again.run / "samples.jsonl").read_text()


def test_a_run_that_was_interrupted_ends_where_it_would_have(done, stopped_after, tmp_path):
    ask = lambda event: setattr(event.training.signals, "requested", True)  # as a signal does
    before = stopped_after(tmp_path / "r", 2, ask)
    assert before.interrupted
    assert before.summary["steps"] == 2
    same(done, resume(tmp_path / "r"))


def test_a_run_that_died_goes_on_from_its_checkpoint(done, stopped_after, tmp_path):
    def die(event):
        raise SystemExit  # as a kill: nothing is saved any more

    with pytest.raises(SystemExit):
        stopped_after(tmp_path / "r", 5, die)
    assert [row["steps"] for row in read_metrics(tmp_path / "r" / "metrics.jsonl")][-1] == 5
    same(done, resume(tmp_path / "r"))


def test_a_run_of_which_nothing_was_saved_begins_anew(done, stopped_after, tmp_path):
    def die(event):
        raise SystemExit

    with pytest.raises(SystemExit):
        stopped_after(tmp_path / "r", 1, die)
    assert not list((tmp_path / "r" / "checkpoints").iterdir())
    same(done, resume(tmp_path / "r"))


def test_a_callback_that_raises_is_named_and_the_run_saved(done, stopped_after, tmp_path):
    def fail(event):
        raise RuntimeError("gone")

    with pytest.raises(
        UsageError, match="RuntimeError: gone.*It is saved at 1 updates; go on with: steersman align --res"
    ):
        stopped_after(tmp_path / "r", 1, fail)


def test_a_run_that_is_done_is_left(done, files, stopped_after, tmp_path):
    again = resume(files / "sft")
    assert again.summary == json.loads((files / "sft" / "summary.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, again.learner, done.learner)
    early = stopped_after(tmp_path / "r", 2, lambda event: event.stop("enough"))
    assert early.summary["stopped"]["why"] == "enough"
    assert resume(tmp_path / "r").summary["status"] == "stopped early"


def test_two_devices_are_one(done, files):
    shared = align("sft", "tiny", files / "texts.jsonl", **SFT | {"devices": 2, "samples": 0, "evaluations": 0})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), done.learner.params, shared.learner.params)


def test_a_run_is_talked_to_and_trained_further(done, files, tmp_path):
    said = steersman.load(files / "sft")
    assert said("the c", max_new=4) == said("the c", max_new=4)
    assert said.plain
    merged = open_model(files / "sft").decoder
    jax.tree.map(np.testing.assert_array_equal, merged, done.model().decoder)
    settings = {"epochs": 1, "batch_size": 4, "samples": 0, "learning_rate": 0.02, "evaluations": 0, "held_out": 0.0}
    reward = align("reward", files / "sft", files / "pairs.jsonl", out=tmp_path / "rm", last_layers=1, **settings)
    assert reward.summary["after"] is None
    judge = steersman.load(tmp_path / "rm")
    both = judge.many(["3 is"] * 2, ["big", "no 3"])
    assert both.shape == (2,)
    assert judge("3 is", "big") == pytest.approx(float(both[0]), abs=1e-5)
    with pytest.raises(UsageError, match="is a reward model"):
        open_model(tmp_path / "rm")
    with pytest.raises(UsageError, match="steersman align generate"):
        load_policy(files / "sft")


def test_what_a_run_began_with_is_to_be_there(done, files, tmp_path):
    config = json.loads((files / "sft" / "config.json").read_text())
    about = config["spec"]["language"]
    for name, match in [("data_sha256", "holds other texts"), ("model_sha256", "holds other weights now")]:
        (tmp_path / name).mkdir()
        changed = {**config, "spec": {"language": {**about, name: "0" * 64}}}
        (tmp_path / name / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=match):
            resume(tmp_path / name)


def test_a_loss_that_is_none_ends_the_run(files, tmp_path):
    settings = SFT | {"learning_rate": 1e30, "max_grad_norm": None, "warmup": 0.0, "evaluations": 0}
    with pytest.raises(TrainingFault, match=r"update \d: .* is (nan|inf)\. Usual causes: a learning rate"):
        align("sft", "tiny", files / "texts.jsonl", **settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lorra": 8}, r"sft has no setting 'lorra'. Did you mean lora"),
        ({"max_length": 64}, r"max_length = 64; the model's context is 32"),
        ({"devices": 3}, r"devices = 3; there are 2 here"),
        ({"batch_size": 3, "devices": 2}, r"does not go over devices = 2 in accumulate = 1 parts"),
        ({"unusable": "cut"}, r"must be refuse or drop"),
    ],
)
def test_settings_that_do_not_go_are_refused(files, settings, match):
    with pytest.raises(UsageError, match=match):
        align("sft", "tiny", files / "texts.jsonl", **settings)


def test_memory_that_is_not_there_is_refused_with_its_sum(files, monkeypatch):
    from steersman.run.loops import devices

    monkeypatch.setattr(devices, "memory_limit", lambda: 10_000)
    with pytest.raises(UsageError, match=r"about [\d.]+ [kM]B: weights .* moments .*; there are 10.0 kB .*--lora 8"):
        align("sft", "tiny", files / "texts.jsonl")


@pytest.mark.parametrize(("method", "more"), [("rloo", {}), ("rloo", {"remat": True}), ("ppo", {"num_minibatches": 2})])
def test_memory_is_what_the_update_takes(method, more, tmp_path, monkeypatch):
    """Prompts are long, and of a group go through once, unless minibatches mix the groups."""
    config = DecoderConfig(
        vocab_size=97, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=128
    )  # fmt: skip
    monkeypatch.setattr(models, "TINY", config)
    said = []
    monkeypatch.setattr(memory, "check", lambda parts, more: said.append(parts))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a" * 100}) + "\n")
    settings = {"batch_size": 4, "group": 8, "max_new": 8, "reward": ("length:2",), "samples": 0} | more
    job = aligning.prepare(aligning.planned(method, "tiny", prompts, settings))
    of = lambda *shape, dtype: np.zeros((settings["batch_size"] * settings["group"], *shape), dtype)
    tokens = lambda length: (of(length, dtype=np.int32), of(length, dtype=bool))
    drawn = Completions(*tokens(100), *tokens(8), of(8, dtype=np.float32), of(dtype=bool))
    learner = jax.eval_shape(job.trainer.init, job.model.decoder, jax.random.key(0))
    args = (learner, job.model.decoder, Sampled(drawn, of(dtype=np.float32)), jax.random.key(0))
    took = jax.jit(job.trainer.update).lower(*args).compile().memory_analysis()
    assert took is not None
    answering = ("keys and values", "logits of a step")  # before the update
    estimated = sum(size for name, size in said[0].items() if name not in answering)
    assert 2 / 3 < estimated / (took.temp_size_in_bytes + took.argument_size_in_bytes) < 3 / 2
