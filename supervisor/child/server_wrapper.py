"""Inside the child: a telemetry thread, then the unmodified `mlx_lm.server`. Patches nothing.

Run as `python child.py TELEMETRY_FD CACHE_LIMIT SERVER_ARGUMENT...` by any interpreter that has mlx-lm;
this file needs nothing else and imports nothing of its own package. CACHE_LIMIT is in bytes, `-` leaves
MLX's own.

Some ten times a second one JSON line goes to TELEMETRY_FD: active, peak and cache bytes of MLX, which
can be read from inside the process only; what a GPU with memory of its own has and has left; `idle`, whether
the generation thread waits for a request, as it does only when it has none; and `beat`, which counts the
samples in which that thread stood at another place than in the sample before. A silent phase that works (a
search in the prompt cache, the text of a tool call) moves it; a wedged thread does not. A thread that is
always found in the same call of MLX, as in a prefill, moves the memory instead.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from types import ModuleType

INTERVAL_S = 0.1

#: Innermost first. With requests at work the server asks its queue without waiting (server.py, _generate).
_WAITING = ("wait", "get", "_next_request")

#: The keeper ends us well within this time after the gateway has gone. If the keeper was killed too,
#: nobody else is left to do it.
ORPHAN_S = 4.0


def place(thread_id: int | None) -> tuple[int, int] | None:
    """Where a thread stands: its innermost code object and the instruction in it."""
    frame = sys._current_frames().get(thread_id) if thread_id is not None else None
    return None if frame is None else (id(frame.f_code), frame.f_lasti)


def waits(thread_id: int | None) -> bool:
    """Whether it waits for a request: `queue.get(timeout=...)`, called by the server's `_next_request`."""
    frame = sys._current_frames().get(thread_id) if thread_id is not None else None
    names: list[str] = []
    while frame is not None and len(names) < len(_WAITING):
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return tuple(names) == _WAITING


def generation_thread() -> int | None:
    """The server names no thread; Python names it after its target, `Thread-1 (_run_generate)`."""
    for thread in threading.enumerate():
        if thread.name.endswith(("(_run_generate)", "(_generate)")):
            return thread.ident
    return None


def sample(mx: ModuleType | None, beat: int, *, idle: bool = False) -> bytes:
    memory = (mx.get_active_memory(), mx.get_peak_memory(), mx.get_cache_memory()) if mx else (0, 0, 0)
    line = dict(zip(("active", "peak", "cache"), memory, strict=True), beat=beat, idle=idle)
    line.update(card(mx) if mx else {})
    return json.dumps(line).encode() + b"\n"


def card(mx: ModuleType) -> dict[str, int]:
    """The GPU's own memory, other programs counted. Only MLX's CUDA build tells both, read anew each time."""
    info: dict[str, int] = getattr(mx, "device_info", dict)()  # not in every version
    free, total = info.get("free_memory"), info.get("total_memory")
    return {} if free is None or total is None else {"card_free": free, "card_total": total}


def report(fd: int, loaded: threading.Event) -> None:
    """Write samples until nobody reads them. MLX is looked at only once the server has imported it."""
    beat, before = 0, None
    while True:
        thread = generation_thread()
        here = place(thread)
        beat, before = beat + (here != before), here
        try:
            mx = sys.modules.get("mlx.core") if loaded.is_set() else None
            os.write(fd, sample(mx, beat, idle=waits(thread)))
        except BrokenPipeError:
            break
        time.sleep(INTERVAL_S)
    time.sleep(ORPHAN_S)
    if os.getpgrp() == os.getpid():  # our own group, as under the keeper, and no shell's
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    fd, cache_limit, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.set_inheritable(fd, False)
    del sys.path[0]  # this file's own folder; the server's command has none, and names in it are common
    loaded = threading.Event()
    threading.Thread(target=report, args=(fd, loaded), name="mlxguard-telemetry", daemon=True).start()

    from mlx_lm import server  # noqa: PLC0415  (the thread shows life while this takes its seconds)

    if cache_limit != "-":
        import mlx.core as mx  # noqa: PLC0415

        mx.set_cache_limit(int(cache_limit))
    loaded.set()
    sys.argv = ["mlx_lm.server", *arguments]
    server.main()


if __name__ == "__main__":
    main()
