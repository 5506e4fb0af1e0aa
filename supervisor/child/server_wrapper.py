"""The program of the child: starts a telemetry thread, then runs the unmodified `mlx_lm.server`.

Run as `python server_wrapper.py TELEMETRY_FD CACHE_LIMIT SERVER_ARGUMENT...` by any interpreter that has
mlx-lm; this file needs nothing else, imports nothing of its own package and patches nothing. CACHE_LIMIT is
in bytes; `-` keeps MLX's default.

Ten times a second one JSON line goes to TELEMETRY_FD: active, peak and cache bytes of MLX, which can only be
read inside the process; total and free memory of a GPU with its own memory; `idle`, whether the generation
thread waits for a request, which it does only if it has none; and `beat`, which counts the samples at which
that thread was at another position than at the sample before. A silent phase that works (a search in the
prompt cache, the text of a tool call) changes the position; a wedged thread does not. A thread that is always
found in the same call of MLX, as in a prefill, changes the memory instead.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import ModuleType

#: Seconds between two samples.
INTERVAL_S = 0.1

#: Function names of a thread that waits for a request, innermost first. With requests in flight the server
#: asks its queue without waiting (server.py, _generate).
_WAITING = ("wait", "get", "_next_request")

#: The keeper ends this process well within this many seconds after the gateway has ended. If the keeper was
#: killed too, the process has to end itself.
ORPHAN_S = 4.0


def position(thread_id: int | None) -> tuple[int, int] | None:
    """The position of a thread: its innermost code object and the instruction in it."""
    frame = sys._current_frames().get(thread_id) if thread_id is not None else None
    return None if frame is None else (id(frame.f_code), frame.f_lasti)


def is_waiting(thread_id: int | None) -> bool:
    """Whether it waits for a request in `queue.get(timeout=...)`, called by the server's `_next_request`."""
    frame = sys._current_frames().get(thread_id) if thread_id is not None else None
    names: list[str] = []
    while frame is not None and len(names) < len(_WAITING):
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return tuple(names) == _WAITING


def generation_thread() -> int | None:
    """Find the generation thread, which Python names after its target: `Thread-1 (_run_generate)`."""
    for thread in threading.enumerate():
        if thread.name.endswith(("(_run_generate)", "(_generate)")):
            return thread.ident
    return None


def sample(mx: ModuleType | None, beat: int, *, idle: bool = False) -> bytes:
    """One line of JSON: the fields of `process.Telemetry` but for `at`."""
    memory = (mx.get_active_memory(), mx.get_peak_memory(), mx.get_cache_memory()) if mx else (0, 0, 0)
    line = dict(zip(("active_bytes", "peak_bytes", "cache_bytes"), memory, strict=True), beat=beat, idle=idle)
    line.update(gpu_memory(mx) if mx else {})
    return json.dumps(line).encode() + b"\n"


def gpu_memory(mx: ModuleType) -> dict[str, int]:
    """The GPU's own memory, including other programs; only MLX's CUDA build reports it, anew each time."""
    info: dict[str, int] = getattr(mx, "device_info", dict)()  # not in every version
    free, total = info.get("free_memory"), info.get("total_memory")
    return {} if free is None or total is None else {"card_free": free, "card_total": total}


def report(fd: int, loaded: threading.Event) -> None:
    """Write samples until the reader is gone; MLX is used only once the server has imported it."""
    beat, before = 0, None
    while True:
        thread = generation_thread()
        here = position(thread)
        beat, before = beat + (here != before), here
        try:
            mx = sys.modules.get("mlx.core") if loaded.is_set() else None
            os.write(fd, sample(mx, beat, idle=is_waiting(thread)))
        except BrokenPipeError:
            break
        time.sleep(INTERVAL_S)
    time.sleep(ORPHAN_S)
    if os.getpgrp() == os.getpid():  # this process leads its group, as under the keeper: it is no shell's
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    fd, cache_limit, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.set_inheritable(fd, False)
    del sys.path[
        0
    ]  # the folder of this file: its module names are common, and the server's own command has no such entry
    loaded = threading.Event()
    threading.Thread(target=report, args=(fd, loaded), name="mlxguard-telemetry", daemon=True).start()

    from mlx_lm import server  # noqa: PLC0415  (takes seconds, while the thread already reports)

    if cache_limit != "-":
        import mlx.core as mx  # noqa: PLC0415

        mx.set_cache_limit(int(cache_limit))
    loaded.set()
    sys.argv = ["mlx_lm.server", *arguments]
    run(server.main)


def run(serve: Callable[[], object]) -> None:
    """Run the server; an exception that ends its main thread ends the process.

    Python would otherwise wait for the server's other threads, which never end: a process that serves nobody.
    """
    try:
        serve()
    except Exception:  # noqa: BLE001 - whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
