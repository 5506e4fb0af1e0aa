"""Counts prompt tokens with the server's own code; a process of its own: `python -m proxy.worker.main`.

Own process, because the server's modules import mlx, tokenizers hold the interpreter lock while they encode,
and a model may bring remote code.

Speaks `proxy.prompt.frames` on its standard input and output. A frame in is a list of requests `{"id", "op",
...}`, a frame out an answer `{"id", "result"}` or `{"id", "error": {"kind", "message"}}`; where the id is
null, none is given. It ends when its input does, or when the pipe does whose descriptor is its argument: this
is seen while a count runs, too. So it never outlives the gateway, however that ended.
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
from proxy.worker.prompt_ids import PromptIds
from proxy.worker.server_tokenizer import ServerTokenizer

log = logging.getLogger("mlxguard.tokenizer")

#: The gateway's loop, which passes on every stream, goes first where processors are scarce.
_NICENESS = 5


def _run(tokenizer: ServerTokenizer, foresight: CachePredictor, request: dict[str, Any]) -> Any:
    match request["op"]:
        case "count":
            return tokenizer.count(request["prompt"], request["limit"], incremental=request["incremental"])
        case "count_and_predict":
            prompt, limit = request["prompt"], request["limit"]
            count = tokenizer.count(prompt, limit, incremental=request["incremental"])
            exact = limit is None or count <= limit  # what is longer is not sent as it is
            return count, _foreseen(foresight, request["of"], prompt, request["batched"]) if exact else None
        case "shared":
            return tokenizer.shared(request["prompt"], request["other"], incremental=request["incremental"])
        case "trim":
            return tokenizer.trim(request["text"], request["head"], request["limit"])
        case "predictor":
            return foresight.answer(request)
    raise ValueError("unknown operation")


def _foreseen(
    foresight: CachePredictor, id: str, prompt: dict[str, Any], batched: bool
) -> dict[str, Any] | None:
    """A count does not depend on it."""
    try:
        return foresight.foresee(id, prompt, batched=batched)
    except Exception as error:  # noqa: BLE001 - rendering is a template's, here too
        log.warning("not_foreseen: %s", type(error).__name__)
        return None


def _answer(tokenizer: ServerTokenizer, foresight: CachePredictor, request: dict[str, Any]) -> dict[str, Any]:
    """Whatever a template or a tokenizer raises is an answer: the child would refuse the request too."""
    try:
        return {"id": request["id"], "result": _run(tokenizer, foresight, request)}
    except Exception as error:  # noqa: BLE001 - a template raises what it likes
        return _failure(request["id"], error)


def _failure(request_id: int | None, error: BaseException) -> dict[str, Any]:
    return {"id": request_id, "error": {"kind": type(error).__name__, "message": str(error)}}


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """The frames' own copies of standard input and output.

    From here on libraries that print go to standard error, and one that asks a question reads nothing.
    """
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return source, sink


def _end_with(lifeline: int) -> NoReturn:
    """A thread: nothing is ever read but the end, which comes when the gateway has closed it, or ended."""
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def _frames_of(source: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    """Lists of requests, whole. Raises where one cannot be put together: the gateway starts another worker,
    and asks that.
    """
    receiver = Receiver()
    while (frame := frames.read(source)) is not None:
        for request in frame:
            request |= {name: receiver.unpacked(request[name]) for name in PROMPTS if name in request}
        yield frame


def _load(request: dict[str, Any]) -> tuple[ServerTokenizer | None, dict[str, Any]]:
    """The tokenizer and the answer about it; no tokenizer where the answer is an error."""
    try:
        tokenizer = ServerTokenizer(
            Path(request["model_path"]), request["server_argv"], request["most_pixels"]
        )
        return tokenizer, {"id": request["id"], "result": tokenizer.info()}
    except (Exception, SystemExit) as error:  # noqa: BLE001  (a model's module may exit at import: olmo)
        return None, _failure(request["id"], error)


def _tell(answer: dict[str, Any], sink: BinaryIO) -> None:
    if answer["id"] is not None:
        sink.write(frames.encode(answer))
        sink.flush()
    elif "error" in answer:  # of what was told, and needs no answer
        log.warning("not_noted: %s", answer["error"]["kind"])


def _return_memory() -> None:
    """Give back what reading the tokenizer's file took and freed; with 50,000 entries that is 30 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep less
    if trim is not None:
        trim(0)


def main() -> NoReturn:
    """First frame in: `[{"id", "model_path", "server_argv", "most_pixels"}]`; out: the tokenizer's info."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gateway still drains
    source, sink = _private_streams()
    for lifeline in sys.argv[1:]:
        threading.Thread(target=_end_with, args=(int(lifeline),), daemon=True).start()
    asked = _frames_of(source)
    if (first := next(asked, None)) is None:
        os._exit(0)
    tokenizer, loaded = _load(*first)
    foresight = CachePredictor(PromptIds(tokenizer)) if tokenizer else None
    gc.freeze()  # the libraries' objects stay; a collection that walks them takes longer than most counts
    _return_memory()
    _tell(loaded, sink)
    if tokenizer is None or foresight is None:
        os._exit(1)  # not sys.exit: libraries' threads would be waited for
    for frame in asked:
        for request in frame:
            _tell(_answer(tokenizer, foresight, request), sink)
    os._exit(0)


if __name__ == "__main__":
    main()
