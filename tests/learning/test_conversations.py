"""A model that knew nothing learns to say again what it was told: who does not listen does so one time in three."""

import jax
import pytest

from steersman.language.config import DecoderConfig
from steersman.language.decoder import initial
from steersman.language.tokenizer import character_tokenizer
from steersman.run.language import runs
from steersman.run.language.align import align
from steersman.run.language.measuring import measure
from steersman.run.language.models import LanguageModel

pytestmark = pytest.mark.learning

LETTERS = character_tokenizer("abc?")
SMALL = DecoderConfig(
    vocab_size=LETTERS.size, width=32, layers=2, heads=4, kv_heads=2, head_size=8, hidden_size=64, context=16
)  # fmt: skip
TOLD = """
class Told:
    def reset(self, *, seed=None):
        self.word, self.first = "abc"[seed % 3], True
        return "?", {}
    def step(self, answer):
        first, self.first = self.first, False
        return self.word, float(not first and answer == self.word), not first, False, {}
"""


@pytest.mark.filterwarnings("ignore:.*were cut off")  # of the model that has learned nothing yet
@pytest.mark.parametrize(("method", "more"), [("rloo", {}), ("ppo", {"group": 8, "num_epochs": 2})])
def test_replies_are_listened_to(method, more, tmp_path, monkeypatch):
    (tmp_path / f"telling_{method}.py").write_text(TOLD)
    name = f"{tmp_path}/telling_{method}.py:Told"
    model = LanguageModel(jax.jit(lambda: initial(SMALL, jax.random.key(0)))(), LETTERS)
    monkeypatch.setattr(runs, "load_model", lambda name: model)
    settings = {"updates": 60, "batch_size": 16, "learning_rate": 3e-3, "warmup": 0.0, "beta": 0.01, "max_new": 2}
    settings |= {"max_length": 12, "evaluations": 0, "held_out": 0.0, "samples": 0}
    done = align(method, "small", name, out=tmp_path / "run", **settings | more)
    assert done.history[0]["reward"] < 0.4
    assert measure(tmp_path / "run", name, max_new=2, max_length=12)["reward"] > 0.95
