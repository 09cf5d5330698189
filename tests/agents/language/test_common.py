"""What every learner of texts holds to: padding, parts and devices change nothing; the base stands still."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from steersman.agents.language import METHODS, method
from steersman.agents.language.common import DescentConfig, LanguageConfig, Texts, gradient, rate
from steersman.errors import UsageError
from steersman.shards import sharded_over

SETTINGS = {"warmup": 0.0, "learning_rate": 1e-2, "batch_size": 4, "chunk": 5}


@cache
def trained(name, **more):
    what = method(name)
    trainer = what.trainer(what.config(**SETTINGS, **more), 10)
    return trainer._replace(init=jax.jit(trainer.init), update=jax.jit(trainer.update))


def close(a, b, atol=2e-6):
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol), a, b)


@pytest.fixture(params=[name for name in METHODS if method(name).learns_from != "prompts"])
def setting(request, batches):
    """A method's name, and a batch for it."""
    return request.param, batches[method(request.param).learns_from]


def test_what_stands_under_the_mask_changes_no_bit(setting, decoder, key):
    name, batch = setting
    trainer = trained(name, lora=2)
    other = lambda t: t._replace(tokens=np.where(t.mask, t.tokens, (t.tokens + 3) % 7).astype(np.int32))
    moved = jax.tree.map(other, batch, is_leaf=lambda x: isinstance(x, Texts))
    start = trainer.init(decoder, key)
    one, two = (trainer.update(start, decoder, b, key) for b in (batch, moved))
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(moved), strict=True))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert float(one[1]["gradient_norm"]) > 0.0


def test_rows_of_nothing_parts_and_layers_computed_again_change_nothing(setting, decoder, key):
    name, batch = setting
    whole, parts = trained(name, lora=2), trained(name, lora=2, accumulate=4, remat=True)
    start = whole.init(decoder, key)
    one = whole.update(start, decoder, batch, key)
    filled = jax.tree.map(lambda x: jnp.pad(jnp.asarray(x), ((0, 4), (0, 0))), batch)
    close(one, parts.update(start, decoder, filled, key))


def test_two_shards_are_one(decoder, batches, key):
    trainer, batch = trained("dpo", lora=2), batches["pairs"]
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("rows",), axis_types=(AxisType.Auto,))

    def local(*args):
        with sharded_over("rows"):
            return trainer.update(*args)

    whole, cut = PartitionSpec(), PartitionSpec("rows")
    both = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(whole, whole, cut, whole), out_specs=whole, check_vma=False)
    )
    start = trainer.init(decoder, key)
    close(both(start, decoder, batch, key), trainer.update(start, decoder, batch, key))


@pytest.mark.parametrize("part", [{"lora": 2}, {"last_layers": 1}, {}], ids=["low rank", "last", "full"])
def test_a_step_moves_what_is_trained_and_lowers_the_loss(part, decoder, batches, key):
    trainer, batch = trained("sft", **part), batches["texts"]
    learner, losses = trainer.init(decoder, key), []
    for _ in range(3):
        learner, metrics = trainer.update(learner, decoder, batch, key)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[1] < losses[0]
    model = jax.jit(trainer.model)(learner.params, decoder)
    assert jax.tree.structure(model) == jax.tree.structure(decoder)
    assert np.array_equal(model.embedding, decoder.embedding) == bool(part)
    assert not np.array_equal(model.blocks[0].q.weight, decoder.blocks[0].q.weight)
    assert int(learner.updates) == 3


def test_the_step_size_rises_and_falls():
    sizes = {
        decay: [round(float(rate(DescentConfig(learning_rate=1.0, warmup=0.2, decay=decay), jnp.int32(i), 10)), 3)
                for i in (0, 1, 5, 9)]
        for decay in ("cosine", "linear", "none")
    }  # fmt: skip
    assert sizes == {"cosine": [0.5, 0.976, 0.5, 0.024], "linear": [0.5, 0.9, 0.5, 0.1], "none": [0.5, 1.0, 1.0, 1.0]}


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lora": 4, "last_layers": 2}, "Give one"),
        ({"batch_size": 8, "accumulate": 3}, "does not go into accumulate = 3 equal parts"),
        ({"decay": "cosin"}, "Did you mean cosine"),
        ({"learning_rate": 0.0}, "above 0"),
    ],
)
def test_settings_that_do_not_go_are_refused(settings, match):
    with pytest.raises(UsageError, match=match):
        LanguageConfig(**settings)


def test_rows_that_do_not_go_into_parts_are_refused(batches):
    with pytest.raises(UsageError, match="4 rows on each device do not go into accumulate = 3"):
        gradient(lambda *_: None, None, None, batches["texts"], 3)


def test_a_method_that_is_none_is_told_its_name():
    with pytest.raises(UsageError, match="Did you mean dpo"):
        method("dop")
