"""The server wrapper alone, without a model, a real server or another module of this project."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.child import server_wrapper

#: A stand-in for mlx_lm and mlx, since these tests are about what happens around the real ones: it
#: prints what it was given, then stays busy in a thread that is named like the server's.
FAKE_SERVER = """
import sys, threading, time
import mlx.core as mx
def main():
    print(sys.argv, mx.limit, [p for p in sys.path if p.endswith("child")], flush=True)
    threading.Thread(target=_run_generate, daemon=True).start()
    time.sleep(60)
def _run_generate():
    while True:
        mx.active += 1
"""
FAKE_MX = """
active, limit = 5, None
def set_cache_limit(value):
    global limit
    limit = value
def get_active_memory(): return active
def get_peak_memory(): return 7
def get_cache_memory(): return 3
"""


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    for name, text in {"mlx_lm/server.py": FAKE_SERVER, "mlx/core.py": FAKE_MX}.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.parent.joinpath("__init__.py").touch()
        path.write_text(text)
    return tmp_path


def start(fakes: Path, writer: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", server_wrapper.__file__, str(writer), *arguments],
        pass_fds=(writer,),
        env={**os.environ, "PYTHONPATH": str(fakes), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_server_gets_its_arguments_and_telemetry_flows(fakes: Path) -> None:
    reader, writer = os.pipe()
    with start(fakes, writer, "1000", "--model", "m", "--port", "1") as process, os.fdopen(reader) as pipe:
        os.close(writer)
        assert process.stdout
        assert process.stdout.readline() == "['mlx_lm.server', '--model', 'm', '--port', '1'] 1000 []\n"
        samples = [json.loads(pipe.readline()) for _ in range(8)]
        process.kill()
    assert samples[0] == {
        "active_bytes": 0,
        "peak_bytes": 0,
        "cache_bytes": 0,
        "beat": 0,
        "idle": False,
    }  # before the server is loaded
    assert samples[-1]["active_bytes"] > 5
    assert (samples[-1]["peak_bytes"], samples[-1]["cache_bytes"]) == (7, 3)
    assert samples[-1]["beat"] > 0


def test_it_ends_itself_when_no_reader_is_left(fakes: Path, tmp_path: Path) -> None:
    """The gateway and the keeper were both killed."""
    shortened = tmp_path / "server_wrapper.py"
    shortened.write_text(
        Path(server_wrapper.__file__).read_text().replace("ORPHAN_S = 4.0", "ORPHAN_S = 0.2")
    )
    reader, writer = os.pipe()
    command = [sys.executable, "-S", str(shortened), str(writer), "-"]
    env = {**os.environ, "PYTHONPATH": str(fakes)}
    with subprocess.Popen(
        command, pass_fds=(writer,), env=env, start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        os.close(writer)
        os.close(reader)
        assert process.wait(5) == -9


def test_the_position_changes_with_the_generation_thread_and_rests_with_it() -> None:
    stop, rest = threading.Event(), threading.Event()

    def _run_generate() -> None:
        while not stop.is_set():
            sum(number * number for number in range(100))
        rest.wait()

    thread = threading.Thread(target=_run_generate, daemon=True)
    thread.start()
    assert server_wrapper.generation_thread() == thread.ident
    assert len(positions(thread.ident)) > 1
    stop.set()
    time.sleep(0.05)
    assert len(positions(thread.ident)) == 1
    rest.set()
    thread.join()
    assert server_wrapper.generation_thread() is None
    assert server_wrapper.position(None) is None


def test_waiting_for_a_request_is_distinguished_from_polling_for_one() -> None:
    requests: queue.Queue[str] = queue.Queue()
    stop = threading.Event()

    def _next_request(timeout: float | None) -> str:
        return requests.get(timeout=timeout) if timeout else requests.get_nowait()

    def _generate() -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                _next_request(timeout=0.1 if patient.is_set() else None)

    patient = threading.Event()
    patient.set()
    thread = threading.Thread(target=_generate, daemon=True)
    thread.start()
    assert sum(seen_waiting(thread.ident)) > 90, "all but the moments between two waits"
    patient.clear()
    time.sleep(0.2)
    assert not any(seen_waiting(thread.ident))
    stop.set()
    thread.join()
    assert not server_wrapper.is_waiting(None)


def seen_waiting(thread_id: int | None) -> list[bool]:
    seen = []
    for _ in range(100):
        seen.append(server_wrapper.is_waiting(thread_id))
        time.sleep(0.002)
    return seen


def positions(thread_id: int | None) -> set[object]:
    """The positions of the thread seen in a fifth of a second."""
    seen = set()
    for _ in range(100):
        seen.add(server_wrapper.position(thread_id))
        time.sleep(0.002)  # gives up the GIL, so that the thread runs at all
    return seen


def test_a_sample_is_one_line_that_fits_a_pipe_in_one_piece() -> None:
    size = 2**60
    mx: Any = SimpleNamespace(
        get_active_memory=lambda: size,
        get_peak_memory=lambda: size,
        get_cache_memory=lambda: size,
        device_info=lambda: {"free_memory": size, "total_memory": size},
    )
    line = server_wrapper.sample(mx, 2**40)
    assert line.endswith(b"}\n")
    assert len(line) < 512  # POSIX: writes up to PIPE_BUF (512 at least) are never torn


def test_only_a_gpu_with_its_own_memory_is_reported() -> None:
    # As MLX's builds answer: CUDA (on an H200), Metal, CPU.
    cuda = {"device_name": "NVIDIA H200", "free_memory": 149557477376, "total_memory": 150754820096}
    assert server_wrapper.gpu_memory(says(cuda)) == {"card_free": 149557477376, "card_total": 150754820096}
    assert (
        server_wrapper.gpu_memory(says({"memory_size": 2**36, "max_recommended_working_set_size": 2**35}))
        == {}
    )
    assert server_wrapper.gpu_memory(says({"architecture": "x86_64", "device_name": "AMD EPYC"})) == {}


def says(info: dict[str, Any]) -> Any:
    return SimpleNamespace(device_info=lambda: info)


def test_it_is_self_contained_and_patches_nothing() -> None:
    tree = ast.parse(Path(server_wrapper.__file__).read_text())
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules - set(sys.stdlib_module_names) == {"mlx", "mlx_lm"}
    assigned = [
        node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]
    assert [ast.unparse(node) for node in assigned] == ["sys.argv"]


def test_an_exception_of_the_main_thread_ends_the_process_despite_its_threads(
    fakes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fakes / "mlx_lm" / "server.py").write_text(
        "import threading, time\n"
        "def main():\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    raise ValueError('the model is not good')\n"
    )
    reader, writer = os.pipe()
    process = start(fakes, writer, "-")
    os.close(writer)
    process.communicate(timeout=10)
    os.close(reader)
    assert process.returncode == 1
    assert "ValueError: the model is not good" in capfd.readouterr().err
