"""Small models, made from the embedded one, with the tokenizers and chat templates that are in use.

The tokenizers differ in what could go wrong when a prompt is counted in segments: prefixes of words, how
added tokens treat their neighbours, normalizers, byte fallback. The templates differ in what they accept and
rewrite.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.support.conversations import ANYTHING, Style

_CORPUS = Path(__file__).parents[2] / "supervisor" / "model" / "tiny_corpus.txt"
_TEMPLATES = Path(__file__).parent / "templates"
#: Trained vocabulary entries; together with bytes and added tokens they stay below the embedded model's 1024.
_TRAINED = 600
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

_MARKERS = (
    "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁output｜>", "<|im_start|>", "<|im_end|>",
    "<think>", "</think>", "[INST]", "[/INST]",
)  # fmt: skip


_RENDERING = """
from transformers import PreTrainedTokenizerFast


class Rendering(PreTrainedTokenizerFast):
    def apply_chat_template(self, conversation, tools=None, tokenize=True, thinking=False, **_):
        text = "".join(f"<s>{m['role']}\\n{m['content']}" for m in conversation)
        text += "<think>" if thinking else ""
        return self.encode(text, add_special_tokens=False) if tokenize else text
"""


def _trained(model: models.Model, trainer: trainers.Trainer, **parts: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(_CORPUS.read_text(encoding="utf-8").splitlines(keepends=True), trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def _bpe(alphabet: Sequence[str] = ()) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=_TRAINED, initial_alphabet=list(alphabet), show_progress=False)


def byte_level() -> dict[str, Any]:
    """GPT-2, Llama 3, Qwen: bytes, no marker for spaces."""
    return _trained(
        models.BPE(),
        _bpe(sorted(pre_tokenizers.ByteLevel.alphabet())),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def byte_level_with_prefix() -> dict[str, Any]:
    """The same, with NFC and a space in front of every piece that has none."""
    return _trained(
        models.BPE(),
        _bpe(sorted(pre_tokenizers.ByteLevel.alphabet())),
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
        decoder=decoders.ByteLevel(),
    )


def _with_bytes(content: dict[str, Any]) -> dict[str, Any]:
    vocab = content["model"]["vocab"]
    for name in _BYTES:
        vocab.setdefault(name, len(vocab))
    content["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": None}
    return content


def metaspace(scheme: str) -> Callable[[], dict[str, Any]]:
    """SentencePiece BPE: a marker for spaces, prepended "first" (to the text only) or "always"."""

    def make() -> dict[str, Any]:
        split = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        return _with_bytes(_trained(models.BPE(), _bpe(), pre_tokenizer=split))

    return make


def legacy() -> dict[str, Any]:
    """Llama 2: a normalizer prepends the marker to every piece; there is no pre-tokenizer."""
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    content = _trained(models.BPE(), _bpe(), pre_tokenizer=pre_tokenizers.Metaspace())
    content["pre_tokenizer"] = None
    content["normalizer"] = json.loads(normalizers.Sequence(steps).__getstate__())
    return _with_bytes(content)


def unigram(scheme: str) -> Callable[[], dict[str, Any]]:
    """SentencePiece Unigram: the best of many splits of a piece, after NFKC and joining spaces."""

    def make() -> dict[str, Any]:
        trainer = trainers.UnigramTrainer(
            vocab_size=_TRAINED, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
        content = _trained(
            models.Unigram(),
            trainer,
            normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme),
        )
        content["added_tokens"] = []
        return content

    return make


TOKENIZERS: dict[str, Callable[[], dict[str, Any]]] = {
    "byte level": byte_level,
    "byte level, prefix": byte_level_with_prefix,
    "metaspace first": metaspace("first"),
    "metaspace always": metaspace("always"),
    "legacy": legacy,
    "unigram first": unigram("first"),
    "unigram always": unigram("always"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One model. `flags` are those of its added tokens; `incremental`: whether it is counted by segments."""

    name: str
    tokenizer: str
    template: str
    style: Style = ANYTHING
    incremental: bool = True
    flags: tuple[tuple[str, bool], ...] = ()
    markers: tuple[str, ...] = _MARKERS
    config: tuple[tuple[str, Any], ...] = ()

    def make(self, base: Path, folder: Path) -> Path:
        """Make the model in `folder` from the embedded one in `base`, unless it exists."""
        if folder.exists():
            return folder
        fresh = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(base, fresh, ignore=shutil.ignore_patterns("*.jinja", "tokenizer*"))
        content = TOKENIZERS[self.tokenizer]()
        content["added_tokens"] = self.added(content)
        (fresh / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        (fresh / "tokenizer_config.json").write_text(json.dumps(config | dict(self.config)), encoding="utf-8")
        if self.template:
            shutil.copy(_TEMPLATES / f"{self.template}.jinja", fresh / "chat_template.jinja")
        (fresh / "rendering.py").write_text(_RENDERING, encoding="utf-8")
        fresh.rename(folder)
        return folder

    def added(self, content: dict[str, Any]) -> list[dict[str, Any]]:
        """The entries of the added vocabulary, after those of `content`."""
        size = len(content["model"]["vocab"])
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | dict(self.flags)
        return [
            {"id": size + index, "content": marker, **flags, "special": True}
            for index, marker in enumerate(self.markers)
        ]


_TALK, _SPOKEN = Style(system=False, tools=False), Style(tools=False)
KINDS = (
    Kind("headers-bytes", "byte level", "headers"),
    Kind("headers-prefix", "byte level, prefix", "headers"),
    Kind("headers-unigram", "unigram first", "headers"),
    Kind("alternating-metaspace", "metaspace first", "alternating", _SPOKEN),
    Kind("alternating-unigram", "unigram always", "alternating", _SPOKEN),
    Kind("no-system-metaspace", "metaspace always", "no_system", _TALK),
    Kind("plain-legacy", "legacy", "plain_markers", _SPOKEN, markers=("<s>", "</s>")),
    Kind("thinking-unigram", "unigram always", "thinking"),
    Kind("thinking-bytes", "byte level", "thinking"),
    # As in Phi 3: tokens that absorb the spaces behind them.
    Kind("right-stripping", "byte level", "headers", flags=(("rstrip", True),)),
    # These are counted in full.
    Kind("left-stripping", "byte level", "headers", incremental=False, flags=(("lstrip", True),)),
    Kind("single-words", "metaspace first", "thinking", incremental=False, flags=(("single_word", True),)),
    Kind("normalized", "unigram first", "thinking", incremental=False, flags=(("normalized", True),)),
    # A tokenizer class that mlx_lm registers.
    Kind("newlines", "byte level", "headers", config=(("tokenizer_class", "NewlineTokenizer"),)),
    # A tokenizer class that comes with the model and renders by itself; its argument is called `thinking`.
    Kind(
        "remote-code",
        "byte level",
        "",
        _SPOKEN,
        incremental=False,
        config=(
            ("tokenizer_class", "Rendering"),
            ("auto_map", {"AutoTokenizer": [None, "rendering.Rendering"]}),
        ),
    ),
    # A renderer of mlx_lm.chat_templates instead of a Jinja template.
    Kind("renderer", "byte level", "", _SPOKEN, config=(("chat_template_type", "deepseek_v32"),)),
)
