"""A bare server and a proxy that tests may share, when they leave both as they found them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.processes import Gateway, Running, bare_server, guard


@pytest.fixture(scope="session")
def shared_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server by itself, with the embedded model."""
    with bare_server(tiny_model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def shared_guard(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A proxy with the embedded model: random text up to max_tokens."""
    with guard(tiny_model, tmp_path_factory.mktemp("guard")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def scripted_guard(scripted_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A proxy with the model that thinks, calls tools and answers as tests/support/scripted.py says."""
    with guard(scripted_model, tmp_path_factory.mktemp("scripted")) as proxy:
        yield proxy
