"""The README is right because its commands are run here, in a fresh clone with a fresh environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.processes import free_port, until
from tests.support.canaries import is_input

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
PORT = "8080"

pytestmark = [pytest.mark.real, pytest.mark.clients, pytest.mark.timeout(600)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def environment(port: int) -> dict[str, str]:
    """The user's own, but for the port (8080 may be taken here) and a state folder of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLXGUARD_", "PYTEST_"))
    }
    return {**clean, "MLXGUARD_SERVER__PORT": str(port), "MAKEFLAGS": ""}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody gets who clones the repository: the committed files and nothing else."""
    folder = is_input(tmp_path_factory.mktemp("readme") / "clone")
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def served(clone: Path) -> Iterator[int]:
    """The port on which the README's first command serves."""
    port = free_port()
    environ = {**environment(port), "MLXGUARD_SUPERVISOR__STATE_DIR": str(clone.parent / "state")}
    with (clone.parent / "run.log").open("wb") as log:
        run = subprocess.Popen(
            blocks("sh")[0],
            shell=True,
            cwd=clone,
            env=environ,
            stderr=log,
            stdout=log,
            start_new_session=True,
        )

    def ready() -> bool:
        assert run.poll() is None, (clone.parent / "run.log").read_text()[-3000:]
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200)
        except OSError:
            return False

    try:
        until("make run serves", ready, 500)
        yield port
    finally:
        os.killpg(run.pid, signal.SIGINT)
        run.wait(60)


def test_the_first_command_serves_and_the_second_gets_an_answer(served: int) -> None:
    assert blocks("sh")[0].strip() == "make run"
    curl = blocks("sh")[1].replace(f":{PORT}", f":{served}")
    done = subprocess.run(
        f"{curl.strip()} --silent --fail", shell=True, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"completion_tokens":16' in done.stdout


def test_the_python_example_runs(served: int) -> None:
    (example,) = blocks("python")
    code = example.replace(f":{PORT}", f":{served}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_toml_example_is_valid(tmp_path: Path) -> None:
    (example,) = blocks("toml")
    (tmp_path / "proxy.toml").write_text(example)
    command = [Path(sys.executable).with_name("mlxguard-proxy"), "check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "60000" in done.stdout


def test_the_command_for_the_tests_collects_them(clone: Path, served: int) -> None:
    """`make test` in the clone; running all tests here would run this one too."""
    assert blocks("sh")[2].strip() == "make test"
    environ = {**environment(served), "PYTEST_ADDOPTS": "--collect-only"}
    environ.pop("MLXGUARD_SERVER__PORT")
    done = subprocess.run(
        "make test", shell=True, cwd=clone, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "test_the_command_for_the_tests_collects_them" in done.stdout


def test_documents_that_are_named_exist() -> None:
    names = re.findall(r"\]\((docs/[a-z]+\.md)\)", README)
    assert names
    for name in names:
        assert (ROOT / name).is_file(), name
