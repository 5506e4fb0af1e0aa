"""A request that kills the real server: tried alone, refused, remembered; and nobody else is harmed.

What kills is a word, by tests/real/faults/sitecustomize.py: on Linux no prompt that passes the proxy's
checks is known to crash the server. Or the checks are told to let through what does.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.campaign.clients import Heard, raw_streaming, raw_whole
from tests.campaign.clients import ask as ask_as
from tests.real.faults_of_children import environ
from tests.real.processes import Gateway, guard, until
from tests.support.canaries import PROMPT

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

SETTINGS = ("upstream.decode_concurrency=8", "upstream.prompt_concurrency=8", "supervisor.max_restarts=100")
OPTIONS = [f"--set={setting}" for setting in SETTINGS]


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in environ(words=True).items():
        monkeypatch.setenv(name, value)
    yield


#: The longest, so that it is counted and given to the child after the innocents: if it were decoding while
#: one of them is read, that one would be blamed first, and finding the killer would take a third death.
POISON = f"poison {'of some length ' * 3}"


def body_of(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{PROMPT} {text}"}], "max_tokens": 30, "temperature": 0}


async def ask(proxy: Gateway, text: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{proxy.url}/v1/chat/completions", json=body_of(text)) as answer,
    ):
        return answer.status, await answer.json()


def deaths(proxy: Gateway) -> list[dict[str, Any]]:
    return proxy.events("child_died")


@pytest.mark.usefixtures("deadly")
async def test_poison_is_refused_and_the_innocents_beside_it_are_served(
    tiny_model: Path, tmp_path: Path
) -> None:
    with guard(tiny_model, tmp_path, *OPTIONS) as proxy:
        clients = (raw_streaming, raw_whole) * 3
        innocents = [
            ask_as(client, proxy.url, body_of(f"innocent {number}"), f"i{number}", 90.0)
            for number, client in enumerate(clients)
        ]
        *results, (status, refusal) = await asyncio.gather(*innocents, ask(proxy, POISON))
        assert status == 400
        assert refusal["error"]["code"] == "quarantined"
        assert len(deaths(proxy)) == 2
        cut = [result for result in results if result.heard is Heard.CUT]
        assert not [result for result in results if result.heard not in (Heard.COMPLETE, Heard.CUT)], results
        assert all(result.content for result in cut)

        assert (await ask(proxy, POISON))[0] == 400
        assert (await ask(proxy, "bread"))[0] == 200
        assert len(deaths(proxy)) == 2, "it is not tried again"

    reports = told(tmp_path, "crashes", "--json")
    assert [report["cause"] for report in reports] == ["segfault", "segfault"]
    first, second = (report["in_flight"] for report in reports)
    assert second[0]["refused_s"] == pytest.approx(600, abs=2)
    assert len(second) == 1, "it was alone"
    assert second[0]["fingerprint"] in [work["fingerprint"] for work in first if work["suspect"]]
    assert "poison" not in json.dumps(reports)

    with guard(tiny_model, tmp_path, *OPTIONS) as later:
        assert (await ask(later, POISON))[0] == 400
        assert not deaths(later), "the next proxy knows it"


@pytest.mark.parametrize(
    ("poison", "cause"),
    [
        ({"stop": 5}, "generation_thread_died"),
        ({"logit_bias": {"999999": 1.0}}, None),
    ],
    ids=["stop", "logit_bias"],
)
async def test_what_the_checks_would_have_refused_is_refused_after_two_deaths(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    poison: dict[str, Any],
    cause: str | None,
) -> None:
    """Against the server as it is: the checks let through what is known to kill it."""
    for name, value in (environ() | {"FAULTS_UNCHECKED": "1"}).items():
        monkeypatch.setenv(name, value)
    with guard(tiny_model, tmp_path, *OPTIONS) as proxy:
        deadly, (status, answer) = body_of("hello") | poison, await ask(proxy, "bread")
        assert status == 200, answer
        async with aiohttp.ClientSession() as http:
            for _ in range(2):
                async with http.post(f"{proxy.url}/v1/chat/completions", json=deadly) as refused:
                    assert refused.status == 400
                    assert (await refused.json())["error"]["code"] == "quarantined"
        assert len(deaths(proxy)) == 2, "the second time it is not tried again"
        assert cause is None or {death["cause"] for death in deaths(proxy)} == {cause}
        assert (await ask(proxy, "bread"))[0] == 200


@pytest.mark.usefixtures("deadly")
async def test_a_memory_killer_is_told_a_smaller_size(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path, *OPTIONS) as proxy:
        answered, refusal = await ask(proxy, "glutton " * 100)
        assert answered == 400
        assert refusal["error"]["code"] == "context_length_exceeded"
        said = refusal["error"]["message"].split()
        assert int(said[4]) // 2 == int(said[7])
        assert [line["cause"] for line in deaths(proxy)] == ["metal_oom", "metal_oom"]
        assert "max_prompt_tokens" in deaths(proxy)[0]["advice"]
        status = proxy.status()
        assert (status["learned"]["deaths"], status["learned"]["ceiling_ratio"]) == (2, 0.81)
        until("it is planned by that", lambda: "81% of" in proxy.status()["plan"]["ceiling_from"])
        assert [suspect["why"] for suspect in status["suspects"]] == [["memory", "memory"]]
    report = told(tmp_path, "crashes", "last", "--json")
    assert report["in_flight"][0]["predicted_bytes"] > 0
    assert report["child"]["plan"]["ceiling_from"].startswith("90% of")
    kept = told(tmp_path, "limits", "--json")
    assert (kept["learned"]["deaths"], kept["learned"]["last"]["cause"]) == (2, "metal_oom")


def told(folder: Path, *words: str) -> Any:
    command = [str(Path(sys.executable).with_name("mlxguard-proxy")), *words]
    state = ["--set", f"supervisor.state_dir={folder / 'state'}"]
    done = subprocess.run([*command, *state], check=True, capture_output=True, text=True, cwd=folder)
    return json.loads(done.stdout)
