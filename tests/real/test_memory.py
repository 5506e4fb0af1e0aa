"""Little memory, by a low ceiling: what is kept makes way for who waits, and one that outgrows it ends."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import MakeTiny
from tests.real.processes import Gateway, guard

pytestmark = pytest.mark.real

#: Some 56 MB beside the weights. A prompt takes 15 MB of KV that is kept, and as much again while it is read:
#: the third has no room.
SETTINGS = ("--set=memory.max_active_memory_bytes=60MB", "--set=upstream.mlx_cache_limit=1MB")
PROMPT = 900


def complete(proxy: Gateway, prompt: str, max_tokens: int = 1) -> tuple[int, str]:
    port = int(proxy.url.rpartition(":")[2])
    body = {"prompt": prompt, "max_tokens": max_tokens, "stream": True}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_what_is_kept_makes_way_and_one_that_outgrows_the_ceiling_ends_by_contract(
    make_tiny: MakeTiny, tmp_path: Path
) -> None:
    with guard(make_tiny(kv_bytes_per_token=16384), tmp_path, *SETTINGS) as tight:
        for digit in "123":
            status, stream = complete(tight, digit * PROMPT)
            assert status == 200, stream
            assert stream.endswith("data: [DONE]\n\n")
            time.sleep(0.3)  # of an agent that thinks; what is kept is measured meanwhile
        assert {line["outcome"] for line in tight.events("answered")} == {"ok"}
        (reclaimed,) = tight.events("reclaimed")
        assert reclaimed["after"] < reclaimed["before"]

        status, stream = complete(tight, "4" * 700, max_tokens=6000)
        *_, error, done, _ = stream.split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "503"
        assert done == "data: [DONE]"

        shown = tight.status()
        assert (shown["child"]["generation"], shown["memory"]["ended"]) == (1, 1)
