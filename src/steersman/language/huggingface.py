"""A decoder's configuration and weights by the names that Hugging Face's files give them, in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from steersman.errors import UsageError
from steersman.language.config import DecoderConfig
from steersman.language.decoder import Decoder, blocks_of, initial
from steersman.types import Array

READ = "gpt2, llama (SmolLM2 too), qwen2 (Qwen2.5 too), qwen3"

# The names of a layer's parts; GPT-2 keeps q, k and v as one array, and [in, out] where the others have [out, in].
_LLAMA = {
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_GPT2 = {
    "attention_norm": "ln_1",
    "q": "attn.c_attn",
    "k": "attn.c_attn",
    "v": "attn.c_attn",
    "o": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_TOPS = {"llama": ("embed_tokens", "layers", "norm"), "gpt2": ("wte", "h", "ln_f")}
_BUFFERS = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")  # of older files: no weights


def config_of(content: Mapping[str, Any]) -> DecoderConfig:
    """The configuration that a config.json says. Raises UsageError, by name, for what this decoder does not compute."""
    kind = content.get("model_type")
    if kind == "gpt2":
        return _gpt2(content)
    if kind not in ("llama", "qwen2", "qwen3"):
        raise UsageError(f"config.json is of a model of type {kind!r}; read are {READ}.")
    rope = {**(content.get("rope_scaling") or {}), **(content.get("rope_parameters") or {})}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    _refuse(content, scaling != "default", f"rope scaling {scaling!r}")
    _refuse(content, content.get("use_sliding_window", False), "a sliding window (use_sliding_window)")
    _refuse(content, content.get("hidden_act", "silu") != "silu", f"the activation {content.get('hidden_act')!r}")
    for name in ("attention_bias", "mlp_bias"):
        _refuse(content, content.get(name, False), name)
    heads, width = _of(content, "num_attention_heads"), _of(content, "hidden_size")
    return DecoderConfig(
        vocab_size=_of(content, "vocab_size"),
        width=width,
        layers=_of(content, "num_hidden_layers"),
        heads=heads,
        kv_heads=content.get("num_key_value_heads") or heads,
        head_size=content.get("head_dim") or width // heads,
        hidden_size=_of(content, "intermediate_size"),
        context=_of(content, "max_position_embeddings"),
        rotary_base=float(rope.get("rope_theta") or content.get("rope_theta") or 10_000.0),
        epsilon=float(_of(content, "rms_norm_eps")),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tied=bool(content.get("tie_word_embeddings", False)),
    )


def _gpt2(content: Mapping[str, Any]) -> DecoderConfig:
    act = content.get("activation_function", "gelu_new")
    _refuse(content, act not in ("gelu_new", "gelu_pytorch_tanh"), f"the activation {act!r}")
    _refuse(content, not content.get("scale_attn_weights", True), "scale_attn_weights = false")
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        _refuse(content, content.get(name, False), name)
    width, heads = _of(content, "n_embd"), _of(content, "n_head")
    return DecoderConfig(
        vocab_size=_of(content, "vocab_size"),
        width=width,
        layers=_of(content, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_size=width // heads,
        hidden_size=content.get("n_inner") or 4 * width,
        context=_of(content, "n_positions"),
        positions="learned",
        norm="layer",
        epsilon=float(content.get("layer_norm_epsilon", 1e-5)),
        mlp="gelu",
        qkv_bias=True,
        bias=True,
        tied=bool(content.get("tie_word_embeddings", True)),
    )


def _of(content: Mapping[str, Any], name: str) -> int:
    if name not in content:
        raise UsageError(f"config.json says no {name!r}, which a model of type {content['model_type']!r} has.")
    return content[name]


def _refuse(content: Mapping[str, Any], has: bool, what: str) -> None:
    if has:
        raise UsageError(
            f"This model of type {content['model_type']!r} has {what}, which the decoder does not compute."
        )


def family(config: DecoderConfig) -> str:
    """The model_type under which others open it. Raises UsageError for a mix of choices that none of them has."""
    gpt2 = (config.positions, config.norm, config.mlp, config.qkv_bias, config.bias) == (
        "learned", "layer", "gelu", True, True,
    )  # fmt: skip
    if gpt2 and not config.qk_norm and config.kv_heads == config.heads:
        return "gpt2"
    others = (config.positions, config.norm, config.mlp, config.bias) == ("rotary", "rms", "swiglu", False)
    if others and not (config.qkv_bias and config.qk_norm):
        return "qwen2" if config.qkv_bias else "qwen3" if config.qk_norm else "llama"
    raise UsageError(f"No family of models that others read is built like {config}.")


def config_json(config: DecoderConfig) -> dict[str, Any]:
    """The content of a config.json that transformers opens."""
    c, kind = config, family(config)
    shared = {"model_type": kind, "vocab_size": c.vocab_size, "tie_word_embeddings": c.tied, "torch_dtype": "float32"}
    if kind == "gpt2":
        return {
            **shared,
            "architectures": ["GPT2LMHeadModel"],
            **{"n_embd": c.width, "n_layer": c.layers, "n_head": c.heads, "n_inner": c.hidden_size},
            **{"n_positions": c.context, "n_ctx": c.context, "layer_norm_epsilon": c.epsilon},
            **{"activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        }
    return {
        **shared,
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"],
        **{"hidden_size": c.width, "num_hidden_layers": c.layers, "num_attention_heads": c.heads},
        **{"num_key_value_heads": c.kv_heads, "head_dim": c.head_size, "intermediate_size": c.hidden_size},
        **{"max_position_embeddings": c.context, "rope_theta": c.rotary_base, "rms_norm_eps": c.epsilon},
        **{"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    }


@dataclass(frozen=True)
class Place:
    """Where an array of a file goes: its name there, and how it is turned."""

    name: str
    transposed: bool = False
    part: int | None = None  # which third of GPT-2's q, k and v

    def read(self, arrays: Mapping[str, Array]) -> np.ndarray:
        array = np.asarray(arrays[self.name])
        if self.part is not None:
            array = np.split(array, 3, axis=-1)[self.part]
        return array.T if self.transposed else array


def places(config: DecoderConfig) -> Decoder:
    """The decoder's tree with, for each array, where in a file it lies."""
    kind = "gpt2" if family(config) == "gpt2" else "llama"
    embedding, layer, norm = _TOPS[kind]
    names = _GPT2 if kind == "gpt2" else _LLAMA
    shapes = jax.eval_shape(lambda: initial(config, jax.random.key(0)))

    def place(path: tuple[Any, ...], leaf: Any) -> Place:
        first = path[0].name
        if first == "embedding":
            return Place(f"{embedding}.weight")
        if first == "position_embedding":
            return Place("wpe.weight")
        if first == "head":
            return Place("lm_head.weight")
        end = "bias" if path[-1].name == "bias" else "weight"
        if first == "norm":
            return Place(f"{norm}.{end}")
        part = path[2].name
        third = "qkv".index(part) if kind == "gpt2" and part in ("q", "k", "v") else None
        return Place(f"{layer}.{path[1].idx}.{names[part]}.{end}", kind == "gpt2" and leaf.ndim == 2, third)

    return jax.tree_util.tree_map_with_path(place, shapes)


def plain(name: str) -> str:
    """A name without what models with a head put before it.

    >>> plain("model.layers.0.mlp.up_proj.weight"), plain("transformer.wte.weight"), plain("lm_head.weight")
    ('layers.0.mlp.up_proj.weight', 'wte.weight', 'lm_head.weight')
    """
    return name.removeprefix("model.").removeprefix("transformer.")


def decoder_of(config: DecoderConfig, arrays: Mapping[str, Array], dtype: Any = jnp.float32) -> Decoder:
    """A decoder with the weights of a file: every array is asked for once or, of GPT-2's q, k and v, three times.

    arrays: by their ``plain`` names; it may read on demand, and then one array at a time is held twice. Raises
    UsageError for an array that is missing, left over, or of another shape than the configuration says.
    """
    where, shapes = places(config), jax.eval_shape(lambda: initial(config, jax.random.key(0)))
    flat, treedef = jax.tree.flatten(shapes)
    spots: list[Place] = jax.tree.leaves(where)
    wanted = {spot.name for spot in spots}
    missing = sorted(wanted - set(arrays))
    spare = {"lm_head.weight"} if config.tied else set()  # some files repeat the embedding there
    over = sorted(n for n in set(arrays) - wanted - spare if not n.endswith(_BUFFERS))
    if missing or over:
        what = f"lacks {_some(missing)}" if missing else f"has {_some(over)}, which the decoder has no place for"
        raise UsageError(f"The weights do not fit the configuration, a {family(config)}: the file {what}.")

    def leaf(spot: Place, shape: jax.ShapeDtypeStruct) -> jax.Array:
        array = spot.read(arrays)
        if array.shape != shape.shape:
            raise UsageError(
                f"{spot.name} has shape {list(array.shape)}, and the configuration makes it {list(shape.shape)}"
                f"{' once transposed' if spot.transposed else ''}."
            )
        return jnp.asarray(np.ascontiguousarray(array), dtype)

    return jax.tree.unflatten(treedef, [leaf(*pair) for pair in zip(spots, flat, strict=True)])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def named(decoder: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """The weights under the names that transformers wants, one after another."""
    top = {"gpt2": "transformer."}.get(family(decoder.config), "model.")
    one_by_one = Decoder(
        decoder.embedding, decoder.position_embedding, tuple(blocks_of(decoder)), decoder.norm, decoder.head,
        decoder.config,
    )  # fmt: skip
    parts: dict[str, list[np.ndarray]] = {}
    for spot, leaf in zip(jax.tree.leaves(places(decoder.config)), jax.tree.leaves(one_by_one), strict=True):
        array = np.asarray(leaf).T if spot.transposed else np.asarray(leaf)
        name = spot.name if spot.name.startswith("lm_head") else top + spot.name
        if spot.part is None:
            yield name, np.ascontiguousarray(array)
        else:
            parts.setdefault(name, []).append(array)
            if len(parts[name]) == 3:
                yield name, np.concatenate(parts.pop(name), axis=-1)
