"""The built wheel, installed alone into a clean environment, serves from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.support.canaries import is_input

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.real, pytest.mark.clients, pytest.mark.timeout(600)]


def _run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def interpreters() -> list[str]:
    """The one that runs the tests, and other supported ones that are on the PATH and work."""
    own = f"python3.{sys.version_info.minor}"
    others = [f"python3.{minor}" for minor in (11, 12, 13) if f"python3.{minor}" != own]
    return [sys.executable, *(name for name in others if shutil.which(name) and _works(name))]


def _works(interpreter: str) -> bool:
    """A version manager's shim is on the PATH for versions that it then refuses to run."""
    return subprocess.run([interpreter, "-V"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module", params=interpreters(), ids=lambda name: Path(name).name)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that holds nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    _run(request.param, "-m", "venv", "--without-pip", is_input(folder / "env"), cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "env", "install", "--quiet", "--no-compile")
    _run(*pip, wheel, "-c", _constraints(folder), cwd=folder)
    return folder / "env/bin"


def _constraints(folder: Path) -> Path:
    """The locked versions without their hashes: a wheel from here has none to compare."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.removesuffix(" \\") for line in lines if line[:1].isalnum()]
    (folder / "constraints.txt").write_text("\n".join(pins))
    return folder / "constraints.txt"


def test_serves_from_any_folder(installed: Path, tmp_path: Path) -> None:
    environ = {
        **os.environ,
        "MLXGUARD_SERVER__PORT": "0",
        "MLXGUARD_SUPERVISOR__STATE_DIR": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": "",
    }
    with (tmp_path / "log").open("wb") as log:
        proxy = subprocess.Popen([installed / "mlxguard-proxy"], cwd=tmp_path, env=environ, stderr=log)
    try:
        url = _address(tmp_path / "log", proxy)
        _await_ready(url)
        body = b'{"prompt": "hello", "max_tokens": 4}'
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert b'"completion_tokens":4' in answer.read().replace(b" ", b"")
        with urllib.request.urlopen(f"{url}/mlxguard/openapi.json", timeout=30) as answer:
            assert b'"/v1/chat/completions"' in answer.read(), "data files are in the wheel, too"
    finally:
        proxy.terminate()
        assert proxy.wait(30) == 0


def _address(log: Path, proxy: subprocess.Popen[bytes]) -> str:
    for _ in range(300):
        for word in log.read_text().replace('"', " ").split():
            if word.startswith("http://127.0.0.1:"):
                return word.rstrip(",}")
        assert proxy.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _await_ready(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except URLError:
            time.sleep(0.1)
    raise AssertionError("the child did not become ready")
