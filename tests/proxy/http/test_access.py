from __future__ import annotations

import pytest

from proxy import errors
from proxy.http.access import AccessControl, canonical, host_of

LOCAL = AccessControl(keys={}, hosts={"localhost", "127.0.0.1", "::1"}, origins={"http://localhost:3000"})
KEYED = AccessControl(keys={"s3cret": "laptop", "other": "anonymous"}, hosts={"127.0.0.1"}, origins=())
WIDE = AccessControl(keys={}, hosts=(), origins=(), any_address=True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "localhost.",
        "localhost.:80",
        "localhost:",
        "127.0.0.1:8080",
        "[::1]:8080",
        "[0:0:0:0:0:0:0:1]",
        " localhost ",
    ],
)
def test_own_hosts_are_allowed(host: str) -> None:
    LOCAL.check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        ".",
        ":8080",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "localhost..",
        "localhost:80:80",
        "localhost:port",
        "localhost@evil.example",
        "evil.example@localhost",
        "http://localhost",
        "localhost/",
        "localhost, evil.example",
        "localhost\x00",
        "localhost\udcff",
        "[::1]evil.example",
        "[::1",
        "::1",
        "[::2]",
        "[localhost]",
        "10.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.1.evil.example",
        "localhost" + "x" * 300,
    ],
)
def test_other_hosts_are_refused(host: str | None) -> None:
    with pytest.raises(errors.Forbidden):
        LOCAL.check_host(host)


def test_beyond_loopback_any_address_is_a_plausible_host_but_no_name_is() -> None:
    WIDE.check_host("10.0.0.1:8080")
    WIDE.check_host("[2001:db8::1]:8080")
    with pytest.raises(errors.Forbidden):
        WIDE.check_host("rebound.example:8080")


def test_one_host_has_one_form() -> None:
    assert canonical("[::0001]") == host_of("[::1]:80") == "::1"
    assert canonical("Box.Local.") == host_of("box.local") == "box.local"


def test_web_pages_are_refused_unless_listed() -> None:
    LOCAL.check_origin(None, "localhost:8080")
    LOCAL.check_origin("http://localhost:3000", "localhost:8080")
    for origin in ("http://evil.example", "null", "", "http://localhost:3001", "https://localhost:3000"):
        with pytest.raises(errors.Forbidden):
            LOCAL.check_origin(origin, "localhost:8080")


def test_the_gateways_own_pages_are_allowed() -> None:
    LOCAL.check_origin("http://localhost:8080", "localhost:8080", own_only=True)
    LOCAL.check_origin("http://LOCALHOST:8080", "LocalHost:8080", own_only=True)
    for origin in ("https://localhost:8080", "http://localhost:8081", "http://localhost"):
        with pytest.raises(errors.Forbidden):
            LOCAL.check_origin(origin, "localhost:8080")


def test_own_paths_are_closed_to_listed_pages() -> None:
    with pytest.raises(errors.Forbidden):
        LOCAL.check_origin("http://localhost:3000", "localhost:8080", own_only=True)


def test_keys_have_names() -> None:
    assert LOCAL.client_of([]) == "anonymous"
    assert KEYED.client_of(["Bearer s3cret"]) == "laptop"
    assert KEYED.client_of(["bearer  s3cret "]) == "laptop"
    assert KEYED.client_of(["BEARER other"]) == "anonymous", "a name like any other"


def test_a_key_may_come_in_either_header() -> None:
    assert KEYED.client_of([], ["s3cret"]) == "laptop"
    assert KEYED.client_of(["Bearer s3cret"], ["s3cret"]) == "laptop"
    assert KEYED.client_of(["Bearer placeholder"], ["s3cret"]) == "laptop"
    assert KEYED.client_of(["Bearer s3cret"], ["placeholder"]) == "laptop"


@pytest.mark.parametrize("sent", [[""], ["wrong"], ["Bearer s3cret"], ["s3cret", "s3cret"], ["\udcff"]])
def test_the_other_header_needs_a_known_key_too(sent: list[str]) -> None:
    with pytest.raises(errors.Unauthorized):
        KEYED.client_of(["Bearer wrong"], sent)


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer wrong"],
        ["Bearer s3cre"],
        ["Bearer s3cret x"],
        ["Bearer\ts3cret"],
        ["Basic s3cret"],
        ["s3cret"],
        ["Bearer \udcff\udcfe"],
        ["Bearer s3cret\u00e9"],
        ["Bearer s3cret", "Bearer s3cret"],
        ["Bearer wrong", "Bearer s3cret"],
    ],
)
def test_exactly_one_known_key_is_required(sent: list[str]) -> None:
    with pytest.raises(errors.Unauthorized):
        KEYED.client_of(sent)
