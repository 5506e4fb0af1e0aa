"""Counts prompt tokens with the server's own code; a process of its own: `python -m proxy.tokenizer_worker`.

Own process, because the server's modules import mlx, tokenizers hold the interpreter lock while they encode,
and a model may bring remote code. The counts equal the child's `usage.prompt_tokens` by construction:
the tokenizer is loaded as `mlx_lm.server.ModelProvider._load` loads it and called as
`mlx_lm.server.ResponseGenerator._tokenize` calls it.

Speaks `proxy.frames` on its standard input and output. A request is `{"id", "op", ...}`, an answer
`{"id", "result"}` or `{"id", "error": {"kind", "message"}}`. It ends when its input does, so that it never
outlives the gateway, however that ended.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from proxy import frames

#: Names of the longest context in config.json, by model family (gpt2, chatglm, mpt...).
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
#: transformers writes 10**30 where a tokenizer names no length.
_LONGEST_SANE_CONTEXT = 10**9


def server_options(argv: Sequence[str]) -> argparse.Namespace:
    """The flags of `mlx_lm.server` that change what a prompt is; all others are passed over.

    Abbreviations work as they do there. Raises ValueError for a flag that the server would refuse.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--chat-template", default="")
    parser.add_argument("--chat-template-args", type=json.loads, default="{}")
    parser.add_argument("--use-default-chat-template", action="store_true")
    parser.add_argument("--trust-remote-code", action="store_true")
    try:
        options, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    return options


def configured(config: dict[str, Any], *keys: str) -> int | None:
    """The first of these numbers in a config.json; multimodal models have their language model's deeper."""
    for key in keys:
        for section in (config, config.get("text_config")):
            value = section.get(key) if isinstance(section, dict) else None
            if type(value) is int and value > 0:
                return value
    return None


def context_length(config: dict[str, Any], model_max_length: Any) -> int | None:
    """Longest context in tokens: what the model was made for, else what its tokenizer says, else None.

    The tokenizer's number comes second: it is often that of another model of the family.
    """
    if (length := configured(config, *_CONTEXT_KEYS)) is not None:
        return length
    sane = type(model_max_length) is int and 0 < model_max_length < _LONGEST_SANE_CONTEXT
    return model_max_length if sane else None


class Tokenizer:
    """The child's tokenizer and chat template."""

    def __init__(self, model_path: Path, argv: Sequence[str]) -> None:
        """Load from a local folder. Raises whatever transformers and mlx_lm raise for a bad one."""
        # Imported here: it takes seconds, and a worker that cannot import must still be able to say so.
        from mlx_lm import server, utils  # noqa: PLC0415

        options = server_options(argv)
        extra = {"trust_remote_code": options.trust_remote_code}
        if options.chat_template:
            extra["chat_template"] = options.chat_template
        self._server = server
        self._config = utils.load_config(model_path)
        self._template_args = options.chat_template_args
        self._wrapper = utils.load_tokenizer(
            model_path, extra, eos_token_ids=self._config.get("eos_token_id", None)
        )
        if options.use_default_chat_template and self._wrapper.chat_template is None:
            self._wrapper.chat_template = self._wrapper.default_chat_template

    def info(self) -> dict[str, Any]:
        """What `proxy.tokens.TokenizerInfo` holds."""
        wrapper = self._wrapper
        return {
            "vocab_size": configured(self._config, "vocab_size") or len(wrapper),
            "context_length": context_length(self._config, getattr(wrapper, "model_max_length", None)),
            "has_chat_template": bool(wrapper.has_chat_template),
            "has_tool_calling": bool(wrapper.has_tool_calling),
            "has_thinking": bool(wrapper.has_thinking),
        }

    def encode(self, prompt: dict[str, Any]) -> list[int]:
        """The token ids that the child will see. `prompt`: the fields of a request body that make the prompt.

        The same branches as `ResponseGenerator._tokenize`; messages are changed in place, as there.
        """
        if "prompt" in prompt:
            return list(self._wrapper.encode(prompt["prompt"]))
        messages = prompt["messages"]
        if not self._wrapper.has_chat_template:
            return list(self._wrapper.encode(self._server.convert_chat(messages)))
        self._server.process_message_content(messages)
        return list(
            self._wrapper.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tools=prompt.get("tools") or None,
                tokenize=True,
                **{**self._template_args, **prompt.get("chat_template_kwargs", {})},
            )
        )

    def trim(self, text: str, head: int, limit: int) -> tuple[str, int]:
        """`text` without tokens from its middle, and its exact count, which is at most `limit`.

        The first `head` tokens stay, and as many of the last as fit. Cuts at token borders of the text, so
        nothing is decoded; encoding the two parts together may merge or split at the seam, hence the loop.
        """
        spans = self._spans(text)
        kept = limit
        while True:
            front = spans[: min(head, kept)]
            back = spans[max(len(front), len(spans) - (kept - len(front))) :]
            end, start = (front[-1][1] if front else 0), (back[0][0] if back else len(text))
            shorter = text[:end] + text[max(start, end) :]
            count = len(self._wrapper.encode(shorter))
            if count <= limit or kept == 0:
                return shorter, count
            kept = max(0, kept - (count - limit))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `text` begins and ends, in characters; what the tokenizer adds is left out."""
        # The wrapper passes on attributes, not the call itself.
        encoded = self._wrapper._tokenizer(text, return_offsets_mapping=True)
        return [(start, end) for start, end in encoded["offset_mapping"] if end > start]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _run(tokenizer: Tokenizer, request: dict[str, Any]) -> Any:
    match request["op"]:
        case "count":
            return len(tokenizer.encode(request["prompt"]))
        case "shared":
            return _shared(tokenizer.encode(request["prompt"]), tokenizer.encode(request["other"]))
        case "trim":
            return tokenizer.trim(request["text"], request["head"], request["limit"])
    raise ValueError("unknown operation")


def _answer(tokenizer: Tokenizer, request: dict[str, Any]) -> dict[str, Any]:
    """Whatever a template or a tokenizer raises is an answer: the child would refuse the request too."""
    try:
        return {"id": request["id"], "result": _run(tokenizer, request)}
    except Exception as error:  # noqa: BLE001
        return _failure(request["id"], error)


def _failure(request_id: int, error: BaseException) -> dict[str, Any]:
    return {"id": request_id, "error": {"kind": type(error).__name__, "message": str(error)}}


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """The frames' own copies of standard input and output.

    From here on libraries that print go to standard error, and one that asks a question reads nothing.
    """
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return source, sink


def _read_into(requests: queue.SimpleQueue[Any], source: BinaryIO) -> NoReturn:
    """Reader thread: sees the end of the input even while a count runs, and ends the process there."""
    while (request := frames.read(source)) is not None:
        requests.put(request)
    os._exit(0)


def _load(request: dict[str, Any]) -> tuple[Tokenizer | None, dict[str, Any]]:
    """The tokenizer and the answer about it; no tokenizer where the answer is an error."""
    try:
        tokenizer = Tokenizer(Path(request["model_path"]), request["server_argv"])
        return tokenizer, {"id": request["id"], "result": tokenizer.info()}
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a model's module may exit at import: olmo)
        return None, _failure(request["id"], error)


def main() -> NoReturn:
    """First frame in: `{"id", "model_path", "server_argv"}`; first frame out: the tokenizer's info."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gateway still drains
    source, sink = _private_streams()
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_into, args=(requests, source), daemon=True).start()
    tokenizer, answer = _load(requests.get())
    while True:
        sink.write(frames.encode(answer))
        sink.flush()
        if tokenizer is None:
            os._exit(1)  # not sys.exit: the reader thread sits in a read that Python would wait for
        answer = _answer(tokenizer, requests.get())


if __name__ == "__main__":
    main()
