"""What requests that run together hold, as the child is told to run them: KV, and fullest moment. Pure.

Read in mlx_lm/generate.py, models/cache.py and server.py (mlx-lm 0.32.2), and seen step by step in the child:

- reading: prompts that are read together share one padded buffer, `prompts` x the longest. At each segment's
  end (the system prompt, the whole prompt) the server keeps a snapshot: a view that is not evaluated, and so
  pins the whole buffer.
- writing: going over to generation copies a sequence out of that buffer (`split`), so until it ends a
  sequence is there twice: the snapshot's buffer, and its share of the padded generation buffer.
- ending: what the prompt cache keeps of it is again a view, of the whole generation buffer. The others are
  copied out in the next step (`filter`). So n that end one after the other leave buffers of n, n - 1, ... 1
  sequences behind: n (n + 1) / 2 in all.
- copying: buffers are copied one cache (layer) after the other; what was copied out is copied once more as
  padding is cut off it or a window is cut to size, and of one cache that is there at the same time.
- where caches can be trimmed, a finished sequence takes its own snapshots out of the prompt cache; where they
  cannot (windows that are full, states), snapshots stay until they are displaced. The last snapshot of all is
  held by a local variable of the server until the next request joins.

For one sequence this is nearly exact. For several it is a bound, of the worst order: who ends first and which
prompts are read together is not known when the gate asks. Of those that write already it is: their snapshots
are there, of no more prompts than were read then, and no newcomer's prompt is read beside theirs. Of the
others it is known in how many steps each is read (`snapshots.py`). A buffer that was cut grows from where it
was cut, so each may have up to a step of 256 rows more than is reckoned with.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.memory_model.activations import PeakMemory, logits, working
from supervisor.memory_model.sequence import Buffers, SequenceDemand, Serving, buffers_of
from supervisor.memory_model.snapshots import Snapshots, snapshots

#: One alone is there twice: in its snapshot's buffer, and in the one it writes to.
COPIES_ALONE = 2


def kv(serving: Serving, members: Sequence[SequenceDemand]) -> int:
    """Bytes of KV when all have grown: a batch is padded, so each costs as much as the longest."""
    return len(members) * max((each.end for each in map(buffers_of(serving), members)), default=0)


def peak(serving: Serving, members: Sequence[SequenceDemand], retained: int = 0) -> PeakMemory:
    """The fullest moment until all have ended, if nobody joins.

    Args:
        retained: bytes that finished sequences hold now: idle active memory less the weights. What those that
            ended beside others since then hold is to be added: see `left`.
    """
    if not members:
        return PeakMemory(serving.model.weights, retained, 0)
    buffers = [*map(buffers_of(serving), members)]
    padded = _padded(buffers)
    unread = [index for index, member in enumerate(members) if not member.read_together]
    pinned = snapshots(serving, members, buffers, [members[index] for index in unread])
    number = len(members)
    stages = _writing(serving, padded, number, pinned)
    if unread:
        stages.append(_reading_alone(padded, number, [buffers[index] for index in unread]))
        longest = max(members[index].prompt for index in unread)
        together = min(len(unread), serving.prompts)
        stages += [_reading(serving, padded, number, some, longest) for some in range(2, together + 1)]
    caches, works_in = max(stages, key=sum)
    return PeakMemory(serving.model.weights, retained + caches, works_in)


def left(serving: Serving, members: Sequence[SequenceDemand]) -> int:
    """Bytes that whoever ends first of these leaves behind, until it is displaced: the buffer of all."""
    return kv(serving, members)


def stale(serving: Serving, last: SequenceDemand) -> int:
    """Bytes that go as soon as the next request joins, when `last` was the last that was served.

    The snapshot of its prompt, which by then only a local variable of the server holds.
    """
    buffers = buffers_of(serving)(last)
    return 0 if buffers.kept or not serving.model.batched else buffers.prompt


def largest_prompt(serving: Serving, ceiling: int, completion: int) -> int:
    """The longest prompt that fits alone under `ceiling` bytes with nothing retained; 0 if none does."""
    return largest(serving, ceiling, 1, completion, _ENDLESS)


def largest(serving: Serving, ceiling: int, number: int, completion: int, most: int) -> int:
    """The longest prompt that each of `number` can have under `ceiling` bytes, at most `most` tokens."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if peak(serving, [SequenceDemand(middle, completion)] * number).total <= ceiling:
            low = middle
        else:
            high = middle - 1
    return low


#: Where a model's caches do not grow, any prompt fits; no model reads as many tokens as this.
_ENDLESS = 2**24


def _steps(number: int) -> int:
    """Sequences in the buffers that `number` leave behind when each ends in a step of its own."""
    return number * (number + 1) // 2


def _padded(buffers: Sequence[Buffers]) -> Buffers:
    """The most of each: in a batch all are as long as the longest."""
    if len(buffers) == 1:
        return buffers[0]
    reading, works_in, prompt, end, _, layer, kept, _ = map(max, zip(*buffers, strict=True))
    slack = max([each.end + each.slack for each in buffers]) - end
    copied = _joined([each.layer for each in buffers])
    return Buffers(reading, works_in, prompt, end, slack, layer, kept, copied)


def _joined(layers: Sequence[int]) -> int:
    """As some join the others, one cache of all is made anew, beside the old ones and one side's padded one.
    The longest is on the one side only.
    """
    longest, second = ([*sorted(layers, reverse=True), 0])[:2]
    return len(layers) * longest + (len(layers) - 1) * second


def _writing(serving: Serving, padded: Buffers, number: int, pinned: Snapshots) -> list[tuple[int, int]]:
    """When all prompts are read, and none, one, two ... have ended: (caches, working memory)."""
    if not serving.model.batched:  # one by one (generate.py, `generate_step`): no snapshot, and one buffer
        return [(number * max(padded.end, padded.reading), padded.copied)]
    end = padded.end + (padded.slack if min(number, serving.prompts) > 1 else 0)
    choosing, buffers = logits(serving.model.traced), _steps(number)
    stages = []
    for writing in range(number, 0, -1):
        caches = pinned.of(number if padded.kept else writing) + (buffers - _steps(writing - 1)) * end
        copied = padded.copied if writing == number else writing * padded.layer
        stages.append((caches, copied + writing * choosing))
    return stages


def _reading_alone(padded: Buffers, number: int, unread: Sequence[Buffers]) -> tuple[int, int]:
    """While one prompt is read and the others have ended, one after the other."""
    fullest = max(unread, key=lambda each: each.reading + each.works_in)
    return _steps(number - 1) * padded.end + fullest.reading, fullest.works_in


def _reading(serving: Serving, padded: Buffers, number: int, some: int, longest: int) -> tuple[int, int]:
    """The same while `some` prompts are read. Where one is further on than another, the next step is
    appended to both.
    """
    step = min(serving.step, longest)
    reading = some * (padded.reading + step * serving.model.law.slope)
    works_in = working(serving.model.traced, longest + step, some, step)
    return _steps(number - some) * padded.end + reading, works_in
