"""A stand-in for mlx_lm.server that answers as the real one never does: what reverse proxies are tested with.

It writes each request that it got, as one JSON line, to the file given by `--record`. The last message of a
request says how it answers. Stdlib only.
"""

from __future__ import annotations

import argparse
import json
import socket
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

EVENT = {
    "id": "x",
    "object": "chat.completion.chunk",
    "model": "m",
    "created": 1,
    "choices": [{"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": "hello"}}],
}
LAST = {**EVENT, "choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": ""}}]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
STREAM = b"".join(
    f"data: {json.dumps(event)}\n\n".encode()
    for event in (EVENT, LAST, {**EVENT, "choices": [], "usage": USAGE})
)
STREAM += b"data: [DONE]\n\n"
HEAD = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n"

#: Fields that are for one connection, or for nobody but the server and us.
PRIVATE = (
    b"Connection: X-Nominated, close\r\nX-Nominated: secret\r\nKeep-Alive: timeout=5\r\nUpgrade: foo\r\n"
    b"Proxy-Authenticate: Basic\r\nTrailer: X-Trailer\r\nSet-Cookie: flavour=secret\r\n"
    b"X-Powered-By: secret\r\nVia: 1.1 secret\r\nx-request-id: secret\r\nServer: secret\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
)

ANSWERS: dict[str, bytes] = {
    "plain": HEAD + b"\r\n" + STREAM,
    "private": HEAD + PRIVATE + b"\r\n" + STREAM,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    + HEAD
    + b"\r\n"
    + STREAM,
    "hang up": b"",
    "short": HEAD + b"Content-Length: 100000\r\n\r\n" + STREAM[:-14],
    "cut": HEAD + b"\r\n" + STREAM[:-14],
    "chunked": HEAD.replace(b"1.0", b"1.1")
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\nX-Trailer: secret\r\n\r\n" % (len(STREAM), STREAM),
    "redirect": b"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/secret\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "odd status": b"HTTP/1.0 345 Odd\r\n\r\n{}",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "huge head": HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n" + STREAM,
}


class Handler(socketserver.StreamRequestHandler):
    record = Path()
    lock = threading.Lock()

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        lines = head.decode("latin-1").split("\r\n")[:-2]
        fields = [line.split(": ", 1) for line in lines[1:]]
        length = next((int(value) for name, value in fields if name.lower() == "content-length"), 0)
        body = self.rfile.read(length)
        if lines[0].startswith("GET /health"):
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
            return
        wish = json.loads(body)
        if "messages" not in wish or wish["messages"][-1]["content"] not in (*ANSWERS, "slow"):
            canary = {"choices": [{"text": "x", "finish_reason": "length"}], "usage": USAGE}
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(canary).encode())
            return
        self.note({"line": lines[0], "fields": fields, "length": len(body)})
        self.answer(wish["messages"][-1]["content"])

    def answer(self, mode: str) -> None:
        if mode != "slow":
            self.wfile.write(ANSWERS[mode])
            return
        self.wfile.write(HEAD + b"\r\n" + STREAM.partition(b"\n\n")[0] + b"\n\n")
        self.wfile.flush()
        self.connection.settimeout(20)
        try:
            gone = self.connection.recv(1) == b""
        except ConnectionResetError:
            gone = True
        except TimeoutError:
            gone = False
        self.note({"gone": gone})

    def note(self, what: dict[str, Any]) -> None:
        with self.lock, self.record.open("a") as file:
            file.write(json.dumps(what) + "\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    address_family = socket.AF_INET


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path)
    parser.add_argument("--port", type=int)
    arguments, _ = parser.parse_known_args()
    Handler.record = arguments.record
    server = Server(("127.0.0.1", arguments.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
