"""Suggested names; the wording of faults is tested in test_loader.py."""

from __future__ import annotations

import pytest

from proxy.config.faults import KEYS, Fault, Key, SettingPlace, hint, key_of, nearest
from proxy.config.settings import RENAMED


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (("server", "prot"), ("server", "port")),
        (("sever", "port"), ("server", "port")),
        (("", "port"), ("server", "port")),
        (("port", ""), ("server", "port")),
        (("model", "max_kv_size"), ("prompt", "max_kv_size")),
        (("model", "trust-remote-code"), ("model", "trust_remote_code")),
        (("prompt", "max_tokens"), ("prompt", "max_prompt_tokens")),
        (("server", "xyzzy"), None),
        (("", ""), None),
    ],
)
def test_nearest_setting(wrong: Key, right: Key | None) -> None:
    assert nearest(*wrong) == right


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_every_setting_is_nearest_to_itself(key: Key) -> None:
    assert nearest(*key) == key
    assert key_of(".".join(key)) == key


def test_a_fault_reads_as_a_compiler_message() -> None:
    fault = Fault(SettingPlace(0, 3, "proxy.toml:3"), "port must be a whole number", ("server", "port"))
    assert str(fault) == "proxy.toml:3: port must be a whole number"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_gives_the_new_one(old: Key, new: Key) -> None:
    assert old not in KEYS
    assert new in KEYS
    assert hint(*old, ".".join) == (new, f"; it is now called {'.'.join(new)}")
