"""Whether the child's tokenizer may be counted by segments, found by trying. For worker processes."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from proxy.worker.segments import AddedToken, Ids, Segments, agrees, choose, safe

log = logging.getLogger("mlxguard.tokenizer")

#: A prompt here is the fields of a request body that make it.
Prompt = dict[str, Any]

#: Conversations in which separators are looked for, as far as the template accepts them.
_PROBE_ROLES = (
    ("system", "user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "tool", "assistant", "tool"),
)
_PROBE_TOOLS: tuple[Any, ...] = (
    (),
    ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},),
)
#: Seconds. A template that takes longer over a few short conversations is not worth being clever about.
_PROBING_S = 3.0
#: Characters. A turn's few messages are encoded in a millisecond, and where processors are scarce, threads
#: that would help take longer to wake up.
_SHARED_OUT = 50_000


def checked_segments(
    wrapper: Any,
    template_args: Mapping[str, Any],
    encode: Callable[[Prompt], Sequence[int]],
    render: Callable[[Prompt], str],
) -> Segments | None:
    """For counting by segments; None where this tokenizer or template leaves any doubt.

    `wrapper` is mlx_lm's; `encode` is the way that the server goes, `render` the same without the encoding.
    """
    try:
        return _segments(wrapper, template_args, encode, render)
    except (
        Exception
    ):  # what a model brings may be anything, and is counted in full where it is not understood
        log.exception("segments_not_checked")
        return None


def _segments(
    wrapper: Any,
    template_args: Mapping[str, Any],
    encode: Callable[[Prompt], Sequence[int]],
    render: Callable[[Prompt], str],
) -> Segments | None:
    from tokenizers import Tokenizer  # noqa: PLC0415 - as in child_tokenizer.py

    tokenizer = wrapper._tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or not _renders_text(wrapper, template_args):
        return None
    # What transformers would undo before it encodes, done once: nothing changes the tokenizer later.
    backend.no_truncation()
    backend.no_padding()

    def encode_segments(texts: Sequence[str]) -> list[Ids]:
        # Without offsets, on all cores where there is much, and without the interpreter lock. Read per call.
        os.environ["TOKENIZERS_PARALLELISM"] = str(sum(map(len, texts)) >= _SHARED_OUT).lower()
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_whole(texts: Sequence[str]) -> list[Ids]:
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    probes = _probes(render)
    texts = [render(probe) for probe in probes]
    added = [_described(token) for token in backend.get_added_tokens_decoder().values()]
    separators = choose(safe(added, texts), texts)
    if not separators or not agrees(separators, encode_segments, encode_whole):
        return None
    segments = Segments(separators, encode_segments)
    counts = [segments.count(text) for text in texts]
    return segments if counts == [len(encode(probe)) for probe in probes] else None


def _renders_text(wrapper: Any, template_args: Mapping[str, Any]) -> bool:
    """Whether a prompt is its rendered text, encoded plainly; custom renderers may do anything."""
    from transformers import PreTrainedTokenizerBase as Plain  # noqa: PLC0415 - as in child_tokenizer.py

    kind = type(wrapper._tokenizer)
    if not wrapper.has_chat_template or wrapper._tokenizer.split_special_tokens:
        return False
    if wrapper._chat_template is not None:  # a renderer of mlx_lm.chat_templates
        return kind.encode is Plain.encode
    # Arguments that are not the template's could change how the text is encoded.
    reserved = inspect.signature(Plain.apply_chat_template).parameters.keys()
    return kind.apply_chat_template is Plain.apply_chat_template and not reserved & template_args.keys()


def _probes(render: Callable[[Prompt], str]) -> list[Prompt]:
    """Conversations that the template accepts, none if it takes too long over them."""
    probes = []
    with contextlib.suppress(TimeoutError), alarm(_PROBING_S):
        for roles, tools in product(_PROBE_ROLES, _PROBE_TOOLS):
            messages = [{"role": role, "content": f"{role} " * 50} for role in roles]
            probe = {"messages": messages, "tools": tools}
            if _accepts(render, probe):
                probes.append(probe)
        return probes
    return []


def _accepts(render: Callable[[Prompt], str], prompt: Prompt) -> bool:
    try:
        render(prompt)
    except TimeoutError:
        raise
    except Exception:  # noqa: BLE001 - a template raises what it likes
        return False
    return True


def _described(token: Any) -> AddedToken:
    # One that takes the spaces at its right (rstrip, as Phi 3 has them) has them in its own segment.
    return AddedToken(token.content, exact=not (token.normalized or token.lstrip or token.single_word))


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block after so long. For the main thread."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
