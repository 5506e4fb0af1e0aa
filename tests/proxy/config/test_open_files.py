"""Which limits on open files are too low, and what is said about them."""

from __future__ import annotations

import resource

import pytest

from proxy.config.open_files import hard_limit, shortages


@pytest.mark.parametrize(
    ("limit", "connections", "said"),
    [
        (None, 100_000, []),
        (4096, 512, []),
        (1_048_576, 20_000, []),
        (1024, 512, ["mlx_lm does not start below 4096", "set it to 448"]),
        (2048, 512, ["mlx_lm does not start below 4096"]),
        (4096, 20_000, ["set it to 1984"]),
    ],
)
def test_what_is_said(limit: int | None, connections: int, said: list[str]) -> None:
    sentences = list(shortages(limit, connections))
    assert len(sentences) == len(said)
    assert all(part in sentence for part, sentence in zip(said, sentences, strict=True))


@pytest.mark.parametrize(("hard", "limit"), [(4096, 4096), (resource.RLIM_INFINITY, None)])
def test_the_hard_limit(monkeypatch: pytest.MonkeyPatch, hard: int, limit: int | None) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))
    assert hard_limit() == limit
