"""Learning from answers of one's own: rewards by name, runs that resume to the bit, and what bad rewards are told."""

import json
import sys

import jax
import numpy as np
import pytest

from steersman import errors
from steersman.agents.language.reward_model import RewardModelConfig
from steersman.errors import EnvironmentWarning, UsageError
from steersman.language.config import DecoderConfig
from steersman.language.tokenizer import character_tokenizer
from steersman.run.events import Learned
from steersman.run.language import answering, models
from steersman.run.language.align import align, resume
from steersman.run.language.answering import RewardModel
from steersman.run.language.answers import judging, scores
from steersman.run.language.answers.judging import judge
from steersman.run.language.answers.online import PromptBatches
from steersman.run.language.answers.scores import Reward, prompt_text
from steersman.run.language.data import Prompt
from steersman.run.language.models import load_model

SETTINGS = {"updates": 4, "batch_size": 2, "group": 4, "max_new": 4, "held_out": 0.2, "evaluations": 1, "samples": 1}
SETTINGS |= {"learning_rate": 0.05, "warmup": 0.0, "lora": 2, "reward": ("mine:letters", "0.5*length:1")}


@pytest.fixture(scope="module", autouse=True)
def tinier(tmp_path_factory):
    """One layer of eight numbers in the place of ``tiny``, and a module of rewards."""
    config = DecoderConfig(
        vocab_size=97, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=8, context=32
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(
        "def letters(prompts, answers, rows):\n"
        "    return [sum(c.islower() for c in answer) + row['more'] for answer, row in zip(answers, rows)]\n"
        "def same(prompts, answers, rows):\n    return [1.0 for _ in answers]\n"
        "def none(prompts, answers, rows):\n    return None\n"
        "number = 3\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "TINY", config)
        patched.syspath_prepend(str(folder))
        yield
    sys.modules.pop("mine", None)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "ab"[: 1 + i % 2] + f"{i}", "more": 0.5}) + "\n" for i in range(10)))
    return path


@pytest.fixture(scope="module")
def quiet():
    """That answers are cut off is warned of once in a process, and is not what these tests are about."""
    errors._told.add("answers cut off")
    yield
    errors._told.discard("answers cut off")


@pytest.fixture(scope="module")
def done(prompts, quiet, tmp_path_factory):
    """A run of four updates of two steps each, looked at before, after two and at the end."""
    out = tmp_path_factory.mktemp("runs") / "ppo"
    return align("ppo", "tiny", prompts, out=out, num_epochs=2, kl_target=1.0, **SETTINGS)


def test_a_run_tells_what_answers_earned(done):
    first, last = done.history[0], done.history[-1]
    assert first["steps"] == 0
    assert {"held_out_reward", "held_out_reward_mine:letters", "held_out_ended"} <= set(first)
    assert last["reward"] == pytest.approx(last["reward_mine:letters"] + 0.5 * last["reward_length:1"], rel=1e-5)
    assert last["log_prob_gap"] < 1e-5
    assert {"kl", "entropy", "length", "ended", "clip_fraction", "beta", "equal_groups"} <= set(last)
    assert done.summary["before"]["held_out_reward"] == first["held_out_reward"]
    said = [json.loads(line) for line in (done.run / "samples.jsonl").read_text().splitlines()]
    assert [one["steps"] for one in said] == [0, 2, 4]
    assert {"prompt", "text", "ended", "reward"} <= set(said[0])
    assert (done.run / "curve.png").is_file()


def test_a_run_that_was_stopped_ends_as_it_would_have(done, prompts, tmp_path, monkeypatch):
    out = tmp_path / "again"

    def die(event):
        if isinstance(event, Learned) and event.steps == 3:
            raise RuntimeError("gone")

    with pytest.raises(UsageError, match="gone"):
        align("ppo", "tiny", prompts, out=out, num_epochs=2, kl_target=1.0, callbacks=[die], **SETTINGS)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "mine", None)  # to import it would raise
        for named in ((), ("mine:same",)):
            with pytest.raises(
                UsageError, match=r"learns by what is your own, mine:letters\. A .* --reward mine:letters"
            ):
                resume(out, reward=named)
    with pytest.raises(UsageError, match="name it again, as it is named there: --reward mine:letters"):
        resume(out, reward=("mine:letters",), environment="mine:make")
    on = resume(out, reward=("mine:letters",))
    assert on.summary["status"] == "done"
    jax.tree.map(np.testing.assert_array_equal, on.learner, done.learner)
    assert (out / "samples.jsonl").read_text() == (done.run / "samples.jsonl").read_text()


def test_devices_share_the_answers(done, prompts, quiet):
    two = align("ppo", "tiny", prompts, num_epochs=2, kl_target=1.0, devices=2, **SETTINGS | {"samples": 0})
    for name in ("reward", "length", "loss", "gradient_norm"):
        assert two.history[1][name] == pytest.approx(done.history[1][name], rel=1e-4, abs=1e-5), name
    assert two.history[1]["log_prob_gap"] < 1e-5


def test_every_prompt_comes_once_in_each_epoch():
    rows = [Prompt([i], str(i), None, {}) for i in range(5)]
    batches = PromptBatches(rows, 2, seed=1)
    said = [row.content for i in range(5) for row in batches(i)]
    assert sorted(said[:5]) == sorted(said[5:]) == list("01234")
    assert said[:5] != said[5:]
    assert [row.content for row in PromptBatches(rows, 2, seed=1)(3)] == said[6:8]


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ((), "Give --reward: exact, number"),
        (("lenght:3",), "Did you mean length"),
        (("json", "2*json"), "json is there twice"),
        (("mine:letter",), "no 'letter'"),
        (("mine:number",), "is a int; it is to be a function"),
        (("mine",), "mine:letters"),
        (("rms/first",), "no reward 'rms/first'. Give exact, .* the run folder of a reward model"),
    ],
)
def test_rewards_that_are_none(specs, says):
    with pytest.raises(UsageError, match=says):
        Reward(specs)


def test_a_run_of_another_method_judges_nothing(done):
    with pytest.raises(UsageError, match="is no run of a reward model"):
        Reward([str(done.run)])


def test_a_reward_model_judges_prompts_as_they_were_written(monkeypatch):
    class Judge(RewardModel):
        def __init__(self):
            pass

        def many(self, prompts, said):
            return np.asarray([float(len(prompt) + len(answer)) for prompt, answer in zip(prompts, said, strict=True)])

    monkeypatch.setattr(scores, "is_run", lambda name: name == "rm")
    monkeypatch.setattr(scores, "load", lambda name: Judge())
    chat = [{"role": "user", "content": "12345"}]
    total, _ = Reward(["2*rm"])(["12345"], ["ab"], [{"prompt": chat}])
    np.testing.assert_array_equal(total, [2 * (1 + 2)])  # the list of messages, not the text of the last


def test_a_reward_model_of_another_tokenizer_is_to_read_all_that_can_be_said(monkeypatch):
    judge = RewardModel(*load_model("tiny"), None, RewardModelConfig(), plain=True)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(scores, "is_run", lambda name: name == "rm")
    monkeypatch.setattr(scores, "load", lambda name: judge)
    reward, rows = Reward(["rm"]), [{"prompt": "ab"}]
    reward.check(character_tokenizer("ba"), rows)  # another one, and it can be read
    for tokenizer, prompt, says in (
        (character_tokenizer("aé"), "ab", r"rm has another tokenizer .* begins with this model\. .* 'é' is none"),
        (character_tokenizer("ab"), "é", "rm cannot read the prompts: .* 'é' is none"),
        (character_tokenizer("ab"), [{"role": "user", "content": "a"}], "rm cannot read the prompts: .* no template"),
        (
            character_tokenizer("ab"),
            "a" * 32,
            "rm cannot read .* are 33 tokens of its tokenizer, and its context is 32",
        ),
    ):
        with pytest.raises(UsageError, match=says):
            reward.check(tokenizer, [{"prompt": prompt}])
    with pytest.raises(UsageError, match="rm cannot read this: .* are 34 tokens of its tokenizer"):
        reward(["a"], ["a" * 32], [{"prompt": "a"}])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reward": ("mine:none",)}, "mine:none gave None"),
        ({"reward": ("exact",)}, "column answer, and a row has prompt, more"),
        ({"max_new": 31}, "max_new = 31 more are 34; the model's context is 32"),
        ({"group": 1}, "Give 2 or more"),
        ({"batch_size": 3, "devices": 2}, "does not go over devices = 2"),
    ],
)
def test_what_cannot_be_learned_from_stops(settings, says, prompts, quiet):
    few = {"evaluations": 0, "held_out": 0.0, "samples": 0}
    with pytest.raises(UsageError, match=says):
        align("rloo", "tiny", prompts, **SETTINGS | few | settings)


def test_a_reward_that_tells_nothing_apart_stops_and_answers_cut_off_are_warned_of(prompts, monkeypatch):
    monkeypatch.setattr(errors, "_told", set())
    settings = SETTINGS | {"evaluations": 0, "held_out": 0.0, "samples": 0, "reward": ("mine:same",)}
    shown = r"(?s)all answers to a prompt earned the same.*\n  prompt    'a?b?\d+'\n +1  '"
    with (
        pytest.warns(EnvironmentWarning, match="% of a batch's answers were cut off at 4 tokens"),
        pytest.raises(UsageError, match=shown),
    ):
        align("ppo", "tiny", prompts, num_epochs=2, kl_target=1.0, **settings)


def test_answers_are_judged(monkeypatch):
    model = load_model("tiny")
    rows = [Prompt([10, 11 + i], "ab", None, {"prompt": "ab"}) for i in range(3)]
    short = Reward(["length:1", "0.5*regex:[a-m]"])
    how = {"samples": 4, "max_new": 4, "temperature": 1.0, "passing": 1.2, "reference": model.decoder}
    found = judge(model, rows, short, **how)
    with monkeypatch.context() as patched:
        for module in (answering, judging):
            patched.setattr(module, "ROWS", 8)  # two prompts at a time, of three
        assert judge(model, rows, short, **how)["answers"] == found["answers"]
    earned = np.array([one["reward"] for one in found["answers"]]).reshape(3, 4)
    assert found["reward"] == pytest.approx(earned.mean())
    assert found["pass_at_1"] == pytest.approx((earned >= 1.2).mean())
    assert found["best_of_4"] == pytest.approx(earned.max(1).mean())
    assert found["reward_low"] <= found["reward"] <= found["reward_high"]
    assert found["kl"] == pytest.approx(0.0, abs=1e-5)
    one = judge(model, rows, short, max_new=4)
    assert "best_of_2" not in one
    assert one["pass_at_1_high"] > one["pass_at_1_low"]  # three answers tell little
    with pytest.raises(UsageError, match="several want a temperature above 0"):
        judge(model, rows, short, samples=2)


def test_the_text_of_a_prompt():
    assert prompt_text("2+2=") == "2+2="
    assert prompt_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2="}]) == "2+2="
