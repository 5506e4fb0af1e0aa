from __future__ import annotations

import base64
from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.request.images import (
    ImagePolicy,
    Images,
    RemoteImage,
    allowed_host,
    data_url,
    image_format,
    image_urls,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
POLICY = ImagePolicy(
    most=2, most_bytes=100, hosts=frozenset({"pics.example", "10.0.0.5:8080"}), obstacle=None
)


def encoded(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(url: Any, policy: ImagePolicy = POLICY) -> tuple[dict[str, Any], list[RemoteImage]]:
    images = Images(policy)
    return images.part({"type": "image_url", "image_url": url}, "m", 3, 1), images.remote


def refused(raw: dict[str, Any], policy: ImagePolicy = POLICY) -> str | None:
    with pytest.raises(InvalidRequest) as refusal:
        Images(policy).part(raw, "m", 0, 0)
    assert "\x89" not in refusal.value.message
    return refusal.value.param


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "image_url", "image_url": {"url": encoded(PNG), "detail": "high"}},
        {"type": "image_url", "image_url": encoded(PNG)},
        {"type": "input_image", "image_url": encoded(PNG)},
        {"type": "image", "image": encoded(PNG)},
        {"type": "image", "image": {"url": encoded(PNG)}},
        {"type": "image_url", "image_url": {"url": encoded(PNG, "image/jpeg")}},
        {"type": "image_url", "image_url": {"url": encoded(PNG, "text/html;charset=x")}},
        {"type": "image_url", "image_url": {"url": "DATA:;BASE64," + encoded(PNG).partition(",")[2]}},
    ],
)
def test_every_spelling_becomes_one_with_the_type_that_the_bytes_have(raw: dict[str, Any]) -> None:
    images = Images(POLICY)
    made = images.part(raw, "m", 0, 0)
    assert made == {"type": "image_url", "image_url": {"url": encoded(PNG)}}
    assert images.remote == []
    assert image_urls([{"content": "x"}, {"content": [{"type": "text", "text": "a"}, made]}]) == [
        encoded(PNG)
    ]


@pytest.mark.parametrize(
    ("url", "param"),
    [
        (None, "m.image_url"),
        (5, "m.image_url"),
        ({}, "m.image_url.url"),
        ({"url": None}, "m.image_url.url"),
        ({"url": ["x"]}, "m.image_url.url"),
        ("", "m.image_url"),
        ("data:", "m.image_url"),
        ("data:image/png", "m.image_url"),
        ("data:image/png,abc", "m.image_url"),
        ("data:image/png;base64,", "m.image_url"),
        ("data:image/png;base64,%%%%", "m.image_url"),
        ("data:image/png;base64,iVBO Rw0K", "m.image_url"),
        ("data:image/png;base64,iVBORw0KG", "m.image_url"),
        ("data:image/png;base64,\u0430\u0431\u0432\u0433", "m.image_url"),
        (encoded(b"%!PS-Adobe-3.0 EPSF"), "m.image_url"),
        (encoded(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "m.image_url"),
        (encoded(b"II*\x00" + bytes(20), "image/tiff"), "m.image_url"),
        (encoded(PNG + bytes(100)), "m.image_url"),
        ("file:///etc/passwd", "m.image_url"),
        ("/etc/passwd", "m.image_url"),
        ("ftp://pics.example/a.png", "m.image_url"),
        ("http://127.0.0.1/", "m.image_url"),
        ("http://pics.example.evil.example/a.png", "m.image_url"),
        ("http://pics.example/" + "a" * 3000, "m.image_url"),
        ("http://pics.example/\u00e9", "m.image_url"),
        ("http://pics.example/a b", "m.image_url"),
        ("http://pics.example/\r\nX: y", "m.image_url"),
    ],
)
def test_what_is_refused(url: Any, param: str) -> None:
    assert refused({"type": "image_url", "image_url": url}) == param


def test_the_exact_limit_of_bytes_is_let_in() -> None:
    assert part(encoded(PNG + bytes(72)))[1] == []
    assert refused({"type": "image_url", "image_url": encoded(PNG + bytes(73))}) == "m.image_url"


def test_more_images_than_may_be_are_refused() -> None:
    images = Images(POLICY)
    raw = {"type": "image_url", "image_url": encoded(PNG)}
    for _ in range(2):
        images.part(raw, "m", 0, 0)
    with pytest.raises(InvalidRequest, match="one image too many"):
        images.part(raw, "m", 0, 0)


def test_a_model_without_images_says_so() -> None:
    with pytest.raises(InvalidRequest, match="this model takes no images"):
        part(encoded(PNG), ImagePolicy(most=8))


def test_without_listed_hosts_nothing_is_fetched() -> None:
    with pytest.raises(InvalidRequest, match="fetches no images"):
        part("https://pics.example/a.png", ImagePolicy(most=8, obstacle=None))


def test_an_image_of_a_listed_host_waits_to_be_fetched() -> None:
    made, remote = part({"url": "https://pics.example/a.png?x=1"})
    assert remote == [RemoteImage("https://pics.example/a.png?x=1", "m.image_url.url", 3, 1)]
    assert made["image_url"]["url"] == "https://pics.example/a.png?x=1"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://pics.example/a", True),
        ("http://pics.example/a", True),
        ("HTTPS://PICS.EXAMPLE/a", True),
        ("https://pics.example:443/a", True),
        ("http://10.0.0.5:8080/a", True),
        ("https://pics.example:8443/a", False),
        ("http://pics.example:443/a", False),
        ("http://10.0.0.5/a", False),
        ("https://pics.example./a", False),
        ("https://user@pics.example/a", False),
        ("https://pics.example@evil.example/a", False),
        ("https://evil.example#@pics.example/", False),
        ("https://evil.example\\@pics.example/", False),
        ("https:/pics.example/a", False),
        ("https:pics.example/a", False),
        ("//pics.example/a", False),
        ("gopher://pics.example/a", False),
        ("http://pics.example:99999/a", False),
        ("http://[::1/a", False),
        ("http://", False),
    ],
)
def test_which_urls_may_be_fetched(url: str, allowed: bool) -> None:
    assert allowed_host(url, POLICY.hosts) is allowed


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"GIF89a", "gif"),
        (b"GIF87a", "gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM", None),
        (b"", None),
    ],
)
def test_formats(data: bytes, kind: str | None) -> None:
    assert image_format(data) == kind


def test_fetched_bytes_are_judged_alike() -> None:
    assert data_url(PNG, "m", 100) == encoded(PNG)
    for bad in (b"<html>", PNG + bytes(100)):
        with pytest.raises(InvalidRequest):
            data_url(bad, "m", 100)
