"""A request that fails while the child lives: it alone ends, by the contract, and nothing is restarted.

With --kv-bits the server works on its sequential path, which catches what a request raises; and a model with
sliding windows cannot quantize its cache: every request fails that reaches the token from which it should.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import MakeTiny
from tests.real.processes import Gateway, guard
from tests.support.canaries import PROMPT

pytestmark = pytest.mark.real

QUANTIZED_FROM = 64


@pytest.fixture(scope="module")
def failing(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    flags = json.dumps(["--kv-bits", "8", "--quantized-kv-start", str(QUANTIZED_FROM)])
    model = make_tiny(architecture="gemma3_text", window=32)
    with guard(model, tmp_path_factory.mktemp("failing"), f"--set=upstream.args={flags}") as proxy:
        yield proxy


def complete(proxy: Gateway, *, max_tokens: int, stream: bool) -> tuple[int, dict[str, str], str]:
    port = int(proxy.url.rpartition(":")[2])
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": max_tokens, "stream": stream}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_a_waiting_client_gets_a_500_that_says_so(failing: Gateway) -> None:
    status, headers, body = complete(failing, max_tokens=2 * QUANTIZED_FROM, stream=False)
    assert status == 500
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("server_error", "upstream_error")
    assert "Retry-After" not in headers


def test_a_stream_that_has_begun_ends_with_the_error(failing: Gateway) -> None:
    status, _, body = complete(failing, max_tokens=2 * QUANTIZED_FROM, stream=True)
    assert status == 200
    *_, last, done = [line for line in body.splitlines() if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
    assert done == "data: [DONE]"


def test_the_child_lives_on_and_serves_others(failing: Gateway) -> None:
    before = failing.status()["child"]
    assert complete(failing, max_tokens=2 * QUANTIZED_FROM, stream=False)[0] == 500
    assert complete(failing, max_tokens=8, stream=False)[0] == 200
    after = failing.status()["child"]
    assert (after["pid"], after["generation"], after["restarts"]) == (before["pid"], 1, 0)
