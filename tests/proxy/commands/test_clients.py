"""`mlxguard-proxy clients`, as it is typed: what it prints, writes and starts."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.clients.recipes import RECIPES
from proxy.commands.clients import address
from proxy.config.settings import ServerSettings

LIMIT = ["--set", "prompt.max_prompt_tokens=60000"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, none of the caller's variables, and a port on which nothing answers."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("MLXGUARD_", "XDG_", "CODEX_", "CLAUDE_", "OPENCODE_", "QWEN_", "PI_", "LLM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLXGUARD_SERVER__PORT", "9")
    return tmp_path


def clients(*words: str) -> int:
    return main(["clients", *words])


# --- printing


def test_without_a_name_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients() == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(RECIPES)
    assert any("~/.codex/config.toml" in row for row in rows)


@pytest.mark.parametrize("name", RECIPES)
def test_each_is_printed(name: str, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert clients(name, *LIMIT) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "# tiny at http://127.0.0.1:9/v1: prompts of up to 60000 tokens (prompt.max_prompt_tokens)\n"
    )
    assert not err
    assert list(home.iterdir()) == [], "printing writes nothing"


def test_the_key_of_that_name_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--set", 'server.api_keys=["first", "codex:second"]']
    assert clients("codex", *LIMIT, *keys) == 0
    assert 'experimental_bearer_token = "second"' in capsys.readouterr().out
    assert clients("pi", *LIMIT, *keys) == 0
    assert '"apiKey": "first"' in capsys.readouterr().out


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients("emacs") == 2
    assert "there are claude-code, codex" in capsys.readouterr().err


def test_a_limit_that_nobody_knows_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients("codex", "--model", "no/such") == 2
    assert "Start the proxy, or set prompt.max_prompt_tokens" in capsys.readouterr().err


# --- addresses


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("10.0.0.7", "http://10.0.0.7:8080"),
    ],
)
def test_the_address_is_one_that_clients_here_reach(host: str, url: str) -> None:
    assert address(ServerSettings(host=host)) == url


def test_a_port_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients("codex", *LIMIT, "--port", "0") == 2
    assert "--port" in capsys.readouterr().err


# --- a proxy that runs


class _Models(BaseHTTPRequestHandler):
    entry: Mapping[str, Any] = {}
    seen: Sequence[str] = ()

    def do_GET(self) -> None:
        type(self).seen = [*self.seen, str(self.headers["Authorization"])]
        body = json.dumps({"data": [self.entry]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def running() -> Iterator[tuple[type[_Models], str]]:
    """Something at a port that answers `/v1/models`."""
    handler = type("Handler", (_Models,), {})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield handler, str(server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_running_proxy_knows_best(
    running: tuple[type[_Models], str], capsys: pytest.CaptureFixture[str]
) -> None:
    handler, port = running
    handler.entry = {"id": "served", "owned_by": "mlxguard-proxy", "context_window": 12345}
    assert clients("codex", *LIMIT, "--port", port, "--set", "server.api_keys=sk-1") == 0
    out = capsys.readouterr().out
    assert "served" in out
    assert "12345 tokens (as the running proxy says)" in out
    assert handler.seen == ["Bearer sk-1"]


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "other", "owned_by": "somebody", "context_window": 12345},
        {"id": "other"},
        {},
        {"id": "tiny", "owned_by": "mlxguard-proxy"},
        {"id": "tiny", "owned_by": "mlxguard-proxy", "context_window": None},
    ],
)
def test_what_does_not_know_is_not_believed(
    running: tuple[type[_Models], str], capsys: pytest.CaptureFixture[str], entry: Mapping[str, Any]
) -> None:
    handler, port = running
    handler.entry = entry
    assert clients("codex", *LIMIT, "--port", port) == 0
    assert "tiny" in (out := capsys.readouterr().out)
    assert "60000 tokens (prompt.max_prompt_tokens)" in out


# --- writing


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"openai", "anthropic"}))
def test_files_are_written_where_the_client_looks(
    name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clients(name, *LIMIT, "--write") == 0
    out = capsys.readouterr().out
    assert "+++ " in out
    written = [path for path in home.rglob("*") if path.is_file()]
    assert written
    for path in written:
        assert f"wrote {path}" in out
        assert path.stat().st_mode & 0o777 == 0o600
    assert clients(name, *LIMIT, "--write") == 0
    assert "is as it should be" in capsys.readouterr().out
    assert sorted(written) == sorted(path for path in home.rglob("*") if path.is_file())


def test_an_existing_file_keeps_everything_and_has_a_backup(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = '{\n  // mine\n  "model": "a/b",\n  "theme": "dark"\n}\n'
    path = home / ".config/opencode/opencode.jsonc"
    path.parent.mkdir(parents=True)
    path.write_text(before)
    path.chmod(0o640)
    assert clients("opencode", *LIMIT, "--write") == 0
    out = capsys.readouterr().out
    assert '\n   // mine\n-  "model": "a/b",\n' in out
    assert '\n+  "model": "mlx/tiny",\n' in out
    after = path.read_text()
    assert "// mine" in after
    assert '"theme": "dark"' in after
    assert path.stat().st_mode & 0o777 == 0o640
    assert not (path.with_name("opencode.json")).exists()
    assert path.with_name("opencode.jsonc.bak").read_text() == before
    assert clients("opencode", "--set", "prompt.max_prompt_tokens=50000", "--write") == 0
    assert path.with_name("opencode.jsonc.bak").read_text() == before
    assert path.with_name("opencode.jsonc.bak1").read_text() == after


def test_a_link_stays_a_link(home: Path) -> None:
    (home / "dotfiles").mkdir()
    (home / "dotfiles/config.toml").write_text("x = 1\n")
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").symlink_to(home / "dotfiles/config.toml")
    assert clients("codex", *LIMIT, "--write") == 0
    assert (home / ".codex/config.toml").is_symlink()
    assert 'model = "tiny"' in (home / "dotfiles/config.toml").read_text()


def test_a_file_that_is_not_understood_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".codex/config.toml"
    path.parent.mkdir()
    path.write_text("model = \n")
    assert clients("codex", *LIMIT, "--write") == 2
    assert path.read_text() == "model = \n"
    assert not path.with_name("config.toml.bak").exists()
    err = capsys.readouterr().err
    assert f"{path} was left as it is: it is not TOML" in err
    assert "[model_providers.mlx]" in err


def test_variables_move_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", str(home / "elsewhere"))
    assert clients("codex", *LIMIT, "--write") == 0
    assert (home / "elsewhere/config.toml").exists()


def test_a_library_has_nothing_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert clients("openai", *LIMIT, "--write") == 2
    assert "reads variables only" in capsys.readouterr().err


# --- launching


class _Started(Exception):
    """What would have replaced this process."""

    def __init__(self, program: str, words: list[str], environ: dict[str, str]) -> None:
        super().__init__(program)
        self.words, self.environ = words, environ


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of all clients, and an `execve` that raises instead."""

    def execve(program: str, words: list[str], environ: dict[str, str]) -> None:
        raise _Started(program, words, environ)

    (home / "bin").mkdir()
    for name in ("claude", "codex", "opencode", "pi", "qwen", "aider", "llm", "cline", "cn", "zed"):
        (home / "bin" / name).touch(0o755)
    monkeypatch.setenv("PATH", str(home / "bin"))
    monkeypatch.setattr(os, "execve", execve)


def launched(*words: str) -> _Started:
    with pytest.raises(_Started) as caught:
        clients(*words)
    return caught.value


@pytest.mark.usefixtures("programs")
def test_what_needs_no_file_is_started_without_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-cloud")
    started = launched("claude-code", *LIMIT, "--launch", "-p", "hi")
    assert started.words[:2] == ["claude", "--settings"]
    assert started.words[3:] == ["-p", "hi"]
    assert json.loads(started.words[2])["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:9"
    assert started.environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "60000"
    assert started.environ["HOME"] == str(home)
    assert "ANTHROPIC_API_KEY" not in started.environ
    started = launched("codex", *LIMIT, "--launch", "exec", "hi")
    assert started.words[:3] == ["codex", "-c", 'model="tiny"']
    assert started.words[-2:] == ["exec", "hi"]
    started = launched("opencode", *LIMIT, "--launch")
    assert json.loads(started.environ["OPENCODE_CONFIG_CONTENT"])["model"] == "mlx/tiny"
    assert not [path for path in home.iterdir() if path.name != "bin"]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("name", ["pi", "qwen-code", "aider", "llm", "cline", "continue", "zed"])
def test_what_needs_a_file_is_started_once_it_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert clients(name, *LIMIT, "--launch") == 2
    assert "add --write" in capsys.readouterr().err
    assert launched(name, *LIMIT, "--write", "--launch", "-x").words[-1] == "-x"
    assert launched(name, *LIMIT, "--launch").words


@pytest.mark.usefixtures("programs")
def test_a_client_whose_file_is_in_place_is_started_plainly() -> None:
    assert launched("codex", *LIMIT, "--write", "--launch").words == ["codex"]


@pytest.mark.usefixtures("programs")
def test_a_library_starts_the_program_that_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bin/app").touch(0o755)
    started = launched("openai", *LIMIT, "--launch", "app", "--port", "1")
    assert started.words == ["app", "--port", "1"]
    assert started.environ["OPENAI_BASE_URL"] == "http://127.0.0.1:9/v1"
    assert clients("openai", *LIMIT, "--launch") == 2
    assert "name the program" in capsys.readouterr().err


def test_a_client_that_is_not_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert clients("codex", *LIMIT, "--launch") == 2
    assert "codex is not on the PATH" in capsys.readouterr().err
