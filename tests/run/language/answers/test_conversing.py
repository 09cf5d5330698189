"""Conversations with an environment of texts: how they lie as tokens, that they are learned from, resumed, measured."""

import json
import sys

import jax
import numpy as np
import pytest

from steersman import errors
from steersman.errors import EnvironmentFault, UsageError
from steersman.language.completions import Completions
from steersman.language.config import DecoderConfig
from steersman.language.tokenizer import character_tokenizer
from steersman.run.events import Learned
from steersman.run.language import models
from steersman.run.language.align import align, resume
from steersman.run.language.answers.conversing import Conversations
from steersman.run.language.data import Prompt, Reader
from steersman.run.language.measuring import measure

OWN = """
class Count:
    '''Says how many letters it heard, three times; one of them is rewarded.'''
    def __init__(self, most=3):
        self.most = most
    def reset(self, *, seed=None):
        self.left = self.most
        return "ab"[: 1 + seed % 2], {}
    def step(self, answer):
        self.left -= 1
        if answer == "!!!":
            raise RuntimeError("no shouting")
        return str(len(answer)), float("b" in answer) + 0.25 * sum(map(str.islower, answer)), not self.left, False, {}
"""
LETTERS = character_tokenizer("ab!0123")
END = LETTERS.stop[0]


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    """One layer of eight numbers in the place of ``tiny``, and a module with an environment."""
    config = DecoderConfig(
        vocab_size=97, width=8, layers=1, heads=2, kv_heads=1, head_size=4, hidden_size=8, context=32
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("own")
    (folder / "heard.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(models, "TINY", config)
        patched.syspath_prepend(str(folder))
        patched.setattr(errors, "_told", {"answers cut off"})
        yield
    sys.modules.pop("heard", None)


def scripted(*turns):
    """An answer function that says texts in turn, row by row, without the token that ends it after ``...``."""
    asked = []

    def answer(tokens, mask, keys):
        said = [
            LETTERS.encode(one.removesuffix("...")) + [END] * (not one.endswith("...")) for one in turns[len(asked)]
        ]
        asked.append(([LETTERS.decode(row[there]) for row, there in zip(tokens, mask, strict=True)], keys))
        wide = np.full((len(said), 3), END, np.int32)
        there = np.zeros(wide.shape, bool)
        for i, one in enumerate(said):
            wide[i, : len(one)], there[i, : len(one)] = one, True
        log_prob = np.where(there, -0.5 * len(asked), 0).astype(np.float32)
        return Completions(tokens, mask, wide, there, log_prob, np.asarray([END in one for one in said]))

    return answer, asked


def conversations(longest=16, turns=3, **how):
    rows = [Prompt(LETTERS.encode(text), text, None, {"seed": i}) for i, text in enumerate(("a", "ab"))]
    arguments = "".join(f",{name}={value}" for name, value in how.items())
    return rows, Conversations(f"heard:Count{arguments}", Reader(LETTERS, longest), rows, 3, turns, longest)


def test_how_a_conversation_lies():
    rows, talk = conversations(most=2)
    answer, asked = scripted(["b", "aab..."], ["", "0"])
    judged = talk(answer, rows, jax.random.key(1))
    c = judged.completions
    text = lambda i: "".join({END: "."}.get(t) or LETTERS.decode([t]) for t in c.tokens[i][c.mask[i] | c.reply[i]])
    assert [text(0), text(1)] == ["b.1.", "aab.30."]  # an answer that was cut off is ended by the reply
    said = lambda i: "".join("y" if own else "n" for own in c.mask[i][: len(text(i))])
    assert [said(0), said(1)] == ["yyny", "yyynnyy"]
    assert [one for one, _ in asked] == [["a", "ab"], ["ab1", "abaab3"]]
    assert judged.texts == ["b\n> 1\n", "aab\n> 3\n0"]
    np.testing.assert_array_equal(c.prompt_mask, [[False, True], [True, True]])
    np.testing.assert_array_equal(c.ended, [True, False])
    np.testing.assert_allclose(judged.reward, [1.25, 1.75])
    np.testing.assert_allclose(judged.earned[:, :7], [[0, 1.25, 0, 0, 0, 0, 0], [0, 0, 1.75, 0, 0, 0, 0]])
    np.testing.assert_allclose(c.log_prob[:, :7], [[-0.5, -0.5, 0, -1, 0, 0, 0], [-0.5] * 3 + [0, 0, -1, -1]])
    assert not c.mask[:, 7:].any()
    assert not (asked[0][1] == asked[1][1]).any()  # each turn draws anew
    assert judged.told == {"turns": 2.0}


def test_a_conversation_stops_where_there_is_no_room_or_no_turn_left():
    rows, talk = conversations(longest=9)  # 7 behind the prompts
    judged = talk(scripted(["b", "aab..."], ["a", "b"], ["b", "b"])[0], rows, jax.random.key(1))
    np.testing.assert_array_equal(judged.turns, [2, 1])  # 5 tokens and 3 more are too many
    np.testing.assert_array_equal(judged.completions.ended, [False, False])
    rows, talk = conversations(turns=1)
    judged = talk(scripted(["b", "b"])[0], rows, jax.random.key(1))
    assert judged.texts == ["b", "b"]
    assert not judged.completions.reply.any()
    with pytest.raises(UsageError, match="max_new = 3 more are 5; a conversation has at most 4"):
        conversations(longest=4)
    with pytest.raises(EnvironmentFault, match=r"step\('!!!'\) raised RuntimeError: no shouting \(.*heard.py"):
        talk(scripted(["!!!...", "b"])[0], rows, jax.random.key(1))
    with pytest.raises(EnvironmentFault, match=r"reset\(seed=0\) gave 'a', and 'b' before. All that an episode draws"):
        talk(scripted(["b"])[0], [rows[0]._replace(content="b")], jax.random.key(1))


def test_a_chat_is_replied_to_as_its_template_writes_it():
    template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<end>{% endfor %}"
    template += "{% if add_generation_prompt %}a{% endif %}"
    chats = character_tokenizer("uabcx", specials=("<end>",))._replace(template=template)
    reader = Reader(chats, 20)
    said = lambda ids: "".join(chats.decode([i]) or "." for i in ids)
    assert said(reader.prompt("b")) == "ub.a"
    assert said(reader.reply("c")) == "uc.a"  # behind the token that ends the answer


SETTINGS = {"updates": 3, "batch_size": 2, "group": 2, "max_new": 3, "turns": 2, "max_length": 12, "held_out": 0.01}
SETTINGS |= {"evaluations": 1, "samples": 1, "learning_rate": 0.05, "warmup": 0.0, "lora": 2, "num_epochs": 2}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return align("ppo", "tiny", "heard:Count", out=tmp_path_factory.mktemp("runs") / "ppo", **SETTINGS)


def test_what_was_drawn_turn_by_turn_is_what_is_learned(done):
    assert max(row.get("log_prob_gap", 0.0) for row in done.history) < 1e-5
    first, last = done.history[0], done.history[-1]
    assert first["held_out_turns"] == last["turns"] == 2
    assert 2 <= last["length"] <= 6
    said = [json.loads(line) for line in (done.run / "samples.jsonl").read_text().splitlines()]
    assert "\n> " in said[0]["text"]


def test_a_conversation_that_was_stopped_ends_as_it_would_have(done, tmp_path):
    def die(event):
        if isinstance(event, Learned) and event.steps == 2:
            raise RuntimeError("gone")

    says = "gone.*--resume .*again --environment heard:Count"
    with pytest.raises(UsageError, match=says):
        align("ppo", "tiny", "heard:Count", out=tmp_path / "again", callbacks=[die], **SETTINGS)
    on = resume(tmp_path / "again", environment="heard:Count")
    jax.tree.map(np.testing.assert_array_equal, on.learner, done.learner)


def test_conversations_are_measured(done):
    found = measure(done.run, "heard:Count", max_new=3, turns=2, max_length=12, temperature=1.0)
    assert found["rows"] == len(found["answers"]) == 200
    assert found["turns"] == 2
    assert found["reward"] == pytest.approx(np.mean([one["reward"] for one in found["answers"]]))
    assert "kl" not in found


def test_an_environment_rewards_itself(done):
    with pytest.raises(UsageError, match="rewards answers itself"):
        align("rloo", "tiny", "heard:Count", reward=("json",))
    with pytest.raises(UsageError, match="rewards answers itself"):
        measure(done.run, "heard:Count", reward=("json",))
