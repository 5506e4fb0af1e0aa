"""Inside the child: a telemetry thread, then the unmodified `mlx_lm.server`. Patches nothing.

Run as `python child.py TELEMETRY_FD CACHE_LIMIT SERVER_ARGUMENT...` by any interpreter that has mlx-lm;
this file needs nothing else and imports nothing of its own package. CACHE_LIMIT is in bytes, `-` leaves
MLX's own.

Some ten times a second one JSON line goes to TELEMETRY_FD: active, peak and cache bytes of MLX, which
can be read from inside the process only; what a GPU with memory of its own has and has left; and `beat`,
which counts the samples in which the generation thread stood at another place than in the sample before.
A silent phase that works (a search in the prompt cache, the text of a tool call) moves it; a wedged thread
does not. A thread that is always found in the same call of MLX, as in a prefill, moves the memory instead.
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

#: The keeper ends us well within this time after the gateway has gone. If the keeper was killed too,
#: nobody else is left to do it.
ORPHAN_S = 4.0


def place(thread_id: int | None) -> tuple[int, int] | None:
    """Where a thread stands: its innermost code object and the instruction in it."""
    frame = sys._current_frames().get(thread_id) if thread_id is not None else None
    return None if frame is None else (id(frame.f_code), frame.f_lasti)


def generation_thread() -> int | None:
    """The server names no thread; Python names it after its target, `Thread-1 (_run_generate)`."""
    for thread in threading.enumerate():
        if thread.name.endswith(("(_run_generate)", "(_generate)")):
            return thread.ident
    return None


def sample(mx: ModuleType | None, beat: int) -> bytes:
    memory = (mx.get_active_memory(), mx.get_peak_memory(), mx.get_cache_memory()) if mx else (0, 0, 0)
    line = dict(zip(("active", "peak", "cache"), memory, strict=True), beat=beat, **(card(mx) if mx else {}))
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
        here = place(generation_thread())
        beat, before = beat + (here != before), here
        try:
            os.write(fd, sample(sys.modules.get("mlx.core") if loaded.is_set() else None, beat))
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
