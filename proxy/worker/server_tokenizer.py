"""The child's tokenizer and chat template, called as the child calls them.

The counts equal the child's `usage.prompt_tokens` by construction: the tokenizer is loaded as in
`mlx_lm.server.ModelProvider._load` and called as in `mlx_lm.server.ResponseGenerator._tokenize`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.prompt.characters import characters
from proxy.request.images import image_urls
from proxy.worker.images import ServerImages
from proxy.worker.jinja_speedup import fast_lookups
from proxy.worker.render_cache import RenderCache
from proxy.worker.segment_check import checked_segments
from proxy.worker.segments import common_prefix
from proxy.worker.template_probes import probe_template

#: Keys of the longest context in config.json, by model family (gpt2, chatglm, mpt...).
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
#: Prompts up to this many characters are always counted exactly. Encoding takes about a second and half a
#: gigabyte per million tokens, and the machine's memory belongs to the model.
_EXACT_CHARACTERS = 1_000_000
#: Tokens are rarely longer on average; a text of this many characters per token of the limit is far over it.
_CHARACTERS_PER_TOKEN = 16
#: Context lengths from here on mean "unknown": transformers writes 10**30 if a tokenizer gives no length.
_UNKNOWN_CONTEXT = 10**9


def server_options(argv: Sequence[str]) -> argparse.Namespace:
    """The flags of `mlx_lm.server` that change how a prompt is made; all others are ignored.

    Abbreviations work as in the server. Raises ValueError for a flag that the server would refuse.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--chat-template", default="")
    parser.add_argument("--chat-template-args", type=json.loads, default="{}")
    parser.add_argument("--use-default-chat-template", action="store_true")
    parser.add_argument("--trust-remote-code", action="store_true")
    try:
        return parser.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def config_number(config: dict[str, Any], *keys: str) -> int | None:
    """The first of these numbers in a config.json, or in the language model's part of a multimodal one."""
    for key in keys:
        for section in (config, config.get("text_config")):
            value = section.get(key) if isinstance(section, dict) else None
            if type(value) is int and value > 0:
                return value
    return None


def context_length(config: dict[str, Any], model_max_length: Any) -> int | None:
    """The longest context in tokens, from the model's config, else from its tokenizer, else None.

    The tokenizer's number comes second, because it is often that of another model of the family.
    """
    if (length := config_number(config, *_CONTEXT_KEYS)) is not None:
        return length
    sane = type(model_max_length) is int and 0 < model_max_length < _UNKNOWN_CONTEXT
    return model_max_length if sane else None


class ServerTokenizer:
    """One loaded tokenizer. A *prompt* here is the fields of a request body that determine it."""

    def __init__(self, model_path: Path, argv: Sequence[str], most_pixels: int = 0) -> None:
        """Load from a local folder; `most_pixels` is the limit for all images of one prompt together.

        Raises whatever transformers and mlx_lm raise.
        """
        # Imported here: it takes seconds, and a worker that cannot import must still be able to report it.
        from mlx_lm import server, utils  # noqa: PLC0415 - imports mlx

        options = server_options(argv)
        extra = {"trust_remote_code": options.trust_remote_code}
        if options.chat_template:
            extra["chat_template"] = options.chat_template
        self._server = server
        self._config = utils.load_config(model_path)
        self._images = ServerImages(server, self._config, most_pixels)
        self._template_args = options.chat_template_args
        self.wrapper = utils.load_tokenizer(
            model_path, extra, eos_token_ids=self._config.get("eos_token_id", None)
        )
        if options.use_default_chat_template and self.wrapper.chat_template is None:
            self.wrapper.chat_template = self.wrapper.default_chat_template
        #: The rendered text, for segments and estimates; some tokenizers change it as they encode.
        self.render = RenderCache(self._render)
        self.segments = checked_segments(self.wrapper, self._template_args, self.encode, self.render)

    def info(self) -> dict[str, Any]:
        """The fields of `proxy.prompt.counter.TokenizerInfo`."""
        wrapper = self.wrapper
        return {
            "vocab_size": config_number(self._config, "vocab_size") or len(wrapper),
            "context_length": context_length(self._config, getattr(wrapper, "model_max_length", None)),
            "has_chat_template": bool(wrapper.has_chat_template),
            "has_tool_calling": bool(wrapper.has_tool_calling),
            "has_thinking": bool(wrapper.has_thinking),
            "incremental": self.segments is not None,
            "template": probe_template(self.render) if wrapper.has_chat_template else {},
            "image_obstacle": self._images.obstacle(has_chat_template=bool(wrapper.has_chat_template)),
        }

    def count(self, prompt: dict[str, Any], limit: int | None, *, incremental: bool) -> int:
        """Number of tokens, by encoding what is new in the prompt, or all of it.

        Exact, unless the prompt has more than twice `limit` tokens and much of it is new; then it is
        extrapolated.
        """
        huge = None if limit is None else max(_EXACT_CHARACTERS, limit * _CHARACTERS_PER_TOKEN)
        if incremental and self.segments is not None and "messages" in prompt:
            count = self.segments.count(self.render(prompt), huge)
            if count is not None:
                return count
        if huge is not None and limit is not None and _characters(prompt) > huge:
            text = self.render(prompt)
            start = len(self.wrapper.encode(text[:huge], add_special_tokens=False))
            if start > 2 * limit:
                return start * len(text) // huge
        return len(self.encode(prompt))

    def shared(self, prompt: dict[str, Any], other: dict[str, Any], *, incremental: bool) -> int:
        """Length of the common prefix of two prompts, in tokens."""
        if incremental and self.segments is not None and "messages" in prompt:
            return self.segments.shared(self.render(prompt), self.render(other))
        return common_prefix(self.encode(prompt), self.encode(other))

    def encode(self, prompt: dict[str, Any]) -> list[int]:
        """The token ids that the child will see.

        Has the branches of `ResponseGenerator._tokenize`, and changes messages in place as it does.
        """
        if "prompt" in prompt:
            return list(self.wrapper.encode(prompt["prompt"]))
        if not self.wrapper.has_chat_template:
            return list(self.wrapper.encode(self._converted(prompt)))
        if image_urls(prompt["messages"]):
            return list(self.wrapper.encode(self.render(prompt), add_special_tokens=False))
        return list(self._apply_template(prompt, tokenize=True))

    def _converted(self, prompt: dict[str, Any]) -> str:
        """The text of a conversation for a model without a template."""
        return str(self._server.convert_chat(prompt["messages"], prompt.get("role_mapping")))

    def _render(self, prompt: dict[str, Any]) -> str:
        if "prompt" in prompt:
            return str(prompt["prompt"])
        if not self.wrapper.has_chat_template:
            return self._converted(prompt)
        urls = image_urls(prompt["messages"])
        with fast_lookups():
            text = str(self._apply_template(prompt, tokenize=False, images=bool(urls)))
        return self._images.expand(text, urls) if urls else text

    def _apply_template(self, prompt: dict[str, Any], *, tokenize: bool, images: bool = False) -> Any:
        # Older servers have no such argument, but there no prompt has images.
        keep = {"keep_images": True} if images else {}
        self._server.process_message_content(prompt["messages"], **keep)
        return self.wrapper.apply_chat_template(
            prompt["messages"],
            add_generation_prompt=True,
            tools=prompt.get("tools") or None,
            tokenize=tokenize,
            **{**self._template_args, **prompt.get("chat_template_kwargs", {})},
        )

    def trim(self, text: str, head: int, limit: int) -> tuple[str, int]:
        """`text` without its middle, and its exact count, which is at most `limit`.

        Keeps the first `head` tokens, and as many of the last as fit. Cuts the text at token borders, so
        nothing is decoded. Encoding the two parts together may merge or split tokens at the seam, hence the
        loop.
        """
        each = limit * _CHARACTERS_PER_TOKEN
        if len(text) > max(_EXACT_CHARACTERS, 2 * each):  # the cut would remove its middle anyway
            text = text[:each] + text[-each:]
        spans = self._spans(text)
        kept = limit
        while True:
            front = spans[: min(head, kept)]
            back = spans[max(len(front), len(spans) - (kept - len(front))) :]
            end, start = (front[-1][1] if front else 0), (back[0][0] if back else len(text))
            shorter = text[:end] + text[max(start, end) :]
            count = len(self.wrapper.encode(shorter))
            if count <= limit or kept == 0:
                return shorter, count
            kept = max(0, kept - (count - limit))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token of `text` in characters, without tokens that the tokenizer adds."""
        # The wrapper passes on attributes, but not calls.
        encoded = self.wrapper._tokenizer(text, return_offsets_mapping=True)
        return [(start, end) for start, end in encoded["offset_mapping"] if end > start]


def _characters(prompt: dict[str, Any]) -> int:
    """A cheap estimate of the prompt's length in characters, tools and arguments of calls included."""
    return characters([value for name, value in prompt.items() if name in ("prompt", "messages", "tools")])
