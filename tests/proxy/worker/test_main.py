"""The process: its streams and its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from proxy.prompt import frames

COMMAND = [sys.executable, "-P", "-m", "proxy.worker.main"]


def test_what_libraries_print_does_not_reach_the_frames() -> None:
    script = """
import os
from proxy.worker.main import _private_streams
source, sink = _private_streams()
print("printed", flush=True)
os.system("echo from a child")
sink.write(b"frames"); sink.flush()
try:
    input("a question? ")
except EOFError:
    print("no answer", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], input=b"y\n", capture_output=True, check=True)
    assert done.stdout == b"frames"
    assert done.stderr.split(b"\n")[:2] == [b"printed", b"from a child"]
    assert b"no answer" in done.stderr


def test_a_model_that_does_not_load_is_an_answer_and_the_end(tmp_path: Path) -> None:
    load = frames.encode([{"id": 7, "model_path": str(tmp_path), "server_argv": [], "most_pixels": 1}])
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(load)
        worker.stdin.flush()
        answer = frames.read(worker.stdout)
        assert answer is not None
        assert answer["id"] == 7
        assert answer["error"]["kind"] == "FileNotFoundError"
        assert worker.wait(30) == 1


def test_it_ends_when_its_input_does() -> None:
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(30) == 0


def test_it_ends_when_its_lifeline_does_whatever_it_is_at() -> None:
    end, lifeline = os.pipe()
    with subprocess.Popen([*COMMAND, str(end)], stdin=subprocess.PIPE, pass_fds=(end,)) as worker:
        os.close(end)
        assert worker.stdin is not None
        worker.stdin.write(b"\0")  # of a frame that it waits for
        worker.stdin.flush()
        os.close(lifeline)
        assert worker.wait(30) == 0
