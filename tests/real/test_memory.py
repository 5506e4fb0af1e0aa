"""Little memory, by a low ceiling: what is kept makes way for who waits, without a restart."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import MakeTiny
from tests.real.processes import Guard, guard

pytestmark = pytest.mark.real

#: Some 56 MB beside the weights. A prompt takes 15 MB of KV that is kept, and as much again while it is read:
#: the third has no room.
SETTINGS = ("--set=memory.max_active_memory_bytes=60MB", "--set=upstream.mlx_cache_limit=1MB")
PROMPT = 900


def complete(proxy: Guard, prompt: str) -> tuple[int, str]:
    port = int(proxy.url.rpartition(":")[2])
    body = {"prompt": prompt, "max_tokens": 1, "stream": True}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_what_is_kept_makes_way_for_who_waits(make_tiny: MakeTiny, tmp_path: Path) -> None:
    with guard(make_tiny(kv_bytes_per_token=16384), tmp_path, *SETTINGS) as tight:
        for digit in "123":
            status, stream = complete(tight, digit * PROMPT)
            assert status == 200, stream
            assert stream.endswith("data: [DONE]\n\n")
            time.sleep(0.3)  # of an agent that thinks; what is kept is measured meanwhile
        assert {line["outcome"] for line in tight.events("answered")} == {"ok"}
        (reclaimed,) = tight.events("reclaimed")
        assert reclaimed["after"] < reclaimed["before"]
        assert tight.status()["child"]["generation"] == 1
