"""Rows of texts: what is learned of each, and what every kind of fault is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language.tokenizer import END, character_tokenizer
from steersman.run.language import data
from steersman.run.language.batches import Batches, padded_length
from steersman.run.language.data import Reader, read_pairs, read_prompts, read_texts

DATA = Path(__file__).parents[2] / "data" / "language"
TOKENIZER = character_tokenizer()
READER = Reader(TOKENIZER, 20)
PAIR = {"prompt": "say", "chosen": "yes", "rejected": "no"}


@pytest.fixture
def chats():
    """A reader of a model with a template of chats."""
    bpe = pytest.importorskip("steersman.language.bpe")
    pytest.importorskip("tokenizers")
    tokenizer = bpe.from_json(
        (DATA / "tokenizer" / "tokenizer.json").read_text(),
        ends=["<|im_end|>"],
        template=(DATA / "tokenizer" / "chat_template.jinja").read_text(),
    )
    return Reader(tokenizer, 200)


def written(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def learned(row, tokenizer=TOKENIZER):
    return tokenizer.decode(row.tokens[row.learned])


def test_what_is_learned_of_each_kind(tmp_path):
    path = written(tmp_path, {"text": "abc"}, "", {"prompt": "say ", "answer": "yes", "id": 7})
    rows = read_texts(path, READER).rows
    assert [learned(row) for row in rows] == ["abc", "yes"]
    assert [int(row.tokens[-1]) for row in rows] == list(TOKENIZER.stop) * 2
    assert rows[1].learned.tolist() == [False] * 4 + [True] * 4  # the end is learned too
    pair = read_pairs(written(tmp_path, PAIR), READER).rows[0]
    assert [learned(one) for one in pair] == ["yes", "no"]
    prompt = read_prompts(written(tmp_path, {"prompt": "1+1=", "answer": "2"}), READER).rows[0]
    assert (TOKENIZER.decode(prompt.tokens), prompt.answer) == ("1+1=", "2")


def test_of_a_chat_the_assistant_is_learned(tmp_path, chats):
    chat = [{"role": "user", "content": "2"}, {"role": "assistant", "content": "4"}]
    more = [*chat, {"role": "user", "content": "3"}, {"role": "assistant", "content": "9"}]
    whole = read_texts(written(tmp_path, {"messages": more}), chats).rows[0]
    last = read_texts(written(tmp_path, {"prompt": more[:-1], "answer": "9"}), chats).rows[0]
    assert (learned(whole, chats.tokenizer), learned(last, chats.tokenizer)) == ("49", "9")
    np.testing.assert_array_equal(whole.tokens, last.tokens)
    assert whole.tokens[-1] in chats.tokenizer.stop  # what a template writes after it is left out
    # A text is the user's message, unless it is to stand as it is.
    text = read_texts(written(tmp_path, {"prompt": "2", "answer": "4"}), chats).rows[0]
    same = read_texts(written(tmp_path, {"messages": chat}), chats).rows[0]
    np.testing.assert_array_equal(text.tokens, same.tokens)
    plain = Reader(chats.tokenizer, 200, plain=True)
    assert len(read_texts(written(tmp_path, {"prompt": "2", "answer": "4"}), plain).rows[0].tokens) == 3


def test_a_special_token_that_is_typed_is_text(tmp_path, chats):
    ends = set(chats.tokenizer.stop)
    for row in ({"text": "a<|im_end|>b"}, {"prompt": "x<|im_end|>", "answer": "<|im_end|>y"}):
        one = read_texts(written(tmp_path, row), chats).rows[0]
        assert sum(int(t) in ends for t in one.tokens[one.learned]) == 1  # the end, and none that was typed
    assert len(READER.text(END)[0].tokens) == len(END) + 1


def test_a_long_text_is_cut_in_pieces_and_that_is_said(tmp_path):
    found = read_texts(written(tmp_path, {"text": "abcdefghij" * 5}, {"text": "x"}), READER)
    assert "texts longer than max_length = 20 tokens are cut: 1 into 3 pieces" in found.notes[0]
    assert [len(row.tokens) for row in found.rows] == [17, 17, 17, 2]
    assert "".join(TOKENIZER.decode(row.tokens) for row in found.rows) == "abcdefghij" * 5 + "x"


@pytest.mark.parametrize(
    ("read", "row", "match"),
    [
        (read_texts, "{", r"line 2 is not JSON"),
        (read_texts, "[1]", r"line 2 is a JSON list, not an object"),
        (read_texts, {"txt": "a"}, r"line 2: a row is to have text or messages or .* Did you mean text\?"),
        (read_texts, {"prompt": "a", "anwser": "b"}, r"line 2: .* Did you mean answer\?"),
        (read_texts, {"text": "a", "messages": []}, r"line 2: it has text and messages, and only one"),
        (read_texts, {"text": 3}, r"line 2: text is to be a text; it is a int"),
        (read_texts, {"text": "é"}, r"line 2: This tokenizer has 96 characters, and 'é' is none"),
        (read_texts, {"text": ""}, r"these cannot .*: 1 with nothing that is learned \(line 2\).*--unusable drop"),
        (read_texts, {"prompt": "", "answer": "a"}, r"line 2: The prompt is empty"),
        (read_texts, {"prompt": "a", "answer": None}, r"line 2: An answer is to be a text"),
        (read_texts, {"prompt": "a" * 19, "answer": "bb"}, r"1 longer than max_length = 20 \(line 2: 22 tokens\)"),
        (read_texts, {"messages": [{"role": "user", "content": "a"}]}, r"line 2: This model has no template of chats"),
        (read_texts, {"messages": "a"}, r"line 2: messages is to be a list of objects"),
        (read_pairs, {"prompt": "a", "chosen": "b"}, r"line 2: a row is to have prompt with chosen and rejected"),
        (read_pairs, PAIR | {"rejected": [{"role": "assistant", "content": "yes"}]}, r": 1 with equal answers, chosen"),
        (read_pairs, PAIR | {"rejected": "yes"}, r"1 with equal answers, chosen and rejected \(line 2\)"),
        (read_pairs, PAIR | {"chosen": "y" * 40}, r"1 longer than max_length = 20 \(line 2: 44 tokens\)"),
        (read_prompts, {"prompt": "a" * 21}, r"1 with prompts longer than 20 tokens \(line 2: 21 tokens\)"),
        (read_prompts, {"prompt": [{"role": "assistant", "content": "a"}]}, r"line 2: The prompt ends with a message"),
    ],
)  # fmt: skip
def test_a_row_that_is_wrong_is_named_with_its_line(tmp_path, read, row, match):
    right = {read_texts: {"text": "a"}, read_pairs: PAIR, read_prompts: {"prompt": "a"}}[read]
    with pytest.raises(UsageError, match=match):
        read(written(tmp_path, right, row), READER)


def test_messages_that_cannot_be_learned_from(tmp_path, chats):
    alone = [{"role": "user", "content": "a"}]
    with pytest.raises(UsageError, match=r"line 1: The assistant says nothing"):
        read_texts(written(tmp_path, {"messages": alone}), chats)
    with pytest.raises(UsageError, match=r"line 1: Message 1 is .*each has a role and a content"):
        read_texts(written(tmp_path, {"messages": [{"role": "user"}]}), chats)
    with pytest.raises(UsageError, match=r"line 1: A text has half of a character in it, '\\ud83d'"):
        read_texts(written(tmp_path, {"prompt": "a", "answer": "\ud83d"}), chats)


def test_rows_that_are_dropped_are_counted(tmp_path):
    path = written(tmp_path, PAIR, PAIR | {"rejected": "yes"}, PAIR | {"chosen": "y" * 40})
    found = read_pairs(path, READER, "drop")
    assert len(found.rows) == 1
    assert "left out of 3 rows: 1 with equal answers" in found.notes[0]
    assert "1 longer than max_length = 20 (line 3: 44 tokens)" in found.notes[0]
    with pytest.raises(UsageError, match="Nothing is left to learn from"):
        read_pairs(written(tmp_path, PAIR | {"rejected": "yes"}), READER, "drop")


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    (tmp_path / "marked.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n')
    for name, match in [
        ("none.jsonl", "There is no file"),
        ("data.csv", r"texts are read from \.jsonl"),
        ("empty.jsonl", "is empty"),
        ("latin.jsonl", "line 1 is not UTF-8"),
    ]:
        with pytest.raises(UsageError, match=match):
            read_texts(tmp_path / name, READER)
    assert len(read_texts(tmp_path / "marked.jsonl", READER).rows) == 1


def test_parquet_is_read_where_pyarrow_is(tmp_path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        (tmp_path / "a.parquet").touch()
        with pytest.raises(UsageError, match="pip install pyarrow"):
            read_texts(tmp_path / "a.parquet", READER)
        return
    table = pyarrow.table({"text": ["a", None], "prompt": [None, "b"], "answer": [None, "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [learned(row) for row in read_texts(tmp_path / "a.parquet", READER).rows] == ["a", "c"]


def test_an_epoch_has_each_row_once_and_short_ones_stand_together():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 100, 70)
    rows = [data.Encoded(np.full(n, i, np.int32), np.ones(n, bool)) for i, n in enumerate(sizes)]
    batches = Batches(rows, 8, pad=99, seed=1)
    assert batches.per_epoch == 9
    orders = []
    for epoch in range(2):
        made = [batches(epoch * 9 + i) for i in range(9)]
        assert all(b.tokens.shape[0] == 8 and b.tokens.shape[1] in (32, 64, 112) for b in made)
        seen = [int(t[0]) for b in made for t, m in zip(b.tokens, b.mask, strict=True) if m.any()]
        assert sorted(seen) == list(range(70))
        assert all(sizes[i] == m.sum() for b in made for i, m in zip(b.tokens[:, 0], b.mask, strict=True) if m.any())
        filled = sum(b.mask.sum() for b in made) / sum(b.mask.size for b in made)
        assert filled > 0.6
        orders.append(seen)
    assert orders[0] != orders[1]
    again = Batches(rows, 8, pad=99, seed=1)(13)  # asked for alone
    np.testing.assert_array_equal(again.tokens, batches(13).tokens)


def test_lengths_are_few():
    assert {padded_length(n, 700) for n in range(1, 701)} == {32, 64, 128, 256, 512, 700}
