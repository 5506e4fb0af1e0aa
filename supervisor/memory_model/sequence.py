"""Pure. The buffers of one sequence among those that run together, and how the child runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

from supervisor.memory_model.activations import Model, Traced, step_activations
from supervisor.memory_model.kv_cache import CostModel, GrowthKind, HeldRows, prefill

#: Segments of a prompt: the system prompt, the rest, and a tail that opens a thought (server.py,
#: `_tokenize`).
MOST_SEGMENTS = 3


class SequenceDemand(NamedTuple):
    """What one request demands of the KV cache, in tokens.

    The gate and the memory model share this type. It is a tuple because every decision of the gate looks up
    sets of demands in caches several times. `read_together` is, once it generates, an upper bound on the
    prompts that were read together with its own, which counts too; 0 while the prompt is unread.
    """

    prompt: int = 0
    completion: int = 0  # upper bound on what is still expected to be generated
    cached: int = 0  # prompt tokens that the server's prompt cache supplies
    read_together: int = 0
    longest_prompt: int = 0  # length of the longest of the prompts that were read together
    segments: int = MOST_SEGMENTS  # upper bound; a prefill step ends where a segment of the prompt does

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
    """How the child runs: the model, and its flags."""

    model: Model
    step: int  # --prefill-step-size
    decodes: int  # --decode-concurrency
    prompts: int  # --prompt-concurrency
    prompt_cache_size: int
    prompt_cache_bytes: int | None = None  # None: no limit
    _hash: int = field(init=False, repr=False, compare=False)  # computed once: a model has many parts

    def __post_init__(self) -> None:
        flags = (self.step, self.decodes, self.prompts, self.prompt_cache_size, self.prompt_cache_bytes)
        object.__setattr__(self, "_hash", hash((self.model, *flags)))

    def __hash__(self) -> int:
        return self._hash


class Buffers(NamedTuple):
    """The caches of one sequence, in bytes. A NamedTuple because maxima over its fields are on the hot path.

    `copied` is what exists twice as it begins to generate: one cache after the other, where the generation
    buffer differs in size from the one that the snapshot pins.
    """

    reading: int  # caches at the peak of prefill
    activations: int  # at the same moment
    prompt: int  # caches after prefill, which its snapshot pins
    end: int  # caches once everything has been generated
    slack: int  # how much larger `end` can be once it was cut out of a padded buffer, and grows from there
    layer: int  # the largest single cache, in prefill or at the end
    keeps_snapshot: bool  # its snapshot stays after it has ended
    copied: int


@lru_cache(maxsize=8)
def buffers_of(serving: Serving) -> Callable[[SequenceDemand], Buffers]:
    """A cached function from a sequence to its buffers, so that `serving` is hashed once per decision."""
    model = serving.model
    return lru_cache(maxsize=8192)(partial(_buffers, model.traced, model.cost_model, serving.step))


@lru_cache(maxsize=8)
def leading_sizes(serving: Serving) -> Callable[[SequenceDemand, int], tuple[int, ...]]:
    """A cached function to the bytes per sequence of a buffer in which a given sequence is the longest.

    It has a value for each of its prefill steps, the largest first. The second argument is the largest chunk
    that the others are fed in one step, which is appended to all; in the first step they would be the
    longest.
    """
    return lru_cache(maxsize=8192)(partial(_leading_sizes, serving.model.cost_model, serving.step))


def _leading_sizes(cost_model: CostModel, step: int, member: SequenceDemand, other: int) -> tuple[int, ...]:
    given, chunks = _chunks(member, step)
    held = cost_model.restored(given)
    sizes: list[int] = []
    for chunk in chunks:
        appended = max(chunk, other) if given or sizes else chunk
        sizes.append(cost_model.bytes_of(cost_model.replay((appended,), held)))
        held = cost_model.replay((chunk,), held)
    return tuple(sorted([*sizes, *sizes[-1:] * (member.segments - 1)], reverse=True))


def _chunks(member: SequenceDemand, step: int) -> tuple[int, list[int]]:
    """Tokens that the prompt cache supplies, and the chunks of the rest; the last token begins the answer."""
    given = min(member.cached, max(0, member.prompt - 1))
    return given, list(prefill(member.prompt - given, step))[:-1]


def _buffers(traced: Traced, cost_model: CostModel, step: int, member: SequenceDemand) -> Buffers:
    given, chunks = _chunks(member, step)
    held, rows = cost_model.restored(given), given
    stages = [(cost_model.bytes_of(held), 0)]
    for chunk in chunks:
        held, rows = cost_model.replay((chunk,), held), rows + chunk
        stages.append((cost_model.bytes_of(held), step_activations(traced, rows, 1, chunk)))
    reading, activations = max(stages, key=sum)
    ended = cost_model.generate(held, 1 + member.completion)
    cut = cost_model.generate(cost_model.restored(rows), 1 + member.completion)
    end = cost_model.bytes_of(ended)
    return Buffers(
        reading=reading,
        activations=activations,
        prompt=cost_model.bytes_of(held),
        end=end,
        slack=max(0, cost_model.bytes_of(cut) - end),
        layer=max(map(cost_model.widest, (held, ended, cut))),
        keeps_snapshot=not _trimmable(cost_model, member.prompt + member.completion),
        copied=_copied(cost_model, held, ended),
    )


def _copied(cost_model: CostModel, held: tuple[HeldRows, ...], ended: tuple[HeldRows, ...]) -> int:
    """Bytes of the largest cache whose buffer changes its size."""
    changed = [before.rows != after.rows for before, after in zip(held, ended, strict=True)]
    return max(
        cost_model.widest(
            tuple(each if other else HeldRows() for each, other in zip(some, changed, strict=True))
        )
        for some in (held, ended)
    )


def _trimmable(cost_model: CostModel, rows: int) -> bool:
    """Whether the server can trim such caches, and so removes snapshots that have become redundant."""
    return all(
        part.kind in (GrowthKind.GROWING, GrowthKind.CHUNK)
        or (part.kind is GrowthKind.WINDOW and rows < part.size)
        for part in cost_model.parts
    )
