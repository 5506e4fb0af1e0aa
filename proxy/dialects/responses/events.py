"""Pure. Writes the child's stream as events of the Responses API, or as one response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from proxy.dialects.child_parts import AnswerPart, CallPart, PartReader, TextPart, parts_of, usage_of
from proxy.dialects.responses import errors
from proxy.dialects.responses.items import CallOutput, Event, MessageOutput, ReasoningOutput
from proxy.dialects.responses.tools import FunctionTable
from proxy.errors import GatewayError
from proxy.stream import sse
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage, choice_of

#: How ids of responses begin.
ID_PREFIX = "resp_"

_Growing = MessageOutput | ReasoningOutput


class ResponseForm:
    """How one answer is written: a `form.AnswerForm`. It numbers its events over all attempts.

    `prompt_tokens`: as counted before the stream. `is_length_set`: the client has set the longest answer
    itself, and is told when it was reached; Codex sets none and takes that for a failure. `drops_calls`: the
    client has offered no tools, so there is no call that it could run.
    """

    def __init__(
        self,
        answer: Answer,
        prompt_tokens: int,
        *,
        table: FunctionTable,
        is_length_set: bool,
        drops_calls: bool = False,
    ) -> None:
        self.drops_calls = drops_calls
        self._answer = answer
        self._prompt_tokens = prompt_tokens
        self._table = table
        self._is_length_set = is_length_set
        self._sent = 2  # after the two events of the opening, which may be written later than it is numbered
        self._writer: ResponseWriter | None = None

    def opening(self) -> bytes:
        """`response.created`, which must be the first event, and `response.in_progress`."""
        response = {"response": self.response("in_progress", [])}
        kinds = ("response.created", "response.in_progress")
        return b"".join(_event(kind, number, response) for number, kind in enumerate(kinds))

    def writer(self) -> ResponseWriter:
        self._writer = ResponseWriter(self, self._answer, self._table, self._prompt_tokens)
        return self._writer

    def keepalive(self, comment: str, *, empty_event: bool) -> bytes:
        return sse.comment(comment) + self.events(
            [("response.in_progress", {"response": self.response("in_progress", [])})]
        )

    def failure(self, error: GatewayError) -> bytes:
        finished = self._writer.finished if self._writer is not None else []
        response = {**self.response("failed", finished), "error": errors.failed(error)}
        return self.events([("response.failed", {"response": response})])

    def whole(self, body: bytes) -> bytes:
        completion = sse.loads(body)
        choice = choice_of(completion) or {}
        writer = self.writer()
        for part in parts_of(choice.get("message") or {}):
            list(writer.written(part))
        list(writer.ended())
        usage = usage_of(completion, self._prompt_tokens)
        return sse.dumps(self.completed(writer.finished, choice.get("finish_reason"), usage))

    def completed(
        self, output: list[dict[str, Any]], finish_reason: str | None, usage: Usage
    ) -> dict[str, Any]:
        """The response at its end."""
        is_cut = finish_reason == "length" and self._is_length_set
        response = self.response("incomplete" if is_cut else "completed", output)
        if is_cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        cached = max(0, min(usage.cached_tokens or 0, usage.prompt_tokens))
        response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return response

    def response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        """The response object. What the client sent is not repeated in it: that would be 20 KB per event."""
        return {
            "id": self._answer.id,
            "object": "response",
            "created_at": self._answer.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._answer.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": None,
        }

    def events(self, events: Iterable[Event]) -> bytes:
        """Events as they are sent, numbered."""
        numbered = [_event(kind, number, fields) for number, (kind, fields) in enumerate(events, self._sent)]
        self._sent += len(numbered)
        return b"".join(numbered)


def _event(kind: str, number: int, fields: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\n" + sse.event({"type": kind, "sequence_number": number, **fields})


class ResponseWriter:
    """Writes one attempt, from its first item to `response.completed`.

    `finished`: the items that are done. An item is open until a part of another kind begins.
    """

    __slots__ = (
        "_closed",
        "_form",
        "_open",
        "_prompt_tokens",
        "_reader",
        "_table",
        "_unique",
        "finished",
        "seen",
    )

    def __init__(self, form: ResponseForm, answer: Answer, table: FunctionTable, prompt_tokens: int) -> None:
        self._reader = PartReader()
        self.seen: StreamProgress = self._reader.seen
        self.finished: list[dict[str, Any]] = []
        self._form = form
        self._unique = answer.id.removeprefix(ID_PREFIX)
        self._table = table
        self._prompt_tokens = prompt_tokens
        self._open: _Growing | None = None
        self._closed = False

    def feed(self, data: bytes) -> bytes:
        events = [event for part in self._reader.feed(data) for event in self.written(part)]
        if self.seen.done and not self._closed:
            self._closed = True
            events += [*self.ended(), self._completed()]
        return self._form.events(events)

    def pass_through(self, data: bytes) -> bytes | None:
        if not isinstance(self._open, MessageOutput) or (text := self._reader.text_only(data)) is None:
            return None
        return self._form.events([self._open.delta(text)])

    def written(self, part: AnswerPart) -> Iterator[Event]:
        """The events of one part."""
        if isinstance(part, CallPart):
            if self._form.drops_calls:
                return
            yield from self.ended()
            call = CallOutput(self._unique, len(self.finished), part, self._table)
            yield from call.events()
            self.finished.append(call.done())
            return
        kind = MessageOutput if isinstance(part, TextPart) else ReasoningOutput
        if not isinstance(self._open, kind):
            yield from self.ended()
            self._open = kind(self._unique, len(self.finished))
            yield from self._open.begin()
        yield self._open.delta(part.text)

    def ended(self) -> Iterator[Event]:
        """The end of the open item, if there is one."""
        if self._open is not None:
            yield from self._open.end()
            self.finished.append(self._open.done())
            self._open = None

    def _completed(self) -> Event:
        usage = self.seen.usage or Usage(self._prompt_tokens, self.seen.events, None)
        response = self._form.completed(self.finished, self._reader.finish_reason, usage)
        return f"response.{response['status']}", {"response": response}
