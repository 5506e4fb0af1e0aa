"""Recognises each cache of a model by its class and its arrays. Runs in the tracing process, which has mlx.

Cache classes of mlx-lm 0.32.2's models/cache.py are known by name; a class that only one model has is
identified by fitting its arrays' sizes at several lengths. Nothing is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind, merged, rows_at

#: Lengths at which an unknown cache is measured; together they distinguish every window and group size.
_LENGTHS = (1, 2, 3, 5, 22, 64, 257, 700, 1500, 5000)
#: Largest group of tokens that is tried.
_GROUP = 256

Trace = Callable[[Iterable[int]], list[Any]]


class Untraceable(Exception):
    """Says in a clause why there is no exact cost model for this model."""


def parts_of(trace: Trace) -> tuple[CachePart, ...]:
    """Find the parts of a model's cost model, checked against a trace that they were not derived from.

    Args:
        trace: feeds chunks of tokens to the model, without evaluating, and returns its caches.

    Raises:
        Untraceable: some cache behaves in no known way.
    """
    found: list[CachePart] = []
    later = [leaf for leaf, _ in leaves(trace((21, 1)))]
    for index, (leaf, top) in enumerate(leaves(trace((1,)))):
        known = _known(leaf, top)
        if known is None or (type(leaf).__name__ == "ArraysCache" and _bytes(leaf) != _bytes(later[index])):
            known = _fitted(trace, index)
        found += known
    parts = merged(found)
    _check(sum(map(_bytes, later)), CostModel(parts).after((21, 1)))
    return parts


def _check(traced: int, replayed: int) -> None:
    if traced != replayed:
        raise Untraceable(f"its caches hold {traced} bytes after 22 tokens, but {replayed} by their classes")


def leaves(caches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each cache, and whether it is in the model's own list (only those can be quantized)."""
    for cache in caches:
        if type(cache).__name__ == "CacheList":
            yield from ((inner, False) for inner, _ in leaves(cache.caches))
        else:
            yield cache, True


def arrays(cache: Any) -> dict[str, Any]:
    """Every array that a cache holds between two calls, by name."""
    inside = enumerate(cache.cache) if type(cache).__name__ == "ArraysCache" else vars(cache).items()
    return {str(name): value for name, value in inside if hasattr(value, "nbytes")}


def _bytes(cache: Any) -> int:
    return sum(int(array.nbytes) for array in arrays(cache).values())


def _known(cache: Any, top: bool) -> list[CachePart] | None:
    """The parts of a cache of mlx_lm's own classes; None for other classes, even those of the same name."""
    name = type(cache).__name__ if type(cache).__module__ == "mlx_lm.models.cache" else ""
    if name == "ArraysCache":
        return [CachePart(GrowthKind.CONSTANT, _bytes(cache))]
    if name not in ("KVCache", "RotatingKVCache", "ChunkedKVCache", "ConcatenateKVCache"):
        return None
    if cache.keys is None:  # the model left it empty
        row, item = 0, 1
    else:
        row, item = (cache.keys.nbytes + cache.values.nbytes) // cache.keys.shape[2], cache.keys.itemsize
    match name:
        case "KVCache":
            return [CachePart(GrowthKind.GROWING, row, itemsize=item, quantizable=top)]
        case "RotatingKVCache":
            return [CachePart(GrowthKind.WINDOW, row, size=cache.max_size, keep=cache.keep, itemsize=item)]
        case "ChunkedKVCache":
            return [CachePart(GrowthKind.CHUNK, row, size=cache.chunk_size, itemsize=item)]
    return [CachePart(GrowthKind.APPENDED, row, size=1, itemsize=item)]


def _fitted(trace: Trace, index: int) -> list[CachePart]:
    """The parts of one cache, from the sizes of its arrays."""
    seen = {length: arrays([leaf for leaf, _ in leaves(trace((length,)))][index]) for length in _LENGTHS}
    names = sorted({name for found in seen.values() for name in found})
    return [_fit(name, {length: found.get(name) for length, found in seen.items()}) for name in names]


def _fit(name: str, seen: dict[int, Any]) -> CachePart:
    """Find the kind and size whose rows explain the array's bytes at every length."""
    sizes = {length: 0 if array is None else int(array.nbytes) for length, array in seen.items()}
    some = next(array for array in seen.values() if array is not None)
    for kind, size in _candidates(seen.values()):
        rows = {length: rows_at(kind, size, length) for length in sizes}
        row = next((sizes[length] // count for length, count in rows.items() if count), 0)
        if all(rows[length] * row == held for length, held in sizes.items()):
            return CachePart(kind, row, size=size, itemsize=some.itemsize)
    raise Untraceable(f"its cache array {name!r} grows in an unknown way")


def _candidates(seen: Iterable[Any]) -> Iterator[tuple[GrowthKind, int]]:
    yield GrowthKind.CONSTANT, 0
    yield from ((GrowthKind.APPENDED, group) for group in range(1, _GROUP + 1))
    windows = {array.shape[1] for array in seen if array is not None and array.ndim > 1}
    yield from ((GrowthKind.LAST, window) for window in sorted(windows) if window)
    yield from ((GrowthKind.OPEN, group) for group in range(1, _GROUP + 1))
