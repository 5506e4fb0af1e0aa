"""Which variables other programs get."""

from __future__ import annotations

from supervisor.environment import without_secrets, without_settings

BASE = {
    "PATH": "/bin",
    "HOME": "/root",
    "HF_HOME": "/models",
    "HF_TOKEN": "hf_secret",
    "AWS_SECRET_ACCESS_KEY": "s",
    "OPENAI_API_KEY": "s",
    "DB_PASSWORD": "s",
    "TOKENIZERS_PARALLELISM": "false",
    "MLXGUARD_SERVER__API_KEYS": "key",
}


def test_secrets_are_left_out() -> None:
    assert set(without_secrets(BASE)) == {"PATH", "HOME", "HF_HOME", "TOKENIZERS_PARALLELISM"}
    assert without_secrets(BASE, keep=("HF_TOKEN",))["HF_TOKEN"] == "hf_secret"


def test_a_program_of_the_users_own_lacks_only_our_settings() -> None:
    assert set(without_settings(BASE)) == set(BASE) - {"MLXGUARD_SERVER__API_KEYS"}
