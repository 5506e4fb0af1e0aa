"""Fetches a request's remote images from listed hosts, within limits, so that the server never does.

A listed name is resolved once, and only its public addresses are used: a name that is made to point at this
machine or its network (DNS rebinding) leads nowhere. A listed address is used even if it is not public.
Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy.http.body_budget import BodyAccount
from proxy.request.fields import refuse
from proxy.request.images import ImagePolicy, RemoteImage, allowed_host, data_url

log = logging.getLogger("mlxguard.images")

Lookup = Callable[..., Awaitable[list[tuple[Any, ...]]]]

_MEDIA_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

#: Images that are fetched at the same time.
_CONNECTIONS = 8


class PublicResolver(AbstractResolver):
    """Resolves to public addresses only. `lookup`: as `loop.getaddrinfo`."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError if the name has no public address."""
        found = await self._lookup(host, port, type=socket.SOCK_STREAM, family=family)
        public = [(kind, address) for kind, _, _, _, address in found if is_public(address[0])]
        if not public:
            raise OSError(None, "the name has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in public
        ]

    async def close(self) -> None:
        """Nothing to close."""


def is_public(address: str) -> bool:
    """Whether the address is globally routable, and any IPv4 address embedded in it too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inside is not None and not inside.is_global:
            return False
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if any(ip in block for block in _NOT_PUBLIC):
            return False
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Blocks that Python calls global: IPv4-compatible (::a.b.c.d) and translated addresses (RFC 2765), which may
#: stand for any IPv4 address, local NAT64 prefixes (RFC 8215), and site-local addresses (RFC 3879).
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10")))


class ImageFetch:
    """The HTTP client for images; one per gateway. `stop` closes it."""

    def __init__(self, policy: ImagePolicy, timeout_s: float, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._timeout_s = timeout_s
        self._lookup = lookup
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, remotes: tuple[RemoteImage, ...], account: BodyAccount) -> list[str]:
        """Fetch the images as `data:` URLs, and charge their bytes to `account`.

        Raises:
            InvalidRequest: an image cannot be fetched, or not in time; names the field.
            Unavailable: the budget of all bodies together is used up.
        """
        urls: list[str] = []
        field = remotes[0].where if remotes else None
        try:
            async with asyncio.timeout(self._timeout_s):
                for remote in remotes:
                    field = remote.where
                    urls.append(data_url(await self._get(remote, account), field, self._policy.most_bytes))
        except (aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            log.info("image_not_fetched", extra={"reason": type(error).__name__})
            refuse(field, "could not be fetched")
        return urls

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, remote: RemoteImage, account: BodyAccount) -> bytes:
        session = self._session = self._session or self._open()
        url, body = URL(remote.url), bytearray()
        if not allowed_host(str(url.origin()), self._policy.hosts):  # as the client below parses it
            refuse(remote.where, "must be a plain URL")
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                refuse(remote.where, "was not answered with an image")
            if answer.content_type not in _MEDIA_TYPES:
                refuse(remote.where, "is not of an image type")
            async for piece in answer.content.iter_any():
                account.add(len(piece))
                body += piece
                if len(body) > self._policy.most_bytes:
                    refuse(remote.where, f"must be an image of at most {self._policy.most_bytes} bytes")
        return bytes(body)

    def _open(self) -> aiohttp.ClientSession:
        resolver = PublicResolver(self._lookup or asyncio.get_running_loop().getaddrinfo)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=resolver, use_dns_cache=False, limit=_CONNECTIONS, force_close=True
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"Accept": ", ".join(sorted(_MEDIA_TYPES)), "Accept-Encoding": "identity"},
            skip_auto_headers=("User-Agent",),
        )
