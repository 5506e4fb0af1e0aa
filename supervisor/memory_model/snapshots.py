"""Pure. An upper bound on what snapshots of running requests pin, from the prefill steps of each prompt.

At the end of each segment of a prompt the server retains a view of the whole buffer that is being read.
Prompts whose segments end in the same step share one. A prompt that is read in s steps is in at most s
different buffers, so short prompts share one, and a long prompt does not share a buffer with all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

from supervisor.memory_model.sequence import Buffers, SequenceDemand, Serving, buffers_of, leading_sizes


class Snapshots:
    """The buffers that snapshots may pin; `sizes` has the bytes of each, the largest first."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = sorted(sizes, reverse=True)
        self._sums = [*accumulate(self.sizes, initial=0)]

    def of(self, number: int) -> int:
        """Bytes while `number` requests keep theirs; the server itself also holds the newest one."""
        return self._sums[min(number + 1, len(self.sizes))]


def snapshots(
    serving: Serving,
    members: Sequence[SequenceDemand],
    buffers: Sequence[Buffers],
    unread: Sequence[SequenceDemand],
) -> Snapshots:
    """Snapshots of the members that generate (`read_together` is known) and of those that are unread."""
    known = [_known(serving, m, b) for m, b in zip(members, buffers, strict=True) if m.read_together]
    return Snapshots([*known, *_unread(serving, unread)])


def _known(serving: Serving, member: SequenceDemand, buffer: Buffers) -> int:
    if member.read_together == 1:
        return buffer.prompt
    longest = max(buffer.prompt, buffers_of(serving)(SequenceDemand(member.longest_prompt, 0)).prompt)
    return min(member.read_together, serving.prompts) * longest


def _unread(serving: Serving, members: Sequence[SequenceDemand]) -> list[int]:
    """Sizes of the buffers in which unread prompts end, each in a step of its own, in the worst case."""
    if len(members) < 2:
        return [buffers_of(serving)(each).prompt for each in members]
    chunks = [min(serving.step, each.prompt - each.cached) for each in members]
    second, most = sorted(chunks)[-2:]
    sizes_of, number = leading_sizes(serving), len(members)
    led_by = [
        sizes_of(each, most if chunk < most else second) for each, chunk in zip(members, chunks, strict=True)
    ]
    rows = sorted(chain.from_iterable([steps[:number] for steps in led_by]), reverse=True)
    left = sum(map(min, sorted(map(len, led_by)), range(1, number + 1)))
    sizes = []
    for others, each in zip(range(number, 0, -1), rows, strict=False):  # no more buffers than prompts
        width = min(serving.prompts, others, left)
        left -= width
        sizes.append(width * each)
    return [size for size in sizes if size]
