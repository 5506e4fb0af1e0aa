"""The schema by itself: sizes, what each kind of value refuses, and secrets that are not shown."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from proxy.config.settings import SECTIONS, Settings, parse_size

RAM = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (0, 0),
        (17, 17),
        ("17", 17),
        ("17B", 17),
        ("24GB", 24 * 10**9),
        ("24gb", 24 * 10**9),
        ("24G", 24 * 10**9),
        ("24GiB", 24 * 2**30),
        ("1.5 TiB", 3 * 2**39),
        (" 512 MiB ", 512 * 2**20),
        ("0.1kB", 100),
        (0.75, int(RAM * 0.75)),
        ("0.75", int(RAM * 0.75)),
        (1.0, RAM),
    ],
)
def test_sizes(written: object, meant: int) -> None:
    assert parse_size(written) == meant


@pytest.mark.parametrize(
    "written",
    [True, None, -1, 1.5, "1.5", "", "GB", "24 GBit", "24QB", "1e9", "-1GB", "0x10", [1], "9" * 400],
)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_size(written)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", True),
        ("server", "port", "9000"),
        ("server", "port", 65536),
        ("server", "host", ""),
        ("server", "insecure", "no"),
        ("server", "api_keys", ["with space"]),
        ("server", "api_keys", ["two:colons:x"]),
        ("server", "api_keys", ["name:"]),
        ("server", "allowed_origins", ["*"]),
        ("server", "allowed_origins", ["http://localhost:3000/path"]),
        ("server", "allowed_hosts", ["http://box"]),
        ("server", "max_body_bytes", 0),
        ("model", "path", ""),
        ("prompt", "max_prompt_tokens", 0),
        ("prompt", "max_kv_size", False),
        ("queue", "keepalive_s", 0),
        ("queue", "max_wait_s", -1),
        ("queue", "max_wait_s", float("inf")),
        ("queue", "max_wait_s", float("nan")),
        ("upstream", "command", "mlx_lm.server"),
        ("request", "image_hosts", ["https://pics.example"]),
        ("request", "image_hosts", ["pics.example/a"]),
        ("request", "image_hosts", ["*.example"]),
        ("request", "image_hosts", ["Pics.example"]),
        ("request", "image_hosts", ["::1"]),
        ("request", "template_arguments", ["a b"]),
        ("request", "template_arguments", ["a="]),
        ("request", "template_arguments", ["a=x||y"]),
        ("request", "max_image_pixels", 0),
        ("request", "adapters", [""]),
    ],
)
def test_what_a_key_refuses(section: str, key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({section: {key: value}})


def test_what_may_be_written_for_not_set() -> None:
    settings = Settings.model_validate(
        {
            "server": {"api_keys_file": ""},
            "model": {"served_name": ""},
            "prompt": {"max_kv_size": 0},
            "log": {"file": ""},
        }
    )
    assert settings == Settings()


def test_what_requests_may_be_allowed() -> None:
    allowed = {
        "image_hosts": ["pics.example", "10.0.0.5:8080", "[::1]:80"],
        "template_arguments": ["persona", "reasoning_effort=low|high"],
        "adapters": ["/adapters/sql"],
    }
    settings = Settings.model_validate({"request": allowed}).request
    assert {name: list(getattr(settings, name)) for name in allowed} == allowed


def test_home_folder_is_filled_in() -> None:
    settings = Settings.model_validate({"model": {"path": "~/m"}, "log": {"file": "~/proxy.log"}})
    assert settings.model.path == str(Path.home() / "m")
    assert settings.log.file == Path.home() / "proxy.log"


def test_repeated_names_count_once_but_words_of_a_command_stay() -> None:
    command = ["uvx", "--with", "a", "--with", "b", "mlx_lm.server"]
    settings = Settings.model_validate(
        {"upstream": {"command": command}, "model": {"aliases": ["a", "b", "a"]}}
    )
    assert settings.upstream.command == tuple(command)
    assert settings.model.aliases == ("a", "b")


def test_keys_are_not_in_the_representation() -> None:
    settings = Settings.model_validate({"server": {"api_keys": ["sk-4711"]}})
    assert "4711" not in repr(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1  # type: ignore[misc]


def test_names_of_pull_request_948_are_here() -> None:
    prompt, memory, upstream = (SECTIONS[name].model_fields for name in ("prompt", "memory", "upstream"))
    assert {"max_prompt_tokens", "prompt_overflow_policy", "prompt_keep_tokens", "max_kv_size"} <= set(prompt)
    assert {"max_active_kv_bytes", "max_active_memory_bytes"} <= set(memory)
    assert "prefill_step_size" in upstream
