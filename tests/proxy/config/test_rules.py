"""Rules between settings, and between them and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.config.rules import Conflict, conflicts, is_loopback
from proxy.config.settings import Settings


def broken(**sections: dict[str, Any]) -> list[Conflict]:
    return list(conflicts(Settings.model_validate(sections)))


def only(**sections: dict[str, Any]) -> tuple[str, str]:
    """Setting and message of the one rule that is broken."""
    (conflict,) = broken(**sections)
    return conflict.settings[0], conflict.message


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# ours\n\naider:sk-1\nsk-2\n")
    path.chmod(0o600)
    return path


def test_the_defaults_break_no_rule() -> None:
    assert not broken()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("my-mac.local", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert (not broken(server={"host": host})) is loopback


def test_strangers_need_keys_or_a_word_that_says_so(keys_file: Path) -> None:
    setting, message = only(server={"host": "0.0.0.0"})
    assert setting == "server.host"
    assert "api_keys" in message
    assert "insecure = true" in message
    assert not broken(server={"host": "0.0.0.0", "insecure": True})
    assert not broken(server={"host": "0.0.0.0", "api_keys": ["sk-1"]})
    assert not broken(server={"host": "0.0.0.0", "api_keys_file": str(keys_file)})


def test_keys_file_that_others_can_read(keys_file: Path) -> None:
    keys_file.chmod(0o640)
    setting, message = only(server={"api_keys_file": str(keys_file)})
    assert setting == "server.api_keys_file"
    assert message == f"{keys_file}: is open to other users (mode 0640); run: chmod 600 {keys_file}"


def test_keys_file_that_is_missing_empty_or_faulty(keys_file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert only(server={"api_keys_file": str(missing)})[1] == f"{missing}: No such file or directory"
    keys_file.write_text("# nothing\n")
    assert only(server={"api_keys_file": str(keys_file)})[1] == f"{keys_file} has no key in it"
    keys_file.write_text("sk-1\nsk 4711\n")
    (conflict,) = broken(server={"api_keys_file": str(keys_file)})
    assert conflict.where == f"{keys_file}:2"
    assert "4711" not in conflict.message


@pytest.mark.parametrize(
    ("prompt", "culprit"),
    [
        ({"max_prompt_tokens": 100, "prompt_keep_tokens": 100}, "prompt.prompt_keep_tokens"),
        ({"max_kv_size": 100, "prompt_keep_tokens": 100}, "prompt.prompt_keep_tokens"),
        ({"max_kv_size": 100, "max_prompt_tokens": 100}, "prompt.max_kv_size"),
        ({"max_prompt_tokens": 100, "prompt_keep_tokens": 99}, None),
        ({"max_kv_size": 101, "max_prompt_tokens": 100}, None),
        ({"prompt_keep_tokens": 10**6}, None),
    ],
)
def test_prompt_lengths(prompt: dict[str, int], culprit: str | None) -> None:
    assert [conflict.settings[0] for conflict in broken(prompt=prompt)] == ([culprit] if culprit else [])


def test_cache_must_be_smaller_than_all_memory() -> None:
    memory = {"max_active_memory_bytes": "8GB", "max_active_kv_bytes": "8GB"}
    assert only(memory=memory)[0] == "memory.max_active_kv_bytes"
    assert not broken(memory={"max_active_memory_bytes": "8GB", "max_active_kv_bytes": "7GB"})


def test_back_off_cannot_begin_above_its_end() -> None:
    setting, message = only(supervisor={"backoff_base_s": 60})
    assert setting == "supervisor.backoff_base_s"
    assert message == "backoff_base_s (60) must not be more than backoff_max_s (30)"


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("--model", "model.path"),
        ("--model=x", "model.path"),
        ("--mod", "model.path"),
        ("--host", "server.host"),
        ("--port=1", "server.port"),
        ("--prefill-step-size", "upstream.prefill_step_size"),
        ("--pre=4", "upstream.prefill_step_size"),
        ("--max-tokens", "prompt.default_max_tokens"),
        ("--log-level", "log.level"),
    ],
)
def test_flags_that_a_setting_decides(word: str, setting: str) -> None:
    assert only(upstream={"args": [word]}) == (
        "upstream.args",
        f"{word} does not belong in args: set {setting}",
    )


@pytest.mark.parametrize(
    "word", ["--temp", "--chat-template-args", "--p", "--new-flag", "--", "-m", "model", ""]
)
def test_flags_that_are_the_servers_own(word: str) -> None:
    assert not broken(upstream={"args": [word]})


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "return_dict"])
def test_arguments_that_kill_the_server_cannot_be_listed(name: str) -> None:
    setting, message = only(request={"template_arguments": [f"{name}=true", "persona"]})
    assert setting == "request.template_arguments"
    assert message.startswith(name)


def test_command_must_exist() -> None:
    assert only(upstream={"command": ["no-such-program", "x"]})[1] == (
        "there is no program 'no-such-program' to run"
    )
    assert not broken(upstream={"command": ["sh", "x"]})


def test_log_file_needs_its_folder(tmp_path: Path) -> None:
    assert only(log={"file": str(tmp_path / "a" / "log")})[1] == f"the folder {tmp_path / 'a'} does not exist"
    assert only(log={"file": str(tmp_path)})[1] == f"{tmp_path} cannot be written"
    assert not broken(log={"file": str(tmp_path / "log")})


def test_state_folder_may_be_new_but_must_be_possible(tmp_path: Path) -> None:
    assert not broken(supervisor={"state_dir": str(tmp_path / "a" / "b")})
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    setting, message = only(supervisor={"state_dir": str(tmp_path / "file" / "b")})
    assert setting == "supervisor.state_dir"
    assert message == f"{tmp_path / 'file' / 'b'} cannot be made: {tmp_path / 'file'} is not a folder"


def test_folders_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.access is told the answer: the tests may run as root, to whom everything is open."""
    monkeypatch.setattr("proxy.config.rules.os.access", lambda *_: False)
    sections = {"log": {"file": str(tmp_path / "log")}, "supervisor": {"state_dir": str(tmp_path / "state")}}
    assert [conflict.message for conflict in broken(**sections)] == [
        f"{tmp_path / 'log'} cannot be written",
        f"{tmp_path / 'state'} cannot be written: no permission in {tmp_path}",
    ]
