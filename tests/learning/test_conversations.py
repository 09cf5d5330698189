"""A number is guessed by a model that knew nothing: who does not listen to the replies wins two of three games."""

import pytest

from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial
from steersman.language.tokenizer import character_tokenizer
from steersman.run.language import models
from steersman.run.language.align import align
from steersman.run.language.measuring import measure
from steersman.run.language.models import LanguageModel

pytestmark = pytest.mark.learning

LETTERS = character_tokenizer("123-? higerlowanumb!")
SMALL = DecoderConfig(
    vocab_size=LETTERS.size, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=32
)  # fmt: skip


@pytest.mark.parametrize(("method", "more"), [("rloo", {}), ("ppo", {"group": 8, "num_epochs": 2})])
def test_replies_are_listened_to(method, more, tmp_path, monkeypatch):
    import jax

    model = LanguageModel(jax.jit(lambda: initial(SMALL, jax.random.key(0)))(), LETTERS)
    monkeypatch.setattr(models, "load_model", lambda name: model)
    monkeypatch.setattr("steersman.run.language.runs.load_model", lambda name: model)
    settings = {"updates": 120, "batch_size": 16, "learning_rate": 3e-3, "warmup": 0.0, "beta": 0.001, "turns": 2}
    settings |= {"max_new": 1, "max_length": 24, "evaluations": 0, "held_out": 0.0, "samples": 0}
    align(method, "small", "text/guess,most=3", out=tmp_path / "run", **settings | more)
    found = measure(tmp_path / "run", "text/guess,most=3", max_new=1, max_length=24, turns=2)
    assert found["reward"] > 0.95
