from __future__ import annotations

import pytest

from proxy.http.via import forward

OURS = "1.1 mlxguard-proxy"


@pytest.mark.parametrize(
    ("received", "sent"),
    [
        ([], OURS),
        ([""], OURS),
        (["1.0 fred, 1.1 p.example.com"], f"1.0 fred, 1.1 p.example.com, {OURS}"),
        (["1.0 fred", "1.1 p.example.com:8080"], f"1.0 fred, 1.1 p.example.com:8080, {OURS}"),
        (["HTTP/2.0  fred"], f"HTTP/2.0 fred, {OURS}"),
        (["1.1 [::1]:80"], f"1.1 [::1]:80, {OURS}"),
        (["1.0 ricky, 1.1 mertz (Apache, 1.1), 1.0 lucy"], f"1.0 ricky, 1.1 mertz, 1.0 lucy, {OURS}"),
        (["fred"], OURS),
        (["1.1 a b c"], OURS),
        (["1.1 <script>"], OURS),
        (["1.1 fr\u00e9d"], OURS),
        (["1.1 " + "a" * 100], OURS),
    ],
)
def test_this_hop_is_appended_and_malformed_ones_are_dropped(received: list[str], sent: str) -> None:
    assert forward(received, (1, 1)) == sent


def test_the_version_is_that_of_the_message_that_was_received() -> None:
    assert forward([], (1, 0)) == "1.0 mlxguard-proxy"


def test_the_list_is_bounded() -> None:
    assert forward([", ".join(f"1.1 hop{n}" for n in range(100))], (1, 1)).startswith("1.1 hop84, ")
