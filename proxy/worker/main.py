"""The worker process `python -m proxy.worker.main`: answers requests of the gateway one after the other.

It speaks `proxy.prompt.frames` on its standard input and output. A frame in is a list of requests `{"id",
"op", ...}`; a frame out is one answer `{"id", "result"}` or `{"id", "error": {"kind", "message"}}`. A request
whose id is null is a notification and gets no answer. The first frame must be `[{"id", "model_path",
"server_argv", "most_pixels"}]`; its result is the tokenizer's info.

The process ends when its input ends, or when the pipe (lifeline) closes whose descriptor is its argument. A
thread watches the lifeline, so this works while a count runs. The worker never outlives the gateway.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from proxy.prompt import frames
from proxy.prompt.conversation_delta import PROMPTS, Receiver
from proxy.worker.cache_predictor import CachePredictor
from proxy.worker.json_check import json_problem
from proxy.worker.prompt_ids import PromptIds
from proxy.worker.server_tokenizer import ServerTokenizer

log = logging.getLogger("mlxguard.tokenizer")

#: Niceness of this process: where processors are scarce, the gateway, which relays every stream, goes first.
_NICENESS = 5


def _run(tokenizer: ServerTokenizer, predictor: CachePredictor, request: dict[str, Any]) -> Any:
    match request["op"]:
        case "count":
            return tokenizer.count(request["prompt"], request["limit"], incremental=request["incremental"])
        case "count_and_predict":
            prompt, limit = request["prompt"], request["limit"]
            count = tokenizer.count(prompt, limit, incremental=request["incremental"])
            exact = limit is None or count <= limit  # a longer prompt is not sent as it is
            return count, _prediction(predictor, request, prompt) if exact else None
        case "shared":
            return tokenizer.shared(request["prompt"], request["other"], incremental=request["incremental"])
        case "trim":
            return tokenizer.trim(request["text"], request["head"], request["limit"])
        case "json_problem":
            return json_problem(request["schema"], request["value"])
        case "predictor":
            return predictor.answer(request)
    raise ValueError("unknown operation")


def _prediction(
    predictor: CachePredictor, request: dict[str, Any], prompt: dict[str, Any]
) -> dict[str, Any] | None:
    """A prediction if it can be made: counting does not depend on it."""
    try:
        return predictor.predict(
            request["of"], prompt, batched=request["batched"], session=request["session"]
        )
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        log.warning("not_predicted: %s", type(error).__name__)
        return None


def _answer(tokenizer: ServerTokenizer, predictor: CachePredictor, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request. An exception of a template or tokenizer is an answer like any other."""
    try:
        return {"id": request["id"], "result": _run(tokenizer, predictor, request)}
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        return _failure(request["id"], error)


def _failure(request_id: int | None, error: BaseException) -> dict[str, Any]:
    return {"id": request_id, "error": {"kind": type(error).__name__, "message": str(error)}}


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of standard input and output, for frames.

    From now on libraries that print write to standard error, and one that asks a question reads end of file.
    """
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return source, sink


def _end_with(lifeline: int) -> NoReturn:
    """End the process when the lifeline closes; nothing is ever written to it. Runs in a thread."""
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def _frames_of(source: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    """Lists of requests with whole prompts.

    Raises KeyError if a prompt cannot be put together. That ends the process, and the gateway asks a new
    worker.
    """
    receiver = Receiver()
    while (frame := frames.read(source)) is not None:
        for request in frame:
            request |= {name: receiver.unpacked(request[name]) for name in PROMPTS if name in request}
        yield frame


def _load(request: dict[str, Any]) -> tuple[ServerTokenizer | None, dict[str, Any]]:
    """Load the tokenizer; returns it, or None, and the answer for the gateway."""
    try:
        tokenizer = ServerTokenizer(
            Path(request["model_path"]), request["server_argv"], request["most_pixels"]
        )
        return tokenizer, {"id": request["id"], "result": tokenizer.info()}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's module may exit at import (olmo)
        return None, _failure(request["id"], error)


def _send(answer: dict[str, Any], sink: BinaryIO) -> None:
    if answer["id"] is not None:
        sink.write(frames.encode(answer))
        sink.flush()
    elif "error" in answer:  # of a notification
        log.warning("notification_failed: %s", answer["error"]["kind"])


def _return_memory() -> None:
    """Return memory that reading the tokenizer file has freed; 30 MB with 50,000 entries."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it; other allocators retain less
    if trim is not None:
        trim(0)


def main() -> NoReturn:
    """Load the tokenizer, then answer requests until the input ends."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and the gateway drains
    source, sink = _private_streams()
    for lifeline in sys.argv[1:]:
        threading.Thread(target=_end_with, args=(int(lifeline),), daemon=True).start()
    asked = _frames_of(source)
    if (first := next(asked, None)) is None:
        os._exit(0)
    tokenizer, loaded = _load(*first)
    predictor = CachePredictor(PromptIds(tokenizer)) if tokenizer else None
    gc.freeze()  # collecting the libraries' objects would take longer than most counts
    _return_memory()
    _send(loaded, sink)
    if tokenizer is None or predictor is None:
        os._exit(1)  # not sys.exit, which waits for the libraries' threads
    for frame in asked:
        for request in frame:
            _send(_answer(tokenizer, predictor, request), sink)
    os._exit(0)


if __name__ == "__main__":
    main()
