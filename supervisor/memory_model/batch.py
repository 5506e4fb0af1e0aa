"""Pure. KV and peak memory of requests that run together, for the child as it is told to run them.

Read in mlx_lm/generate.py, models/cache.py and server.py (mlx-lm 0.32.2), and observed step by step in the
child:

- Prefill: prompts that are read together share one padded buffer, `prompts` x the longest. At each segment's
  end (the system prompt, the whole prompt) the server retains a snapshot: a view that is not evaluated, and
  so pins the whole buffer.
- Decode: a sequence that begins to generate is copied out of that buffer (`split`), so until it ends it
  exists twice: in the snapshot's buffer, and in its share of the padded generation buffer.
- End: what the prompt cache retains of a sequence is again a view, of the whole generation buffer. The others
  are copied out in the next step (`filter`). So n sequences that end one after the other leave buffers of n,
  n - 1, ... 1 sequences: n (n + 1) / 2 in all.
- Copies: buffers are copied one cache (layer) after the other. A copy is copied once more as padding is cut
  off or a window is cut to size, and for one cache both exist at the same time.
- Where caches can be trimmed, a finished sequence removes its own snapshots from the prompt cache. Where they
  cannot (full windows, states), snapshots stay until they are evicted. The newest snapshot is held by a local
  variable of the server until the next request joins.

For one sequence this is nearly exact. For several it is a bound for the worst order: the gate does not know
which sequence ends first or which prompts are read together. It does know this of sequences that already
generate: their snapshots exist, and span no more prompts than were read then; no newcomer's prompt shares a
buffer with theirs. Of the others the number of prefill steps is known (`snapshots.py`). A buffer that was cut
grows from where it was cut, so each sequence may have up to 256 rows more than is counted here.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.memory_model.activations import PeakMemory, logits, step_activations
from supervisor.memory_model.sequence import Buffers, SequenceDemand, Serving, buffers_of
from supervisor.memory_model.snapshots import Snapshots, snapshots

#: Copies of a sequence that runs alone: its snapshot's buffer, and the buffer that it generates into.
COPIES_ALONE = 2


def kv(serving: Serving, members: Sequence[SequenceDemand]) -> int:
    """Bytes of KV once all have been generated; a batch is padded, so each costs as much as the longest.

    The first of these to end leaves as much behind until it is evicted: the buffer of all.
    """
    return len(members) * max((each.end for each in map(buffers_of(serving), members)), default=0)


def peak(serving: Serving, members: Sequence[SequenceDemand], retained: int = 0) -> PeakMemory:
    """Predict the peak until all have ended, if no other request joins.

    Args:
        retained: bytes that finished sequences hold now: idle active memory without the weights. Add what
            sequences that ended since then have left behind: see `kv`.
    """
    if not members:
        return PeakMemory(serving.model.weights, retained, 0)
    buffers = [*map(buffers_of(serving), members)]
    padded = _padded(buffers)
    unread = [index for index, member in enumerate(members) if not member.read_together]
    pinned = snapshots(serving, members, buffers, [members[index] for index in unread])
    number = len(members)
    stages = _decoding(serving, padded, number, pinned)
    if unread:
        stages.append(_prefill_alone(padded, number, [buffers[index] for index in unread]))
        longest = max(members[index].prompt for index in unread)
        together = min(len(unread), serving.prompts)
        stages += [_prefill(serving, padded, number, some, longest) for some in range(2, together + 1)]
    caches, activations = max(stages, key=sum)
    return PeakMemory(serving.model.weights, retained + caches, activations)


def stale(serving: Serving, last: SequenceDemand) -> int:
    """Bytes that are freed as soon as the next request joins, after `last` was served.

    This is the snapshot of its prompt, which by then only a local variable of the server holds.
    """
    buffers = buffers_of(serving)(last)
    return 0 if buffers.keeps_snapshot or not serving.model.batched else buffers.prompt


#: More tokens than any model reads: the result where a model's caches do not grow, so that any prompt fits.
_ENDLESS = 2**24


def largest_prompt(
    serving: Serving, ceiling: int, completion: int, number: int = 1, most: int = _ENDLESS
) -> int:
    """The longest prompt, up to `most` tokens, of `number` equal sequences under `ceiling` bytes, or 0.

    It assumes that finished sequences retain nothing.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if peak(serving, [SequenceDemand(middle, completion)] * number).total <= ceiling:
            low = middle
        else:
            high = middle - 1
    return low


def _steps(number: int) -> int:
    """Sequences in the buffers that `number` sequences leave behind when each ends in a step of its own."""
    return number * (number + 1) // 2


def _padded(buffers: Sequence[Buffers]) -> Buffers:
    """The maximum of each field: in a batch all sequences are as long as the longest."""
    if len(buffers) == 1:
        return buffers[0]
    reading, activations, prompt, end, _, layer, keeps_snapshot, _ = map(max, zip(*buffers, strict=True))
    slack = max([each.end + each.slack for each in buffers]) - end
    copied = _joined([each.layer for each in buffers])
    return Buffers(reading, activations, prompt, end, slack, layer, keeps_snapshot, copied)


def _joined(layers: Sequence[int]) -> int:
    """Bytes of one cache as some sequences join the others.

    A new cache of all is made while the old ones and a padded copy of one side exist. The longest sequence is
    on one side only.
    """
    longest, second = ([*sorted(layers, reverse=True), 0])[:2]
    return len(layers) * longest + (len(layers) - 1) * second


def _decoding(serving: Serving, padded: Buffers, number: int, pinned: Snapshots) -> list[tuple[int, int]]:
    """Stages after all prompts are read, with none, one, two ... ended: (caches, activations), in bytes."""
    if not serving.model.batched:  # one by one (generate.py, `generate_step`): no snapshot, one buffer
        return [(number * max(padded.end, padded.reading), padded.copied)]
    end = padded.end + (padded.slack if min(number, serving.prompts) > 1 else 0)
    sampling, buffers = logits(serving.model.traced), _steps(number)
    stages = []
    for generating in range(number, 0, -1):
        caches = (
            pinned.of(number if padded.keeps_snapshot else generating)
            + (buffers - _steps(generating - 1)) * end
        )
        copied = padded.copied if generating == number else generating * padded.layer
        stages.append((caches, copied + generating * sampling))
    return stages


def _prefill_alone(padded: Buffers, number: int, unread: Sequence[Buffers]) -> tuple[int, int]:
    """The stage at which one prompt is read and the others have ended one after the other."""
    largest_read = max(unread, key=lambda each: each.reading + each.activations)
    return _steps(number - 1) * padded.end + largest_read.reading, largest_read.activations


def _prefill(serving: Serving, padded: Buffers, number: int, some: int, longest: int) -> tuple[int, int]:
    """The same while `some` prompts are read; a step is appended to all of them, however far each one is."""
    step = min(serving.step, longest)
    reading = some * (padded.reading + step * serving.model.cost_model.bytes_per_row)
    activations = step_activations(serving.model.traced, longest + step, some, step)
    return _steps(number - some) * padded.end + reading, activations
