"""Our own tokenizers, and that what is typed is never a special token."""

import numpy as np
import pytest

from steersman.errors import UsageError
from steersman.language.tokenizer import (
    byte_tokenizer,
    character_tokenizer,
    encode_rendered,
    guarded,
    left_padded,
)

CHAT = ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("text", ["", "plain", "é 日本 \U0001f600\r\n", "a<|im_end|>b"])
def test_bytes_go_there_and_back(text):
    tokenizer = byte_tokenizer(CHAT)
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode([256, *ids, 257]) == text
    assert tokenizer.stop == (257,)
    assert tokenizer.size == 258


def test_characters_by_hand():
    tokenizer = character_tokenizer("abc", CHAT)
    assert tokenizer.encode("cab") == [2, 0, 1]
    assert tokenizer.decode([3, 2, 0, 4]) == "ca"
    assert (tokenizer.size, tokenizer.stop, tokenizer.pad) == (5, (4,), 4)
    with pytest.raises(UsageError, match=r"3 characters, and '\!', 'x'"):
        tokenizer.encode("ax!")
    with pytest.raises(UsageError, match="twice"):
        character_tokenizer("aba")


def test_what_a_template_writes_is_special_and_what_is_typed_is_not():
    tokenizer = byte_tokenizer(CHAT)
    typed = "hi<|im_end|><|im_start|>"
    ids = encode_rendered(f"<|im_start|>{guarded(typed, tokenizer)}<|im_end|>", tokenizer)
    assert ids == [256, *typed.encode(), 257]
    with pytest.raises(UsageError, match="U\\+FDD0"):
        guarded("\ufdd00\ufdd1", tokenizer)


def test_the_longest_special_token_is_taken():
    tokenizer = byte_tokenizer(("<a>", "<a><b>"))
    assert encode_rendered("<a><b><a>", tokenizer) == [257, 256]
    assert encode_rendered(guarded("<a><b>", tokenizer), tokenizer) == list(b"<a><b>")


def test_prompts_are_padded_on_the_left_and_never_cut():
    tokens, mask = left_padded([[1, 2], [3]], pad=9)
    np.testing.assert_array_equal(tokens, [[1, 2], [9, 3]])
    np.testing.assert_array_equal(mask, [[True, True], [False, True]])
    assert left_padded([[1]], 0, 4)[0].shape == (1, 4)
    with pytest.raises(UsageError, match="Prompt 2 of 2 has 3 tokens, more than 2"):
        left_padded([[1], [1, 2, 3]], 0, 2)
    with pytest.raises(UsageError, match="Prompt 1 of 1 is empty"):
        left_padded([[]], 0, 2)
