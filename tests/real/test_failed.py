"""Given up: the proxy goes on answering by the contract, with the cause, and there are three ways out."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.real.processes import Guard, guard, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(150)]


def post(proxy: Guard, path: str, body: dict[str, object]) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"{proxy.url}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, dict(refusal.headers), refusal.read()


def chat(proxy: Guard) -> tuple[int, dict[str, str], bytes]:
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    return post(proxy, "/v1/chat/completions", body)


def by_sighup(proxy: Guard) -> None:
    proxy.process.send_signal(signal.SIGHUP)


def by_request(proxy: Guard) -> None:
    assert post(proxy, "/mlxguard/api/recycle", {})[0] == 202


def by_waiting(proxy: Guard) -> None:
    next_restart_s = proxy.status()["child"]["next_restart_s"]
    assert 0 <= next_restart_s <= 8


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
