"""What the snapshots of running requests pin at most, from who is read in how many steps beside whom. Pure.

At the end of each segment of a prompt the server keeps a view of the whole buffer that is read then. Those
whose segments end in the same step share one. A prompt that is read in s steps is in s different buffers at
most, so short prompts share one and a long one is not beside everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

from supervisor.memory_model.sequence import Buffers, SequenceDemand, Serving, buffers_of, leading


class Snapshots:
    """The buffers that snapshots pin at most.

    Attributes:
        sizes: bytes of each, the largest first.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = sorted(sizes, reverse=True)
        self._sums = [*accumulate(self.sizes, initial=0)]

    def of(self, keeping: int) -> int:
        """Bytes, so many keeping theirs: the server itself holds the last that was made, whoever's it is."""
        return self._sums[min(keeping + 1, len(self.sizes))]


def snapshots(
    serving: Serving,
    members: Sequence[SequenceDemand],
    buffers: Sequence[Buffers],
    unread: Sequence[SequenceDemand],
) -> Snapshots:
    """Of those who generate (`among` is known), and of those that are still to be read."""
    sizes = [_known(serving, m, b) for m, b in zip(members, buffers, strict=True) if m.read_together]
    sizes += _unread(serving, unread)
    return Snapshots(sizes)


def _known(serving: Serving, member: SequenceDemand, buffer: Buffers) -> int:
    if member.read_together == 1:
        return buffer.prompt
    longest = max(buffer.prompt, buffers_of(serving)(SequenceDemand(member.longest_prompt, 0)).prompt)
    return min(member.read_together, serving.prompts) * longest


def _unread(serving: Serving, members: Sequence[SequenceDemand]) -> list[int]:
    """The buffers in which they end, each in a step of its own: of the longest steps there are the widest."""
    if len(members) < 2:
        return [buffers_of(serving)(each).prompt for each in members]
    chunks = [min(serving.step, each.prompt - each.cached) for each in members]
    second, most = sorted(chunks)[-2:]
    led = leading(serving)
    led_by = [
        led(each, most if chunk < most else second) for each, chunk in zip(members, chunks, strict=True)
    ]
    number = len(members)
    rows = sorted(chain.from_iterable([steps[:number] for steps in led_by]), reverse=True)
    left = sum(map(min, sorted(map(len, led_by)), range(1, number + 1)))
    sizes = []
    for beside, each in zip(range(number, 0, -1), rows, strict=False):  # no more buffers than prompts
        width = min(serving.prompts, beside, left)
        left -= width
        sizes.append(width * each)
    return [size for size in sizes if size]
