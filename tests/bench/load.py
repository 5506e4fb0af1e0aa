"""Load from outside Python, wrk for whole answers, streams.c for streams; and what it cost the other side."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from proxy.prompt.counter import TokenCounter
from proxy.request.completion import Bounds
from proxy.request.parse import parse_chat
from tests.figures import ROOT

HERE = Path(__file__).parent
FOLDER = ROOT / ".out" / "bench"
#: An embedded model with the vocabulary that the limits are stated for.
VOCABULARY = 50_000
KEY = "sk-a-key-of-the-benchmark-for-nobody"


class Missing(Exception):
    """Something that is no package of ours; the text says how to get it."""


def tool(name: str, package: str) -> str:
    """Where a program of the machine is. Raises Missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"{name} is missing: apt install {package}, or brew install {name}")
    return found


@cache
def program(name: str) -> Path:
    """`name`.c, compiled when it has changed. Raises Missing."""
    source, target = HERE / f"{name}.c", FOLDER / name
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        FOLDER.mkdir(parents=True, exist_ok=True)
        compiler = tool("cc", "gcc libc6-dev")
        subprocess.run([compiler, "-O2", "-pthread", "-o", target, source], check=True)
    return target


@cache
def model() -> Path:
    """The embedded model with a large vocabulary and a long context, made once."""
    folder = ROOT / ".out" / "models" / "bench"
    words = [f"--out={folder}", f"--vocab={VOCABULARY}", "--context=262144"]
    command = [sys.executable, "-P", "-m", "supervisor.model.tiny", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


# --- what is asked ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What child.c is to answer: events with text, microseconds between them."""

    chunks: int
    pace_us: int = 0
    stream: bool = False

    def marker(self, tokens: int) -> str:
        return f"[bench chunks={self.chunks:05} pace_us={self.pace_us:06} tokens={tokens:06}]"


async def body(order: Order, messages: Sequence[dict[str, str]], tokens: TokenCounter) -> bytes:
    """A request for `order`, whose last message says what the child must report as the prompt's length."""
    said, counted = -1, 0
    while said != counted:  # the number is part of the prompt that it counts
        said = counted
        *before, last = messages
        marked = [*before, {**last, "content": f"{order.marker(said)} {last['content']}"}]
        wish = {"model": "bench", "messages": marked, "max_tokens": order.chunks, "stream": order.stream}
        written = json.dumps(wish).encode()
        counted = await tokens.count(parse_chat(written, Bounds(vocab_size=VOCABULARY)).prompt)
    return written


def bodies(*orders: Order, padding: int = 700) -> list[bytes]:
    """A request of about 1 KB for each order."""

    async def make() -> list[bytes]:
        tokens = TokenCounter()
        await tokens.start(model(), [])
        text = ("All work and no play makes a dull benchmark. " * 32)[:padding]
        made = [await body(order, [{"role": "user", "content": text}], tokens) for order in orders]
        await tokens.stop()
        return made

    return asyncio.run(make())


def request(path: str, content: bytes, port: int) -> bytes:
    """A whole HTTP request, for streams.c."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


# --- what it costs ------------------------------------------------------------------------------------


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    """Seconds that the processes have had of any core."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def rss_mb(processes: Iterable[psutil.Process]) -> float:
    return sum(process.memory_info().rss for process in processes) / 1e6


# --- load ---------------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Whole:
    """What wrk says: requests answered, per second; times in ms."""

    requests: int
    per_s: float
    p50: float
    p99: float


def wrk(port: int, content: bytes, *, connections: int, seconds: float) -> Whole:
    """Ask again and again over `connections` connections. Raises AssertionError if any request failed."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        environ = os.environ | {"BENCH_BODY": file.name, "BENCH_KEY": KEY}
        words = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout=60s", "-s", str(HERE / "wrk.lua")]
        command = [tool("wrk", "wrk"), *words, f"http://127.0.0.1:{port}{CHAT}"]
        said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    requests, us, p50, p99, failed = map(int, said.rsplit("bench ", 1)[1].split())
    assert not failed, f"{failed} of {requests} requests failed:\n{said}"
    return Whole(requests, requests / us * 1e6, p50 / 1000, p99 / 1000)


@dataclass(frozen=True, slots=True)
class Streams:
    """Times in ms: from connecting to the first event and to [DONE]; from writing an event to reading it."""

    first: list[float]
    last: list[float]
    chunks: list[float]


def read_streams(port: int, content: bytes, count: int = 1) -> Streams:
    """Read `count` streams at once."""
    command = [program("streams"), "read", str(port), str(count)]
    found = _times(command, request(CHAT, content, port))
    return Streams(found["first"], found["last"], found.get("chunk", []))


class Pings:
    """Asks /livez every so often, beside other load."""

    def __init__(self, port: int, *, every_us: int, count: int) -> None:
        command = [program("streams"), "ping", str(port), str(every_us), str(count)]
        asked = f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        # Into a file: a pipe that nobody reads yet is full after some thousand lines, and then it waits.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `times`
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._said)
        assert self._process.stdin
        self._process.stdin.write(asked)
        self._process.stdin.close()

    def over(self) -> bool:
        return self._process.poll() is not None

    def times(self) -> list[float]:
        """Milliseconds from when each was due to its answer; waits for the last."""
        assert self._process.wait() == 0
        with self._said:
            self._said.seek(0)
            return _read_times(self._said.read())["ping"]


def _times(command: Sequence[str | Path], content: bytes) -> dict[str, list[float]]:
    return _read_times(subprocess.run(command, input=content, capture_output=True, check=True).stdout)


def _read_times(said: bytes) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in said.decode().splitlines():
        name, ns = line.split()
        found.setdefault(name, []).append(int(ns) / 1e6)
    return found


# --- statistics ---------------------------------------------------------------------------------------


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> float:
    """Half of what the middle half of the rounds lies in: the noise of their median, pessimistically."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2
