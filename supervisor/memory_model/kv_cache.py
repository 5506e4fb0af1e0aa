"""Pure. The cost model: bytes in a model's KV caches after any feeding of tokens, by replaying a few parts.

Each part stands for all caches of one class and size. The rows of a buffer follow from the chunks of tokens
that it was fed with, as mlx_lm/models/cache.py grows, trims and rotates it (mlx-lm 0.32.2); a trace supplies
the bytes of a row. So the replay is exact for any length, cold or warm, without running the model. It covers
one sequence; `batch.py` covers several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

#: Rows by which a buffer grows (`KVCache.step`, and the same in every class that has one).
STEP = 256


class GrowthKind(StrEnum):
    """How the rows of a part follow from the tokens."""

    GROWING = "growing"  # KVCache: in steps of 256, never shrinking
    WINDOW = "window"  # RotatingKVCache: the last `size` rows, more of them while a prompt is read
    CHUNK = "chunk"  # ChunkedKVCache: cut to `size` rows before each chunk
    APPENDED = "appended"  # one row per `size` tokens, without slack
    LAST = "last"  # the last `size` rows at most, without slack
    OPEN = "open"  # the rows of a group of `size` tokens that is not full yet
    CONSTANT = "constant"  # a state of one size from the first token on (linear attention, convolutions)


@dataclass(frozen=True, slots=True)
class CachePart:
    """Caches of one kind and size."""

    kind: GrowthKind
    row_bytes: int  # bytes of one row of all these caches together; for CONSTANT, their whole size
    size: int = 0  # window, chunk or group, in tokens
    keep: int = 0  # WINDOW: rows at the start that are never overwritten
    itemsize: int = 2  # bytes of one element
    quantizable: bool = False  # `--kv-bits` turns it into a QuantizedKVCache
    caches: int = 1  # number of these caches


@dataclass(frozen=True, slots=True)
class Quantization:
    """`--kv-bits`, `--kv-group-size` and `--quantized-kv-start` of the server."""

    bits: int
    group_size: int = 64
    start: int = 5000

    def row_bytes(self, part: CachePart) -> int:
        """Bytes of a row: packed elements, scale and bias per group (`QuantizedKVCache.init_quant`)."""
        elements = part.row_bytes // part.itemsize
        return elements * self.bits // 8 + 2 * part.itemsize * (elements // self.group_size)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """One buffer."""

    rows: int = 0
    offset: int = 0  # tokens that it has been fed
    index: int = 0  # where a rotating buffer writes next
    start: int = 0  # tokens that a chunked buffer has cut off
    quantized: bool = False


@dataclass(frozen=True, slots=True)
class CostModel:
    """KV cost of one sequence in a model's caches."""

    parts: tuple[CachePart, ...]
    quantization: Quantization | None = None

    def __add__(self, other: CostModel) -> CostModel:
        """The caches of both models: a draft model reads every token too."""
        return replace(self, parts=self.parts + other.parts)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one more row when every window is full, before any quantization."""
        growing = sum(part.row_bytes for part in self.parts if part.kind is GrowthKind.GROWING)
        return growing + sum(p.row_bytes // p.size for p in self.parts if p.kind is GrowthKind.APPENDED)

    @property
    def constant(self) -> int:
        """Bytes that do not depend on the length."""
        return sum(part.row_bytes for part in self.parts if part.kind is GrowthKind.CONSTANT)

    @property
    def windows(self) -> dict[int, int]:
        """Bytes per row of the layers with a window, by the window's rows."""
        found: dict[int, int] = {}
        for part in self.parts:
            if part.kind in (GrowthKind.WINDOW, GrowthKind.CHUNK, GrowthKind.LAST):
                found[part.size] = found.get(part.size, 0) + part.row_bytes
        return found

    def cold(self, tokens: int, step: int = 2048) -> int:
        """Bytes after a prompt of `tokens` that was read without any cached prefix, in prefill steps."""
        return self.after(prefill(tokens, step))

    def after(self, chunks: Iterable[int], start: tuple[HeldRows, ...] | None = None) -> int:
        """Bytes after all chunks have been fed."""
        return self.bytes_of(self.replay(chunks, start))

    def replay(
        self, chunks: Iterable[int], start: tuple[HeldRows, ...] | None = None
    ) -> tuple[HeldRows, ...]:
        """The buffer of every part after all chunks, each of at least one token, have been fed."""
        held = start or self.restored(0)
        for chunk in chunks:
            held = tuple(
                self._quantized(part, _FEED.get(part.kind, _by_offset)(part, h, chunk))
                for part, h in zip(self.parts, held, strict=True)
            )
        return held

    def generate(self, held: tuple[HeldRows, ...], tokens: int) -> tuple[HeldRows, ...]:
        """The buffers after `tokens` more were fed one by one: as by `replay`, but in one step."""
        return tuple(
            self._quantized(part, _generated(part, h, tokens))
            for part, h in zip(self.parts, held, strict=True)
        )

    def restored(self, offset: int) -> tuple[HeldRows, ...]:
        """Buffers cut to exactly `offset` tokens, as merging makes them (`BatchKVCache.merge`)."""
        return tuple(_restored(part, offset) for part in self.parts)

    def bytes_of(self, held: tuple[HeldRows, ...]) -> int:
        return sum(self._bytes(part, h) for part, h in zip(self.parts, held, strict=True))

    def widest(self, held: tuple[HeldRows, ...]) -> int:
        """Bytes of the largest single cache."""
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
    """Yield the chunks in which a prompt of one segment is read: steps, then the last token alone."""
    before = max(0, tokens - 1)
    yield from [step] * (before // step)
    if before % step:
        yield before % step
    if tokens:
        yield 1


def merged(parts: Iterable[CachePart]) -> tuple[CachePart, ...]:
    """Join parts that differ only in their bytes, in order of first appearance."""
    found: dict[CachePart, list[CachePart]] = {}
    for part in parts:
        if part.row_bytes:
            found.setdefault(replace(part, row_bytes=0, caches=0), []).append(part)
    return tuple(
        replace(alike, row_bytes=sum(p.row_bytes for p in same), caches=sum(p.caches for p in same))
        for alike, same in found.items()
    )


def rounded(rows: int) -> int:
    """Round up to a full step of rows."""
    return -(-rows // STEP) * STEP


def _grow(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """`KVCache.update_and_fetch`: unused rows are cut off before a new block, unless it ends on a step."""
    rows, offset = held.rows, held.offset
    if offset + tokens > rows:
        rows = (offset if offset % STEP else rows) + rounded(tokens)
    return replace(held, rows=rows, offset=offset + tokens)


def _rotate(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    """`RotatingKVCache`: many tokens by `_update_concat`, a single one by `_update_in_place`."""
    rows, index = held.rows, held.index
    if tokens > 1:  # drops all but `size - 1` old rows, then appends the new ones
        in_order = rows == index or index < held.offset
        rows = min(rows if in_order else index, part.size - 1) + tokens
        return replace(held, rows=rows, offset=held.offset + tokens, index=rows)
    # Grows by a step up to `size`, then overwrites.
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
    """Rows and offset after `tokens` single tokens; a window's write position is not tracked."""
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
            full = before + tokens - 1 > part.size  # it was cut to `size` before the last token
            rows = part.size + STEP if full else held.rows + rounded(max(0, before + tokens - held.rows))
        case _:
            rows = rows_at(part.kind, part.size, offset)
    return replace(held, rows=rows, offset=offset)


def _by_offset(part: CachePart, held: HeldRows, tokens: int) -> HeldRows:
    offset = held.offset + tokens
    return replace(held, rows=rows_at(part.kind, part.size, offset), offset=offset)


def rows_at(kind: GrowthKind, size: int, offset: int) -> int:
    """Rows of those kinds that depend only on the number of tokens."""
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


#: How each kind follows one chunk; the others depend on the number of tokens alone (`_by_offset`).
_FEED: dict[GrowthKind, Callable[[CachePart, HeldRows, int], HeldRows]] = {
    GrowthKind.GROWING: _grow,
    GrowthKind.WINDOW: _rotate,
    GrowthKind.CHUNK: _chunk,
}
