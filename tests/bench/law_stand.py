"""A real child whose memory is measured: starts it, asks it, and tells what MLX held at its fullest."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.child import server_wrapper
from tests.figures import ROOT
from tests.real.processes import free_port, until


@dataclass(slots=True)
class Answer:
    """One request and what came of it, as the child counts."""

    messages: list[dict[str, str]]
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    text: str = ""
    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    started_at: float = 0.0  # by time.monotonic
    ended_at: float = 0.0

    def begins(self) -> None:
        if not self.started.is_set():
            self.started_at = time.monotonic()
            self.started.set()

    def ends(self) -> None:
        self.begins()
        self.ended_at = time.monotonic()
        self.ended.set()


class Stand:
    """A running child."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, telemetry: int) -> None:
        self.process = process
        self.port = port
        self.sample: dict[str, int] = {}
        self.seen: list[tuple[float, int]] = []  # when, and active bytes, as telemetry told them
        self.overhead: dict[bool, int] = {}  # tokens that the template adds, without and with a system prompt
        threading.Thread(target=self._read, args=(telemetry,), daemon=True).start()

    def _read(self, telemetry: int) -> None:
        with os.fdopen(telemetry) as lines:
            for line in lines:
                self.sample = json.loads(line)
                self.seen.append((time.monotonic(), self.sample["active"]))

    def memory(self) -> dict[str, int]:
        """A sample that was taken after this call."""
        after = len(self.seen) + 2
        until("telemetry", lambda: len(self.seen) >= after or self.process.poll() is not None)
        assert self.process.poll() is None, "the child has ended"
        return self.sample

    def ready(self) -> None:
        until("the child serves", lambda: self._health() and self.sample, 60)
        for system in (False, True):
            answer = self.ask(prompt_of(random.Random(0), 1, int(system)), 1)
            self.overhead[system] = answer.prompt - 1 - int(system)

    def _health(self) -> bool:
        assert self.process.poll() is None, "the child has ended"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def reset_peak(self) -> None:
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)  # a signal handler runs when the main thread comes round

    def ask(self, messages: list[dict[str, str]], completion: int) -> Answer:
        """Ask and wait for the end."""
        answer = Answer(messages)
        self._talk(answer, completion)
        return answer

    def send(self, messages: list[dict[str, str]], completion: int) -> Answer:
        """Ask in a thread."""
        answer = Answer(messages)
        threading.Thread(target=self._talk, args=(answer, completion), daemon=True).start()
        return answer

    def _talk(self, answer: Answer, completion: int) -> None:
        body = {
            "model": "default_model",
            "messages": answer.messages,
            "max_tokens": completion,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            for line in connection.getresponse():
                if line.startswith(b"data: {"):
                    _take(answer, json.loads(line[6:]))
        finally:
            answer.ends()

    def displace(self, draw: random.Random, kept: int) -> Answer:
        """Push everything out of the prompt cache, which keeps so many sequences; the last request.

        No two are the same, or one would take the other's place and nothing else's.
        """
        return [self.ask(prompt_of(draw, 8), 1) for _ in range(kept + 2)][-1]


def _take(answer: Answer, event: dict[str, Any]) -> None:
    for choice in event.get("choices", ()):
        answer.begins()
        answer.text += choice.get("delta", {}).get("content") or ""
    if usage := event.get("usage"):
        answer.prompt, answer.completion = usage["prompt_tokens"], usage["completion_tokens"]
        answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def prompt_of(draw: random.Random, tokens: int, system: int = 0) -> list[dict[str, str]]:
    """A user's message of so many tokens, after a system prompt; each digit is one token."""
    user = {"role": "user", "content": _digits(draw, tokens)}
    return [{"role": "system", "content": _digits(draw, system)}, user] if system else [user]


def next_turn(draw: random.Random, before: Answer, tokens: int) -> list[dict[str, str]]:
    """The same session with its answer, and `tokens` more from the user."""
    said = {"role": "assistant", "content": before.text}
    return [*before.messages, said, *prompt_of(draw, tokens)]


def _digits(draw: random.Random, number: int) -> str:
    return "".join(draw.choice("0123456789") for _ in range(number))


@contextmanager
def stand(model: Path, flags: Sequence[int], output: Path) -> Iterator[Stand]:
    """A child with this model. `flags`: prefill step, decode and prompt concurrency, kept sequences."""
    port = free_port()
    names = ("--prefill-step-size", "--decode-concurrency", "--prompt-concurrency", "--prompt-cache-size")
    words = [word for name, value in zip(names, flags, strict=True) for word in (name, str(value))]
    read, write = os.pipe()
    program = [
        sys.executable,
        str(Path(__file__).with_name("law_child.py")),
        server_wrapper.__file__,
        str(write),
        "-",
    ]
    command = [*program, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *words]
    with output.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(write,), start_new_session=True)
    os.close(write)
    try:
        running = Stand(process, port, read)
        running.ready()
        yield running
    finally:
        process.kill()
        process.wait()


def tiny(folder: Path, spec: dict[str, Any]) -> Path:
    """The tiny model with these options of `supervisor.model.tiny`."""
    options = [word for name, value in spec.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-P", "-m", "supervisor.model.tiny", f"--out={folder}", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return folder
