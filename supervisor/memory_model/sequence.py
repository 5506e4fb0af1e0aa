"""One sequence among those that run together: what its caches take by themselves. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

from supervisor.memory_model.activations import Model, Traced, working
from supervisor.memory_model.kv_cache import CostModel, GrowthKind, HeldRows, prefill

#: The system prompt, the rest, and a tail that opens a thought (server.py, `_tokenize`).
MOST_SEGMENTS = 3


class SequenceDemand(NamedTuple):
    """What one request demands of the KV cache, in tokens.

    The gate and the memory model share this type. It is a tuple because every decision of the gate looks up
    sets of demands in caches several times.

    Attributes:
        prompt: length of the whole prompt.
        completion: upper bound on what is still expected to be generated.
        cached: prompt tokens that the server's prompt cache supplies.
        read_together: once it generates, an upper bound on the prompts that were read together with its own,
            which counts too; 0 while the prompt is unread.
        longest_prompt: length of the longest of those prompts.
        segments: upper bound on the segments that the prompt is read in; a prefill step ends where one does.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    read_together: int = 0
    longest_prompt: int = 0
    segments: int = MOST_SEGMENTS

    def no_less_than(self, other: SequenceDemand) -> bool:
        """Whether it never needs less memory than `other`, as long as both prompts are unread."""
        return (
            self.prompt >= other.prompt
            and self.completion >= other.completion
            and self.prompt - self.cached >= other.prompt - other.cached
            and self.segments == other.segments
        )


@dataclass(frozen=True, slots=True)
class Serving:
    """How the child runs: the model, and its flags.

    Attributes:
        step: --prefill-step-size.
        decodes, prompts: --decode-concurrency, --prompt-concurrency.
        kept_sequences, kept_bytes: --prompt-cache-size, --prompt-cache-bytes; None: no limit.
    """

    model: Model
    step: int
    decodes: int
    prompts: int
    kept_sequences: int
    kept_bytes: int | None = None
    _hash: int = field(init=False, repr=False, compare=False)  # of all that a model is, once and for all

    def __post_init__(self) -> None:
        flags = (self.step, self.decodes, self.prompts, self.kept_sequences, self.kept_bytes)
        object.__setattr__(self, "_hash", hash((self.model, *flags)))

    def __hash__(self) -> int:
        return self._hash


class Buffers(NamedTuple):
    """One sequence's caches by themselves, in bytes. A tuple, since of each the most is often asked.

    Attributes:
        reading, works_in: at the fullest while the prompt is read, and what the step works in beside them.
        prompt: when it has been read: what its snapshot pins.
        end: when all has been generated.
        slack: what `end` can be larger by where it was cut out of a padded buffer: it grows from there.
        layer: the largest single cache, as it is read or as it ends.
        kept: its snapshot stays when it has ended.
        copied: what is there twice as it begins to write: one cache after the other, where what is generated
            does not go into a buffer of the size that the snapshot pins.
    """

    reading: int
    works_in: int
    prompt: int
    end: int
    slack: int
    layer: int
    kept: bool
    copied: int


@lru_cache(maxsize=8)
def buffers_of(serving: Serving) -> Callable[[SequenceDemand], Buffers]:
    """The buffers of any member. What serves is hashed once a question and not once a member."""
    model = serving.model
    return lru_cache(maxsize=8192)(partial(_buffers, model.traced, model.law, serving.step))


@lru_cache(maxsize=8)
def leading(serving: Serving) -> Callable[[SequenceDemand, int], tuple[int, ...]]:
    """Bytes per sequence of a buffer in which a member is the longest, after each step that it is read in,
    the largest first. Others are fed so many tokens in a step at most, which are appended to all; at its
    start they would be the longest.
    """
    return lru_cache(maxsize=8192)(partial(_led, serving.model.law, serving.step))


def _led(law: CostModel, step: int, member: SequenceDemand, beside: int) -> tuple[int, ...]:
    given, chunks = _chunks(member, step)
    held = law.restored(given)
    sizes: list[int] = []
    for chunk in chunks:
        appended = max(chunk, beside) if given or sizes else chunk
        sizes.append(law.bytes_of(law.replay((appended,), held)))
        held = law.replay((chunk,), held)
    return tuple(sorted([*sizes, *sizes[-1:] * (member.segments - 1)], reverse=True))


def _chunks(member: SequenceDemand, step: int) -> tuple[int, list[int]]:
    """What the prompt cache gave back, and the chunks of the rest; the last token begins the answer."""
    given = min(member.cached, max(0, member.prompt - 1))
    return given, list(prefill(member.prompt - given, step))[:-1]


def _buffers(traced: Traced, law: CostModel, step: int, member: SequenceDemand) -> Buffers:
    given, chunks = _chunks(member, step)
    held, rows = law.restored(given), given
    stages = [(law.bytes_of(held), 0)]
    for chunk in chunks:
        held, rows = law.replay((chunk,), held), rows + chunk
        stages.append((law.bytes_of(held), working(traced, rows, 1, chunk)))
    reading, works_in = max(stages, key=sum)
    written = law.written(held, 1 + member.completion)
    cut = law.written(law.restored(rows), 1 + member.completion)
    end = law.bytes_of(written)
    return Buffers(
        reading=reading,
        works_in=works_in,
        prompt=law.bytes_of(held),
        end=end,
        slack=max(0, law.bytes_of(cut) - end),
        layer=max(map(law.widest, (held, written, cut))),
        kept=not _trimmable(law, member.prompt + member.completion),
        copied=_copied(law, held, written),
    )


def _copied(law: CostModel, held: tuple[HeldRows, ...], written: tuple[HeldRows, ...]) -> int:
    """The largest cache whose buffer does not stay as it is."""
    changed = [before.rows != after.rows for before, after in zip(held, written, strict=True)]
    return max(
        law.widest(tuple(each if other else HeldRows() for each, other in zip(some, changed, strict=True)))
        for some in (held, written)
    )


def _trimmable(law: CostModel, rows: int) -> bool:
    """Whether the server can cut such caches, and takes snapshots away that a longer one makes needless."""
    return all(
        part.kind in (GrowthKind.GROWING, GrowthKind.CHUNK)
        or (part.kind is GrowthKind.WINDOW and rows < part.size)
        for part in law.parts
    )
