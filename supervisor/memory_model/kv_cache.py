"""What a model's KV caches hold after any feeding of tokens, in bytes: a law of few parts, replayed. Pure.

Each part stands for all caches of one class and size. How many rows a buffer has follows from the chunks of
tokens it was fed with, as mlx_lm/models/cache.py grows, trims and rotates it (mlx-lm 0.32.2); a row's bytes
come from the probe. So the replay is exact for any length, cold or warm, without running the model. It holds
for one sequence; a batch is another law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

#: Rows by which a buffer grows (`KVCache.step`, and the same in every class that has one).
STEP = 256


class GrowthKind(StrEnum):
    """How a part's rows follow from the tokens."""

    GROWING = "growing"  # KVCache: in steps of 256, never shrinking
    WINDOW = "window"  # RotatingKVCache: the last `size` rows, more of them while a prompt is read
    CHUNK = "chunk"  # ChunkedKVCache: cut to `size` rows before each chunk
    APPENDED = "appended"  # one row per `size` tokens, without slack
    LAST = "last"  # the last `size` rows at most, without slack
    OPEN = "open"  # the rows of a group of `size` tokens that is not full yet
    CONSTANT = "constant"  # a state of one size from the first token on (linear attention, convolutions)


@dataclass(frozen=True, slots=True)
class CachePart:
    """Caches that are alike.

    Attributes:
        row_bytes: bytes of one row of all of them together; for CONSTANT, of all there is.
        size: window, chunk or group, in tokens.
        keep: WINDOW: rows at the start that are never overwritten.
        itemsize: bytes of one element.
        quantizable: `--kv-bits` turns it into a QuantizedKVCache.
        caches: how many they are.
    """

    kind: GrowthKind
    row_bytes: int
    size: int = 0
    keep: int = 0
    itemsize: int = 2
    quantizable: bool = False
    caches: int = 1


@dataclass(frozen=True, slots=True)
class Quantization:
    """`--kv-bits`, `--kv-group-size` and `--quantized-kv-start` of the server."""

    bits: int
    group_size: int = 64
    start: int = 5000

    def row_bytes(self, part: CachePart) -> int:
        """Packed elements, and one scale and one bias per group (`QuantizedKVCache.init_quant`)."""
        elements = part.row_bytes // part.itemsize
        return elements * self.bits // 8 + 2 * part.itemsize * (elements // self.group_size)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """One buffer: rows, tokens seen, where a rotating one writes next, what a chunked one has cut off."""

    rows: int = 0
    offset: int = 0
    index: int = 0
    start: int = 0
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class CostModel:
    """What one sequence costs in a model's caches."""

    parts: tuple[CachePart, ...]
    quantization: Quantization | None = None

    def __add__(self, other: CostModel) -> CostModel:
        """Both models' caches: a draft model reads every token too."""
        return replace(self, parts=self.parts + other.parts)

    @property
    def slope(self) -> int:
        """Bytes of one more row when every window is full, before any quantization."""
        growing = sum(part.row_bytes for part in self.parts if part.kind is GrowthKind.GROWING)
        return growing + sum(p.row_bytes // p.size for p in self.parts if p.kind is GrowthKind.APPENDED)

    @property
    def constant(self) -> int:
        """Bytes that do not depend on the length."""
        return sum(part.row_bytes for part in self.parts if part.kind is GrowthKind.CONSTANT)

    @property
    def windows(self) -> dict[int, int]:
        """Window, in rows -> bytes per row of the layers that have it."""
        found: dict[int, int] = {}
        for part in self.parts:
            if part.kind in (GrowthKind.WINDOW, GrowthKind.CHUNK, GrowthKind.LAST):
                found[part.size] = found.get(part.size, 0) + part.row_bytes
        return found

    def cold(self, tokens: int, step: int = 2048) -> int:
        """Bytes after a prompt of `tokens` that was read from nothing, in prefill steps."""
        return self.after(prefill(tokens, step))

    def warm(self, offset: int, chunks: Iterable[int]) -> int:
        """Bytes after `chunks` on top of `offset` rows that the prompt cache gave back, cut to size."""
        return self.after(chunks, self.restored(offset))

    def after(self, chunks: Iterable[int], start: tuple[HeldRows, ...] | None = None) -> int:
        """Bytes when all chunks have been fed."""
        return self.bytes_of(self.replay(chunks, start))

    def peak(self, chunks: Iterable[int], start: tuple[HeldRows, ...] | None = None) -> int:
        """The most bytes after any of the chunks: windows are larger while a prompt is read."""
        held, most = start or self.restored(0), 0
        for chunk in chunks:
            held = self.replay((chunk,), held)
            most = max(most, self.bytes_of(held))
        return most

    def replay(
        self, chunks: Iterable[int], start: tuple[HeldRows, ...] | None = None
    ) -> tuple[HeldRows, ...]:
        """Every part's buffer when all chunks, each of at least one token, have been fed."""
        held = start or self.restored(0)
        for chunk in chunks:
            held = tuple(
                self._quantized(part, _FEED[part.kind](part, h, chunk))
                for part, h in zip(self.parts, held, strict=True)
            )
        return held

    def generated(self, held: tuple[HeldRows, ...], tokens: int) -> int:
        """Bytes when `tokens` more have been fed one by one."""
        return self.bytes_of(self.written(held, tokens))

    def written(self, held: tuple[HeldRows, ...], tokens: int) -> tuple[HeldRows, ...]:
        """The buffers when `tokens` more have been fed one by one, as `replay` would find them, at once."""
        return tuple(
            self._quantized(part, _generated(part, h, tokens))
            for part, h in zip(self.parts, held, strict=True)
        )

    def restored(self, offset: int) -> tuple[HeldRows, ...]:
        """Buffers with exactly `offset` tokens in them, as merging makes them (`BatchKVCache.merge`)."""
        return tuple(_restored(part, offset) for part in self.parts)

    def bytes_of(self, held: tuple[HeldRows, ...]) -> int:
        return sum(self._bytes(part, h) for part, h in zip(self.parts, held, strict=True))

    def widest(self, held: tuple[HeldRows, ...]) -> int:
        """Bytes of the largest of all caches."""
        return max((self._bytes(p, h) // p.caches for p, h in zip(self.parts, held, strict=True)), default=0)

    def _bytes(self, part: CachePart, held: HeldRows) -> int:
        if held.quantized and self.quantization is not None:
            return held.rows * self.quantization.row_bytes(part)
        return held.rows * part.row_bytes

    def _quantized(self, part: CachePart, held: HeldRows) -> HeldRows:
        """`maybe_quantize_kv_cache`, which generate.py calls after every chunk; the rows stay."""
        if self.quantization is None or not part.quantizable or held.offset < self.quantization.start:
            return held
        return replace(held, quantized=True)


def prefill(tokens: int, step: int = 2048) -> Iterator[int]:
    """The chunks in which the server reads a prompt of one segment: steps, then the last token by itself."""
    before = max(0, tokens - 1)
    yield from [step] * (before // step)
    if before % step:
        yield before % step
    if tokens:
        yield 1


def merged(parts: Iterable[CachePart]) -> tuple[CachePart, ...]:
    """Like parts as one, in the order in which they came first."""
    found: dict[CachePart, list[CachePart]] = {}
    for part in parts:
        if part.row_bytes:
            found.setdefault(replace(part, row_bytes=0, caches=0), []).append(part)
    return tuple(
        replace(alike, row_bytes=sum(p.row_bytes for p in same), caches=sum(p.caches for p in same))
        for alike, same in found.items()
    )


def rounded(rows: int) -> int:
    """Up to a full step."""
    return -(-rows // STEP) * STEP


def _grow(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """`KVCache.update_and_fetch`: the slack is cut off before a new block, unless it ends on a step."""
    rows, offset = held.rows, held.offset
    if offset + tokens > rows:
        kept = offset if offset % STEP else rows
        rows = kept + rounded(tokens)
    return replace(held, rows=rows, offset=offset + tokens)


def _rotate(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    return _rotate_one(part, held) if tokens == 1 else _rotate_many(part, held, tokens)


def _rotate_many(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """`RotatingKVCache._update_concat`: all but `size - 1` old rows go, then the new ones are appended."""
    in_order = held.rows == held.index or held.index < held.offset
    rows = held.rows if in_order else held.index
    rows = rows - max(0, rows - part.size + 1) + tokens
    return replace(held, rows=rows, offset=held.offset + tokens, index=rows)


def _rotate_one(part: CachePart, held: HeldRows) -> HeldRows:
    """`RotatingKVCache._update_in_place`: grows by a step up to `size`, then overwrites."""
    rows, index = held.rows, held.index
    if held.offset >= rows and rows < part.size:
        rows += min(STEP, part.size - held.offset)
        index = held.offset
    if rows > part.size:
        rows = index = part.size
    if index == part.size:
        index = part.keep
    return replace(held, rows=rows, offset=held.offset + 1, index=index + 1)


def _chunk(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """`ChunkedKVCache.maybe_trim_front`, which the model calls first, and `update_and_fetch`."""
    rows, start = held.rows, held.start
    before = held.offset - start
    if before > part.size:
        start += before - part.size
        rows = before = part.size
    grown = _grow(part, HeldRows(rows=rows, offset=before), tokens)
    return replace(held, rows=grown.rows, offset=held.offset + tokens, start=start)


def _generated(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """The rows and the offset after single tokens; where a window writes next is not followed."""
    offset = held.offset + tokens
    if not tokens:
        return held
    match part.kind:
        case GrowthKind.GROWING:
            rows = held.rows + rounded(max(0, offset - held.rows))
        case GrowthKind.WINDOW if held.rows >= part.size:
            rows = part.size
        case GrowthKind.WINDOW:
            rows = min(part.size, held.rows + rounded(max(0, offset - held.rows)))
        case GrowthKind.CHUNK:
            before = held.offset - held.start
            full = before + tokens - 1 > part.size  # it was cut to size before the last token
            rows = part.size + STEP if full else held.rows + rounded(max(0, before + tokens - held.rows))
        case _:
            rows = rows_at(part.kind, part.size, offset)
    return replace(held, rows=rows, offset=offset)


def _by_offset(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    offset = held.offset + tokens
    return replace(held, rows=rows_at(part.kind, part.size, offset), offset=offset)


def rows_at(kind: GrowthKind, size: int, offset: int) -> int:
    """Rows of the kinds that depend on the number of tokens alone."""
    match kind:
        case GrowthKind.APPENDED:
            return offset // size
        case GrowthKind.LAST:
            return min(offset, size)
        case GrowthKind.OPEN:
            return offset % size
    return min(offset, 1)


def _restored(part: CachePart, offset: int) -> HeldRows:
    match part.kind:
        case GrowthKind.GROWING:
            return HeldRows(rows=offset, offset=offset)
        case GrowthKind.WINDOW:
            rows = min(offset, part.size)
            return HeldRows(rows=rows, offset=offset, index=rows)
        case GrowthKind.CHUNK:
            rows = min(offset, part.size)
            return HeldRows(rows=rows, offset=offset, start=offset - rows)
    return _by_offset(part, HeldRows(), offset)


_FEED: dict[GrowthKind, Callable[[CachePart, HeldRows, int], HeldRows]] = {
    GrowthKind.GROWING: _grow,
    GrowthKind.WINDOW: _rotate,
    GrowthKind.CHUNK: _chunk,
    GrowthKind.APPENDED: _by_offset,
    GrowthKind.LAST: _by_offset,
    GrowthKind.OPEN: _by_offset,
    GrowthKind.CONSTANT: _by_offset,
}


def to_document(parts: Iterable[CachePart]) -> list[dict[str, Any]]:
    """As JSON, for the probe's answer and its cache."""
    return [
        {
            "kind": part.kind.value,
            "row_bytes": part.row_bytes,
            "size": part.size,
            "keep": part.keep,
            "itemsize": part.itemsize,
            "quantizable": part.quantizable,
            "caches": part.caches,
        }
        for part in parts
    ]


def from_document(document: Iterable[dict[str, Any]]) -> tuple[CachePart, ...]:
    """The reverse. Raises KeyError, TypeError or ValueError when it is none of ours."""
    return tuple(CachePart(**{**entry, "kind": GrowthKind(entry["kind"])}) for entry in document)
