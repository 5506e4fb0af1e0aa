"""Images, adapters, draft models and role mappings, through the proxy to the real server."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tests.conftest import MakeTiny
from tests.real.processes import Gateway, guard
from tests.real.seeing_model import seeing_model

pytestmark = pytest.mark.real


def picture(width: int, height: int, kind: str = "PNG", colour: int = 200) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (colour, 10, 10)).save(file, kind)
    return file.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


class _Shelf(http.server.BaseHTTPRequestHandler):
    """One picture, for whoever asks."""

    def do_GET(self) -> None:
        data = picture(100, 60)
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.asked.append(self.path)  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""


@pytest.fixture(scope="module")
def shelf() -> Iterator[http.server.HTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Shelf)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that says again what the model's last norm is."""
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text('{"fine_tune_type": "full"}')
    save_file({"model.norm.weight": np.ones(64, np.float32)}, folder / "adapters.safetensors")
    return folder


@pytest.fixture(scope="module")
def seeing(
    make_tiny: MakeTiny,
    tmp_path_factory: pytest.TempPathFactory,
    shelf: http.server.HTTPServer,
    adapter: Path,
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("seeing")
    draft = make_tiny(architecture="llama")
    options = {
        "model.trust_remote_code": "true",
        "request.max_images": 3,
        "request.max_image_bytes": 20_000,
        "request.max_image_pixels": 1_000_000,
        "request.image_hosts": f"127.0.0.1:{shelf.server_port}",
        "request.adapters": adapter,
        "request.draft_models": draft,
        "prompt.max_prompt_tokens": 2000,
    }
    words = [f"--set={name}={value}" for name, value in options.items()]
    with guard(seeing_model(draft, folder / "model"), folder, *words) as proxy:
        yield proxy


def ask(proxy: Gateway, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"max_tokens": 2, "temperature": 0, **fields}).encode()
    try:
        with urllib.request.urlopen(f"{proxy.base_url}/chat/completions", body, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def look(
    proxy: Gateway, *urls: str, text: str = "what is this?", **fields: Any
) -> tuple[int, dict[str, Any]]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": text}, *images]
    return ask(proxy, messages=[{"role": "user", "content": content}], **fields)


def drift(proxy: Gateway) -> str:
    """The counter of answers whose prompt tokens were not those that we had counted."""
    (line,) = [
        line
        for line in proxy.get("/metrics")[1].splitlines()
        if line.startswith("mlxguard_prompt_count_mismatches_total ")
    ]
    return line.split()[1]


@pytest.mark.parametrize(
    ("size", "kind"), [((28, 28), "PNG"), ((500, 300), "JPEG"), ((30, 900), "GIF"), ((64, 64), "WEBP")]
)
def test_an_image_is_seen_and_counted_exactly(seeing: Gateway, size: tuple[int, int], kind: str) -> None:
    blind = ask(seeing, messages=[{"role": "user", "content": "what is this?"}])[1]
    status, answer = look(seeing, data_url(picture(*size, kind)))
    assert status == 200, answer
    assert answer["usage"]["prompt_tokens"] > blind["usage"]["prompt_tokens"]
    assert drift(seeing) == "0.0"


def test_several_images_in_a_conversation_that_goes_on(seeing: Gateway) -> None:
    one, other = data_url(picture(56, 56)), data_url(picture(84, 56, colour=90))
    asked = [{"type": "image_url", "image_url": {"url": one}}, {"type": "text", "text": "and this?"}]
    asked.append({"type": "image_url", "image_url": {"url": other}})
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": asked},
    ]
    assert ask(seeing, messages=messages)[0] == 200
    messages += [{"role": "assistant", "content": "A square."}, {"role": "user", "content": "Which colour?"}]
    assert ask(seeing, messages=messages)[0] == 200
    assert ask(seeing, messages=messages, stream=False, logprobs=True)[0] == 200
    assert drift(seeing) == "0.0"


def test_the_proxy_fetches_what_the_server_must_not(seeing: Gateway, shelf: http.server.HTTPServer) -> None:
    shelf.asked.clear()  # type: ignore[attr-defined]
    status, answer = look(seeing, f"http://127.0.0.1:{shelf.server_port}/a.png?x=1")
    assert (status, shelf.asked) == (200, ["/a.png?x=1"]), answer  # type: ignore[attr-defined]
    for url in (f"http://localhost:{shelf.server_port}/b.png", "http://127.0.0.1:1/", "file:///etc/passwd"):
        status, answer = look(seeing, url)
        assert (status, answer["error"]["param"]) == (400, "messages[0].content[1].image_url.url")
    assert len(shelf.asked) == 1, "not by the server either"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "urls",
    [
        [data_url(picture(28, 28))] * 4,
        [data_url(picture(28, 28) + bytes(20_000))],
        [data_url(picture(1200, 900))],
        [data_url(picture(28, 28)[:45])],
        [data_url(b"\xff\xd8\xff\xe0" + bytes(100))],
        [data_url(b"%!PS-Adobe-3.0 EPSF-3.0")],
    ],
    ids=["too many", "too large", "too many pixels", "cut", "noise", "PostScript"],
)
def test_what_the_server_should_not_see(seeing: Gateway, urls: list[str]) -> None:
    status, answer = look(seeing, *urls)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"


def test_a_text_that_speaks_of_patches_is_refused_beside_an_image(seeing: Gateway) -> None:
    assert look(seeing, data_url(picture(28, 28)), text="<|patch|>")[0] == 400


def test_an_adapter_and_a_draft_model_that_are_listed(
    seeing: Gateway, adapter: Path, make_tiny: MakeTiny
) -> None:
    hello = [{"role": "user", "content": "hi"}]
    assert ask(seeing, messages=hello, adapters=str(adapter))[0] == 200
    assert ask(seeing, messages=hello, draft_model=str(make_tiny(architecture="llama")))[0] == 200
    assert ask(seeing, messages=hello)[0] == 200
    for name in ("adapters", "draft_model"):
        status, answer = ask(seeing, messages=hello, **{name: "/etc"})
        assert (status, answer["error"]["param"]) == (400, name)
        assert str(adapter) not in answer["error"]["message"]
    assert seeing.status()["child"]["generation"] == 1


def test_a_model_without_eyes_says_so(shared_guard: Gateway) -> None:
    status, answer = look(shared_guard, data_url(picture(28, 28)))
    assert (status, answer["error"]["param"]) == (400, "messages[0].content[1].type")
    assert "takes no images" in answer["error"]["message"]
