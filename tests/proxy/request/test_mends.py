"""Tests of lenient JSON, of the replaced characters and numbers, and of what is told of mends."""

from __future__ import annotations

import orjson
import pytest

from proxy.request.mends import Mend, Mends, loads_leniently


def test_half_of_a_surrogate_pair() -> None:
    mends = Mends()
    body = rb'{"messages": [{"role": "user", "content": "cut \ud83d"}], "whole": "\ud83d\ude00"}'
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)
    fields = loads_leniently(body, mends)
    assert fields == {"messages": [{"role": "user", "content": "cut \ufffd"}], "whole": "\U0001f600"}
    assert mends.counts == {Mend.SURROGATE: 1}


def test_numbers_that_json_does_not_know() -> None:
    mends = Mends()
    assert loads_leniently(b'{"a": NaN, "b": [-Infinity, 1e999], "c": 1.5}', mends) == {
        "a": None,
        "b": [None, None],
        "c": 1.5,
    }
    assert mends.counts == {Mend.NUMBER: 3}


def test_the_header_names_kinds_in_order() -> None:
    mends = Mends()
    mends.counts.update([Mend.NUL, Mend.IMAGE, Mend.NUL])
    assert mends.header() == "image_omitted=1, nul_replaced=2"
