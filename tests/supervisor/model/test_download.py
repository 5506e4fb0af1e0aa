"""Downloads, against a hub of our own: the process is the real one, with the real client of the hub in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

SHA = "a" * 40


@dataclass
class Hub:
    """As much of the Hugging Face hub as a snapshot asks for."""

    files: dict[str, bytes]
    home: Path
    trouble: list[web.Response] = field(default_factory=list)  # answers to the next requests, in their place
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.trouble and request.path.startswith("/api/models"):
            return self.trouble.pop(0)
        parts = request.path.strip("/").split("/")
        if parts[:4] == ["api", "models", "org", "name"]:
            return web.json_response(self._tree() if parts[4] == "tree" else self._info())
        content = self.files[parts[-1]]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": SHA}
        return web.Response(body=content, headers=headers)

    def _info(self) -> dict[str, Any]:
        return {"id": "org/name", "sha": SHA, "siblings": [{"rfilename": name} for name in self.files]}

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
            for name, content in self.files.items()
        ]

    async def download(self, *options: str, endpoint: str = "", **environ: str) -> list[dict[str, Any]]:
        """What the process printed, line by line."""
        own = {"HF_ENDPOINT": endpoint or self.url, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "supervisor.model.download", "org/name", *options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | own | environ,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        said = [json.loads(line) async for line in process.stdout]
        status = await process.wait()
        process.stdin.close()
        assert status == ("error" in said[-1])
        return said


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
async def hub(tiny_model: Path, tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(_content(tiny_model) | {"model.gguf": b"not for us"}, tmp_path / "home")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hub.answer)
    async with TestServer(app) as server:
        hub.url = str(server.make_url("")).rstrip("/")
        yield hub


async def test_a_snapshot_holds_what_the_server_loads_and_is_fetched_once(hub: Hub) -> None:
    folder = Path((await hub.download())[-1]["folder"])
    assert folder.name == SHA
    assert _content(folder) == {name: content for name, content in hub.files.items() if name != "model.gguf"}
    hub.asked.clear()
    assert (await hub.download())[-1] == {"folder": str(folder)}
    assert hub.asked == []


async def test_transient_errors_are_retried(hub: Hub) -> None:
    hub.trouble = [web.Response(status=503), web.Response(status=429)]
    *retries, last = await hub.download()
    assert retries == [{"retry": number, "reason": "HfHubHTTPError"} for number in (1, 2)]
    assert "folder" in last


async def test_an_incomplete_snapshot_is_completed(hub: Hub) -> None:
    """One of an older client, which kept no list of what belongs to it."""
    folder = hub.home / "hub" / "models--org--name" / "snapshots" / SHA
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text(SHA)
    assert (await hub.download())[-1] == {"folder": str(folder)}
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("status", "code", "complaint"),
    [
        (404, "RepoNotFound", "no such model"),
        (401, "RepoNotFound", "no such model"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RevisionNotFound", 'has no revision "v9"'),
        (418, "", "cannot be fetched"),
    ],
)
async def test_permanent_errors_are_reported_at_once(
    hub: Hub, status: int, code: str, complaint: str
) -> None:
    hub.trouble = [web.Response(status=status, headers={"X-Error-Code": code}) for _ in range(9)]
    (said,) = await hub.download("--revision", "v9")
    assert complaint in said["error"]
    assert said["error"].count("\n") == 0


async def test_without_a_network(hub: Hub) -> None:
    *retries, last = await hub.download("--attempts", "2", endpoint="http://127.0.0.1:9")
    assert [line["retry"] for line in retries] == [1]
    assert "cannot be fetched from http://127.0.0.1:9" in last["error"]


async def test_offline_by_choice(hub: Hub) -> None:
    (said,) = await hub.download(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in said["error"]
    assert hub.asked == []


async def test_it_ends_with_its_parent(hub: Hub) -> None:
    """Its stdin is closed while the hub lets it wait."""
    held = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        held.set()
        await asyncio.sleep(60)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hold)
    async with TestServer(app) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "supervisor.model.download", "org/name"),
            stdin=asyncio.subprocess.PIPE,
            env=os.environ | {"HF_ENDPOINT": str(server.make_url("")).rstrip("/"), "HF_HOME": str(hub.home)},
        )
        assert process.stdin is not None
        await held.wait()
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 5) == 1
