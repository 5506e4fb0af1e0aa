"""Folders by the platform's custom."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.folders import cache_folder, state_folder

HOME = Path.home()


@pytest.mark.parametrize(
    ("platform", "state", "cache"),
    [
        ("darwin", "Library/Application Support/mlxguard-proxy", "Library/Caches/mlxguard-proxy"),
        ("linux", ".local/state/mlxguard-proxy", ".cache/mlxguard-proxy"),
    ],
)
def test_the_platforms_own(monkeypatch: pytest.MonkeyPatch, platform: str, state: str, cache: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    assert state_folder(None, {}) == HOME / state
    assert cache_folder({}) == HOME / cache


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_xdg_variables_hold_when_they_are_absolute(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    assert state_folder(None, {"XDG_STATE_HOME": "/s"}) == Path("/s/mlxguard-proxy")
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/mlxguard-proxy")
    assert cache_folder({"XDG_CACHE_HOME": "c"}) == cache_folder({})
    assert cache_folder({"XDG_CACHE_HOME": ""}) == cache_folder({})


def test_a_configured_folder_is_taken_as_it_is() -> None:
    assert state_folder(Path("/x"), {"XDG_STATE_HOME": "/s"}) == Path("/x")
