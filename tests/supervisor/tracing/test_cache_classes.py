"""Caches told by class and by what their arrays show, with stand-ins for arrays that only have a size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from supervisor.memory_model.kv_cache import CachePart, GrowthKind
from supervisor.tracing.cache_classes import Untraceable, parts_of


@dataclass
class Array:
    """As much of mx.array as is looked at: two bytes per element."""

    shape: tuple[int, ...]
    itemsize: int = 2

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        size = self.itemsize
        for length in self.shape:
            size *= length
        return size


def named(name: str, **attributes: Any) -> Any:
    """An object of a class of mlx_lm.models.cache."""
    cache = type(name, (), {"__module__": "mlx_lm.models.cache"})()
    vars(cache).update(attributes)
    return cache


def own(**attributes: Any) -> Any:
    """An object of a class that only one model has."""
    cache = type("LayerCache", (), {"__module__": "mlx_lm.models.some_model"})()
    vars(cache).update(attributes)
    return cache


def of(make: Callable[[int], list[Any]]) -> tuple[CachePart, ...]:
    def trace(chunks: Iterable[int]) -> list[Any]:
        return make(sum(chunks))

    return parts_of(trace)


def kv(rows: int) -> Array:
    return Array((1, 2, rows, 8))


def test_caches_of_mlx_lm_are_known_by_class() -> None:
    def make(tokens: int) -> list[Any]:
        return [
            named("KVCache", keys=kv(256), values=kv(256)),
            named(
                "CacheList",
                caches=[
                    named("KVCache", keys=kv(256), values=kv(256)),
                    named("ArraysCache", cache=[Array((1, 3)), None]),
                ],
            ),
            named("ConcatenateKVCache", keys=kv(tokens), values=kv(tokens)),
            named("RotatingKVCache", keys=kv(64), values=kv(64), max_size=64, keep=4),
        ]

    assert of(make) == (
        CachePart(GrowthKind.GROWING, 64, quantizable=True),
        CachePart(GrowthKind.GROWING, 64),
        CachePart(GrowthKind.CONSTANT, 6),
        CachePart(GrowthKind.APPENDED, 64, size=1),
        CachePart(GrowthKind.WINDOW, 64, size=64, keep=4),
    )


def test_a_cache_that_the_model_leaves_empty_costs_nothing() -> None:
    assert of(lambda _: [named("KVCache", keys=None, values=None)]) == ()


def test_a_class_of_the_models_own_is_understood_by_its_arrays() -> None:
    def make(tokens: int) -> list[Any]:
        window = Array((1, min(tokens, 128), 4))
        groups = Array((1, tokens // 4, 8)) if tokens >= 4 else None
        return [own(window=window, groups=groups, open=Array((1, tokens % 4, 2)), offset=tokens)]

    assert set(of(make)) == {
        CachePart(GrowthKind.LAST, 8, size=128),
        CachePart(GrowthKind.APPENDED, 16, size=4),
        CachePart(GrowthKind.OPEN, 4, size=4),
    }


def test_a_state_that_grows_at_first_is_no_constant() -> None:
    assert of(lambda tokens: [named("ArraysCache", cache=[Array((1, min(tokens, 3)))])]) == (
        CachePart(GrowthKind.LAST, 2, size=3),
    )


def test_growth_that_is_not_known_is_no_guess() -> None:
    with pytest.raises(Untraceable, match="'odd' grows in an unknown way"):
        of(lambda tokens: [own(odd=Array((1, tokens * tokens)))])


def test_a_class_that_does_not_do_what_its_name_says_is_found_out() -> None:
    with pytest.raises(Untraceable, match="after 22 tokens"):
        of(lambda tokens: [named("KVCache", keys=kv(tokens), values=kv(tokens))])
