"""Slow and greedy clients by the hundred: `make campaign WHAT=slow [SECONDS=]`.

Heads that drip, bodies that drip, streams that nobody reads, connections that say nothing, and as many as
the proxy takes. Meanwhile an honest client must be served; afterwards descriptors and memory must be back.
slowhttptest is run too where it is installed (`apt install slowhttptest`, `brew install slowhttptest`).
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from tests.campaign.edge import make_model
from tests.figures import bar
from tests.real.hostile import exchange
from tests.real.hostile_corpus import GOOD, USER, dumps, request
from tests.real.processes import Gateway, guard, until

SETTINGS = {
    "server.header_timeout_s": 2,
    "server.idle_timeout_s": 3,
    "server.body_timeout_s": 3,
    "server.send_timeout_s": 3,
    "server.max_connections": 400,
    "server.connections_per_address": 380,
    "queue.max_waiting": 200,
}
_EACH, _STREAMS = 90, 20

LONG = request(dumps({"messages": [USER], "stream": True, "max_tokens": 100}))
STARTS: dict[str, bytes] = {
    "says nothing": b"",
    "head drips": b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
    "body drips": request(GOOD)[: -len(GOOD) + 3],
    "reads nothing": LONG,
}


@contextmanager
def clients(port: int, start: bytes, number: int) -> Iterator[list[socket.socket]]:
    """`number` connections that have sent `start`; their receive buffers are as small as they can be."""
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            client.settimeout(0)
            client.sendall(start)
            opened.append(client)
        yield opened


def drip(opened: Sequence[socket.socket]) -> None:
    for client in opened:
        with suppress(OSError):
            client.send(b"x")


def attack(proxy: Gateway, seconds: float) -> float:
    """All kinds at once, dripping; returns the longest time that an honest client waited."""
    port, slowest = int(proxy.url.rpartition(":")[2]), 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with ExitStack() as stack:
            groups = {
                name: stack.enter_context(clients(port, start, _STREAMS if start is LONG else _EACH))
                for name, start in STARTS.items()
            }
            for _ in range(8):
                drip([*groups["head drips"], *groups["body drips"]])
                asked = time.monotonic()
                answer = exchange(port, request(GOOD), 60)
                assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
                slowest = max(slowest, time.monotonic() - asked)
                time.sleep(0.5)
    return slowest


def slowhttptest(proxy: Gateway, seconds: float) -> None:
    program = shutil.which("slowhttptest")
    if program is None:
        print("slowhttptest is not installed (apt install slowhttptest, brew install slowhttptest): left out")
        return
    url = f"{proxy.url}/v1/chat/completions"
    for mode in ("-H", "-B", "-X"):
        words = [program, mode, "-c", "300", "-r", "200", "-i", "1", "-l", str(int(seconds)), "-u", url]
        subprocess.run(words, check=False, stdout=subprocess.DEVNULL)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign slow", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="not used: nothing is drawn")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args(argv)
    words = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    with (
        tempfile.TemporaryDirectory() as folder,
        guard(make_model(Path(folder)), Path(folder), *words) as proxy,
    ):
        process = psutil.Process(proxy.process.pid)
        attack(proxy, 1)  # what is allocated once is no leak
        settled(process)
        files, memory = process.num_fds(), process.memory_info().rss
        slowest = attack(proxy, options.seconds)
        slowhttptest(proxy, options.seconds / 3)
        settled(process)
        grown = (process.memory_info().rss - memory) / 1e6
        held = [
            bar("slow_files_grown", process.num_fds() - files, 0),
            bar("slow_memory_grown_mb", grown, 30),
            bar("slow_connections_left", len(_clients_of(process)), 0),
            bar("slow_honest_wait_s", slowest, 10),
        ]
    return 0 if all(held) else 1


def settled(process: psutil.Process) -> None:
    """Wait until every connection is gone, as the limits promise; also those to the server, which is left in
    the middle of what nobody reads."""
    until("its connections are gone", lambda: not [c for c in process.net_connections("tcp") if c.raddr], 30)
    time.sleep(1)


def _clients_of(process: psutil.Process) -> list[object]:
    listening = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return [c for c in process.net_connections("tcp") if c.raddr and c.laddr.port in listening]


if __name__ == "__main__":
    sys.exit(main())
