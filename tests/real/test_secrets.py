"""Nothing leaks: a session full of canaries, then a search through everything that it left behind."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.real.processes import Gateway, guard, until
from tests.support.canaries import KEY, PROMPT, is_input

pytestmark = pytest.mark.real

WRONG_KEY = "sk-canary-4711-of-a-stranger"
NAME = "canary-name-quagga"
HEADER = "canary-header-okapi"


@dataclass
class Session:
    """A guard at its most talkative, and all that it has said."""

    proxy: Gateway
    folder: Path
    answers: list[tuple[str, bytes]] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        key: str = KEY,
    ) -> int:
        """The status; head and body of the answer are kept."""
        port = int(self.proxy.url.rpartition(":")[2])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            sent = {"Authorization": f"Bearer {key}", **(headers or {})}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            text = f"{answer.headers}\n".encode() + answer.read()
            self.answers.append((f"{method} {path}", text))
            return answer.status

    def chat(self, **fields: object) -> int:
        message = {"role": "user", "content": PROMPT}
        body = {"max_tokens": 3, "messages": [message], **fields}
        return self.ask("POST", "/v1/chat/completions", json.dumps(body).encode())

    def outputs(self) -> dict[str, bytes]:
        """Everything that was written: log, log file, state folder with its crash reports."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "keys"]
        try:
            return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}
        except FileNotFoundError:  # one was renamed into its place meanwhile
            return self.outputs()


@pytest.fixture(scope="module")
def session(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("secrets")
    keys = is_input(folder / "keys")
    keys.write_text(f"laptop:{KEY}\n")
    keys.chmod(0o600)
    options = {
        "server.api_keys_file": keys,
        "log.level": "debug",
        "log.file": folder / "file.log",
        "supervisor.backoff_base_s": 0,
        # The server's own log with whole bodies in it, which the proxy itself never asks for.
        "upstream.command": json.dumps([sys.executable, "-m", "mlx_lm", "server", "--log-level", "DEBUG"]),
    }
    words = [f"--set={name}={value}" for name, value in options.items()]
    with guard(tiny_model, folder, *words) as proxy:
        yield Session(proxy, folder)


def test_a_session_with_every_kind_of_trouble_leaves_no_trace(session: Session, tiny_model: Path) -> None:
    call = {"type": "function", "function": {"name": NAME, "arguments": f'{{"a": "{PROMPT}"}}'}}
    tool = {"type": "function", "function": {"name": NAME, "description": PROMPT}}
    assert session.chat() == 200
    assert session.chat(stream=True) == 200
    assert session.chat(logprobs=True) == 200
    assert session.chat(messages=[{"role": "system", "content": PROMPT}], tools=[tool], stop=[PROMPT]) == 200
    assert session.chat(messages=[{"role": "assistant", "tool_calls": [call], "name": NAME}]) == 200
    text = json.dumps({"prompt": PROMPT, "max_tokens": 1}).encode()
    assert session.ask("POST", "/v1/completions", text) == 200
    # what is refused
    assert session.chat(temperature=PROMPT) == 400
    assert session.chat(**{PROMPT: 1}) == 200
    assert session.chat(messages=[{"role": PROMPT}]) == 400
    assert session.chat(tool_choice={"type": "function", "function": {"name": NAME}}) == 400
    assert session.chat(messages=[{"role": "user", "content": PROMPT * 200_000}]) == 400
    assert session.ask("POST", "/v1/chat/completions", f'{{"messages": {PROMPT}'.encode()) == 400
    assert session.ask("POST", "/v1/chat/completions", PROMPT.encode()) == 400
    assert session.ask("GET", f"/{HEADER}?{PROMPT}") == 404
    assert session.ask("GET", "/v1/models", key=WRONG_KEY) == 401
    assert session.ask("GET", f"/{HEADER}", key=WRONG_KEY) == 401
    assert session.ask("GET", f"/v1/models/{HEADER}", key=WRONG_KEY) == 401
    assert session.ask("GET", "/v1/models", headers={"Origin": f"http://{HEADER}"}) == 403
    assert session.ask("GET", "/v1/models", headers={"Host": HEADER}) == 403
    assert session.ask("GET", "/v1/models", headers={"x-request-id": f"a b {HEADER}"}) == 200
    assert session.ask("GET", "/v1/models", headers={"Cookie": HEADER, "User-Agent": HEADER}) == 200
    not_http(session, f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization Bearer {KEY}\r\n\r\n{PROMPT}")
    not_http(session, f"{PROMPT} {WRONG_KEY}\r\n\r\n")
    # what dies
    die_while_answering(session)
    assert session.ask("GET", "/mlxguard/api/status") == 200
    assert session.ask("GET", "/metrics") == 200
    assert session.ask("GET", "/readyz") == 200
    reports = session.folder / "state" / "crashes"
    until("the crash report is written", lambda: list(reports.glob("[!.]*.json")))
    found = [
        f"{canary} in {where}"
        for canary in (PROMPT, KEY, WRONG_KEY, HEADER, NAME)
        for where, text in (*session.outputs().items(), *session.answers)
        if canary.encode() in text
    ]
    assert not found
    assert b"[masked]" in session.outputs()["proxy.log"], "the server did log bodies"
    for where, answer in session.answers:
        assert str(tiny_model).encode() not in answer, where
        assert b"Traceback" not in answer, where


def not_http(session: Session, text: str) -> None:
    port = int(session.proxy.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(text.encode())
        client.shutdown(socket.SHUT_WR)
        session.answers.append(("not HTTP", b"".join(iter(lambda: client.recv(65536), b""))))


def die_while_answering(session: Session) -> None:
    """A stream that has content, then an abort of the child, as a Metal failure ends it."""
    body = {"max_tokens": 5000, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    port = int(session.proxy.url.rpartition(":")[2])
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {"Authorization": f"Bearer {KEY}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.read(300)
        (child,) = [
            process
            for process in session.proxy.descendants()
            if "--port" in process.cmdline() and process.ppid() != session.proxy.process.pid
        ] or [max(session.proxy.descendants(), key=lambda process: process.memory_info().rss)]
        assert isinstance(child, psutil.Process)
        child.send_signal(signal.SIGABRT)
        rest = answer.read()
    assert b'"code":"503"' in rest
    assert rest.rstrip().endswith(b"data: [DONE]")
    session.answers.append(("cut stream", rest))
    until("it serves again", lambda: session.proxy.get("/readyz")[0] == 200, 60)


FORGERIES = ["a\tb", "a\x1b[2Jb", "a\u2028b", "\x85", "x" * 5000, '{"event":"forged"}', "a\\nb"]


@pytest.mark.parametrize("forged", FORGERIES)
def test_log_lines_cannot_be_forged(session: Session, forged: str) -> None:
    """What a stranger chooses reaches a log line only as part of one JSON string."""
    before = len(session.proxy.text().splitlines())
    value = forged.encode().decode("latin-1")
    headers = {"x-request-id": value, "User-Agent": value}
    session.ask("GET", "/v1/models/" + forged.encode().hex(), headers=headers)
    session.chat(model=f"m{forged}\n2026-01-01 forged")
    session.chat(user=forged, stop=[forged])
    lines = session.proxy.text().splitlines()
    for line in lines[before:]:
        assert "event" in json.loads(line)
    assert not [line for line in lines if json.loads(line)["event"] == "forged"]


def test_a_key_is_given_and_taken_away_without_a_restart(session: Session) -> None:
    keys = session.folder / "keys"
    assert session.ask("GET", "/v1/models", key=WRONG_KEY) == 401
    keys.write_text(f"laptop:{KEY}\nguest:{WRONG_KEY}\n")
    until("the new key is let in", lambda: session.ask("GET", "/v1/models", key=WRONG_KEY) == 200)
    keys.chmod(0o644)
    until("it is told", lambda: session.proxy.events("keys_not_reloaded"))
    assert session.ask("GET", "/v1/models", key=WRONG_KEY) == 200, "the old keys stay in force"
    keys.write_text(f"laptop:{KEY}\n")
    keys.chmod(0o600)
    until("the old key is refused", lambda: session.ask("GET", "/v1/models", key=WRONG_KEY) == 401)
    assert WRONG_KEY not in session.proxy.text()


def test_there_are_descriptors_for_all_connections(session: Session) -> None:
    limits = Path(f"/proc/{session.proxy.process.pid}/limits")
    if not limits.exists():
        pytest.skip("this system has no /proc")
    (line,) = [line for line in limits.read_text().splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) >= 1024
