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
- where caches can be trimmed, a finished sequence takes its own snapshots out of the prompt cache; where they
  cannot (windows that are full, states), snapshots stay until they are displaced. The last snapshot of all is
  held by a local variable of the server until the next request joins.

For one sequence this is nearly exact. For several it is a bound: who ends first, and which prompts are read
together, is not known when the gate asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from supervisor.cost import Kind, Law, prefill
from supervisor.peak import Model, Peak, logits, working


@dataclass(frozen=True, slots=True)
class Member:
    """One running request, in tokens.

    Attributes:
        prompt: all of it.
        completion: still expected to be generated, at most.
        cached: of the prompt, given back by the server's prompt cache.
    """

    prompt: int
    completion: int
    cached: int = 0


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


@dataclass(frozen=True, slots=True)
class _Buffers:
    """One sequence's caches by themselves, in bytes.

    Attributes:
        reading: at the fullest while the prompt is read (windows are larger then).
        prompt: when it has been read: what its snapshot pins.
        end: when all has been generated.
        kept: what its snapshot still pins when it has ended.
        cold: its system prompt may leave a snapshot too, which for one alone is not reckoned with.
    """

    reading: int
    prompt: int
    end: int
    kept: int
    cold: bool


def kv(serving: Serving, members: Sequence[Member]) -> int:
    """Bytes of KV when all have grown: a batch is padded, so each costs as much as the longest."""
    return len(members) * max((_of(serving, member).end for member in members), default=0)


def peak(serving: Serving, members: Sequence[Member], retained: int = 0) -> Peak:
    """The fullest moment until all have ended, if nobody joins.

    Args:
        retained: bytes that finished sequences hold now: idle active memory less the weights. What those that
            ended beside others since then hold is to be added: see `left`.
    """
    if not members:
        return Peak(serving.model.weights, retained, 0)
    all_of_them = [_of(serving, member) for member in members]
    longest = max(member.prompt for member in members)
    stages = [_writing(serving, all_of_them)]
    if not serving.model.batched:
        stages = [_writing_alone(serving, all_of_them)]
    stages += [
        _reading(serving, all_of_them, together, longest)
        for together in range(1, min(len(members), serving.prompts) + 1)
    ]
    caches, works_in = max(stages, key=sum)
    return Peak(serving.model.weights, retained + caches, works_in)


def left(serving: Serving, members: Sequence[Member]) -> int:
    """Bytes that whoever ends first of these leaves behind, until it is displaced: the buffer of all."""
    return kv(serving, members)


def largest_prompt(serving: Serving, ceiling: int, completion: int) -> int:
    """The longest prompt that fits alone under `ceiling` bytes with nothing retained; 0 if none does."""
    return largest(serving, ceiling, 1, completion, _ENDLESS)


def largest(serving: Serving, ceiling: int, number: int, completion: int, most: int) -> int:
    """The longest prompt that each of `number` can have under `ceiling` bytes, at most `most` tokens."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if peak(serving, [Member(middle, completion)] * number).total <= ceiling:
            low = middle
        else:
            high = middle - 1
    return low


def copies(number: int, prompts: int) -> float:
    """How much of the padded KV of `number` sequences lives at once, at the fullest moment."""
    return (_steps(number) + min(number, prompts)) / number


#: Where a model's caches do not grow, any prompt fits; no model reads as many tokens as this.
_ENDLESS = 2**24


def _steps(number: int) -> int:
    """Sequences in the buffers that `number` leave behind when each ends in a step of its own."""
    return number * (number + 1) // 2


def _writing(serving: Serving, members: Sequence[_Buffers]) -> tuple[int, int]:
    """When all prompts are read: (caches, working memory). Padded, so all are as the longest."""
    end = max(each.end for each in members)
    snapshots = sum(each.kept * (1 + each.cold * (len(members) > 1)) for each in members)
    if not snapshots:  # each took its own away; the last one's pins what it was read together with
        snapshots = min(len(members), serving.prompts) * max(each.prompt for each in members)
    return snapshots + _steps(len(members)) * end, _growth(serving, members) + _sampling(serving, members)


def _writing_alone(serving: Serving, members: Sequence[_Buffers]) -> tuple[int, int]:
    """One by one, outside any batch (generate.py `generate_step`): without snapshots, and into one buffer."""
    caches = sum(max(each.end, each.reading) for each in members)
    return caches, _growth(serving, members) + _sampling(serving, members)


def _reading(serving: Serving, members: Sequence[_Buffers], together: int, longest: int) -> tuple[int, int]:
    """While the prompts of `together` are read and the others have ended, one after the other."""
    reading, end = max(each.reading for each in members), max(each.end for each in members)
    caches = together * reading + _steps(len(members) - together) * end
    grows = together * reading // serving.model.traced.layers if longest > serving.step else 0
    return caches, working(serving.model.traced, longest, together, serving.step) + grows


def _growth(serving: Serving, members: Sequence[_Buffers]) -> int:
    """A buffer that grows is copied, layer by layer."""
    if all(each.end <= each.prompt for each in members):
        return 0
    return len(members) * max(each.end for each in members) // serving.model.traced.layers


def _sampling(serving: Serving, members: Sequence[_Buffers]) -> int:
    return len(members) * logits(serving.model.traced)


def _of(serving: Serving, member: Member) -> _Buffers:
    return _buffers(serving.model.law, serving.step, member.prompt, member.completion, member.cached)


@lru_cache(maxsize=8192)
def _buffers(law: Law, step: int, prompt: int, completion: int, cached: int) -> _Buffers:
    given = min(cached, max(0, prompt - 1))
    held, reading = law.restored(given), 0
    for chunk in list(prefill(prompt - given, step))[:-1]:  # the last token by itself begins the answer
        held = law.replay((chunk,), held)
        reading = max(reading, law.bytes_of(held))
    read = law.bytes_of(held)
    return _Buffers(
        reading=max(reading, read),
        prompt=read,
        end=law.generated(held, 1 + completion),
        kept=0 if _trimmable(law, prompt) else read,
        cold=not cached,
    )


def _trimmable(law: Law, rows: int) -> bool:
    """Whether the server can cut such caches, and takes snapshots away that a longer one makes needless."""
    return all(
        part.kind in (Kind.GROWING, Kind.CHUNK) or (part.kind is Kind.WINDOW and rows < part.size)
        for part in law.parts
    )
