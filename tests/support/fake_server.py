"""A stand-in for mlx_lm.server, for behaviour that the real one cannot be made to show on demand.

Exact timing, ignored signals, a grandchild that stays, Metal's abort, another server's behaviour. It starts
in a tenth of a second and speaks the part of the protocol that the supervisor needs. Stdlib only. Its
behaviour is set by `--fake key=value` flags, or while it runs by GET /fake?key=value.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

told: dict[str, str] = {}
lock = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(int(told.get("health", 200)), {})
        elif self.path.startswith("/fake?"):
            told.update(parse_qsl(urlsplit(self.path).query))
            self.answer(200, {})
            obey()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if told.get("canary") == "silent":
            lock.wait()
        if told.get("canary") == "refused":
            self.answer(404, {"error": "no such thing"})
        else:
            self.answer(200, {"usage": {"completion_tokens": 1}})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *args: object) -> None:
        """Quiet."""


def obey() -> None:
    if "say" in told:
        sys.stderr.write(told.pop("say") + "\n")
    if "kill" in told:
        os.kill(os.getpid(), int(told["kill"]))
    if "exit" in told:
        os._exit(int(told["exit"]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fake", action="append", default=[])
    parser.add_argument("--port", type=int)
    arguments, _ = parser.parse_known_args()
    told.update(item.split("=", 1) for item in arguments.fake)
    if "ignore" in told:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if "grandchild" in told:
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        grandchild = subprocess.Popen([sys.executable, "-c", code, told.get("mark", "")])
        sys.stderr.write(f"grandchild {grandchild.pid}\n")
    obey()
    if "start" in told:
        time.sleep(float(told["start"]))
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
