"""Finds out by trial whether the child's tokenizer may be counted by segments."""

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

#: The fields of a request body that determine the prompt.
Prompt = dict[str, Any]

#: Conversations in which separators are searched for; those that the template refuses are skipped.
_PROBE_ROLES = (
    ("system", "user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
    ("user", "assistant", "tool", "assistant", "tool"),
)
#: Each conversation is tried without and with a tool.
_PROBE_TOOLS: tuple[Any, ...] = (
    (),
    ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},),
)
#: Seconds for rendering the probes. A slower template is not worth the effort.
_PROBING_S = 3.0
#: From this many characters on, texts are encoded in parallel. A turn's few messages are encoded in a
#: millisecond, and where processors are scarce, threads take longer than that to wake up.
_PARALLEL = 50_000


def checked_segments(
    wrapper: Any,
    template_args: Mapping[str, Any],
    encode: Callable[[Prompt], Sequence[int]],
    render: Callable[[Prompt], str],
) -> Segments | None:
    """An encoder by segments, or None if there is any doubt about this tokenizer or template.

    `wrapper` is mlx_lm's tokenizer wrapper. `encode` does what the server does; `render` does the same
    without encoding.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - slow to import

        tokenizer = wrapper._tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer) or not _renders_text(wrapper, template_args):
            return None
        # transformers does this before each encoding; once is enough, as nothing changes the tokenizer later.
        backend.no_truncation()
        backend.no_padding()

        def encode_segments(texts: Sequence[str]) -> list[Ids]:
            # Without offsets and without the interpreter lock. The variable is read at each call.
            os.environ["TOKENIZERS_PARALLELISM"] = str(sum(map(len, texts)) >= _PARALLEL).lower()
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
    except Exception:  # a model may bring anything; what is not understood is counted in full
        log.exception("segment_check_failed")
        return None


def _renders_text(wrapper: Any, template_args: Mapping[str, Any]) -> bool:
    """Whether encoding a prompt is encoding its rendered text; custom renderers may do anything."""
    from transformers import PreTrainedTokenizerBase as Plain  # noqa: PLC0415 - slow to import

    kind = type(wrapper._tokenizer)
    if not wrapper.has_chat_template or wrapper._tokenizer.split_special_tokens:
        return False
    if wrapper._chat_template is not None:  # a renderer of mlx_lm.chat_templates
        return kind.encode is Plain.encode
    # Arguments of `apply_chat_template` itself could change how the text is encoded.
    reserved = inspect.signature(Plain.apply_chat_template).parameters.keys()
    return kind.apply_chat_template is Plain.apply_chat_template and not reserved & template_args.keys()


def _probes(render: Callable[[Prompt], str]) -> list[Prompt]:
    """Conversations that the template accepts; none if it takes too long."""
    probes = []
    with contextlib.suppress(TimeoutError), time_limit(_PROBING_S):
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
    except Exception:  # noqa: BLE001 - a template may raise anything
        return False
    return True


def _described(token: Any) -> AddedToken:
    # With rstrip (Phi 3) a token absorbs the spaces behind it, which are in its own segment anyway.
    return AddedToken(token.content, exact=not (token.normalized or token.lstrip or token.single_word))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError within the block after `seconds`. For the main thread."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
