"""Given up: the proxy goes on answering by the contract, with the cause, and there are three ways out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.campaign.clients import Client, Heard, Result, ask, raw_streaming, raw_whole
from tests.real.processes import Gateway, guard, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(150)]


def post(proxy: Gateway, path: str, body: dict[str, object]) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"{proxy.url}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, dict(refusal.headers), refusal.read()


def chat(proxy: Gateway) -> tuple[int, dict[str, str], bytes]:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    return post(proxy, "/v1/chat/completions", body)


def by_sighup(proxy: Gateway) -> None:
    proxy.process.send_signal(signal.SIGHUP)


def by_request(proxy: Gateway) -> None:
    assert post(proxy, "/mlxguard/api/recycle", {})[0] == 202


def by_waiting(proxy: Gateway) -> None:
    next_restart_s = proxy.status()["child"]["next_restart_s"]
    assert 0 <= next_restart_s <= 8


def test_who_is_in_flight_when_it_gives_up_is_told_so(tiny_model: Path, tmp_path: Path) -> None:
    """One has seen content, one waits for the whole of its answer, one is in the queue with its 200 out."""
    settings = (
        "supervisor.max_restarts=0",
        "upstream.decode_concurrency=2",
        "upstream.prompt_concurrency=2",
        "queue.headers_after_s=0.1",
    )
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3000, "temperature": 0}
    with (
        guard(tiny_model, tmp_path, *(f"--set={setting}" for setting in settings)) as proxy,
        ThreadPoolExecutor() as pool,
    ):

        def start(client: Client, stages: list[str]) -> Future[Result]:
            name = client.__name__
            going = pool.submit(lambda: asyncio.run(ask(client, proxy.url, body, name, 60)))
            until(f"{name} runs", lambda: [each["stage"] for each in proxy.status()["requests"]] == stages)
            return going

        reads = start(raw_streaming, ["decode"])
        waits = start(raw_whole, ["decode", "decode"])
        queued = start(raw_streaming, ["decode", "decode", "waiting"])
        time.sleep(0.2)  # its head is sent by now
        os.kill(proxy.status()["child"]["pid"], signal.SIGKILL)
        assert reads.result().heard is Heard.CUT
        assert waits.result().heard is queued.result().heard is Heard.UNAVAILABLE
        assert proxy.status()["child"]["state"] == "failed"
        reasons = [line["reason"] for line in proxy.events("answered")]
        assert sorted(reasons) == ["child_died", "restart_failed", "restart_failed"]
        told = json.loads(chat(proxy)[2])["error"]["message"]
        assert "The server was killed from outside with SIGKILL" in told


def test_who_has_given_up_says_so_and_can_be_called_back(tiny_model: Path, tmp_path: Path) -> None:
    options = ("--set=supervisor.max_restarts=0", "--set=supervisor.cooldown_s=8")
    with guard(tiny_model, tmp_path, *options) as proxy:
        for way_out in (by_sighup, by_request, by_waiting):
            os.kill(proxy.status()["child"]["pid"], signal.SIGKILL)
            until("it gives up", lambda: proxy.status()["child"]["state"] == "failed")

            status, headers, body = chat(proxy)
            assert (status, headers["x-should-retry"]) == (503, "false")
            assert 10 <= int(headers["Retry-After"]) <= 30
            assert json.loads(body)["error"]["code"] == "503"
            assert proxy.get("/livez")[0] == 200
            code, ready = proxy.get("/readyz")
            assert (code, json.loads(ready)["state"]) == (503, "failed")
            assert "SIGKILL" in json.loads(ready)["reason"]

            way_out(proxy)
            until("it is tried again", lambda: proxy.status()["child"]["state"] in ("starting", "ready"))
            assert chat(proxy)[0] == 200, "held until the child was ready"
        assert len(proxy.events("child_died")) == 3
