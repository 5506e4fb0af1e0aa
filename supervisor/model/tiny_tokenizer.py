"""The tokenizer of the embedded model: a byte-level BPE, trained on a text that comes with the package.

Its files are written one by one, without `save_pretrained`, so that the bytes depend only on the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
#: Ends the generation prompt of a scripted model if tools are offered and the last turn is not a tool result.
USE_TOOL = "<|use_tool|>"
USE_TOOL_TEMPLATE = (
    "{%- if add_generation_prompt and tools and messages[-1].role != 'tool' %}"
    f"{{{{- '{USE_TOOL}' }}}}"
    "{%- endif %}"
)

# <think> makes mlx_lm see a thinking model, <tool_call> one that calls tools. As in the models these
# markers come from, they are added tokens but not "special": decoding with skip_special_tokens keeps them.
_SPECIAL = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, USE_TOOL)
_MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

_CORPUS = Path(__file__).with_name("tiny_corpus.txt")
_TEMPLATE = Path(__file__).with_name("tiny_template.jinja")


@dataclass(frozen=True, slots=True)
class TinyTokenizer:
    """A tokenizer's files and the tokens that the weights are made for."""

    files: dict[str, str]  # texts by file name
    ids: dict[str, int]  # token ids by spelling in the vocabulary
    readable: tuple[int, ...]  # tokens that are printable text by themselves
    scripts: tuple[tuple[int, ...], ...]  # the texts given to `build`, as tokens that are all different


def build(vocab: int, texts: Sequence[str], context: int) -> TinyTokenizer:
    """Train a vocabulary of at most `vocab` entries, and add entries from which `texts` can be generated.

    No merge leads to the added entries, so no prompt is ever encoded with them.
    """
    trained = _train(vocab - len(_SPECIAL) - len(_MARKERS))
    known: dict[str, int] = trained["model"]["vocab"]
    cuts = _cut(texts, known)
    for spelling in dict.fromkeys(piece for cut in cuts for piece in cut):
        known.setdefault(spelling, len(known))
    ids = known | {token: len(known) + index for index, token in enumerate(_SPECIAL + _MARKERS)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    trained["added_tokens"] = [
        {"id": ids[token], "content": token, **flags, "special": token in _SPECIAL}
        for token in _SPECIAL + _MARKERS
    ]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # with any other, transformers builds its own splitting
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "tokenizer.json": json.dumps(trained, ensure_ascii=False, indent=1),
        "tokenizer_config.json": json.dumps(config, indent=1),
        "chat_template.jinja": _TEMPLATE.read_text(encoding="utf-8"),
    }
    readable = tuple(index for spelling, index in known.items() if _is_readable(spelling))
    return TinyTokenizer(files, ids, readable, tuple(tuple(ids[piece] for piece in cut) for cut in cuts))


def _cut(texts: Sequence[str], known: Mapping[str, int]) -> list[list[str]]:
    """Cut texts into pieces, spelled as in a vocabulary, that are new to it and all different.

    Pieces have 4 characters, or more where that is needed; a rest at the end joins the piece before it.
    """
    taken = set(known)
    cuts = []
    for text in texts:
        cut: list[str] = []
        start = 0
        for end in range(1, len(text) + 1):
            piece = _spell(text[start:end])
            if end - start >= 4 and piece not in taken:
                taken.add(piece)
                cut.append(piece)
                start = end
        if start < len(text):
            cut.append((cut.pop() if cut else "") + _spell(text[start:]))
        cuts.append(cut)
    return cuts


def _train(size: int) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    # Single digits and no added leading space, as in most current models.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_text(size), trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


def _text(size: int) -> Iterator[str]:
    """Yield the corpus, which yields some 1,700 entries, then a made-up word for each further entry."""
    yield from _CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)
    syllables = [
        first + vowel for first in "bcdfghjklmnprstvwz" for vowel in ("a", "e", "i", "o", "u", "ai", "ou")
    ]
    count = len(syllables)
    for index in range(max(0, size - 1700)):
        # Three syllables, chosen in steps that are coprime to their number, so that no word repeats.
        parts = (index, index // count * 5 + index, index // count**2 + index * 11)
        yield " " + "".join(syllables[part % count] for part in parts)


def _spell(text: str) -> str:
    """Spell the text as byte-level BPE does in its vocabulary: one printable character for each byte."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(part for part, _ in splitter.pre_tokenize_str(text))


def _is_readable(spelling: str) -> bool:
    text = decoders.ByteLevel().decode([spelling])
    return "\ufffd" not in text and all(char.isprintable() or char == "\n" for char in text)
