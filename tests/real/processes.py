"""Real processes for the tests: the server by itself, and the proxy with its child, each ended in order.

Waiting polls here: what is waited for happens in other processes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

STOP_S = 40.0  # the graces of all steps together are shorter


def until(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Poll until the condition is truthy and return its value; fail with `what` when it never is."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return value


@dataclass
class Running:
    """A server process, its address and what it has written."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""

    @property
    def base_url(self) -> str:
        """As clients of the OpenAI API want it."""
        return f"{self.url}/v1"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while nothing listens."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def alive(self) -> bool:
        assert self.process.poll() is None, f"exit {self.process.returncode}: {self.text()[-3000:]}"
        return True

    def until_ready(self, path: str) -> None:
        until(f"{path} answers 200", lambda: self.alive() and self.get(path)[0] == 200, 60)


@dataclass
class Gateway(Running):
    """A proxy with its child."""

    seen: set[psutil.Process] = field(default_factory=set)

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event, so far."""
        lines = (json.loads(line) for line in self.text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def status(self) -> dict[str, Any]:
        code, body = self.get("/mlxguard/api/status")
        assert code == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def descendants(self) -> list[psutil.Process]:
        """The processes below it: keeper, child, tokenizer worker."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.seen.update(found)
        return found


@contextmanager
def bare_server(model: Path, folder: Path, *flags: str) -> Iterator[Running]:
    """The unmodified mlx_lm.server by itself, with its model loaded (its /health is 200 before that).

    By one token, as a guarded child's is, so that the same stays in its prompt cache.
    """
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port), *flags]
    output = folder / f"server-{port}.log"
    server = Running(_start(command, output), output, f"http://127.0.0.1:{port}")
    try:
        server.until_ready("/health")
        body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
        urllib.request.urlopen(f"{server.base_url}/completions", body, timeout=60).close()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextmanager
def guard(model: Path, folder: Path, *options: str, ready: bool = True) -> Iterator[Gateway]:
    """A proxy on a free port, with its own state folder; `options` are further words of its command line.

    At the end it is told to stop, unless it has ended by then; it must end cleanly and leave nothing behind.
    """
    settings = {
        "server.port": 0,
        "model.path": model,
        "model.served_name": "tiny",
        "supervisor.state_dir": folder / "state",
        "log.format": "json",
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [str(Path(sys.executable).with_name("mlxguard-proxy")), *words, *options]
    output = folder / "proxy.log"
    proxy = Gateway(_start(command, output), output)
    try:
        listening = until("it listens", lambda: proxy.alive() and proxy.events("listening"))
        proxy.url = listening[0]["url"]
        if ready:
            proxy.until_ready("/readyz")
        yield proxy
        _stop(proxy)
    finally:
        _sweep(proxy)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """In a folder without a proxy.toml, so that only the options given here hold."""
    output.parent.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MLXGUARD_")}
    with output.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, cwd=output.parent, env=environ)


def _stop(proxy: Gateway) -> None:
    if proxy.process.poll() is None:
        proxy.descendants()
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(STOP_S) == 0, proxy.text()[-3000:]
    left = [process for process in proxy.seen if _runs(process)]
    assert not left, f"left behind: {left}"


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended: it waits for a parent that is not ours (OpenMPI, which MLX tries, starts one)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sweep(proxy: Gateway) -> None:
    """After a failure: end what would disturb the next test."""
    if proxy.process.poll() is None:
        for process in [*proxy.descendants(), proxy.process]:
            process.kill()
        proxy.process.wait()
