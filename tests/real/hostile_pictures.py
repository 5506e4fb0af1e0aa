"""Hostile images and what else a request may choose where it is allowed: for a model that sees."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.real.hostile_corpus import REFUSED, SERVED_OR_REFUSED, Hostile, chat

#: Settings of the proxy that these are sent to.
SETTINGS = (
    "--set=model.trust_remote_code=true",
    "--set=request.max_image_pixels=1000000",
    "--set=request.image_hosts=pics.invalid",
    "--set=request.image_timeout_s=2",
)

OK = frozenset({200})


def picture(width: int = 30, height: int = 30, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(width: int, height: int, body: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG with a head that says what it likes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def image(url: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def look(*parts: object, role: str = "user", **fields: object) -> bytes:
    message = {"role": role, "content": [{"type": "text", "text": "look"}, *parts]}
    return chat(messages=[message], **fields)


def pictures() -> Iterator[Hostile]:
    yield from _files()
    yield from _parts()
    yield from _urls()
    yield from _choices()


def _files() -> Iterator[Hostile]:
    for kind in ("PNG", "JPEG", "GIF", "WEBP"):
        whole = picture(kind=kind)
        yield Hostile(f"a {kind}", look(image(data_url(whole))), OK)
        for length in (8, 12, len(whole) // 2, len(whole) - 1):
            yield Hostile(
                f"{length} bytes of a {kind}", look(image(data_url(whole[:length]))), SERVED_OR_REFUSED
            )
        for place in range(12, len(whole), max(1, len(whole) // 12)):
            broken = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
            yield Hostile(f"a {kind} broken at {place}", look(image(data_url(broken))), SERVED_OR_REFUSED)
        yield Hostile(
            f"a {kind} and a zip", look(image(data_url(whole + b"PK\x03\x04" * 9))), SERVED_OR_REFUSED
        )
    for kind in ("BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS"):
        yield Hostile(f"a {kind}", look(image(data_url(picture(kind=kind)))), REFUSED)
    foreign = {
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        "PDF": b"%PDF-1.7\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "HTML": b"<img src=x onerror=alert(1)>",
        "nothing": b"",
        "zeros": bytes(1000),
    }
    for name, data in foreign.items():
        yield Hostile(f"{name} as a PNG", look(image(data_url(data))), REFUSED)
    heads = {
        "of no width": (0, 30),
        "of no height": (30, 0),
        "60,000 on a side": (60_000, 60_000),
        "2**31-1 wide": (2**31 - 1, 1),
        "2**32-1 on a side": (2**32 - 1, 2**32 - 1),
        "as said, but empty": (30, 30),
    }
    for name, (width, height) in heads.items():
        yield Hostile(f"a PNG {name}", look(image(data_url(png(width, height, b"")))), SERVED_OR_REFUSED)
    yield Hostile(
        "a PNG with more than it says", look(image(data_url(png(3, 3, bytes(10**6))))), SERVED_OR_REFUSED
    )
    yield Hostile("a PNG of no depth", look(image(data_url(png(3, 3, bytes(99), depth=0)))), REFUSED)
    yield Hostile("a PNG of no colour", look(image(data_url(png(3, 3, bytes(99), colour=7)))), REFUSED)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield Hostile(f"a PNG in {mode}", look(image(data_url(picture(mode=mode)))), OK)
    yield Hostile("a JPEG in CMYK", look(image(data_url(picture(kind="JPEG", mode="CMYK")))), OK)
    for width, height in ((1, 1), (1, 20_000), (20_000, 1), (2_000, 2_000)):
        yield Hostile(f"{width} x {height}", look(image(data_url(picture(width, height)))), SERVED_OR_REFUSED)
    for size in (1_001, 5_000):
        yield Hostile(f"{size} on a side", look(image(data_url(picture(size, size)))), REFUSED)


def _parts() -> Iterator[Hostile]:
    good = image(data_url(picture()))
    for value in (
        None,
        True,
        5,
        "",
        [],
        {},
        ["x"],
        {"url": {}},
        {"url": [data_url(picture())]},
        {"uri": "x"},
    ):
        part = {"type": "image_url", "image_url": value}
        yield Hostile(f"image_url {value!r:.40}", look(part), REFUSED)
    for part in (
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "video_url", "video_url": {"url": "http://127.0.0.1:1/"}},
        {"type": "image_file", "image_file": {"file_id": "x"}},
        {"type": ["image_url"], "image_url": data_url(picture())},
        {"image_url": data_url(picture())},
    ):
        yield Hostile(f"part {part!r:.50}", look(part), REFUSED)
    for role in ("system", "developer", "assistant", "tool"):
        yield Hostile(f"an image of {role}", look(good, role=role), SERVED_OR_REFUSED)
    yield Hostile("no text", chat(messages=[{"role": "user", "content": [good]}]), OK)
    yield Hostile("eight images", look(*[good] * 8), OK)
    yield Hostile("nine images", look(*[good] * 9), REFUSED)
    yield Hostile("9,000 images", look(*[image("data:,")] * 9_000), REFUSED)
    yield Hostile("a patch in the text", look(good, {"type": "text", "text": "<|patch|>"}), REFUSED)
    yield Hostile(
        "a patch and no image", chat(messages=[{"role": "user", "content": "<|patch|>"}]), SERVED_OR_REFUSED
    )
    for fields in (
        {"seed": 1},
        {"stream": True},
        {"logprobs": True, "top_logprobs": 11},
        {"stop": ["e"]},
        {"temperature": 1.0, "top_k": 10**9},
        {"xtc_probability": 1.0, "xtc_threshold": 0.5, "temperature": 1.0},
        {"logit_bias": {"5": 100}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ):
        yield Hostile(f"an image with {next(iter(fields))}", look(good, **fields), OK)


def _urls() -> Iterator[Hostile]:
    for url in (
        "http://127.0.0.1:1/",
        "http://localhost/",
        "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.0.0.1.nip.io/",
        "https://example.com/a.png",
        "http://pics.invalid@127.0.0.1/",
        "http://127.0.0.1\\@pics.invalid/",
        "http://pics.invalid#@127.0.0.1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "dict://127.0.0.1:11211/",
        "javascript:alert(1)",
        "blob:x",
        "HTTP://127.0.0.1",
        "//127.0.0.1/",
        "/etc/passwd",
        "../../etc/passwd",
        "",
        " ",
        "data:",
        "data:,",
        "data:;base64",
        "data:image/png",
        "data:image/png,%89PNG",
        "data:image/png;base64,",
        "data:image/png;base64,====",
        "data:image/png;base64,A",
        "data:image/png;base64,\u202e",
        "data:\r\nX: y;base64,",
        "http://pics.invalid/a.png",
        "http://pics.invalid:99999/",
        "http://pics.invalid/" + "a" * 5_000,
    ):
        yield Hostile(f"url {url[:50]!r}", look(image(url)), REFUSED)
    inner = base64.b64encode(picture()).decode()
    yield Hostile(
        "base64 in lines", look(image(f"data:image/png;base64,{inner[:20]}\n{inner[20:]}")), REFUSED
    )
    yield Hostile(
        "base64 for URLs", look(image(data_url(b"\x89PNG\r\n\x1a\n\xfb\xff").replace("/", "_"))), REFUSED
    )
    yield Hostile("20 MB", look(image("data:image/png;base64," + "A" * 28_000_000)), frozenset({400, 413}))


def _choices() -> Iterator[Hostile]:
    for value in ("/etc", "..", "", "x" * 5_000, "mlx-community/x", 5, ["x"], {"a": 1}, True):
        for field in ("adapters", "draft_model"):
            yield Hostile(f"{field} {value!r:.30}", chat(**{field: value}), REFUSED)
    for mapping in (
        {"user": "U"},
        {"user": 5},
        {"x": "y"},
        {"stop": "\u0000"},
        [],
        "x",
        {"user": "x" * 10**6},
    ):
        yield Hostile(f"role_mapping {mapping!r:.40}", chat(role_mapping=mapping), REFUSED)
    for kwargs in (
        {"persona": "x"},
        {"enable_thinking": []},
        {"thinking": "x" * 10**5},
        {"chat_template": "{{ 1 }}"},
    ):
        yield Hostile(f"template {kwargs!r:.40}", chat(chat_template_kwargs=kwargs), REFUSED)
