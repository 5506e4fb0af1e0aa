"""Pure. Images in messages: a bounded number of `data:` URLs of known formats; the server fetches nothing.

The server opens whatever it is given with an image library that knows dozens of formats, and fetches any
http(s) URL (mlx_lm.server, `_decode_image` and `_inline_image_urls`). So each part is built anew here: four
formats, detected by their first bytes rather than by what the sender says. The URL of an allowed host stays
in the message until the gateway itself has fetched it (`proxy/http/image_fetch.py`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from proxy.request.fields import mapping, refuse

#: Values of a part's `type` that mean an image, in the dialects that agents speak.
KINDS = ("image_url", "input_image", "image")

#: Longest URL that the gateway fetches, in characters.
_LONGEST_URL = 2048
_FORMATS = "PNG, JPEG, GIF or WebP"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """Which images a request may have.

    Attributes:
        most: number of images per request.
        most_bytes: size of one image, decoded.
        hosts: `HOST` or `HOST:PORT` in lower case, from which the gateway itself may fetch.
        obstacle: why this model accepts no images at all; None if it accepts them.
    """

    most: int = 0
    most_bytes: int = 20 * 10**6
    hosts: frozenset[str] = frozenset()
    obstacle: str | None = "this model takes no images"


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image to fetch. `where` names the field; `message` and `part` are indexes into the conversation."""

    url: str
    where: str
    message: int
    part: int


@dataclass(slots=True)
class Images:
    """Checks the images of one request one after the other, and collects those to fetch in `remote`."""

    policy: ImagePolicy
    count: int = 0
    remote: list[RemoteImage] = field(default_factory=list)

    def part(self, raw: dict[str, Any], where: str, message: int, part: int) -> dict[str, Any]:
        """The image part for the child, from the client's `raw` part. Raises InvalidRequest."""
        if self.policy.obstacle is not None:
            refuse(f"{where}.type", f"must be text: {self.policy.obstacle}")
        self.count += 1
        if self.count > self.policy.most:
            refuse(where, f"is one image too many: a request may have {self.policy.most}")
        url, where = _url(raw, where)
        if url[:5].lower() == "data:":
            return image_part(checked_data_url(url, where, self.policy.most_bytes))
        self._check_remote(url, where)
        self.remote.append(RemoteImage(url, where, message, part))
        return image_part(url)

    def _check_remote(self, url: str, where: str) -> None:
        if not self.policy.hosts:
            refuse(where, "must be a data: URL: this server fetches no images")
        if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
            refuse(where, f"must be a URL of at most {_LONGEST_URL} printable ASCII characters")
        if not allowed_host(url, self.policy.hosts):
            refuse(where, "must be a data: URL, or one of a host that [request] image_hosts lists")


def _url(raw: dict[str, Any], where: str) -> tuple[str, str]:
    """The URL of an image part in any dialect, and the name of its field."""
    name = next((name for name in ("image_url", "image") if raw.get(name) is not None), "image_url")
    url, where = raw.get(name), f"{where}.{name}"
    if type(url) is dict:
        url, where = mapping(url, where).get("url"), f"{where}.url"
    if type(url) is not str:
        refuse(where, "must be a URL")
    return url, where


def image_part(url: str) -> dict[str, Any]:
    """An image part as the child is sent it."""
    return {"type": "image_url", "image_url": {"url": url}}


def image_urls(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The image URLs in checked messages, in order."""
    mixed = [message["content"] for message in messages if type(message["content"]) is list]
    return [part["image_url"]["url"] for parts in mixed for part in parts if part["type"] == "image_url"]


def checked_data_url(url: str, where: str, most_bytes: int) -> str:
    """The `data:` URL with the media type that its bytes really have. Raises InvalidRequest."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        refuse(where, "must be a data: URL in base64")
    if len(payload) > (most_bytes + 2) // 3 * 4:
        refuse(where, f"must be an image of at most {most_bytes} bytes")
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        refuse(where, "must be a data: URL in base64")
    return _typed(data, payload, where, most_bytes)


def data_url(data: bytes, where: str, most_bytes: int) -> str:
    """The `data:` URL of fetched bytes. Raises InvalidRequest."""
    return _typed(data, base64.b64encode(data).decode(), where, most_bytes)


def _typed(data: bytes, payload: str, where: str, most_bytes: int) -> str:
    kind = image_format(data)
    if kind is None:
        refuse(where, f"must be an image as {_FORMATS}")
    if len(data) > most_bytes:
        refuse(where, f"must be an image of at most {most_bytes} bytes")
    return f"data:image/{kind};base64,{payload}"


def image_format(data: bytes) -> Literal["png", "jpeg", "gif", "webp"] | None:
    """The image format, detected by the first bytes; None if it is not supported."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def allowed_host(url: str, hosts: frozenset[str]) -> bool:
    """Whether the gateway may fetch this URL: http(s), an allowed host and port, no user name or password."""
    try:
        parts = urlsplit(url)
        default, host = _PORTS.get(parts.scheme), parts.hostname
        port = default if parts.port is None else parts.port
    except ValueError:
        return False
    if default is None or not host or "@" in parts.netloc or "\\" in url:
        return False
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" in hosts or (host in hosts and port == default)
