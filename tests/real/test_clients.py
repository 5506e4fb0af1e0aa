"""What people use: openai-python, the newest and 2.20, and llm, against proxy and real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.real.processes import Gateway, until
from tests.real.venvs import environment
from tests.support.canaries import KEY, PROMPT
from tests.support.scripted import ANSWER

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SESSION = Path(__file__).with_name("openai_session.py")
ENVIRON = os.environ | {"CANARY_PROMPT": PROMPT, "CANARY_KEY": KEY}


@pytest.fixture(
    scope="session",
    params=["newest", pytest.param("openai==2.20.0", marks=pytest.mark.clients)],
)
def python(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with a version of the openai package; the newest is in our own."""
    if request.param == "newest":
        return Path(sys.executable)
    return environment(request.param) / "python"


def test_openai(python: Path, shared_guard: Gateway) -> None:
    sessions = ["plain", "stream", "completions", "logprobs", "errors", "asynchronous"]
    _run([str(python), str(SESSION), shared_guard.base_url, *sessions], env=ENVIRON)


def test_openai_with_tools(python: Path, scripted_guard: Gateway) -> None:
    _run([str(python), str(SESSION), scripted_guard.base_url, "tools"], env=ENVIRON)


@pytest.mark.parametrize(
    ("what", "states"),
    [
        ("close_stream", ["streaming", "cancelled"]),
        ("cancel_task", ["waiting", "cancelled"]),
        ("time_out", ["cancelled"]),
    ],
)
def test_who_leaves_stops_the_generation(
    python: Path, shared_guard: Gateway, what: str, states: list[str]
) -> None:
    """The client stays alive, so that it is its giving up that is noticed and not its end."""
    with _session(python, shared_guard, what) as session:
        for state in states:
            assert session.stdout is not None
            assert session.stdout.readline().strip() == state
            if state == "cancelled":
                until("no request is left", lambda: not shared_guard.status()["requests"], 10)
                until("the server rests", lambda: _is_idle(shared_guard), 10)
            else:
                until("it generates", lambda: _generated(shared_guard) > 20)
                _until_it_works(shared_guard)
            assert session.stdin is not None
            session.stdin.write("\n")
            session.stdin.flush()
        assert session.wait(60) == 0


@contextmanager
def _session(python: Path, proxy: Gateway, what: str) -> Iterator[subprocess.Popen[str]]:
    command = [str(python), str(SESSION), proxy.base_url, what]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRON, text=True, **pipes) as session:
        try:
            yield session
        finally:
            session.kill()


def _generated(proxy: Gateway) -> int:
    return sum(request["completion_tokens"] or 0 for request in proxy.status()["requests"])


def _child(proxy: Gateway) -> psutil.Process:
    """Its own use of the processor tells whether it works, whatever the proxy says of it."""
    return psutil.Process(proxy.status()["child"]["pid"])


def _cpu_seconds(proxy: Gateway) -> float:
    return sum(_child(proxy).cpu_times()[:2])


def _until_it_works(proxy: Gateway) -> None:
    before = _cpu_seconds(proxy)
    until("the server works", lambda: _cpu_seconds(proxy) > before + 0.1)


def _is_idle(proxy: Gateway) -> bool:
    return _child(proxy).cpu_percent(interval=0.5) < 20


@pytest.fixture(scope="session")
def llm() -> Path:
    return environment("llm==0.36") / "llm"


def _llm_environment(folder: Path, proxy: Gateway) -> dict[str, str]:
    """Configured as `mlxguard-proxy clients llm --write` does it while the proxy runs."""
    environ = os.environ | {"LLM_USER_PATH": str(folder)}
    command = [Path(sys.executable).with_name("mlxguard-proxy"), "clients", "llm", "--write"]
    said = _run([*map(str, command), "--port", proxy.url.rpartition(":")[2]], env=environ, cwd=folder)
    assert f"wrote {folder / 'extra-openai-models.yaml'}" in said
    return environ


def test_clients_are_told_what_the_running_proxy_says(shared_guard: Gateway, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("mlxguard-proxy")), "clients", "pi"]
    said = _run([*command, "--port", shared_guard.url.rpartition(":")[2]], cwd=tmp_path)
    (model, *_) = json.loads(shared_guard.get("/v1/models")[1])["data"]
    assert said.startswith(f"# {model['id']} at {shared_guard.base_url}: prompts of up to ")
    assert f"{model['context_window']} tokens (as the running proxy says)" in said
    assert f'"contextWindow": {model["context_window"]}' in said


@pytest.mark.clients
@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_llm(llm: Path, shared_guard: Gateway, tmp_path: Path, mode: list[str]) -> None:
    command = [str(llm), "-m", "tiny", "hi", "-o", "max_tokens", "20", *mode]
    text = _run(command, env=_llm_environment(tmp_path, shared_guard))
    assert len(text.strip()) > 20


@pytest.mark.clients
def test_llm_calls_functions(llm: Path, scripted_guard: Gateway, tmp_path: Path) -> None:
    function = "def get_weather(city: str, unit: str = 'C') -> str:\n    return 'sunny'\n"
    command = [str(llm), "-m", "tiny", "Weather?", "--functions", function, "--td"]
    text = _run(command, env=_llm_environment(tmp_path, scripted_guard))
    assert ANSWER in text


def _run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
