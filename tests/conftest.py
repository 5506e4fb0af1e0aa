"""What many tests share: small models, made once and kept under .out/ for later runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tools
from tests.support.canaries import nothing_leaks
from tests.support.scripted import SAY, SAY_WITH_TOOLS

__all__ = ["nothing_leaks"]  # for every test

MODELS = Path(__file__).resolve().parent.parent / ".out" / "models"

MakeTiny = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-all", action="store_true", help="fail where Node or Chromium is missing")


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tools.leave_out(items, required=config.getoption("--require-all"))


@pytest.fixture(scope="session")
def make_tiny() -> MakeTiny:
    """`make_tiny(layers=4, say="hello")`: the folder of such a model; arguments are those of TinySpec.

    In a process of its own, since importing mlx changes the limits of the one that does.
    """

    def make(**options: object) -> Path:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in sorted(options.items())]
        name = hashlib.sha256(repr(arguments).encode()).hexdigest()[:12] if arguments else "default"
        command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={MODELS / name}", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return MODELS / name

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny: MakeTiny) -> Path:
    """The embedded model: random text that goes on until max_tokens."""
    return make_tiny()


@pytest.fixture(scope="session")
def scripted_model(make_tiny: MakeTiny) -> Path:
    """Thinks, then calls a tool if it is offered some, or else answers: see tests/support/scripted.py."""
    return make_tiny(say=SAY, say_with_tools=SAY_WITH_TOOLS)
