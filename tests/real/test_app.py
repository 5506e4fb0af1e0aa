"""The whole proxy as a process: coming up, signals, what stands in its way, and what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.real.processes import STOP_S, Gateway, free_port, guard, until
from tests.support.canaries import PROMPT
from tests.support.unread import Pipe

pytestmark = pytest.mark.real

COMMAND = Path(sys.executable).with_name("mlxguard-proxy")


def post(proxy: Gateway, body: dict[str, object]) -> tuple[int, bytes]:
    """Status and whole body of one chat completion."""
    port = int(proxy.url.rpartition(":")[2])
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def chat(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": f"hello {PROMPT}"}], **fields}


def in_background(
    proxy: Gateway, body: dict[str, object]
) -> tuple[threading.Thread, list[tuple[int, bytes]]]:
    """A client that is running when this returns; its answer is in the list once it has ended."""
    answers: list[tuple[int, bytes]] = []
    client = threading.Thread(target=lambda: answers.append(post(proxy, body)))
    client.start()
    until("it runs", lambda: any(r["stage"] == "decode" for r in proxy.status()["requests"]))
    return client, answers


def run(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *options], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_answers_before_the_model_is_loaded_and_holds_what_comes(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path, ready=False) as proxy:
        assert proxy.get("/livez")[0] == 200
        status, body = proxy.get("/readyz")
        assert (status, json.loads(body)["state"]) == (503, "starting")
        assert post(proxy, chat(max_tokens=2))[0] == 200, "held until the child was ready"
        assert proxy.get("/readyz")[0] == 200


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path) as proxy:
        client, answers = in_background(proxy, chat(max_tokens=600))
        proxy.descendants()
        proxy.process.send_signal(signal.SIGTERM)
        until("it stops", lambda: proxy.events("stopping"))
        assert post(proxy, chat(max_tokens=1))[0] == 503
        client.join(60)
        (status, body) = answers[0]
        assert (status, json.loads(body)["usage"]["completion_tokens"]) == (200, 600)
        assert proxy.process.wait(30) == 0


def test_what_does_not_finish_in_time_ends_by_the_contract(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path, "--set=supervisor.drain_s=0.2") as proxy:
        client, answers = in_background(proxy, chat(max_tokens=20_000, stream=True))
        proxy.descendants()
        proxy.process.send_signal(signal.SIGTERM)
        client.join(30)
        (_, body) = answers[0]
        assert b'"code":"503"' in body
        assert body.endswith(b"data: [DONE]\n\n")
        assert proxy.process.wait(30) == 0


def test_a_second_signal_ends_at_once(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path) as proxy:
        client, answers = in_background(proxy, chat(max_tokens=20_000, stream=True))
        proxy.descendants()
        proxy.process.send_signal(signal.SIGINT)
        until("it stops", lambda: proxy.events("stopping"))
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.process.wait(10) == 130
        client.join(10)
        assert answers


def test_sighup_restarts_the_child_as_planned(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path) as proxy:
        proxy.process.send_signal(signal.SIGHUP)
        until("a second generation", lambda: proxy.status()["child"]["generation"] == 2)
        proxy.until_ready("/readyz")
        child = proxy.status()["child"]
        assert child["exits_by_cause"] == {"recycled": 1}
        assert child["last_death"] is None, "a planned restart is no death"


def test_a_log_that_nobody_reads_on_holds_nobody_up(tiny_model: Path, tmp_path: Path) -> None:
    """As in `mlxguard-proxy 2>&1 | less`."""
    pipe, log = Pipe(), tmp_path / "log"
    pipe.fill()
    port = free_port()
    words = [f"server.port={port}", f"model.path={tiny_model}", f"supervisor.state_dir={tmp_path / 'state'}"]
    command = [COMMAND, *(word for each in words for word in ("--set", each)), f"--set=log.file={log}"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=pipe.writer)
    try:
        proxy = Gateway(process, log, f"http://127.0.0.1:{port}")
        proxy.until_ready("/readyz")
        assert post(proxy, chat(max_tokens=2))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        assert proxy.events("answered"), "the file has them all"
        assert set(pipe.read()) == {ord("-")}
    finally:
        if process.poll() is None:
            process.kill()
        os.close(pipe.reader)
        os.close(pipe.writer)


def test_a_killed_proxy_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path) as proxy:
        below = proxy.descendants()
        assert len(below) >= 3, "keeper, child and tokenizer worker"
        proxy.process.kill()
        proxy.process.wait()
        _, left = psutil.wait_procs(below, timeout=5)
        assert not left


def test_a_second_proxy_on_the_same_state_folder_is_told_who_has_it(tiny_model: Path, tmp_path: Path) -> None:
    with guard(tiny_model, tmp_path, ready=False) as proxy:
        second = run("--set=server.port=0", f"--set=supervisor.state_dir={tmp_path / 'state'}", cwd=tmp_path)
        assert second.returncode == 4
        assert f"pid {proxy.process.pid}" in second.stderr
        assert proxy.url.rpartition(":")[2] in second.stderr


def test_a_state_folder_that_cannot_be_used_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.mkdir()
    done = run("--set=server.port=0", f"--set=supervisor.state_dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"Is a directory: '{lock}'; choose another with [supervisor] state_dir" in done.stderr


def test_a_port_in_use_names_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(f"--set=server.port={port}", f"--set=supervisor.state_dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 3
    assert f"pid {psutil.Process().pid}" in done.stderr


def test_an_address_that_is_not_this_machines_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    options = (
        "--set=server.host=192.0.2.1",
        "--set=server.insecure=true",
        f"--set=supervisor.state_dir={tmp_path}",
    )
    done = run(*options, cwd=tmp_path)
    assert done.returncode == 2
    assert "192.0.2.1" in done.stderr


def test_a_model_that_is_not_there_is_explained_and_answered_by_the_contract(tmp_path: Path) -> None:
    with guard(tmp_path / "missing", tmp_path, ready=False) as proxy:
        until("it failed", lambda: proxy.status()["child"]["state"] == "failed")
        status, body = proxy.get("/readyz")
        assert status == 503
        assert "missing" in json.loads(body)["reason"]
        status, answer = post(proxy, chat())
        assert (status, json.loads(answer)["error"]["code"]) == (503, "503")
        assert proxy.get("/livez")[0] == 200
